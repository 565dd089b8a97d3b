//! The directories of a store, and what is done to files in them.
//!
//! ```text
//!   state directory (0700)
//!     objects/sha256/ab/abcdef…   blobs; shards are made when the first blob needs them
//!     temporary/                  drafts that have a name, where the filesystem has no unnamed ones; emptied at open
//!     quarantine/                 bad blobs, to be looked at
//!     index, log.0, log.1, lock
//! ```
//! Invariants: paths are resolved beneath descriptors that were opened at the start, and a final symlink is never
//! followed; a name is never replaced by a rename that does not know what it replaces.

use super::limits::{QUARANTINED_BYTES_MAX, QUARANTINED_MAX};
use super::{Cas, CasError, Durability};
use crate::action::{Digest, DigestFunction};
use crate::failpoint;
use crate::stage::beneath::name_file;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Descriptors of the directories.
#[derive(Debug)]
pub(super) struct Places {
    pub objects: OwnedFd,
    temporary: OwnedFd,
    quarantine: OwnedFd,
    /// Also the number of the next draft that has a name.
    drafts: AtomicU64,
    quarantined: AtomicU64,
    are_drafts_named: bool,
    /// Neither umask nor access control lists change the mode that a draft is made with: seen at the start.
    are_modes_kept: bool,
}

/// Inodes with which a disk is not full.
const INODES_ENOUGH: u64 = 1024;
/// What a blob's file may be used for: reading, by everybody who gets to it.
pub(super) const MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// A file that is no blob yet. Dropping it forgets it.
#[derive(Debug)]
pub(super) struct Draft {
    pub file: File,
    name: Option<(OwnedFd, CString)>,
}

