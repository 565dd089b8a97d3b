//! Blobs on their way into the store: the only place that creates them.
//!
//! ```text
//!   O_TMPFILE ─ write, hash ─► linkat into objects        bytes that come from a peer
//!   sealed file ─ make it ours, hash through its descriptor ─► renameat      an output
//! ```

use super::hash::{hash_file, read_file};
use super::places::{Draft, MODE, us};
use super::store::Reserved;
use super::{Cas, CasError, Durability};
use crate::action::{Digest, DigestFunction, Hasher};
use crate::failpoint;
use fulgurite_sandbox::sys::lease;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io::Write;
use std::sync::atomic::Ordering;

/// A file whose bytes nobody can change any more.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// The directory that it lies in.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a CStr,
    /// The file, open for reading alone: what is hashed is what is stored.
    pub file: BorrowedFd<'a>,
    /// The caller has a read lease on it through `file`, and keeps it until the call is over. Else the store takes one.
    pub is_leased: bool,
}

/// How a sealed file came into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It was renamed.
    Renamed,
    /// The blob was there already; the file is still where it was.
    Known,
    /// Its bytes were copied, since it lies on another filesystem, has another name, or is open for writing; the file
    /// is still where it was.
    Copied,
}

/// A blob that comes in pieces.
#[derive(Debug)]
pub struct BlobWriter {
    expected: Digest,
    hasher: Hasher,
    draft: Draft,
    // Before `cas`: what is reserved is given back while the store is open.
    reserved: Reserved,
    cas: Cas,
}

impl BlobWriter {
    pub(super) fn new(cas: Cas, expected: Digest) -> Result<Self, CasError> {
        let reserved = cas.store().reserve(expected.size_bytes)?;
        let draft = cas.store().places.draft()?;
        Ok(BlobWriter { expected, hasher: Hasher::new(expected.function), draft, reserved, cas })
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
        self.write_unhashed(bytes)
    }

    /// For bytes whose digest the caller has computed itself.
    fn write_unhashed(&mut self, bytes: &[u8]) -> Result<(), CasError> {
        let written = failpoint::hit("cas.write").map_err(std::io::Error::from);
        let done = written.and_then(|()| self.draft.file.write_all(bytes));
        let failed = |error| CasError::from_io(format!("write blob {}", self.expected), &error);
        self.cas.store().noticing(done.map_err(failed))
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
        let found = self.hasher.clone().finish();
        if found != self.expected {
            return Err(CasError::Mismatch { expected: self.expected, found });
        }
        self.publish()
    }

    fn publish(self) -> Result<(), CasError> {
        let BlobWriter { cas, expected, draft, reserved, .. } = self;
        let store = cas.store();
        sync_file(store.durability, draft.file.as_fd(), &expected)?;
        let placed = store.publish(&expected, |objects, path| draft.place(objects, path));
        if store.noticing(placed)? {
            store.counters.written.fetch_add(1, Ordering::Relaxed);
        }
        drop(reserved);
        Ok(())
    }
}

/// Stores a blob that is in memory whole.
pub(super) fn put(cas: &Cas, digest: Digest, bytes: &[u8]) -> Result<(), CasError> {
    let found = Digest::of(digest.function, bytes);
    if found != digest {
        return Err(CasError::Mismatch { expected: digest, found });
    }
    if cas.store().holds(&digest)? {
        return Ok(());
    }
    let mut writer = BlobWriter::new(cas.clone(), digest)?;
    writer.write_unhashed(bytes)?;
    writer.publish()
}

/// A failed sync is final: the blob is not stored, and the draft goes.
fn sync_file(durability: Durability, file: BorrowedFd<'_>, digest: &Digest) -> Result<(), CasError> {
    if durability == Durability::Power {
        failpoint::hit("cas.fsync")
            .and_then(|()| rustix::fs::fsync(file))
            .map_err(|errno| CasError::io(format!("sync blob {digest}"), errno))?;
    }
    Ok(())
}

