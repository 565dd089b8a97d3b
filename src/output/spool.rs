//! Standard output and error: files without names that actions write to themselves.
//!
//! ```text
//!   free (empty) ──take──> Spool ──writer()──> the action writes, appending, no daemon in between
//!      ▲                     │ after quiet: finish()
//!      └──── nothing said ───┴──── something said ──> cut to the bound, sealed, named, renamed into the store
//! ```
//! Why files: a pipe costs a reader in the daemon for every byte, and a child that outlives the command holds it open.
//! A file costs nothing while the action runs, nothing at all if it says nothing (the same file serves the next
//! action), and what was said is there however the action ended.
//!
//! How it is bounded: RLIMIT_FSIZE would bound outputs as well, so the file is cut after quiet: its beginning is kept,
//! and a note says how many bytes went. Until then [`super::lookout`] looks at its size, and has an action killed that
//! prints without end. Nobody stops one that fills the disk in its layer but its timeout.
//!
//! Invariants: each action gets an open file description of its own, which is closed before the file is used again, and
//! a read lease proves that nobody else kept it; names exist only for the moment of the handoff, and what a killed
//! process left of them goes at the next start. Files are on the store's filesystem, so that nothing is copied.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::handoff::{HandoffError, count};
use super::limits::{SPOOL_BYTES_MAX, SPOOL_DISK_FACTOR, SPOOLS_KEPT_MAX};
use crate::action::{Digest, DigestFunction, Handoff};
use crate::cas::{Adopted, Cas, Sealed};
use crate::stage::Fault;
use crate::stage::beneath;
use crate::stage::limits::SWEEP_MAX;
use fulgurite_sandbox::sys::lease;

/// What names of ours begin with.
const PREFIX: &str = "spool-";

/// Where spools come from. One for a store.
#[derive(Debug)]
pub struct Spools {
    dir: OwnedFd,
    free: Mutex<Vec<OwnedFd>>,
    named: AtomicU64,
    bytes_max: u64,
}

/// One stream of one action.
#[derive(Debug)]
pub struct Spool {
    /// Open for reading only.
    file: OwnedFd,
    /// The action's own description.
    writer: OwnedFd,
    disk_bytes_max: u64,
}

/// A look at a stream while its action runs.
#[derive(Debug)]
pub struct Printing {
    file: OwnedFd,
    disk_bytes_max: u64,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spooled {
    /// Its bytes in the store; `None` if there are none.
    pub digest: Option<Digest>,
    /// Bytes that were said and are not kept.
    pub cut_bytes: u64,
    /// How they came into the store.
    pub handoff: Handoff,
}

impl Spools {
    /// In a directory on the store's filesystem that nobody else uses at this moment. Removes what was left there.
    ///
    /// # Errors
    /// [`HandoffError::Io`].
    pub fn new(dir: OwnedFd) -> Result<Self, HandoffError> {
        let fault = |why| HandoffError::io("sweep", "the directory of spools", why);
        let (names, _) = beneath::list(dir.as_fd(), SWEEP_MAX).map_err(fault)?;
        for (name, _) in names.iter().filter(|(name, _)| name.to_bytes().starts_with(PREFIX.as_bytes())) {
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(why) => return Err(fault(why)),
            }
        }
        let (free, named) = (Mutex::default(), AtomicU64::new(0));
        Ok(Spools { dir, free, named, bytes_max: SPOOL_BYTES_MAX })
    }

    /// With another bound on what is kept of a stream, the note not counted.
    #[must_use]
    pub fn keeping(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// An empty spool.
    ///
    /// # Errors
    /// [`HandoffError::Io`].
    pub fn take(&self) -> Result<Spool, HandoffError> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let file = match kept {
            Some(file) => file,
            None => self.make().map_err(|why| HandoffError::io("make", "a spool", why))?,
        };
        let writer = reopen(file.as_fd(), OFlags::WRONLY | OFlags::APPEND)
            .map_err(|why| HandoffError::io("open", "a spool", why))?;
        Ok(Spool { file, writer, disk_bytes_max: self.bytes_max.saturating_mul(SPOOL_DISK_FACTOR) })
    }

    /// Takes what was said into the store. Call it after quiet, whatever ended the action.
    ///
    /// # Errors
    /// [`HandoffError::Io`], [`HandoffError::Cas`].
    pub fn finish(&self, spool: Spool, cas: &Cas, function: DigestFunction) -> Result<Spooled, HandoffError> {
        let fault = |tried| move |why| HandoffError::io(tried, "a spool", why);
        let Spool { file, writer, .. } = spool;
        let size = size_of(file.as_fd()).map_err(fault("inspect"))?;
        if size == 0 {
            drop(writer);
            self.keep(file);
            return Ok(Spooled::default());
        }
        let cut_bytes = size.saturating_sub(self.bytes_max);
        if cut_bytes > 0 {
            rustix::fs::ftruncate(&writer, self.bytes_max).map_err(fault("cut"))?;
            let note = format!("\n[fulgurite: {cut_bytes} more bytes were printed and are not kept]\n");
            write_all(writer.as_fd(), note.as_bytes()).map_err(fault("write the note to"))?;
        }
        drop(writer);
        let mut handoff = Handoff::default();
        let digest = self.adopt(file, cas, function, &mut handoff)?;
        Ok(Spooled { digest: Some(digest), cut_bytes, handoff })
    }