impl Places {
    /// Whether the disk has this much for us, and inodes, as far as it says. Whoever filled it may have made room.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        rustix::fs::fstatvfs(&self.objects).is_ok_and(|seen| {
            // Filesystems that make inodes as they need them count none.
            let has_inodes = seen.f_files == 0 || seen.f_favail > INODES_ENOUGH;
            has_inodes && seen.f_bavail.saturating_mul(seen.f_frsize) >= bytes
        })
    }

    /// Makes what is not there, and removes what a killed predecessor left in `temporary`.
    pub(super) fn open(dir: &Path, are_drafts_named: bool) -> Result<Places, CasError> {
        let at = |name: &str| {
            let path = dir.join(name);
            let failed = |errno| CasError::io(format!("open {}", path.display()), errno);
            match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)
        };
        let (objects, temporary, quarantine) = (at("objects")?, at("temporary")?, at("quarantine")?);
        sweep(&temporary)?;
        let quarantined = AtomicU64::new(names(&quarantine)?.len() as u64);
        let mut places = Places {
            objects,
            temporary,
            quarantine,
            drafts: AtomicU64::new(0),
            quarantined,
            are_drafts_named,
            are_modes_kept: true,
        };
        let draft = places.draft()?;
        let stat = rustix::fs::fstat(&draft.file).map_err(|errno| CasError::io("look at a draft", errno))?;
        places.are_modes_kept = stat.st_mode & 0o7777 == MODE.as_raw_mode();
        drop(draft);
        places.probe(dir)?;
        Ok(places)
    }

    /// Tries on the filesystem all that a put relies on, so that one that cannot do it is refused at the start and not
    /// with the first blob.
    fn probe(&self, dir: &Path) -> Result<(), CasError> {
        let shown = dir.display();
        let lacks = |what: &str| format!("use {shown} for blobs, since its filesystem {what}");
        let failed = |what: &'static str| move |errno| CasError::io(lacks(what), errno);
        let to = self.temporary.as_fd();
        let names = ["probe.a", "probe.b"];
        let named = |name: &str| -> Result<Draft, CasError> {
            let draft = self.draft()?;
            draft.place(to, name).map_err(failed("cannot name a file without replacing another"))?;
            Ok(draft)
        };
        let first = named(names[0])?;
        rustix::fs::renameat_with(to, names[0], to, names[1], RenameFlags::NOREPLACE)
            .map_err(failed("cannot rename a file without replacing another"))?;
        let second = named(names[0])?;
        let replaced = rustix::fs::renameat_with(to, names[0], to, names[1], RenameFlags::NOREPLACE);
        let stat = rustix::fs::fstat(&first.file).map_err(failed("cannot be asked about a file"))?;
        rustix::fs::fsync(&first.file).map_err(failed("cannot sync a file"))?;
        for name in names {
            match rustix::fs::unlinkat(to, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("cannot remove a file")(errno)),
            }
        }
        drop(second);
        if replaced != Err(Errno::EXIST) {
            return Err(failed("replaces files when it is asked not to")(Errno::OPNOTSUPP));
        }
        if !looks_like(&stat, &Digest::empty(DigestFunction::Sha256)) {
            return Err(failed("keeps neither owner nor mode of files")(Errno::OPNOTSUPP));
        }
        Ok(())
    }

    /// A new empty file, mode 0444, on the filesystem of the blobs.
    pub(super) fn draft(&self) -> Result<Draft, CasError> {
        let failed = |errno| CasError::io("make a temporary file", errno);
        failpoint::hit("cas.draft").map_err(failed)?;
        let draft = match self.unnamed(MODE) {
            Ok(file) => Draft { file, name: None },
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => self.named(MODE).map_err(failed)?,
            Err(errno) => return Err(failed(errno)),
        };
        if !self.are_modes_kept {
            rustix::fs::fchmod(&draft.file, MODE).map_err(failed)?;
        }
        Ok(draft)
    }

    fn unnamed(&self, mode: Mode) -> Result<File, Errno> {
        if self.are_drafts_named {
            return Err(Errno::OPNOTSUPP);
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.temporary, c".", flags, mode).map(File::from)
    }

    fn named(&self, mode: Mode) -> Result<Draft, Errno> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("draft.{number}")).map_err(|_| Errno::INVAL)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.temporary, &name, flags, mode)?);
        let temporary = self.temporary.try_clone().map_err(|error| errno_of(&error))?;
        Ok(Draft { file, name: Some((temporary, name)) })
    }

    /// Makes the directories that a blob lies in.
    pub(super) fn make_shard(&self, digest: &Digest, durability: Durability) -> Result<(), Errno> {
        let path = Cas::object_path(digest);
        for (end, _) in path.match_indices('/') {
            match rustix::fs::mkdirat(&self.objects, &path[..end], Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        if durability == Durability::Power {
            rustix::fs::fsync(&self.objects)?;
            let function = digest.function.name();
            rustix::fs::fsync(self.open_dir(function)?)?;
        }
        Ok(())
    }

    /// Makes a blob's name survive a power cut.
    pub(super) fn sync_shard(&self, digest: &Digest) -> Result<(), Errno> {
        failpoint::hit("cas.sync-dir")?;
        let path = Cas::object_path(digest);
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        rustix::fs::fsync(self.open_dir(dir)?)
    }

    fn open_dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.objects, path, flags, Mode::empty())
    }

    /// The names in a directory of blobs; none if it is not there.
    pub(super) fn object_names(&self, path: &str) -> Result<Vec<CString>, Errno> {
        let dir = match self.open_dir(path) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        list(&dir)
    }

    pub(super) fn open_object(&self, digest: &Digest) -> Result<File, Errno> {
        failpoint::hit("cas.open")?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let path = Cas::object_path(digest);
        rustix::fs::openat(&self.objects, path.as_str(), flags, Mode::empty()).map(File::from)
    }

    /// Opens it for reading past the kernel's cache.
    pub(super) fn open_direct(&self, digest: &Digest) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::DIRECT;
        let path = Cas::object_path(digest);
        rustix::fs::openat(&self.objects, path.as_str(), flags, Mode::empty()).map(File::from)
    }

    /// What stands at the blob's place.
    pub(super) fn stat(&self, digest: &Digest) -> Result<Option<Stat>, Errno> {
        let path = Cas::object_path(digest);
        match rustix::fs::statat(&self.objects, path.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether a file stands at the blob's place and looks like it.
    pub(super) fn is_sound(&self, digest: &Digest) -> Result<bool, Errno> {
        Ok(self.stat(digest)?.is_some_and(|stat| looks_like(&stat, digest)))
    }

    /// Removes whatever stands at the blob's place.
    pub(super) fn unlink(&self, digest: &Digest) -> Result<(), Errno> {
        failpoint::hit("cas.unlink")?;
        match rustix::fs::unlinkat(&self.objects, Cas::object_path(digest).as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes a bad file from the blob's place, and keeps it if there is room for it. True if something was there.
    pub(super) fn quarantine(&self, digest: &Digest) -> Result<bool, Errno> {
        let Some(stat) = self.stat(digest)? else { return Ok(false) };
        let path = Cas::object_path(digest);
        let is_small = u64::try_from(stat.st_size).is_ok_and(|size| size <= QUARANTINED_BYTES_MAX);
        if is_small && self.quarantined.load(Ordering::Relaxed) < QUARANTINED_MAX as u64 {
            let name = format!("{}-{}", digest.function.name(), digest.hex());
            let flags = RenameFlags::NOREPLACE;
            let to = &self.quarantine;
            if rustix::fs::renameat_with(&self.objects, path.as_str(), to, name.as_str(), flags).is_ok() {
                self.quarantined.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
        }
        rustix::fs::unlinkat(&self.objects, path.as_str(), AtFlags::empty()).map(|()| true)
    }
}

impl Draft {
    /// Gives the file its name below `objects`, if nothing has it.
    pub(super) fn place(&self, objects: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
        if let Some((dir, name)) = &self.name {
            return rustix::fs::renameat_with(dir, name, objects, path, RenameFlags::NOREPLACE);
        }
        name_file(self.file.as_fd(), objects, path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some((dir, name)) = &self.name {
            // Gone already if it was renamed into its place.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
    }
}

/// Whether a file can be the blob: regular, of its size, ours, not writable.
pub(super) fn looks_like(stat: &Stat, digest: &Digest) -> bool {
    let is_regular = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    let is_read_only = stat.st_mode & 0o7222 == 0;
    let is_ours = stat.st_uid == us().0.as_raw();
    is_regular && is_read_only && is_ours && u64::try_from(stat.st_size) == Ok(digest.size_bytes)
}

/// Who this process is, which it stays: asked for once.
pub(super) fn us() -> (Uid, Gid) {
    static US: OnceLock<(Uid, Gid)> = OnceLock::new();
    *US.get_or_init(|| (rustix::process::geteuid(), rustix::process::getegid()))
}

/// The number of an I/O error; EIO if it has none.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn names(dir: &OwnedFd) -> Result<Vec<CString>, CasError> {
    list(dir).map_err(|errno| CasError::io("list a directory of the store", errno))
}

fn list(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn sweep(temporary: &OwnedFd) -> Result<(), CasError> {
    for name in names(temporary)? {
        let removed = rustix::fs::unlinkat(temporary, &name, AtFlags::empty());
        removed.map_err(|errno| CasError::io(format!("remove the leftover {name:?}"), errno))?;
    }
    Ok(())
}