pub(super) fn adopt(
    cas: &Cas,
    function: DigestFunction,
    sealed: &Sealed<'_>,
) -> Result<(Digest, Adopted), CasError> {
    let store = cas.store();
    let Some(lease) = own(sealed)? else {
        return copy(cas, function, sealed);
    };
    let digest = hash_file(function, sealed.file)?;
    failpoint::hit("cas.adopt.hashed").map_err(|errno| CasError::io("adopt an output", errno))?;
    let _reserved = store.reserve(digest.size_bytes)?;
    sync_file(store.durability, sealed.file, &digest)?;
    let published = store.publish(&digest, |objects, path| {
        rustix::fs::renameat_with(sealed.dir, sealed.name, objects, path, RenameFlags::NOREPLACE)
    });
    drop(lease);
    match published {
        Ok(true) => {
            store.counters.renamed.fetch_add(1, Ordering::Relaxed);
            Ok((digest, Adopted::Renamed))
        }
        Ok(false) => {
            store.counters.known.fetch_add(1, Ordering::Relaxed);
            Ok((digest, Adopted::Known))
        }
        Err(CasError::Io { errno: Errno::XDEV, .. }) => copy(cas, function, sealed),
        Err(error) => Err(error),
    }
}

/// A lease that the store took. Dropping it gives it back.
struct Leased<'a>(Option<BorrowedFd<'a>>);

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            // It ends with the caller's descriptor at the latest.
            let _ = lease::give_back(file);
        }
    }
}

/// Makes a sealed file what a blob's file must be: ours, mode 0444, no extended attributes. None if it can't be: it
/// has other names, or somebody has it open for writing.
fn own<'a>(sealed: &Sealed<'a>) -> Result<Option<Leased<'a>>, CasError> {
    let failed = |errno| CasError::io(format!("adopt the output {:?}", sealed.name), errno);
    let named = rustix::fs::statat(sealed.dir, sealed.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let lease = match sealed.is_leased {
        true => Leased(None),
        false => match lease::read(sealed.file) {
            Ok(()) => Leased(Some(sealed.file)),
            Err(Errno::AGAIN) => return Ok(None),
            // No leases here, or not for us: that everything was quiet before it was sealed has to do.
            Err(_) => Leased(None),
        },
    };
    // After the lease: nobody changes it any more.
    let stat = rustix::fs::fstat(sealed.file).map_err(failed)?;
    if (stat.st_dev, stat.st_ino) != (named.st_dev, named.st_ino) {
        // Not the file that was sealed.
        return Err(failed(Errno::STALE));
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed(Errno::INVAL));
    }
    if stat.st_nlink != 1 {
        return Ok(None);
    }
    let (uid, gid) = us();
    let is_ours = (stat.st_uid, stat.st_gid) == (uid.as_raw(), gid.as_raw());
    if !is_ours {
        rustix::fs::fchown(sealed.file, Some(uid), Some(gid)).map_err(failed)?;
    }
    // Also after chown, which may take set-id bits away but no others.
    if !is_ours || stat.st_mode & 0o7777 != MODE.as_raw_mode() {
        rustix::fs::fchmod(sealed.file, MODE).map_err(failed)?;
    }
    strip(sealed.file).map_err(failed)?;
    Ok(Some(lease))
}

/// Removes all extended attributes that can be removed.
fn strip(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = [0; 1 << 10];
    let mut long = Vec::new();
    let names: &[u8] = match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => &names[..length],
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(Errno::RANGE) => {
            // The kernel's bound of a list.
            long.resize(64 << 10, 0);
            let length = rustix::fs::flistxattr(file, &mut long[..])?;
            &long[..length]
        }
        Err(errno) => return Err(errno),
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // A security module's label belongs to the file and not to who made it.
        if name != c"security.selinux" {
            rustix::fs::fremovexattr(file, name)?;
        }
    }
    Ok(())
}

/// Twice read: first for the name. A writer may change it in between, which is then a mismatch and no blob.
fn copy(cas: &Cas, function: DigestFunction, sealed: &Sealed<'_>) -> Result<(Digest, Adopted), CasError> {
    let digest = hash_file(function, sealed.file)?;
    let store = cas.store();
    if cas.contains(&digest) {
        store.counters.known.fetch_add(1, Ordering::Relaxed);
        return Ok((digest, Adopted::Known));
    }
    let mut writer = cas.writer(digest)?;
    read_file(sealed.file, |bytes| writer.write(bytes))?;
    writer.finish()?;
    store.counters.copied.fetch_add(1, Ordering::Relaxed);
    store.counters.bytes_copied.fetch_add(digest.size_bytes, Ordering::Relaxed);
    Ok((digest, Adopted::Copied))
}
