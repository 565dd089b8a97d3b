//! The directories that outputs go to: opened, created where missing, and checked, before anything is
//! published.
//!
//! Invariants: reached beneath the root without following a symlink; a directory that had to be closed
//! meanwhile is compared by device and inode when it is opened again. What was created is known, and removed
//! on failure.
//!
//! Limits: checks are made before the renames, and a user who changes the tree between the two gets an error
//! then.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, Mode, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::error::PublishError;
use super::limits::DIRECTORIES_OPEN_MAX;
use super::record::Identity;
use crate::action::ExecPath;
use crate::failpoint::hit;
use crate::stage::beneath::{self, Way};
use crate::stage::{Fault, Owner};

/// The destination tree during one publication.
#[derive(Debug)]
pub(super) struct Destinations {
    root: OwnedFd,
    owner: Option<Owner>,
    /// The mount of the layer: what is on the same one can be renamed.
    layer_mount: (u64, Option<u64>),
    directories: HashMap<Option<ExecPath>, Directory>,
    open: usize,
    created: Vec<ExecPath>,
}

#[derive(Debug)]
struct Directory {
    fd: Option<OwnedFd>,
    id: (u64, u64),
    same_mount: bool,
}

/// An open destination directory, held or opened for this use.
pub(super) enum Handle<'a> {
    Held(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Handle<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Destinations {
    pub fn new(root: BorrowedFd<'_>, layer: BorrowedFd<'_>, owner: Option<Owner>) -> Result<Self, Fault> {
        let root = root.try_clone_to_owned().map_err(|error| {
            Fault::new("keep", "the destination", Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
        })?;
        let layer_mount = beneath::mount_of(layer).map_err(Fault::of("inspect", "the layer"))?;
        Ok(Self { root, owner, layer_mount, directories: HashMap::new(), open: 0, created: Vec::new() })
    }

    /// Opens, creates and checks the directory for `output`; says whether the layer can be renamed into it.
    pub fn prepare(&mut self, output: &ExecPath) -> Result<bool, PublishError> {
        let parent = output.parent();
        if let Some(known) = self.directories.get(&parent) {
            return Ok(known.same_mount);
        }
        let fault = |why| in_the_way(output, why);
        let path = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
        let opened = match beneath::open_dir_at(self.root.as_fd(), path, Way::NoSymlinks) {
            Err(Errno::NOENT) => match &parent {
                Some(parent) => self.create(parent),
                None => Err(Errno::NOENT),
            },
            answer => answer,
        };
        let fd = opened.map_err(fault)?;
        match rustix::fs::accessat(&fd, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => {}
            Err(why) => return Err(fault(why)),
        }
        let stat = rustix::fs::fstat(&fd).map_err(fault)?;
        let same_mount = beneath::mount_of(fd.as_fd()).map_err(fault)? == self.layer_mount;
        let keep = self.open < DIRECTORIES_OPEN_MAX;
        self.open += usize::from(keep);
        let directory = Directory { fd: keep.then_some(fd), id: (stat.st_dev, stat.st_ino), same_mount };
        self.directories.insert(parent, directory);
        Ok(same_mount)
    }

    /// The prepared directory for `output`.
    pub fn directory(&self, output: &ExecPath) -> Result<Handle<'_>, Errno> {
        let parent = output.parent();
        let known = self.directories.get(&parent).ok_or(Errno::BADF)?;
        if let Some(fd) = &known.fd {
            return Ok(Handle::Held(fd.as_fd()));
        }
        let path = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
        let fd = beneath::open_dir_at(self.root.as_fd(), path, Way::NoSymlinks)?;
        let stat = rustix::fs::fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) != known.id {
            return Err(Errno::STALE);
        }
        Ok(Handle::Opened(fd))
    }

    /// Looks at what is at `output`, and refuses what may not be replaced.
    pub fn look(&self, output: &ExecPath, name: &CStr) -> Result<Option<Identity>, PublishError> {
        let refuse = |why: String| PublishError::Destination { output: output.clone(), why };
        let fault = |why| in_the_way(output, why);
        let dir = self.directory(output).map_err(fault)?;
        let Some(stat) = beneath::look(dir.as_fd(), name).map_err(fault)? else { return Ok(None) };
        let kind = beneath::kind(&stat);
        if let Some(kind) = beneath::special(kind) {
            return Err(refuse(format!("{kind} is there, which no output replaces")));
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let attributes = rustix::fs::statx(dir.as_fd(), name, flags, StatxFlags::TYPE).map_err(fault)?;
        if attributes.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(refuse("it is a mount point".to_owned()));
        }
        let me = rustix::process::geteuid();
        let holder = rustix::fs::fstat(&dir).map_err(fault)?;
        let theirs = |uid: u32| uid != me.as_raw() && !me.is_root();
        if beneath::mode(&holder).contains(Mode::SVTX) && theirs(holder.st_uid) && theirs(stat.st_uid) {
            return Err(refuse("it belongs to another user, in a directory with the sticky bit".to_owned()));
        }
        Ok(Some(identity(&stat)))
    }

    /// The tree itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Syncs every directory that outputs went to.
    pub fn sync(&self) -> Result<(), Errno> {
        for (path, known) in &self.directories {
            hit("commit.sync")?;
            match &known.fd {
                Some(fd) => rustix::fs::fsync(fd)?,
                None => {
                    let path = path.as_ref().map_or(Path::new("."), ExecPath::as_path);
                    rustix::fs::fsync(&beneath::open_dir_at(self.root.as_fd(), path, Way::NoSymlinks)?)?;
                }
            }
        }
        for path in &self.created {
            let above = path.parent();
            let above = above.as_ref().map_or(Path::new("."), ExecPath::as_path);
            hit("commit.sync")?;
            rustix::fs::fsync(&beneath::open_dir_at(self.root.as_fd(), above, Way::NoSymlinks)?)?;
        }
        Ok(())
    }

    /// Makes the missing directories of `path`, one by one.
    fn create(&mut self, path: &ExecPath) -> Result<OwnedFd, Errno> {
        let mut here = beneath::open_dir_at(self.root.as_fd(), Path::new("."), Way::NoSymlinks)?;
        let mut made_of: Option<ExecPath> = None;
        for component in path.components() {
            let name = CString::new(component.as_bytes()).map_err(|_| Errno::INVAL)?;
            let component = ExecPath::new(component).map_err(|_| Errno::INVAL)?;
            let now = made_of.map_or(component.clone(), |above| above.join(&component));
            let new = match rustix::fs::mkdirat(&here, &name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(why) => return Err(why),
            };
            if new {
                self.created.push(now.clone());
            }
            here = beneath::open_dir_at(here.as_fd(), component.as_path(), Way::NoSymlinks)?;
            if let (true, Some(owner)) = (new, self.owner) {
                rustix::fs::fchown(&here, owner.user(), owner.group())?;
            }
            made_of = Some(now);
        }
        Ok(here)
    }

    /// Removes the directories that were created, if they are still empty.
    pub fn undo(&mut self) {
        while let Some(path) = self.created.pop() {
            let parent = path.parent();
            let above = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
            if let Ok(dir) = beneath::open_dir_at(self.root.as_fd(), above, Way::NoSymlinks) {
                let _ = rustix::fs::unlinkat(&dir, path.file_name(), AtFlags::REMOVEDIR);
            }
        }
    }
}

/// What tells a file from another that took its name.
pub(super) fn identity(stat: &Stat) -> Identity {
    let mtime = match beneath::kind(stat) {
        FileType::Directory => 0,
        _ => stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
    };
    Identity { inode: stat.st_ino, mtime }
}

fn in_the_way(output: &ExecPath, why: Errno) -> PublishError {
    let refuse = |why: &str| PublishError::Destination { output: output.clone(), why: why.to_owned() };
    match why {
        Errno::LOOP => refuse("a symlink is on the way to it, and is not followed"),
        Errno::NOTDIR | Errno::EXIST => refuse("what should be its directory is none"),
        why => {
            let fault = Fault::new("open the directory of", output.as_path(), why);
            PublishError::Prepare { output: output.clone(), why: fault.into() }
        }
    }
}
