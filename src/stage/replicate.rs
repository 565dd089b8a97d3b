//! A tree made a second time: by hard links where that is wanted and possible, else by reflink or copy.
//!
//! ```text
//!   regular file   link (same filesystem, allowed)  ──else──>  new file: contents, owner, mode, mtime
//!   directory      made anew, mode | u+rwx, mtime; never linked, never shared
//!   symlink        the same text; never followed
//!   anything else  refused by name
//! ```
//!
//! Invariants: no recursion (an explicit stack of directory pairs, see [`Descent`]); counts, depth and copied
//! bytes are checked against [`TreeLimits`] before they are spent; set-id and sticky bits, extended
//! attributes and access control lists are not copied.
//!
//! Limits: a linked file keeps its owner, mode and attributes, because it is the user's own inode; the mount
//! that shows it must be `nosuid` and must copy up on write. Linking changes the ctime and link count of the
//! user's file.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::beneath::{self, Entry, Owner};
use super::contents::{Transfer, transfer};
use super::descent::Descent;
use super::fault::{Fault, TreeError};
use super::limits::TreeLimits;

/// Most unreadable files that are named.
const UNREADABLE_SHOWN_MAX: usize = 16;

/// What a replication did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    /// Regular files, however they came over.
    pub files: u64,
    /// Files that are hard links.
    pub links: u64,
    /// Files that share blocks with their source.
    pub shared: u64,
    /// Bytes that were written.
    pub bytes_copied: u64,
    /// Directories made.
    pub directories: u64,
    /// Symlinks made.
    pub symlinks: u64,
    /// Linked files that the owner of the tree may not read: the first few.
    pub unreadable: Vec<PathBuf>,
}

/// Makes trees, and adds up what it made.
#[derive(Debug)]
pub struct Replicator {
    /// Link regular files where possible.
    pub link: bool,
    /// Who owns what is made; `None` leaves it to this process.
    pub owner: Option<Owner>,
    /// How much may be made, over all calls.
    pub limits: TreeLimits,
    /// What was made so far.
    pub done: Replicated,
    entries: u64,
}

/// One directory whose entries are being made.
struct Level {
    entries: Vec<Entry>,
    source: Stat,
}

impl Replicator {
    /// Nothing made yet.
    pub fn new(link: bool, owner: Option<Owner>, limits: TreeLimits) -> Self {
        Self { link, owner, limits, done: Replicated::default(), entries: 0 }
    }