    /// Forgets a spool and what was said to it.
    pub fn discard(&self, spool: Spool) {
        let Spool { file, writer, .. } = spool;
        drop(writer);
        self.keep(file);
    }

    fn make(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.dir, c".", flags, Mode::RUSR | Mode::WUSR)?;
        reopen(made.as_fd(), OFlags::RDONLY)
    }

    /// Keeps an empty file for the next action, if nobody can write to it any more.
    fn keep(&self, file: OwnedFd) {
        // Room can be taken beyond the end of a file.
        if !rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size == 0 && stat.st_blocks == 0) {
            return;
        }
        let sealed = lease::read(file.as_fd()).and_then(|()| lease::give_back(file.as_fd()));
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if sealed.is_ok() && free.len() < SPOOLS_KEPT_MAX {
            free.push(file);
        }
    }

    fn adopt(
        &self,
        mut file: OwnedFd,
        cas: &Cas,
        function: DigestFunction,
        handoff: &mut Handoff,
    ) -> Result<Digest, HandoffError> {
        let fault = |tried| move |why| HandoffError::io(tried, "a spool", why);
        let is_leased = lease::read(file.as_fd()).is_ok();
        if !is_leased {
            // Somebody outlived quiet, or leases are refused here: what is said up to now is copied.
            let (copy, bytes) = self.copy(file.as_fd()).map_err(fault("copy"))?;
            file = copy;
            handoff.bytes_copied += bytes;
        }
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::RGRP | Mode::ROTH)
            .map_err(fault("change the mode of"))?;
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("{PREFIX}{}-{number}", std::process::id())).unwrap_or_default();
        let path = beneath::own_path(file.as_fd());
        rustix::fs::linkat(rustix::fs::CWD, path, &self.dir, &name, AtFlags::SYMLINK_FOLLOW)
            .map_err(fault("name"))?;
        let sealed = Sealed { dir: self.dir.as_fd(), name: &name, file: file.as_fd(), is_leased };
        let adopted = cas.adopt(function, &sealed);
        if !matches!(adopted, Ok((_, Adopted::Renamed))) {
            // What stays goes at the next start.
            let _ = rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty());
        }
        let (digest, adopted) = adopted?;
        match (handoff.bytes_copied, adopted) {
            (0, _) => count(handoff, adopted, &digest),
            _ => handoff.copied += 1,
        }
        Ok(digest)
    }

    fn copy(&self, file: BorrowedFd<'_>) -> Result<(OwnedFd, u64), Errno> {
        let size = size_of(file)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(&self.dir, c".", flags, Mode::RUSR | Mode::WUSR)?;
        let how = crate::stage::contents::transfer(file, copy.as_fd(), size, size)?;
        let bytes = match how {
            crate::stage::contents::Transfer::Shared => 0,
            crate::stage::contents::Transfer::Copied(bytes) => bytes,
        };
        Ok((reopen(copy.as_fd(), OFlags::RDONLY)?, bytes))
    }
}

impl Spool {
    /// What the action writes to: opened for appending, not for reading.
    #[must_use]
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// For a look at it from another thread. Drop it before the spool is finished.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn printing(&self) -> std::io::Result<Printing> {
        Ok(Printing { file: self.file.try_clone()?, disk_bytes_max: self.disk_bytes_max })
    }

    /// What was said so far: for excerpts in messages, from the beginning.
    ///
    /// # Errors
    /// [`HandoffError::Io`].
    pub fn beginning(&self, bytes_max: usize) -> Result<Vec<u8>, HandoffError> {
        let mut bytes = vec![0; bytes_max];
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut bytes[..], 0));
        bytes.truncate(read.map_err(|why| Fault::new("read", "a spool", why))?);
        Ok(bytes)
    }
}

impl Printing {
    /// True if the stream takes so much room on the disk that the action should be killed for it.
    #[must_use]
    pub fn is_beyond_reason(&self) -> bool {
        rustix::fs::fstat(&self.file)
            .is_ok_and(|stat| stat.st_blocks.unsigned_abs().saturating_mul(512) > self.disk_bytes_max)
    }

    /// What it may take.
    #[must_use]
    pub fn disk_bytes_max(&self) -> u64 {
        self.disk_bytes_max
    }
}

/// Another description of the same file.
fn reopen(file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(beneath::own_path(file), flags | OFlags::CLOEXEC, Mode::empty())
}

