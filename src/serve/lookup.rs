//! Results out of the action cache: only whole ones, with contents inline where a client asked for them.

use super::blobs::{Blobs, Disk};
use super::complete;
use super::instance::Instance;
use super::limits::INLINE_BYTES_MAX;
use crate::action::{Digest, DigestFunction, decode};
use bytes::Bytes;
use fulgurite_proto::reapi;
use prost::Message;
use std::sync::Arc;
use tonic::Status;

/// A result whose blobs are all there.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    /// As it is kept.
    pub(super) encoded: Bytes,
    /// The same.
    pub(super) result: reapi::ActionResult,
}

/// Which contents a client wants inline.
#[derive(Clone, Debug, Default)]
pub(super) struct Inline {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) files: Vec<String>,
}

/// The result of an action, if it is there and whole. An entry that cannot be read counts as none, and is told of.
pub(super) fn find(instance: &Instance, action: &Digest) -> Option<Hit> {
    let hit = entry(instance, action)?;
    let whole = instance.results.gives_whole_ones() || is_whole(&instance.blobs, action, &hit.result);
    whole.then_some(hit)
}

/// As [`find`]; what takes long is done on another thread.
pub(super) async fn find_async(
    instance: &Arc<Instance>,
    action: &Digest,
    disk: &Disk,
) -> Result<Option<Hit>, Status> {
    let Some(hit) = entry(instance, action) else { return Ok(None) };
    if instance.results.gives_whole_ones() {
        return Ok(Some(hit));
    }
    if !complete::takes_long(&hit.result) {
        return Ok(is_whole(&instance.blobs, action, &hit.result).then_some(hit));
    }
    let (blobs, action) = (instance.blobs.clone(), *action);
    disk.run(move || is_whole(&blobs, &action, &hit.result).then_some(hit)).await
}

fn entry(instance: &Instance, action: &Digest) -> Option<Hit> {
    let encoded = match instance.results.get(&instance.name, action) {
        Ok(entry) => entry?,
        Err(error) => {
            tracing::warn!(%error, %action, "cannot read an entry of the action cache");
            return None;
        }
    };
    match reapi::ActionResult::decode(encoded.clone()) {
        Ok(result) => Some(Hit { encoded, result }),
        Err(error) => {
            tracing::warn!(%error, %action, "an entry of the action cache is no result");
            None
        }
    }
}

fn is_whole(blobs: &Blobs, action: &Digest, result: &reapi::ActionResult) -> bool {
    match complete::missing(blobs, action.function, result) {
        Ok(missing) => missing.is_empty(),
        Err(error) => {
            tracing::debug!(%error, %action, "an entry of the action cache is not served");
            false
        }
    }
}

impl Inline {
    /// Whether nothing was asked for.
    pub(super) fn is_empty(&self) -> bool {
        !self.stdout && !self.stderr && self.files.is_empty()
    }

    /// Puts into a result what was asked for, as far as there is room and the blobs can be read: these are hints.
    pub(super) fn apply(&self, blobs: &Blobs, function: DigestFunction, result: &mut reapi::ActionResult) {
        let mut room = INLINE_BYTES_MAX;
        let mut read = |digest: Option<&reapi::Digest>| -> Option<Bytes> {
            let digest = decode::digest(function, "ActionResult", digest).ok()?;
            let bytes = blobs.read(&digest, room).ok()?;
            room -= bytes.len() as u64;
            Some(bytes)
        };
        if self.stdout && result.stdout_raw.is_empty() {
            result.stdout_raw = read(result.stdout_digest.as_ref()).unwrap_or_default();
        }
        if self.stderr && result.stderr_raw.is_empty() {
            result.stderr_raw = read(result.stderr_digest.as_ref()).unwrap_or_default();
        }
        for file in &mut result.output_files {
            if self.files.contains(&file.path) && file.contents.is_empty() {
                file.contents = read(file.digest.as_ref()).unwrap_or_default();
            }
        }
    }
}
