//! One cgroup directory, whose type says what it may be used for.
//!
//! ```text
//!              into_branch(controllers)
//!   Fresh ──────────────────────────────► Branch   has children, never processes
//!     │         into_leaf()
//!     └─────────────────────────────────► Leaf     has processes, never children
//! ```
//!
//! cgroup v2 forbids processes in a group that gives controllers to its children ("no internal processes");
//! the types say it before the kernel does. On v1 the rule does not exist, and we keep to it all the same,
//! so that a directory's own limits always cover exactly one sandbox.
//!
//! Invariants: the directory was made by us (or is the place where our tree stands); a descriptor of it is
//! open, so control files are opened relative to it. Dropping a node does not remove the directory:
//! [`Cgroup::remove`] does.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use super::{CgroupError, Controller};

/// A directory just made: neither branch nor leaf yet.
#[derive(Debug)]
pub struct Fresh(());
/// A directory that has children and never processes.
#[derive(Debug)]
pub struct Branch(());
/// A directory that has processes and never children.
#[derive(Debug)]
pub struct Leaf(());

/// A cgroup directory in state `S`.
#[derive(Debug)]
pub struct Cgroup<S> {
    dir: OwnedFd,
    path: PathBuf,
    _state: S,
}

/// How often, and how far apart, a busy directory is tried again: about a quarter of a second. A group
/// stays busy while zombies or exiting tasks are in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Try once; for `Drop`, which must not block.
    Once,
    /// Try for about a quarter of a second.
    Bounded,
}

impl Cgroup<Branch> {
    /// Takes an existing directory as the place where our tree stands.
    pub(super) fn place(path: &Path) -> Result<Self, CgroupError> {
        open(path, Branch(()))
    }

    /// Makes a child directory.
    ///
    /// # Errors
    /// [`CgroupError::Io`] as `mkdir(2)`; a directory that exists already is one too.
    pub fn child(&self, name: &str) -> Result<Cgroup<Fresh>, CgroupError> {
        let path = self.path.join(name);
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| CgroupError::io("create cgroup", &path, errno))?;
        open(&path, Fresh(())).inspect_err(|_| {
            let _ = rustix::fs::rmdir(&path);
        })
    }
}

impl Cgroup<Fresh> {
    /// Gives `controllers` to the children of this group (v2; pass none on v1). Gives the group back on
    /// failure.
    ///
    /// # Errors
    /// The failed write, with the group, unchanged.
    pub fn into_branch(self, controllers: &[Controller]) -> Result<Cgroup<Branch>, (CgroupError, Self)> {
        match enable(&self, controllers) {
            Ok(()) => Ok(self.with(Branch(()))),
            Err(error) => Err((error, self)),
        }
    }

    /// From here on the group admits processes.
    pub fn into_leaf(self) -> Cgroup<Leaf> {
        self.with(Leaf(()))
    }
}

impl Cgroup<Leaf> {
    /// Moves a process, with all its threads, into this group. Where `favordynmods` is off this waits for
    /// an RCU grace period: prefer `CLONE_INTO_CGROUP` with [`Cgroup::fd`] on v2.
    ///
    /// # Errors
    /// [`CgroupError::Io`]: `ESRCH` if it is gone, `EACCES` if we may not move it.
    pub fn attach(&self, pid: Pid) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.as_raw_nonzero().to_string())
    }

    /// The directory, for `CLONE_INTO_CGROUP` (v2 only).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl<S> Cgroup<S> {
    /// Where it is in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the control file `name` exists.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(&self.dir, name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
            .is_ok()
    }

    /// Opens the control file `name`; kept open, it is read and written without a path look-up.
    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
        rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| CgroupError::io("open", &self.path.join(name), errno))
    }

    /// Like [`Self::open_file`], but a file that does not exist is `None`.
    pub(super) fn open_existing(&self, name: &str, flags: OFlags) -> Result<Option<OwnedFd>, CgroupError> {
        match rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(CgroupError::io("open", &self.path.join(name), errno)),
        }
    }

    /// Writes a control file in one write, as the kernel requires.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), CgroupError> {
        let file = self.open_file(name, OFlags::WRONLY | OFlags::TRUNC)?;
        File::from(file)
            .write_all(value.as_bytes())
            .map_err(|source| CgroupError::io(format!("write {value:?} to"), &self.path.join(name), source))
    }

    /// Reads a small control file.
    pub(super) fn read(&self, name: &str) -> Result<String, CgroupError> {
        read_file(&self.path.join(name))
    }

    /// Gives the group's `cgroup.procs` to `uid:gid`, who may then start processes here. Directory and
    /// limits stay ours.
    pub(super) fn admit(&self, uid: u32, gid: u32) -> Result<(), CgroupError> {
        let (owner, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&self.dir, "cgroup.procs", Some(owner), Some(group), flags).map_err(|errno| {
            CgroupError::io(format!("give to uid {uid}"), &self.path.join("cgroup.procs"), errno)
        })
    }

    /// Removes the directory, which must have no children; gives the node back while the kernel says busy.
    pub(super) fn remove(&self, patience: Patience) -> Result<(), std::io::Error> {
        remove_dir(&self.path, patience)
    }

    fn with<T>(self, state: T) -> Cgroup<T> {
        Cgroup { dir: self.dir, path: self.path, _state: state }
    }
}

/// Turns controllers on for the children of a group, one write each so that the error names the one that
/// failed.
pub(super) fn enable<S>(group: &Cgroup<S>, controllers: &[Controller]) -> Result<(), CgroupError> {
    let enabled = if controllers.is_empty() { vec![] } else { subtree_control(group.path())? };
    for controller in controllers.iter().filter(|controller| !enabled.contains(controller)) {
        group.write("cgroup.subtree_control", &format!("+{}", controller.name()))?;
    }
    Ok(())
}

fn subtree_control(path: &Path) -> Result<Vec<Controller>, CgroupError> {
    Ok(super::parse::controllers(&read_file(&path.join("cgroup.subtree_control"))?))
}

/// Removes one cgroup directory. Gone already counts as removed.
pub(super) fn remove_dir(path: &Path, patience: Patience) -> Result<(), std::io::Error> {
    let tries = match patience {
        Patience::Once => 1,
        Patience::Bounded => 12,
    };
    let mut pause = Duration::from_micros(100);
    for left in (0..tries).rev() {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => break,
            Err(Errno::BUSY) if left > 0 => std::thread::sleep(pause),
            Err(errno) => return Err(errno.into()),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

pub(super) fn read_file(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::io("read", path, source))
}

fn open<S>(path: &Path, state: S) -> Result<Cgroup<S>, CgroupError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| CgroupError::io("open cgroup", path, errno))?;
    Ok(Cgroup { dir, path: path.to_path_buf(), _state: state })
}
