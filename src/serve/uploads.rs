//! Uploads that have begun and not ended, of one instance.
//!
//! ```text
//!   begin ──► Busy ──► finished
//!              │ the stream broke off: Parked ──► begin at its offset, or from the start
//!              │                         └─ for too long, or more room is needed: forgotten
//! ```
//! Invariants: one stream writes one upload at a time; no more than `max` are there, each with an open file that nobody
//! else sees. What a compressed upload has sent cannot be resumed, since its offset counts other bytes than it sent.

use super::blobs::Blobs;
use super::compression::{DecompressError, Decompressor};
use super::limits::RESUMABLE_FOR;
use super::name::{Compression, WriteName};
use super::status;
use crate::action::Digest;
use crate::cas::{BlobWriter, CasError};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
use tonic::Status;

type Key = (String, Digest, bool);

/// The uploads.
#[derive(Debug)]
pub(super) struct Uploads {
    open: Mutex<HashMap<Key, Entry>>,
    max: usize,
}

#[derive(Debug)]
enum Entry {
    /// A stream writes it; here is how far it is.
    Busy(Arc<AtomicU64>),
    Parked {
        upload: Box<Upload>,
        since: Instant,
    },
}

/// An upload, with what came of it.
#[derive(Debug)]
pub(super) struct Upload {
    writer: BlobWriter,
    decompressor: Option<Decompressor>,
    /// What the next `write_offset` must be.
    offset: u64,
}

impl Upload {
    fn new(blobs: &Blobs, name: &WriteName) -> Result<Self, Status> {
        let writer = blobs.writer(name.digest).map_err(|error| status::of_blob(&error))?;
        let decompressor = match name.compression {
            Compression::Identity => None,
            Compression::Zstd => Some(
                Decompressor::new()
                    .map_err(|error| Status::internal(format!("cannot make a decoder of zstd: {error}")))?,
            ),
        };
        Ok(Upload { writer, decompressor, offset: 0 })
    }

    /// Takes more bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let Upload { writer, decompressor, offset } = self;
        match decompressor {
            None => writer.write(bytes).map_err(|error| status::of_blob(&error))?,
            Some(decompressor) => {
                decompressor.feed(bytes, |plain| writer.write(plain)).map_err(|error| of_piece(&error))?;
            }
        }
        *offset += bytes.len() as u64;
        Ok(())
    }

    /// Publishes the blob.
    pub(super) fn finish(self) -> Result<(), Status> {
        if self.decompressor.as_ref().is_some_and(|decompressor| !decompressor.is_complete()) {
            return Err(Status::invalid_argument("the zstd frame is cut short"));
        }
        self.writer.finish().map_err(|error| status::of_blob(&error))
    }
}

fn of_piece(error: &DecompressError<CasError>) -> Status {
    match error {
        DecompressError::Malformed(_) => Status::invalid_argument(error.to_string()),
        DecompressError::Sink(error) => status::of_blob(error),
    }
}

/// An upload that a stream writes. Dropping it parks the upload.
#[derive(Debug)]
pub(super) struct Writing {
    uploads: Arc<Uploads>,
    key: Key,
    /// Not here while a thread works on it.
    upload: Option<Box<Upload>>,
    progress: Arc<AtomicU64>,
}

impl Uploads {
    pub(super) fn new(max: usize) -> Self {
        Uploads { open: Mutex::default(), max }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload, or resumes it where it broke off.
    pub(super) fn begin(
        self: &Arc<Self>,
        blobs: &Blobs,
        name: &WriteName,
        offset: u64,
    ) -> Result<Writing, Status> {
        let key = key(name);
        let mut open = self.lock();
        let now = Instant::now();
        match open.get(&key) {
            Some(Entry::Busy(_)) => {
                return Err(Status::unavailable("another stream writes this upload just now"));
            }
            Some(Entry::Parked { upload, .. }) if offset == upload.offset && offset > 0 => {}
            Some(Entry::Parked { upload, .. }) if offset > 0 => {
                return Err(Status::invalid_argument(format!(
                    "write_offset is {offset}, but {} bytes are here",
                    upload.offset
                )));
            }
            None if offset > 0 => {
                return Err(Status::invalid_argument(format!(
                    "write_offset is {offset}, but nothing of this upload is here: begin at 0"
                )));
            }
            Some(Entry::Parked { .. }) | None => {
                open.remove(&key);
                self.make_room(&mut open, now)?;
            }
        }
        let progress = Arc::new(AtomicU64::new(offset));
        let upload = match open.insert(key.clone(), Entry::Busy(progress.clone())) {
            Some(Entry::Parked { upload, .. }) => Some(upload),
            _ => None,
        };
        drop(open);
        // From here on dropping it takes the entry away again.
        let mut writing = Writing { uploads: self.clone(), key, upload, progress };
        if writing.upload.is_none() {
            writing.upload = Some(Box::new(Upload::new(blobs, name)?));
        }
        Ok(writing)
    }

    fn make_room(&self, open: &mut HashMap<Key, Entry>, now: Instant) -> Result<(), Status> {
        if open.len() < self.max {
            return Ok(());
        }
        open.retain(|_, entry| !is_old(entry, now));
        if open.len() >= self.max {
            let parked = open.iter().filter_map(|(key, entry)| match entry {
                Entry::Parked { since, .. } => Some((*since, key.clone())),
                Entry::Busy(_) => None,
            });
            let oldest = parked.min_by_key(|(since, _)| *since).map(|(_, key)| key);
            let full = || status::exhausted(format!("{} uploads are under way already", open.len()));
            let oldest = oldest.ok_or_else(full)?;
            open.remove(&oldest);
        }
        Ok(())
    }

    /// Forgets what broke off too long ago.
    pub(super) fn tick(&self) {
        let now = Instant::now();
        self.lock().retain(|_, entry| !is_old(entry, now));
    }

    /// How far an upload is; `None` if nothing of it is here.
    pub(super) fn offset(&self, name: &WriteName) -> Option<u64> {
        match self.lock().get(&key(name))? {
            Entry::Busy(progress) => Some(progress.load(Ordering::Relaxed)),
            Entry::Parked { upload, .. } => Some(upload.offset),
        }
    }
}

fn is_old(entry: &Entry, now: Instant) -> bool {
    matches!(entry, Entry::Parked { since, .. } if now.duration_since(*since) > RESUMABLE_FOR)
}

fn key(name: &WriteName) -> Key {
    (name.upload.clone(), name.digest, name.compression == Compression::Zstd)
}

impl Writing {
    /// What the next `write_offset` must be.
    pub(super) fn offset(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Hands the upload to a thread. If it does not come back, it is forgotten.
    pub(super) fn lend(&mut self) -> Result<Box<Upload>, Status> {
        self.upload.take().ok_or_else(|| Status::internal("the upload is being worked on"))
    }

    /// The upload comes back.
    pub(super) fn restore(&mut self, upload: Box<Upload>) {
        self.progress.store(upload.offset, Ordering::Relaxed);
        self.upload = Some(upload);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut open = self.uploads.lock();
        match self.upload.take() {
            Some(upload) if upload.offset > 0 && upload.decompressor.is_none() => {
                open.insert(self.key.clone(), Entry::Parked { upload, since: Instant::now() });
            }
            _ => {
                open.remove(&self.key);
            }
        }
    }
}