fn size_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(file)?.st_size.unsigned_abs())
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cas::CasOptions;
    use crate::stage::tests::open;

    const SHA: DigestFunction = DigestFunction::Sha256;

    fn scene() -> (tempfile::TempDir, Cas, Spools) {
        let temp = tempfile::tempdir().unwrap();
        let cas = Cas::open(&CasOptions { dir: temp.path().join("store"), size_bytes_max: 1 << 30 }).unwrap();
        std::fs::create_dir(temp.path().join("spools")).unwrap();
        let spools = Spools::new(open(&temp.path().join("spools"))).unwrap();
        (temp, cas, spools)
    }

    #[test]
    fn what_takes_far_more_room_than_is_kept_is_beyond_reason() {
        let (_temp, _cas, spools) = scene();
        let spool = spools.keeping(4096).take().unwrap();
        let printing = spool.printing().unwrap();
        // A filesystem counts blocks of its own, too: for a list of extents, say.
        write_all(spool.writer(), &vec![b'x'; 56 << 12]).unwrap();
        assert!(!printing.is_beyond_reason());
        write_all(spool.writer(), &vec![b'x'; 9 << 12]).unwrap();
        assert!(printing.is_beyond_reason());
    }

    fn inode(spool: &Spool) -> u64 {
        rustix::fs::fstat(&spool.file).unwrap().st_ino
    }

    #[test]
    fn what_was_said_is_renamed_into_the_store() {
        let (temp, cas, spools) = scene();
        let spool = spools.take().unwrap();
        write_all(spool.writer(), b"hello\n").unwrap();
        assert_eq!(spool.beginning(3).unwrap(), b"hel");
        let said = spools.finish(spool, &cas, SHA).unwrap();
        assert_eq!(said.handoff, Handoff { renamed: 1, ..Handoff::default() });
        assert_eq!(cas.read(&said.digest.unwrap(), 99).unwrap(), b"hello\n");
        let spool = spools.take().unwrap();
        write_all(spool.writer(), b"hello\n").unwrap();
        assert_eq!(spools.finish(spool, &cas, SHA).unwrap().handoff.known, 1);
        assert_eq!(std::fs::read_dir(temp.path().join("spools")).unwrap().count(), 0);
    }

    #[test]
    fn a_spool_that_nothing_was_said_to_serves_again() {
        let (_temp, cas, spools) = scene();
        let spool = spools.take().unwrap();
        let first = inode(&spool);
        assert_eq!(spools.finish(spool, &cas, SHA).unwrap(), Spooled::default());
        let spool = spools.take().unwrap();
        assert_eq!(inode(&spool), first);
        // Somebody keeps it open: it serves no other.
        let kept = spool.writer().try_clone_to_owned().unwrap();
        assert_eq!(spools.finish(spool, &cas, SHA).unwrap(), Spooled::default());
        let other = spools.take().unwrap();
        assert_ne!(inode(&other), first);
        drop(kept);
    }

    #[test]
    fn too_much_is_cut_and_said_so() {
        let (_temp, cas, spools) = scene();
        let spools = spools.keeping(4);
        let spool = spools.take().unwrap();
        write_all(spool.writer(), b"0123456789").unwrap();
        let said = spools.finish(spool, &cas, SHA).unwrap();
        assert_eq!(said.cut_bytes, 6);
        let text = String::from_utf8(cas.read(&said.digest.unwrap(), 999).unwrap()).unwrap();
        assert_eq!(text, "0123\n[fulgurite: 6 more bytes were printed and are not kept]\n");
        // A hole of a terabyte costs neither disk nor time.
        let spool = spools.take().unwrap();
        rustix::fs::ftruncate(spool.writer(), 1 << 40).unwrap();
        assert!(!spool.printing().unwrap().is_beyond_reason());
        assert_eq!(spools.finish(spool, &cas, SHA).unwrap().cut_bytes, (1 << 40) - 4);
    }

    /// O09, O11: who keeps a stream open after the end changes nothing in the store.
    #[test]
    fn o09_who_outlives_the_end_is_not_waited_for_and_changes_nothing() {
        let (_temp, cas, spools) = scene();
        let spool = spools.take().unwrap();
        let survivor = spool.writer().try_clone_to_owned().unwrap();
        write_all(spool.writer(), b"before").unwrap();
        let said = spools.finish(spool, &cas, SHA).unwrap();
        assert_eq!((said.handoff.copied, said.handoff.bytes_copied), (1, 6));
        write_all(survivor.as_fd(), b"after").unwrap();
        assert_eq!(cas.read(&said.digest.unwrap(), 99).unwrap(), b"before");
    }

    #[test]
    fn names_of_a_killed_process_go_at_the_start() {
        let (temp, _cas, spools) = scene();
        let dir = temp.path().join("spools");
        drop(spools);
        std::fs::write(dir.join("spool-1-2"), "left").unwrap();
        std::fs::write(dir.join("other"), "kept").unwrap();
        drop(Spools::new(open(&dir)).unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }
}
