//! Blobs from a cluster.
//!
//! ```text
//!   small: BatchReadBlobs    large: ByteStream.Read ─► hashed as it comes ─► our store
//! ```
//! Invariants: what is downloaded gets its name only after it was hashed, by the store; nothing is asked for that is
//! larger than [`BLOB_BYTES_MAX`]; a stream that stands still is given up, not waited for.
//! Limits: a stream begins anew when it breaks; frames that we cannot read are asked for once more, uncompressed.

use super::cluster::{Cluster, ClusterError};
use super::decode;
use super::limits::{
    BATCH_BLOBS_MAX, BLOB_BYTES_MAX, BLOBS_AT_ONCE, MESSAGE_BYTES_MAX, PIECE_BYTES, RESULT_BYTES_MAX,
};
use super::sink::Sink;
use super::transfer::store;
use crate::action::{Digest, encode};
use crate::cas::Cas;
use crate::observe;
use bytes::Bytes;
use fulgurite_proto::google::bytestream::ReadRequest;
use fulgurite_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use fulgurite_proto::reapi;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use tokio::task::{JoinError, JoinSet};
use tonic::{Code, Status};

/// What goes into one call each: batches, and what is too large for one alone.
fn batches(wanted: &[Digest], batch_bytes_max: usize) -> Vec<Vec<Digest>> {
    let mut batches: Vec<Vec<Digest>> = Vec::new();
    let mut batch_bytes = usize::MAX;
    for digest in wanted {
        let size = usize::try_from(digest.size_bytes).unwrap_or(usize::MAX);
        batch_bytes = batch_bytes.saturating_add(size);
        match batches.last_mut() {
            Some(batch) if batch_bytes <= batch_bytes_max && batch.len() < BATCH_BLOBS_MAX => {
                batch.push(*digest);
            }
            _ => {
                batches.push(vec![*digest]);
                batch_bytes = size;
            }
        }
    }
    batches
}

/// Refuses sizes that nobody can mean.
pub(super) fn check_sizes(wanted: &[Digest]) -> Result<u64, ClusterError> {
    let absurd = |why| Err(ClusterError::Malformed { call: "a result", why });
    if let Some(large) = wanted.iter().find(|digest| digest.size_bytes > BLOB_BYTES_MAX) {
        return absurd(format!("{large} is larger than {BLOB_BYTES_MAX} bytes"));
    }
    let total = wanted.iter().fold(0u64, |total, digest| total.saturating_add(digest.size_bytes));
    if total > RESULT_BYTES_MAX {
        return absurd(format!("{total} bytes are more than {RESULT_BYTES_MAX}"));
    }
    Ok(total)
}

impl Cluster {
    /// Fetches these blobs into `into`, each verified. What is there already is not fetched.
    ///
    /// # Errors
    /// [`ClusterError`]: of the first that failed. What came before stays.
    pub async fn download(&self, into: &Cas, digests: &[Digest]) -> Result<u64, ClusterError> {
        let mut wanted = into.missing(digests.iter().filter(|digest| !digest.is_empty()).copied());
        if wanted.is_empty() {
            return Ok(0);
        }
        wanted.sort_unstable_by_key(|digest| (digest.size_bytes, digest.hex()));
        wanted.dedup();
        let total = check_sizes(&wanted)?;
        let capabilities = self.capabilities().await?;
        // Tasks of this call alone: who goes away ends them.
        let mut tasks = JoinSet::new();
        for batch in batches(&wanted, capabilities.batch_bytes_max) {
            if tasks.len() >= BLOBS_AT_ONCE {
                joined(tasks.join_next().await)?;
            }
            let (cluster, into) = (self.clone(), into.clone());
            tasks.spawn(async move {
                let _turn = cluster.shared.transfers.download_turn().await?;
                let gone = match batch.as_slice() {
                    [one] => cluster.download_one(&into, *one, capabilities.zstd).await,
                    many => cluster.download_messages(&into, many).await,
                };
                if let Err(ClusterError::Missing(gone)) = &gone {
                    cluster.forget(gone);
                }
                if gone.is_ok() {
                    let bytes = batch.iter().map(|digest| digest.size_bytes).sum();
                    observe::metrics().remote_bytes.of(observe::Way::Down).add(bytes);
                }
                gone
            });
        }
        while let Some(ended) = tasks.join_next().await {
            joined(Some(ended))?;
        }
        Ok(total)
    }

