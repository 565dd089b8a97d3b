//! Blobs on their way into the store: the only place that creates them.
//!
//! ```text
//!   O_TMPFILE ─ write, hash ─► linkat into objects        bytes that come from a peer
//!   sealed file ─ hash through its descriptor ─► renameat  an output
//! ```

use super::{Cas, CasError};
use crate::action::{Digest, DigestFunction, Hasher};
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Seek, Write};

/// A file whose bytes nobody can change any more.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// The directory that it lies in.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a CStr,
    /// The file, open for reading: what is hashed is what is stored.
    pub file: BorrowedFd<'a>,
}

/// How a sealed file came into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It was renamed.
    Renamed,
    /// The blob was there already; the file is still where it was.
    Known,
    /// Its bytes were copied, since it lies on another filesystem; the file is still where it was.
    Copied,
}

/// A blob that comes in pieces.
#[derive(Debug)]
pub struct BlobWriter {
    cas: Cas,
    expected: Digest,
    hasher: Hasher,
    file: File,
}

impl BlobWriter {
    pub(super) fn new(cas: Cas, expected: Digest) -> Result<Self, CasError> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&cas.inner.temporary, c".", flags, Mode::from_raw_mode(0o444))
            .map_err(|errno| CasError::io("make a temporary file", errno))?;
        Ok(BlobWriter { cas, expected, hasher: Hasher::new(expected.function), file: file.into() })
    }

    /// Takes more bytes.
    ///
    /// # Errors
    /// [`CasError::Full`], [`CasError::Io`]; [`CasError::Mismatch`] at once if there are more than announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CasError> {
        self.hasher.update(bytes);
        if self.hasher.size_bytes() > self.expected.size_bytes {
            let found = self.hasher.clone().finish();
            return Err(CasError::Mismatch { expected: self.expected, found });
        }
        self.file
            .write_all(bytes)
            .map_err(|error| CasError::from_io(format!("write blob {}", self.expected), &error))
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.hasher.size_bytes()
    }

    /// Publishes the blob, if its bytes are those that its digest names.
    ///
    /// # Errors
    /// [`CasError::Mismatch`], [`CasError::Full`], [`CasError::Io`].
    pub fn finish(self) -> Result<(), CasError> {
        let BlobWriter { cas, expected, hasher, file } = self;
        let found = hasher.finish();
        if found != expected {
            return Err(CasError::Mismatch { expected, found });
        }
        publish(&cas, &expected, |objects, path| {
            rustix::fs::linkat(&file, c"", objects, path, AtFlags::EMPTY_PATH)
        })
        .map(|_| ())
    }
}

/// Runs `place` until the blob stands at its path. True if it was this call that put it there.
fn publish(
    cas: &Cas,
    digest: &Digest,
    place: impl Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>,
) -> Result<bool, CasError> {
    let path = Cas::object_path(digest);
    let failed = |errno| CasError::io(format!("store blob {digest}"), errno);
    match place(cas.objects(), &path) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(errno)),
    }
    for (end, _) in path.match_indices('/') {
        match rustix::fs::mkdirat(cas.objects(), &path[..end], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    match place(cas.objects(), &path) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

pub(super) fn adopt(
    cas: &Cas,
    function: DigestFunction,
    sealed: &Sealed<'_>,
) -> Result<(Digest, Adopted), CasError> {
    let failed = |error: std::io::Error| CasError::from_io("read an output", &error);
    let mut file = File::from(sealed.file.try_clone_to_owned().map_err(failed)?);
    file.rewind().map_err(failed)?;
    let mut hasher = Hasher::new(function);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digest = hasher.finish();
    let placed = publish(cas, &digest, |objects, path| {
        rustix::fs::renameat_with(sealed.dir, sealed.name, objects, path, RenameFlags::NOREPLACE)
    });
    match placed {
        Ok(true) => Ok((digest, Adopted::Renamed)),
        Ok(false) => Ok((digest, Adopted::Known)),
        Err(CasError::Io { errno: Errno::XDEV, .. }) => {
            file.rewind().map_err(failed)?;
            let mut writer = cas.writer(digest)?;
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    count => writer.write(&buffer[..count])?,
                }
            }
            writer.finish()?;
            Ok((digest, Adopted::Copied))
        }
        Err(error) => Err(error),
    }
}
