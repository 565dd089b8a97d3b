//! Content-addressed storage on local disk: one file a blob.
//!
//! ```text
//!                 put, adopt                     checkpoint (every few seconds)
//!   bytes, file ────────────► objects + log ─────────────────────────────────► index ──► eviction, oldest first
//!                             memory: recent, used, pinned
//! ```
//! Invariants:
//! - what stands under a blob's name was hashed before it got the name, and is never changed afterwards;
//! - only this module creates or removes blobs;
//! - a pinned blob is not evicted, and pinning is all or none;
//! - a put that was answered survives a kill of the process at any instruction, and with [`Durability::Power`] a power
//!   cut; without it, what a power cut may have damaged is hashed again before its first use;
//! - opening takes time and memory for what came since the last checkpoint, not for what is there.
//!
//! All calls block, most for microseconds. Limits: `limits`; one process at a time; functions with 32-byte hashes.
//! Opening starts a thread, so that it comes after the zygote was forked.

mod checkpoint;
mod clock;
mod ending;
mod error;
mod evict;
mod hash;
mod index;
mod keeper;
mod key;
mod limits;
mod live;
mod log;
mod mark;
mod open;
pub(crate) mod opening;
mod pin;
mod places;
mod record;
mod scrub;
mod shard;
mod stats;
mod store;
mod strays;
#[cfg(test)]
mod tests;
#[cfg(fuzzing)]
pub use record::fuzzing;
mod verify;
mod write;

pub use error::CasError;
pub use pin::Pin;
pub use scrub::Scrubbed;
pub use stats::CasStats;
pub use write::{Adopted, BlobWriter, Sealed};

use crate::action::{Digest, DigestFunction};
use keeper::Kept;
use rustix::fd::{AsFd, BorrowedFd};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use store::{Note, Store};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct CasOptions {
    /// Where it lies; made if it is not there.
    pub dir: PathBuf,
    /// Bytes of all blobs together, in whole blocks, beyond which the least recently used go.
    pub size_bytes_max: u64,
}

/// What a blob survives once its put was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process, at any instruction.
    #[default]
    Process,
    /// A power cut: bytes, name and log are synced before the answer.
    Power,
}

/// What tests turn smaller.
#[derive(Clone, Copy, Debug)]
struct Tuning {
    log_records: u32,
    are_drafts_named: bool,
    /// The keeper only writes the last checkpoint: the test does the rest when it wants it.
    is_keeper_idle: bool,
    boot: [u8; 8],
}

impl Tuning {
    fn usual() -> Self {
        Tuning {
            log_records: limits::LOG_RECORDS_SOFT,
            are_drafts_named: false,
            is_keeper_idle: false,
            boot: open::boot(),
        }
    }
}

/// The store. Clones share it. When the last one is dropped, a last checkpoint is written in the background.
#[derive(Clone, Debug)]
pub struct Cas {
    inner: Arc<Kept>,
}

/// An open blob, which stays readable although it may be evicted.
#[derive(Debug)]
pub struct Blob {
    /// Its bytes, from the first; read only.
    pub file: File,
    /// How many they are.
    pub size_bytes: u64,
}

impl Cas {
    /// Opens the store; [`Durability::Process`].
    ///
    /// # Errors
    /// [`CasError::Io`]; with EBUSY if a process, which the message names, has it open.
    pub fn open(options: &CasOptions) -> Result<Cas, CasError> {
        Cas::open_durable(options, Durability::default())
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`Cas::open`].
    pub fn open_durable(options: &CasOptions, durability: Durability) -> Result<Cas, CasError> {
        Cas::open_tuned(options, durability, Tuning::usual())
    }

    fn open_tuned(options: &CasOptions, durability: Durability, tuning: Tuning) -> Result<Cas, CasError> {
        open::open(options, durability, tuning).map(|inner| Cas { inner })
    }

    /// Closes the store with a last checkpoint, and waits for it. Clones that are left can still read and write, but
    /// nothing checkpoints or evicts for them in the background.
    pub fn close(self) {
        self.inner.close();
    }