    async fn download_messages(&self, into: &Cas, digests: &[Digest]) -> Result<(), ClusterError> {
        const CALL: &str = "BatchReadBlobs";
        let ask = || async {
            let request = reapi::BatchReadBlobsRequest {
                instance_name: self.instance(),
                digests: digests.iter().map(encode::digest).collect(),
                acceptable_compressors: Vec::new(),
                digest_function: self.wire_function(),
            };
            self.cas().batch_read_blobs(self.request(request)).await
        };
        let total = digests.iter().map(|digest| digest.size_bytes).sum();
        let answer = self.call_within(CALL, self.within(total), ask).await?.into_inner();
        let mut wanted: HashSet<Digest> = digests.iter().copied().collect();
        let mut missing = Vec::new();
        let mut came = Vec::with_capacity(digests.len());
        for one in answer.responses {
            let digest =
                decode::digest(CALL, self.function(), one.digest.as_ref()).map_err(decode::malformed)?;
            if !wanted.remove(&digest) {
                let why = format!("{digest} was not asked for, or comes twice");
                return Err(ClusterError::Malformed { call: CALL, why });
            }
            match one.status.filter(|status| status.code != 0) {
                None => came.push((digest, one.data)),
                Some(status) if status.code == Code::NotFound as i32 => missing.push(digest),
                Some(status) => {
                    let code = Code::from_i32(status.code);
                    return Err(ClusterError::Status { call: CALL, code, message: status.message });
                }
            }
        }
        missing.extend(wanted);
        keep_all(into, came).await?;
        if missing.is_empty() { Ok(()) } else { Err(ClusterError::Missing(missing)) }
    }

    async fn download_one(&self, into: &Cas, digest: Digest, zstd: bool) -> Result<(), ClusterError> {
        let zstd = zstd && digest.size_bytes >= PIECE_BYTES as u64;
        match self.download_stream(into, digest, zstd).await {
            // Every blob can be had uncompressed as well, and not every window is one that we keep.
            Err(ClusterError::Malformed { why, .. }) if zstd => {
                tracing::debug!(%digest, why, "asked for once more, uncompressed");
                self.download_stream(into, digest, false).await
            }
            ended => ended,
        }
    }

    async fn download_stream(&self, into: &Cas, digest: Digest, zstd: bool) -> Result<(), ClusterError> {
        const CALL: &str = "ByteStream.Read";
        let name = self.read_name(&digest, zstd);
        // What is wrong with the bytes is no reason to ask for them again at once.
        let refused = Mutex::new(None);
        let read = || async {
            let request = ReadRequest { resource_name: name.clone(), read_offset: 0, read_limit: 0 };
            let mut client =
                ByteStreamClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut stream = client.read(self.request(request)).await?.into_inner();
            let bad = |error: ClusterError| {
                let status = Status::failed_precondition(error.to_string());
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                status
            };
            let writer = into.writer(digest).map_err(|error| bad(store(&error)))?;
            let mut sink = Sink::new(writer, digest, zstd).map_err(bad)?;
            let idle = self.shared.options.call_within;
            loop {
                let next = tokio::time::timeout(idle, stream.message()).await;
                let stalled = |_| Status::deadline_exceeded("the stream stands still");
                let Some(message) = next.map_err(stalled)?? else { break };
                sink.take(&message.data).map_err(bad)?;
            }
            sink.finish().map_err(bad)
        };
        let ended = self.call_within(CALL, self.within(digest.size_bytes), read).await;
        match (ended, refused.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(error)) => Err(error),
            (Err(ClusterError::Status { code: Code::NotFound, .. }), None) => {
                Err(ClusterError::Missing(vec![digest]))
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn joined(ended: Option<Result<Result<(), ClusterError>, JoinError>>) -> Result<(), ClusterError> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(ClusterError::Store(format!("a download has failed: {error}"))),
    }
}

/// As [`keep`], away from the threads that wait for peers.
async fn keep_all(into: &Cas, came: Vec<(Digest, Bytes)>) -> Result<(), ClusterError> {
    let into = into.clone();
    let kept = tokio::task::spawn_blocking(move || {
        came.iter().try_for_each(|(digest, bytes)| keep(&into, *digest, bytes))
    });
    joined(Some(kept.await))
}

/// Stores bytes that must be those of a digest.
pub(super) fn keep(into: &Cas, digest: Digest, bytes: &[u8]) -> Result<(), ClusterError> {
    let got = Digest::of(digest.function, bytes);
    if got != digest {
        return Err(ClusterError::Corrupt { wanted: digest, got: got.to_string() });
    }
    into.put(digest, bytes).map_err(|error| store(&error))
}
