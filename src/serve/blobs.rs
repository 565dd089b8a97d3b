//! An instance's blobs, with the rule that the empty one is always there; and the threads that wait for the disk.

use super::limits::INLINE_READ_BYTES;
use crate::action::Digest;
use crate::cas::{Blob, BlobWriter, Cas, CasError};
use crate::remote::Elsewhere;
use crate::stage::root::{LowPriority, priority};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::Status;

/// The blobs of an instance.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    cas: Cas,
    elsewhere: Option<Elsewhere>,
}

impl Blobs {
    pub(super) fn new(cas: Cas, elsewhere: Option<Elsewhere>) -> Self {
        Blobs { cas, elsewhere }
    }

    /// Those that are neither here nor where they can be had from.
    pub(super) fn lacking(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let missing = self.missing(digests);
        match &self.elsewhere {
            Some(elsewhere) if !missing.is_empty() => elsewhere.lacking(missing),
            _ => missing,
        }
    }

    /// Fetches what is not here and can be had from elsewhere. What cannot be had is missing after this as before.
    pub(super) async fn bring(&self, digests: &[Digest]) {
        let Some(elsewhere) = &self.elsewhere else { return };
        let missing = self.cas.missing(digests.iter().filter(|digest| elsewhere.has(digest)).copied());
        if let Err(error) = elsewhere.bring(&missing).await {
            tracing::warn!(%error, "{} blobs that the cluster had cannot be fetched", missing.len());
        }
    }

    /// Whether a blob is there. Counts as a use of it.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        if digest.is_empty() { is_the_empty_blob(digest) } else { self.cas.contains(digest) }
    }

    /// Those that are not there, each once, in the order in which they were named. Counts as a use of those that are.
    pub(super) fn missing(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let mut seen = std::collections::HashSet::new();
        let distinct: Vec<Digest> = digests.into_iter().filter(|digest| seen.insert(*digest)).collect();
        let (empty, others): (Vec<Digest>, Vec<Digest>) = distinct.into_iter().partition(Digest::is_empty);
        let mut missing = self.cas.missing(others);
        missing.extend(empty.into_iter().filter(|digest| !is_the_empty_blob(digest)));
        missing
    }

    /// The bytes of a blob of at most `bytes_max`.
    pub(super) fn read(&self, digest: &Digest, bytes_max: u64) -> Result<Bytes, CasError> {
        if is_the_empty_blob(digest) {
            return Ok(Bytes::new());
        }
        self.cas.read(digest, bytes_max).map(Bytes::from)
    }

    /// An open blob.
    pub(super) fn open(&self, digest: &Digest) -> Result<Blob, CasError> {
        self.cas.open_blob(digest)
    }

    /// Stores a blob.
    pub(super) fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), CasError> {
        if is_the_empty_blob(&digest) && bytes.is_empty() {
            return Ok(());
        }
        self.cas.put(digest, bytes)
    }

    /// Begins to store a blob that comes in pieces.
    pub(super) fn writer(&self, digest: Digest) -> Result<BlobWriter, CasError> {
        self.cas.writer(digest)
    }
}

/// Whether this is the blob of no bytes, by hash as well as by size.
pub(super) fn is_the_empty_blob(digest: &Digest) -> bool {
    digest.is_empty() && *digest == Digest::empty(digest.function)
}

/// Runs what may wait for the disk on threads of its own, so many at a time.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    permits: Arc<Semaphore>,
}

impl Disk {
    pub(super) fn new(operations_max: usize) -> Self {
        Disk { permits: Arc::new(Semaphore::new(operations_max)) }
    }

    /// Runs it there. Who has much to do gives way to who has little, which is done on the thread of its call.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let permit = self.permits.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let _low = LowPriority::enter(priority::TRANSFER);
            work()
        });
        done.await.map_err(|error| Status::internal(format!("cannot use the disk: {error}")))
    }

    /// Runs it here if it is short, else there.
    pub(super) async fn run_if_long<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        if bytes <= INLINE_READ_BYTES { Ok(work()) } else { self.run(work).await }
    }
}
