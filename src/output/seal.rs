//! Sealing: making one output in the upper layer fit to be renamed into a user's tree.
//!
//! ```text
//!   Descent over upper:   out ── a ── b        always
//!   Descent over lower:   out ── a             as deep as something of lower shows through
//! ```
//!
//! Invariants: after a successful call the output is a complete tree of regular files with one link,
//! directories and symlinks, owned by the caller's choice, without set-id bits, extended attributes and
//! whiteouts. A directory keeps its mtime, though entries come and go here. No recursion; see [`Descent`].

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::collect::CollectOptions;
use super::marks::Marks;
use super::merged;
use crate::stage::descent::Descent;
use crate::stage::limits::{NAME_TRIES_MAX, XATTR_LIST_BYTES_MAX};
use crate::stage::replicate::{Replicator, permissions};
use crate::stage::{Fault, Owner, TreeError, beneath};

/// Attributes that belong to the host's security modules, not to the file.
const HOST_LABELS: [&[u8]; 5] =
    [b"security.selinux", b"security.SMACK64", b"security.apparmor", b"security.ima", b"security.evm"];

/// Seals outputs, and adds up what that took.
pub(super) struct Sealer {
    marks: Marks,
    owner: Option<Owner>,
    depth_max: usize,
    entries_max: u64,
    /// Makes copies of what is linked elsewhere, and brings in what only the lower layer has.
    pub replicator: Replicator,
    /// Makes copies of files with more than one link.
    pub copier: Replicator,
    /// Regular files sealed or brought in.
    pub files: u64,
    /// Apparent size of the files sealed.
    pub bytes: u64,
    entries: u64,
}

/// One directory whose entries are being sealed.
struct Level {
    /// Of the upper layer.
    entries: Vec<beneath::Entry>,
    /// Only in the lower layer.
    to_bring: Vec<CString>,
    times: Timestamps,
}

impl Sealer {
    pub fn new(options: &CollectOptions) -> Self {
        Self {
            marks: options.marks,
            owner: options.owner,
            depth_max: options.limits.depth_max,
            entries_max: options.limits.entries_max,
            replicator: Replicator::new(options.lower_is_destination, options.owner, options.limits),
            copier: Replicator::new(false, options.owner, options.limits),
            files: 0,
            bytes: 0,
            entries: 0,
        }
    }

    /// Seals `name` of the upper directory `dir`, which is no directory itself.
    pub fn leaf(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), TreeError> {
        self.count(shown)?;
        match beneath::kind(stat) {
            FileType::RegularFile => self.file(dir, name, stat, shown),
            FileType::Symlink => Ok(self.symlink(dir, name, shown)?),
            other => {
                let kind = beneath::special(other).unwrap_or("a directory");
                Err(TreeError::Special { path: shown(), kind })
            }
        }
    }

    /// Brings `name` of the lower directory into the upper one.
    pub fn bring(
        &mut self,
        lower: BorrowedFd<'_>,
        upper: BorrowedFd<'_>,
        name: &CStr,
        shown: PathBuf,
    ) -> Result<(), TreeError> {
        self.replicator.replicate((lower, name), (upper, name), shown)
    }

