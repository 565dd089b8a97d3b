//! The one view of a worker that cannot bear to have it replaced: a writable directory, made into each request's input
//! root before it, as Bazel's sandboxed workers have it.
//!
//! ```text
//!   input root ─► there and untouched: stays (inode, times)    other or missing: copied from the store   rest: removed
//!   answered ─► outputs are moved out; what else was written goes before the next request
//! ```
//! Invariants: a file of the store is never linked into it; what a worker has changed or replaced is noticed by inode
//! and time of change and made anew; every step is one name relative to a descriptor, so that no symlink of the
//! worker's leads out. Limits: for workers that take one request at a time; between two requests the worker still sees
//! the last one's files, and what it keeps open it can still write to: outputs are looked at one by one.

use crate::action::{Digest, Directory, FileNode, SymlinkNode, Timestamp};
use crate::cas::Cas;
use crate::exec::Verdict;
use crate::stage::contents::transfer;
use crate::stage::limits::TreeLimits;
use crate::stage::root::StagedRoot;
use crate::stage::{Owner, beneath, remove_tree};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};

/// 2000-01-01T00:00:00Z, as staged roots have it where nobody says a time.
const MTIME: Timestamp = Timestamp { seconds: 946_684_800, nanos: 0 };

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct SharedRoot {
    dir: OwnedFd,
    owner: Option<Owner>,
    /// The files that were put there, by path.
    known: HashMap<String, Known>,
}

/// A file as it was when it was put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    digest: Digest,
    executable: bool,
    inode: u64,
    changed: (i64, i64),
}

impl Known {
    fn of(file: &FileNode, stat: &Stat) -> Self {
        let changed = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0));
        Known { digest: file.digest, executable: file.executable, inode: stat.st_ino, changed }
    }
}

/// What one change of the directory works with.
struct Change<'a> {
    cas: &'a Cas,
    staged: &'a StagedRoot,
    owner: Option<Owner>,
    before: HashMap<String, Known>,
    after: HashMap<String, Known>,
}

impl SharedRoot {
    /// In an empty directory, for a worker whose processes are `owner`.
    pub fn new(dir: OwnedFd, owner: Option<Owner>) -> Self {
        SharedRoot { dir, owner, known: HashMap::new() }
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Makes the directory into this input root.
    pub fn show(&mut self, cas: &Cas, staged: &StagedRoot) -> Result<(), Verdict> {
        let before = std::mem::take(&mut self.known);
        let mut change = Change { cas, staged, owner: self.owner, before, after: HashMap::new() };
        let root = staged.directory(staged.root());
        let root = root.ok_or_else(|| Verdict::Internal("a staged root has no top".to_owned()))?;
        change.directory(self.dir.as_fd(), root, "")?;
        self.known = change.after;
        Ok(())
    }
}

fn failed(what: &'static str, path: &str) -> impl FnOnce(Errno) -> Verdict {
    let path = path.to_owned();
    move |errno| Verdict::Unavailable(format!("cannot {what} {path:?} of a worker's shared view: {errno}"))
}

impl Change<'_> {
    /// As deep as input roots may be, and no deeper: what the worker made beside is removed as a whole.
    fn directory(&mut self, dir: BorrowedFd<'_>, wanted: &Directory, prefix: &str) -> Result<(), Verdict> {
        let names = wanted.files.iter().map(|file| file.name.as_str());
        let names = names.chain(wanted.symlinks.iter().map(|link| link.name.as_str()));
        let names: HashSet<&[u8]> = names
            .chain(wanted.directories.iter().map(|child| child.name.as_str()))
            .map(str::as_bytes)
            .collect();
        let (entries, _) = beneath::list(dir, usize::MAX).map_err(failed("list", prefix))?;
        for (name, _) in entries.iter().filter(|(name, _)| !names.contains(name.to_bytes())) {
            self.remove(dir, name, prefix)?;
        }
        for file in &wanted.files {
            self.file(dir, file, &format!("{prefix}{}", file.name))?;
        }
        for link in &wanted.symlinks {
            self.symlink(dir, link, &format!("{prefix}{}", link.name))?;
        }
        for child in &wanted.directories {
            let path = format!("{prefix}{}", child.name);
            let missing = || Verdict::Internal(format!("{path:?} of a staged root is missing"));
            let below = self.staged.directory(&child.digest).ok_or_else(missing)?;
            let opened = self.enter(dir, &c_name(&child.name), &path)?;
            self.directory(opened.as_fd(), below, &format!("{path}/"))?;
        }
        Ok(())
    }

