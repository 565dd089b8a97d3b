//! Content-addressed storage on local disk: one file a blob.
//!
//! ```text
//!   state directory
//!     objects/sha256/ab/abcdef…     a blob, mode 0444, never changed, never linked into a place that can write to it
//!     temporary/                    blobs on their way; emptied at the start
//! ```
//! Invariants:
//! - what stands under a name below `objects` is whole and has been hashed: names appear by rename;
//! - only this module creates or removes blobs;
//! - a pinned blob is not evicted.

mod error;
mod write;

pub use error::CasError;
pub use write::{Adopted, BlobWriter, Sealed};

use crate::action::{Digest, DigestFunction};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct CasOptions {
    /// Where it lies; made if it is not there.
    pub dir: PathBuf,
    /// Bytes of all blobs together, beyond which the least recently used go.
    pub size_bytes_max: u64,
}

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub struct Cas {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: OwnedFd,
    temporary: OwnedFd,
}

/// An open blob, which stays readable although it may be evicted.
#[derive(Debug)]
pub struct Blob {
    /// Its bytes, from the first; read only.
    pub file: File,
    /// How many they are.
    pub size_bytes: u64,
}

/// Keeps a set of blobs from eviction until it is dropped.
#[derive(Debug)]
#[must_use = "the blobs are evictable again once this is dropped"]
pub struct Pin {
    _private: (),
}

impl Cas {
    /// Opens the store.
    ///
    /// # Errors
    /// [`CasError::Io`].
    pub fn open(options: &CasOptions) -> Result<Cas, CasError> {
        let _ = options.size_bytes_max;
        let at = |name: &str| {
            let path = options.dir.join(name);
            let failed = |errno| CasError::io(format!("open {}", path.display()), errno);
            std::fs::create_dir_all(&path)
                .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
        };
        Ok(Cas { inner: Arc::new(Inner { objects: at("objects")?, temporary: at("temporary")? }) })
    }

    /// Whether a blob is there. Counts as a use of it.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.open_blob(digest).is_ok()
    }

    /// Those that are not there. Counts as a use of those that are.
    pub fn missing(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        digests.into_iter().filter(|digest| !self.contains(digest)).collect()
    }

    /// Stores a blob under the name that it is claimed to have.
    ///
    /// # Errors
    /// [`CasError::Mismatch`] if it has another; [`CasError::Full`], [`CasError::Io`].
    pub fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), CasError> {
        let mut writer = self.writer(digest)?;
        writer.write(bytes)?;
        writer.finish()
    }

    /// Stores a blob of our own making and says how it is named.
    ///
    /// # Errors
    /// [`CasError::Full`], [`CasError::Io`].
    pub fn put_bytes(&self, function: DigestFunction, bytes: &[u8]) -> Result<Digest, CasError> {
        let digest = Digest::of(function, bytes);
        self.put(digest, bytes)?;
        Ok(digest)
    }

    /// Begins to store a blob that comes in pieces. Dropping the writer forgets what came.
    ///
    /// # Errors
    /// [`CasError::Full`], [`CasError::Io`].
    pub fn writer(&self, digest: Digest) -> Result<BlobWriter, CasError> {
        BlobWriter::new(self.clone(), digest)
    }

    /// Takes a sealed file as a blob: it is hashed through its descriptor and renamed into the store, without a byte
    /// being copied, if it lies on the store's filesystem; else copied.
    ///
    /// # Errors
    /// [`CasError::Full`], [`CasError::Io`].
    pub fn adopt(
        &self,
        function: DigestFunction,
        sealed: &Sealed<'_>,
    ) -> Result<(Digest, Adopted), CasError> {
        write::adopt(self, function, sealed)
    }

    /// Opens a blob. Counts as a use of it.
    ///
    /// # Errors
    /// [`CasError::Missing`], [`CasError::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, CasError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened =
            rustix::fs::openat(self.objects(), Self::object_path(digest).as_str(), flags, Mode::empty());
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Err(CasError::Missing(*digest)),
            Err(errno) => return Err(CasError::io(format!("open blob {digest}"), errno)),
        };
        Ok(Blob { file, size_bytes: digest.size_bytes })
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
        let mut bytes = Vec::with_capacity(usize::try_from(digest.size_bytes).unwrap_or(0));
        blob.file
            .read_to_end(&mut bytes)
            .map_err(|error| CasError::from_io(format!("read blob {digest}"), &error))?;
        Ok(bytes)
    }

    /// Keeps blobs from eviction: all of them, or none if one is not there.
    ///
    /// # Errors
    /// All that are missing.
    pub fn pin(&self, digests: &[Digest]) -> Result<Pin, Vec<Digest>> {
        let missing = self.missing(digests.iter().copied());
        if missing.is_empty() { Ok(Pin { _private: () }) } else { Err(missing) }
    }

    /// The directory that [`Cas::object_path`] is relative to: the data layer of staged images.
    #[must_use]
    pub fn objects(&self) -> BorrowedFd<'_> {
        self.inner.objects.as_fd()
    }

    /// Where a blob lies below [`Cas::objects`].
    #[must_use]
    pub fn object_path(digest: &Digest) -> String {
        let hex = digest.hex();
        format!("{}/{}/{hex}", digest.function.name(), &hex[..2])
    }
}