    /// Makes `name` of `source_dir`, and all below it, as `target_name` in `target_dir`. Existing directories
    /// are merged into; anything else that exists is an error. Errors call the start `shown`.
    pub fn replicate(
        &mut self,
        source: (BorrowedFd<'_>, &CStr),
        target: (BorrowedFd<'_>, &CStr),
        shown: PathBuf,
    ) -> Result<(), TreeError> {
        let (source_dir, name) = source;
        let stat = match beneath::look(source_dir, name) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Err(Fault::new("find", shown, Errno::NOENT).into()),
            Err(why) => return Err(Fault::new("inspect", shown, why).into()),
        };
        if beneath::kind(&stat) != FileType::Directory {
            return self.make_leaf(source, &stat, target, &|| shown.clone());
        }
        self.count(&|| shown.clone())?;
        let opened = beneath::open_dir(source_dir, name).map_err(Fault::of("open directory", &shown))?;
        let made = self.make_directory(target, &|| shown.clone())?;
        let mut above = Descent::new(opened, shown.clone());
        let mut below = Descent::new(made, shown);
        let mut levels = vec![self.level(&above)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, listed)) = level.entries.pop() else {
                self.finish_directory(&below, &level.source)?;
                levels.pop();
                above.leave()?;
                below.leave()?;
                continue;
            };
            if let Some(deeper) = self.entry(&mut above, &mut below, &name, listed)? {
                levels.push(deeper);
            }
        }
        Ok(())
    }

    /// Makes one entry; a directory is entered and its level returned.
    fn entry(
        &mut self,
        above: &mut Descent,
        below: &mut Descent,
        name: &CStr,
        listed: FileType,
    ) -> Result<Option<Level>, TreeError> {
        let stat = match listed {
            FileType::Directory => None,
            _ => beneath::look(above.dir()?, name)
                .map_err(|why| Fault::new("inspect", above.path_of(name), why))?,
        };
        match (stat, listed) {
            (Some(stat), _) if beneath::kind(&stat) != FileType::Directory => {
                let target = (below.dir()?, name);
                self.make_leaf((above.dir()?, name), &stat, target, &|| above.path_of(name))?;
                return Ok(None);
            }
            // Gone since it was listed: somebody works in the tree; the name was not there a moment later.
            (None, kind) if kind != FileType::Directory => return Ok(None),
            _ => {}
        }
        self.count(&|| above.path_of(name))?;
        if above.depth() + 1 > self.limits.depth_max {
            let max = self.limits.depth_max as u64;
            return Err(TreeError::TooLarge {
                path: above.path_of(name),
                unit: "levels of directories",
                max,
            });
        }
        let opened = beneath::open_dir(above.dir()?, name)
            .map_err(|why| Fault::new("open directory", above.path_of(name), why))?;
        let made = self.make_directory((below.dir()?, name), &|| above.path_of(name))?;
        above.enter(name, opened)?;
        below.enter(name, made)?;
        Ok(Some(self.level(above)?))
    }

    fn level(&self, at: &Descent) -> Result<Level, TreeError> {
        let source =
            rustix::fs::fstat(at.dir()?).map_err(|why| Fault::new("inspect directory", at.path(), why))?;
        let left = self.limits.entries_max.saturating_sub(self.entries);
        let (entries, more) = beneath::list(at.dir()?, usize::try_from(left).unwrap_or(usize::MAX))
            .map_err(|why| Fault::new("list directory", at.path(), why))?;
        if more {
            return Err(TreeError::TooLarge {
                path: at.path(),
                unit: "entries",
                max: self.limits.entries_max,
            });
        }
        Ok(Level { entries, source })
    }

    fn count(&mut self, shown: &dyn Fn() -> PathBuf) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(TreeError::TooLarge { path: shown(), unit: "entries", max: self.limits.entries_max });
        }
        Ok(())
    }

    /// Makes or finds the directory, and opens it.
    fn make_directory(
        &mut self,
        (dir, name): (BorrowedFd<'_>, &CStr),
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<std::os::fd::OwnedFd, Fault> {
        let fault = |tried| move |why| Fault::new(tried, shown(), why);
        let new = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(why) => return Err(Fault::new("create directory", shown(), why)),
        };
        let made = beneath::open_dir(dir, name).map_err(fault("open directory"))?;
        if new {
            self.done.directories += 1;
            if let Some(owner) = self.owner {
                rustix::fs::fchown(&made, owner.user(), owner.group())
                    .map_err(fault("change the owner of"))?;
            }
        }
        Ok(made)
    }

    /// Mode and mtime, last, because making entries changes the mtime.
    fn finish_directory(&self, at: &Descent, source: &Stat) -> Result<(), Fault> {
        let mode = (beneath::mode(source) & permissions()) | Mode::RWXU;
        let made = at.dir()?;
        rustix::fs::fchmod(made, mode).map_err(|why| Fault::new("change the mode of", at.path(), why))?;
        rustix::fs::futimens(made, &mtime_of(source))
            .map_err(|why| Fault::new("set the time of", at.path(), why))
    }

    fn make_leaf(
        &mut self,
        source: (BorrowedFd<'_>, &CStr),
        stat: &Stat,
        target: (BorrowedFd<'_>, &CStr),
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), TreeError> {
        self.count(shown)?;
        let kind = beneath::kind(stat);
        if let Some(kind) = beneath::special(kind) {
            return Err(TreeError::Special { path: shown(), kind });
        }
        if kind == FileType::Symlink {
            return Ok(self.make_symlink(source, target, shown)?);
        }
        if self.link && self.make_link(source, stat, target, shown)? {
            return Ok(());
        }
        self.make_copy(source, target, shown)
    }

    fn make_symlink(
        &mut self,
        (source_dir, name): (BorrowedFd<'_>, &CStr),
        (target_dir, target_name): (BorrowedFd<'_>, &CStr),
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), Fault> {
        let fault = |tried| move |why| Fault::new(tried, shown(), why);
        let text = rustix::fs::readlinkat(source_dir, name, Vec::new()).map_err(fault("read symlink"))?;
        match rustix::fs::symlinkat(&text, target_dir, target_name) {
            Ok(()) => {}
            Err(Errno::EXIST) if same_symlink(target_dir, target_name, &text) => return Ok(()),
            Err(why) => return Err(Fault::new("create symlink", shown(), why)),
        }
        self.done.symlinks += 1;
        if let Some(owner) = self.owner {
            rustix::fs::chownat(
                target_dir,
                target_name,
                owner.user(),
                owner.group(),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(fault("change the owner of"))?;
        }
        Ok(())
    }

    /// True if the file is there now; false if it must be copied.
    fn make_link(
        &mut self,
        (source_dir, name): (BorrowedFd<'_>, &CStr),
        stat: &Stat,
        (target_dir, target_name): (BorrowedFd<'_>, &CStr),
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<bool, Fault> {
        match rustix::fs::linkat(source_dir, name, target_dir, target_name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = beneath::look(target_dir, target_name)
                    .map_err(|why| Fault::new("inspect", shown(), why))?;
                match there {
                    Some(there) if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) => {
                        return Ok(true);
                    }
                    _ => return Err(Fault::new("create", shown(), Errno::EXIST)),
                }
            }
            // Another filesystem or mount; not ours (fs.protected_hardlinks); too many links; not supported.
            Err(Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::OPNOTSUPP) => {
                return Ok(false);
            }
            Err(why) => return Err(Fault::new("link", shown(), why)),
        }
        self.done.files += 1;
        self.done.links += 1;
        if self.owner.is_some_and(|owner| !may_read(stat, owner))
            && self.done.unreadable.len() < UNREADABLE_SHOWN_MAX
        {
            self.done.unreadable.push(shown());
        }
        Ok(true)
    }

    fn make_copy(
        &mut self,
        (source_dir, name): (BorrowedFd<'_>, &CStr),
        (target_dir, target_name): (BorrowedFd<'_>, &CStr),
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), TreeError> {
        let fault = |tried| move |why| Fault::new(tried, shown(), why);
        let source = beneath::open_file(source_dir, name).map_err(fault("open"))?;
        let stat = rustix::fs::fstat(&source).map_err(fault("inspect"))?;
        if beneath::kind(&stat) != FileType::RegularFile {
            return Err(TreeError::Special { path: shown(), kind: "no longer a regular file" });
        }
        let target = beneath::create_file(target_dir, target_name).map_err(fault("create"))?;
        let budget = self.limits.copy_bytes_max.saturating_sub(self.done.bytes_copied);
        match transfer(source.as_fd(), target.as_fd(), stat.st_size.unsigned_abs(), budget) {
            Ok(Transfer::Shared) => self.done.shared += 1,
            Ok(Transfer::Copied(bytes)) => self.done.bytes_copied += bytes,
            Err(Errno::FBIG) => {
                let max = self.limits.copy_bytes_max;
                return Err(TreeError::TooLarge { path: shown(), unit: "bytes to copy", max });
            }
            Err(why) => return Err(Fault::new("copy", shown(), why).into()),
        }
        if let Some(owner) = self.owner {
            rustix::fs::fchown(&target, owner.user(), owner.group()).map_err(fault("change the owner of"))?;
        }
        rustix::fs::fchmod(&target, beneath::mode(&stat) & permissions())
            .map_err(fault("change the mode of"))?;
        rustix::fs::futimens(&target, &mtime_of(&stat)).map_err(fault("set the time of"))?;
        self.done.files += 1;
        Ok(())
    }
}

/// The mode bits that survive: no set-id, no sticky.
pub fn permissions() -> Mode {
    Mode::RWXU | Mode::RWXG | Mode::RWXO
}

/// Sets the mtime of `stat`, and leaves the atime.
fn mtime_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

fn same_symlink(dir: BorrowedFd<'_>, name: &CStr, text: &CStr) -> bool {
    rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|there| there.as_c_str() == text)
}

/// By mode bits alone: access control lists and supplementary groups are not looked at.
fn may_read(stat: &Stat, reader: Owner) -> bool {
    let shift = match (stat.st_uid == reader.uid, stat.st_gid == reader.gid) {
        (true, _) => 6,
        (false, true) => 3,
        (false, false) => 0,
    };
    stat.st_mode >> shift & 0o4 != 0
}