    /// Seals the directory `name` of the upper directory `dir`, over what `lower` has at its place.
    pub fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        lower: Option<BorrowedFd<'_>>,
        name: &CStr,
        shown: PathBuf,
    ) -> Result<(), TreeError> {
        let fault = |why| Fault::new("open output directory", shown.clone(), why);
        let top = merged::open_upper(dir, name).map_err(fault)?;
        let under = merged::lower_under(top.as_fd(), lower, name, self.marks).map_err(fault)?;
        let mut walk = Walk { upper: Descent::new(top, shown.clone()), lower: None, lower_start: 0 };
        walk.go_under(under, name)?;
        let mut levels = vec![self.level(&walk)?];
        while let Some(level) = levels.last_mut() {
            if let Some((name, _)) = level.entries.pop() {
                if self.entry(&mut walk, &name)? {
                    levels.push(self.level(&walk)?);
                }
            } else if let Some(name) = level.to_bring.pop() {
                let shown = walk.upper.path_of(&name);
                if let Some(lower) = walk.lower_dir()? {
                    self.bring(lower, walk.upper.dir()?, &name, shown)?;
                }
            } else {
                rustix::fs::futimens(walk.upper.dir()?, &level.times)
                    .map_err(|why| Fault::new("set the time of", walk.upper.path(), why))?;
                levels.pop();
                walk.leave()?;
            }
        }
        Ok(())
    }

    /// Seals one entry of the upper directory; true if it is a directory that has now been entered.
    fn entry(&mut self, walk: &mut Walk, name: &CStr) -> Result<bool, TreeError> {
        let dir = walk.upper.dir()?;
        let shown = || walk.upper.path_of(name);
        let fault = |why| Fault::new("inspect", shown(), why);
        let Some(stat) = beneath::look(dir, name).map_err(fault)? else { return Ok(false) };
        if self.marks.is_whiteout(dir, name, &stat).map_err(fault)? {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())
                .map_err(|why| Fault::new("remove whiteout", shown(), why))?;
            return Ok(false);
        }
        if beneath::kind(&stat) != FileType::Directory {
            self.leaf(dir, name, &stat, &shown)?;
            return Ok(false);
        }
        if walk.upper.depth() + 1 > self.depth_max {
            let max = self.depth_max as u64;
            return Err(TreeError::TooLarge { path: shown(), unit: "levels of directories", max });
        }
        let child = merged::open_upper(dir, name).map_err(fault)?;
        let under = merged::lower_under(child.as_fd(), walk.lower_dir()?, name, self.marks).map_err(fault)?;
        walk.upper.enter(name, child)?;
        walk.go_under(under, name)?;
        Ok(true)
    }

    /// Seals the directory where the walk is itself, and lists it.
    fn level(&mut self, walk: &Walk) -> Result<Level, TreeError> {
        let dir = walk.upper.dir()?;
        let shown = || walk.upper.path();
        let fault = |tried| move |why| Fault::new(tried, walk.upper.path(), why);
        self.count(&shown)?;
        let stat = rustix::fs::fstat(dir).map_err(fault("inspect"))?;
        strip_attributes(dir).map_err(fault("remove the attributes of"))?;
        if let Some(owner) = self.owner {
            rustix::fs::fchown(dir, owner.user(), owner.group()).map_err(fault("change the owner of"))?;
        }
        let mode = (beneath::mode(&stat) & permissions()) | Mode::RWXU;
        if mode != beneath::mode(&stat) {
            rustix::fs::fchmod(dir, mode).map_err(fault("change the mode of"))?;
        }
        let left = usize::try_from(self.entries_max.saturating_sub(self.entries)).unwrap_or(usize::MAX);
        let too_large = || TreeError::TooLarge { path: shown(), unit: "entries", max: self.entries_max };
        let (entries, more) = beneath::list(dir, left).map_err(fault("list"))?;
        if more {
            return Err(too_large());
        }
        let mut to_bring = Vec::new();
        if let Some(lower) = walk.lower_dir()? {
            let ours: HashSet<&CStr> = entries.iter().map(|(name, _)| name.as_c_str()).collect();
            let (theirs, more) = beneath::list(lower, left).map_err(fault("list the inputs of"))?;
            if more {
                return Err(too_large());
            }
            to_bring = theirs
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| !ours.contains(name.as_c_str()))
                .collect();
        }
        Ok(Level { entries, to_bring, times: mtime_of(&stat) })
    }

    fn count(&mut self, shown: &dyn Fn() -> PathBuf) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > self.entries_max {
            return Err(TreeError::TooLarge { path: shown(), unit: "entries", max: self.entries_max });
        }
        Ok(())
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        seen: &Stat,
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), TreeError> {
        let fault = |tried| move |why| Fault::new(tried, shown(), why);
        let opened = match beneath::open_file(dir, name) {
            Err(Errno::ACCESS) => {
                let mode = (beneath::mode(seen) & permissions()) | Mode::RUSR;
                beneath::change_mode(dir, name, mode).map_err(fault("make readable"))?;
                beneath::open_file(dir, name)
            }
            answer => answer,
        };
        let opened = opened.map_err(fault("open"))?;
        let stat = rustix::fs::fstat(&opened).map_err(fault("inspect"))?;
        self.files += 1;
        self.bytes += stat.st_size.unsigned_abs();
        if stat.st_nlink > 1 || strip_attributes(opened.as_fd()).is_err() {
            return self.replace_by_copy(dir, name, shown);
        }
        if let Some(owner) = self.owner {
            rustix::fs::fchown(&opened, owner.user(), owner.group()).map_err(fault("change the owner of"))?;
        }
        let mode = (beneath::mode(&stat) & permissions()) | Mode::RUSR;
        if mode != beneath::mode(&stat) {
            rustix::fs::fchmod(&opened, mode).map_err(fault("change the mode of"))?;
        }
        Ok(())
    }

    /// A fresh inode with the same contents, mode and time under the same name.
    fn replace_by_copy(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), TreeError> {
        let mut number = 0;
        let copy = loop {
            let copy = CString::new(format!(".fulgurite-copy-{number}")).unwrap_or_default();
            match beneath::look(dir, &copy).map_err(|why| Fault::new("inspect", shown(), why))? {
                None => break copy,
                Some(_) if number < NAME_TRIES_MAX => number += 1,
                Some(_) => return Err(Fault::new("find a free name beside", shown(), Errno::EXIST).into()),
            }
        };
        self.copier.replicate((dir, name), (dir, &copy), shown())?;
        rustix::fs::renameat(dir, &copy, dir, name)
            .map_err(|why| Fault::new("replace by its copy", shown(), why))?;
        Ok(())
    }

    fn symlink(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        shown: &dyn Fn() -> PathBuf,
    ) -> Result<(), Fault> {
        strip_symlink_attributes(dir, name)
            .map_err(|why| Fault::new("remove the attributes of", shown(), why))?;
        let Some(owner) = self.owner else { return Ok(()) };
        rustix::fs::chownat(dir, name, owner.user(), owner.group(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|why| Fault::new("change the owner of", shown(), why))
    }
}