    /// Whether a blob is there. Counts as a use of it: it then survives for minutes, unless the store is full of such.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.store().find_sound(digest, Note::Use).unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "could not look for a blob");
            false
        })
    }

    /// Those that are not there. Counts as a use of those that are.
    pub fn missing(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        self.store().missing(digests)
    }

    /// Stores a blob under the name that it is claimed to have.
    ///
    /// # Errors
    /// [`CasError::Mismatch`] if it has another; [`CasError::TooLarge`], [`CasError::Full`], [`CasError::Io`].
    pub fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), CasError> {
        write::put(self, digest, bytes)
    }

    /// Stores a blob of our own making and says how it is named.
    ///
    /// # Errors
    /// [`CasError::TooLarge`], [`CasError::Full`], [`CasError::Io`].
    pub fn put_bytes(&self, function: DigestFunction, bytes: &[u8]) -> Result<Digest, CasError> {
        let digest = Digest::of(function, bytes);
        self.put(digest, bytes)?;
        Ok(digest)
    }

    /// Begins to store a blob that comes in pieces. Its room is taken now; dropping the writer gives it back.
    ///
    /// # Errors
    /// [`CasError::TooLarge`], [`CasError::Full`], [`CasError::Io`].
    pub fn writer(&self, digest: Digest) -> Result<BlobWriter, CasError> {
        BlobWriter::new(self.clone(), digest)
    }

    /// Takes a sealed file as a blob: it is hashed through its descriptor and renamed into the store, without a byte
    /// being copied, if it lies on the store's filesystem, has one name, and nobody has it open for writing; else it
    /// is copied. It becomes ours, with mode 0444 and no extended attributes, even if the blob is known.
    ///
    /// # Errors
    /// [`CasError::TooLarge`], [`CasError::Full`], [`CasError::Io`]; with ESTALE if the name is not the file's.
    pub fn adopt(
        &self,
        function: DigestFunction,
        sealed: &Sealed<'_>,
    ) -> Result<(Digest, Adopted), CasError> {
        write::adopt(self, function, sealed)
    }

    /// Opens a blob. Counts as a use of it. One whose file is not as it was put goes to quarantine, and is missing.
    ///
    /// # Errors
    /// [`CasError::Missing`], [`CasError::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, CasError> {
        self.store().open_sound(digest)
    }

    /// Reads a whole blob of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`CasError::Missing`], [`CasError::TooLarge`], [`CasError::Io`].
    pub fn read(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, CasError> {
        if digest.size_bytes > bytes_max {
            return Err(CasError::TooLarge { size_bytes: digest.size_bytes, bytes_max });
        }
        let mut blob = self.open_blob(digest)?;
        let mut bytes = vec![0; usize::try_from(digest.size_bytes).unwrap_or(0)];
        blob.file
            .read_exact(&mut bytes)
            .map_err(|error| CasError::from_io(format!("read blob {digest}"), &error))?;
        Ok(bytes)
    }

    /// Keeps blobs from eviction: all of them, or none if one is not there.
    ///
    /// # Errors
    /// All that are missing.
    pub fn pin(&self, digests: &[Digest]) -> Result<Pin, Vec<Digest>> {
        Pin::new(&self.inner, digests)
    }

    /// Hashes a blob. True if it is as it should be; false if it is not there, or was bad and is now in quarantine.
    ///
    /// # Errors
    /// [`CasError::Io`].
    pub fn verify(&self, digest: &Digest) -> Result<bool, CasError> {
        self.store().verify(digest)
    }

    /// Looks at a blob on the disk and in the kernel's cache, as the keeper does with all of them in turn.
    ///
    /// # Errors
    /// [`CasError::Io`].
    pub fn scrub(&self, digest: &Digest) -> Result<Scrubbed, CasError> {
        self.store().scrub(digest)
    }

    /// Takes a blob out of the store, pinned or not: somebody has seen that it is bad. Its file is kept to be looked
    /// at, if it is small and there are few such.
    ///
    /// # Errors
    /// [`CasError::Io`].
    pub fn quarantine(&self, digest: &Digest, why: &str) -> Result<(), CasError> {
        self.store().quarantine(digest, why)
    }

    /// Brings all that was put to the disk and into the index, as the keeper does every few seconds.
    ///
    /// # Errors
    /// [`CasError::Full`], [`CasError::Io`]: what was put since the last checkpoint may then be gone.
    pub fn checkpoint(&self) -> Result<(), CasError> {
        self.store().checkpoint()
    }

    /// What the store has and did.
    #[must_use]
    pub fn stats(&self) -> CasStats {
        let store = self.store();
        CasStats {
            bytes: store.bytes.load(Ordering::Relaxed),
            bytes_max: store.size_bytes_max,
            pending: store.pending.load(Ordering::Relaxed),
            ..store.counters.read()
        }
    }

    /// The directory that [`Cas::object_path`] is relative to: the data layer of staged images.
    #[must_use]
    pub fn objects(&self) -> BorrowedFd<'_> {
        self.store().places.objects.as_fd()
    }

    /// Where a blob lies below [`Cas::objects`].
    #[must_use]
    pub fn object_path(digest: &Digest) -> String {
        let hex = digest.hex();
        format!("{}/{}/{hex}", digest.function.name(), &hex[..2])
    }

    fn store(&self) -> &Arc<Store> {
        &self.inner.store
    }
}