    fn remove(&self, dir: BorrowedFd<'_>, name: &CStr, path: &str) -> Result<(), Verdict> {
        let removed = remove_tree(dir, name, TreeLimits::DEFAULT.entries_max);
        removed.map(drop).map_err(|error| {
            Verdict::Unavailable(format!("cannot clear {path:?} of a worker's shared view: {error}"))
        })
    }

    fn enter(&self, dir: BorrowedFd<'_>, name: &CStr, path: &str) -> Result<OwnedFd, Verdict> {
        let stat = beneath::look(dir, name).map_err(failed("inspect", path))?;
        let mut is_new = stat.is_none();
        if stat.is_some_and(|stat| beneath::kind(&stat) != FileType::Directory) {
            self.remove(dir, name, path)?;
            is_new = true;
        }
        let opened = || -> Result<OwnedFd, Errno> {
            if is_new {
                rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
            }
            let opened = beneath::open_dir(dir, name)?;
            if let Some(owner) = self.owner.filter(|_| is_new) {
                rustix::fs::fchown(&opened, owner.user(), owner.group())?;
            }
            rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o755))?;
            Ok(opened)
        };
        opened().map_err(failed("make directory", path))
    }

    fn file(&mut self, dir: BorrowedFd<'_>, file: &FileNode, path: &str) -> Result<(), Verdict> {
        let name = c_name(&file.name);
        let stat = beneath::look(dir, &name).map_err(failed("inspect", path))?;
        if let Some(stat) = stat {
            let now = Known::of(file, &stat);
            if self.before.get(path) == Some(&now) {
                self.after.insert(path.to_owned(), now);
                return Ok(());
            }
            self.remove(dir, &name, path)?;
        }
        let blob = self.cas.open_blob(&file.digest)?;
        let made = || -> Result<Stat, Errno> {
            let made = beneath::create_file(dir, &name)?;
            transfer(blob.file.as_fd(), made.as_fd(), blob.size_bytes, blob.size_bytes)?;
            if let Some(owner) = self.owner {
                rustix::fs::fchown(&made, owner.user(), owner.group())?;
            }
            let own = file.properties.unix_mode.map_or(0o644, |mode| mode & 0o777);
            let mode = own | if file.executable { 0o111 } else { 0 };
            rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            rustix::fs::futimens(&made, &times(file.properties.mtime.unwrap_or(MTIME)))?;
            rustix::fs::fstat(&made)
        };
        let stat = made().map_err(failed("make file", path))?;
        self.after.insert(path.to_owned(), Known::of(file, &stat));
        Ok(())
    }

    fn symlink(&self, dir: BorrowedFd<'_>, link: &SymlinkNode, path: &str) -> Result<(), Verdict> {
        let name = c_name(&link.name);
        let there = rustix::fs::readlinkat(dir, &name, Vec::new());
        if there.is_ok_and(|target| target.to_bytes() == link.target.as_bytes()) {
            return Ok(());
        }
        self.remove(dir, &name, path)?;
        let made = || -> Result<(), Errno> {
            rustix::fs::symlinkat(link.target.as_str(), dir, &name)?;
            match self.owner {
                Some(owner) => {
                    rustix::fs::chownat(dir, &name, owner.user(), owner.group(), AtFlags::SYMLINK_NOFOLLOW)
                }
                None => Ok(()),
            }
        };
        made().map_err(failed("make symlink", path))
    }
}

fn times(time: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Names of decoded directories have no NUL.
fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}