/// Where the sealing is, in both layers.
struct Walk {
    upper: Descent,
    lower: Option<Descent>,
    /// The upper depth at which `lower` starts.
    lower_start: usize,
}

impl Walk {
    /// The lower directory that shows through the current one.
    fn lower_dir(&self) -> Result<Option<BorrowedFd<'_>>, Fault> {
        match &self.lower {
            Some(lower) if self.lower_start + lower.depth() == self.upper.depth() => lower.dir().map(Some),
            _ => Ok(None),
        }
    }

    /// Notes what shows through the directory that the upper walk has just entered.
    fn go_under(&mut self, under: Option<OwnedFd>, name: &CStr) -> Result<(), Fault> {
        let Some(under) = under else { return Ok(()) };
        match &mut self.lower {
            Some(lower) => lower.enter(name, under),
            None => {
                self.lower_start = self.upper.depth();
                self.lower = Some(Descent::new(under, self.upper.path()));
                Ok(())
            }
        }
    }

    fn leave(&mut self) -> Result<(), Fault> {
        if self.lower_dir()?.is_some()
            && let Some(lower) = &mut self.lower
        {
            lower.leave()?;
        }
        self.upper.leave()?;
        Ok(())
    }
}

/// Removes all extended attributes but the host's own labels.
fn strip_attributes(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    strip_listed(fd, &list_attributes(fd)?)
}

/// The names of all extended attributes, each with a NUL behind it.
pub(super) fn list_attributes(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; 1024];
    let length = match rustix::fs::flistxattr(fd, &mut buffer[..]) {
        Err(Errno::RANGE) => {
            buffer.resize(XATTR_LIST_BYTES_MAX, 0);
            rustix::fs::flistxattr(fd, &mut buffer[..])?
        }
        Err(Errno::OPNOTSUPP) => 0,
        answer => answer?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// Removes those of the listed attributes that are not the host's own labels.
fn strip_listed(fd: BorrowedFd<'_>, list: &[u8]) -> Result<(), Errno> {
    for name in strippable(list) {
        match rustix::fs::fremovexattr(fd, name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// The same for a symlink, which cannot be opened. The path has one component below a descriptor of ours, and
/// the calls do not follow it.
fn strip_symlink_attributes(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut path = beneath::own_path(dir).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name.to_bytes());
    let mut buffer = [0u8; 1024];
    let length = match rustix::fs::llistxattr(path.as_slice(), &mut buffer[..]) {
        // Without /proc they cannot be reached; a symlink's attributes have no effect outside an overlay.
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(()),
        answer => answer?,
    };
    for name in strippable(&buffer[..length]) {
        match rustix::fs::lremovexattr(path.as_slice(), name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

fn strippable(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !HOST_LABELS.contains(name))
}

fn mtime_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}
