//! A walk down one branch of a tree, with a bounded number of descriptors and no path.
//!
//! ```text
//!   root ── a ── b ── … ── y ── z        frames, one per level
//!    open   ×    ×   ×     open open     the root and the deepest WALK_DESCRIPTORS_MAX stay open
//! ```
//!
//! Going up into a level whose descriptor was closed opens `..` of the level below, and checks device and
//! inode against what was closed: a directory that somebody moved meanwhile ends the walk, it never leads
//! elsewhere. Paths are not used at all, so that PATH_MAX is no limit.
//!
//! Limits: levels that are gone up into must be searchable by this process.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::fault::Fault;
use super::limits::WALK_DESCRIPTORS_MAX;

/// The directories between a root and where a walk is now.
pub struct Descent {
    frames: Vec<Frame>,
    /// Frames `1..closed` have given their descriptors back.
    closed: usize,
    /// What errors call the root.
    shown_root: PathBuf,
}

struct Frame {
    name: CString,
    state: State,
}

enum State {
    Open(OwnedFd),
    Closed { device: u64, inode: u64 },
}

impl Descent {
    /// Starts at `root`, which errors call `shown_root`.
    pub fn new(root: OwnedFd, shown_root: impl Into<PathBuf>) -> Self {
        let frames = vec![Frame { name: CString::default(), state: State::Open(root) }];
        Self { frames, closed: 1, shown_root: shown_root.into() }
    }

    /// The directory where the walk is.
    pub fn dir(&self) -> Result<BorrowedFd<'_>, Fault> {
        match self.frames.last().map(|frame| &frame.state) {
            Some(State::Open(fd)) => Ok(fd.as_fd()),
            _ => Err(Fault::new("use a closed directory", self.path(), Errno::BADF)),
        }
    }

    /// Levels below the root.
    pub fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    /// Goes down into `fd`, which is the directory `name` of the current one.
    pub fn enter(&mut self, name: &CStr, fd: OwnedFd) -> Result<(), Fault> {
        self.frames.push(Frame { name: name.to_owned(), state: State::Open(fd) });
        if self.frames.len() - self.closed > WALK_DESCRIPTORS_MAX {
            let frame = &mut self.frames[self.closed];
            if let State::Open(fd) = &frame.state {
                let stat = rustix::fs::fstat(fd)
                    .map_err(Fault::of("inspect a directory above", &self.shown_root))?;
                frame.state = State::Closed { device: stat.st_dev, inode: stat.st_ino };
            }
            self.closed += 1;
        }
        Ok(())
    }

    /// Goes up one level and gives back the name of the directory that was left, or `None` at the root.
    pub fn leave(&mut self) -> Result<Option<CString>, Fault> {
        if self.frames.len() == 1 {
            return Ok(None);
        }
        let Some(left) = self.frames.pop() else { return Ok(None) };
        let top = self.frames.len() - 1;
        let shown = || self.path_of(&left.name);
        if let (State::Closed { device, inode }, State::Open(below)) = (&self.frames[top].state, &left.state)
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = rustix::fs::openat(below, c"..", flags, Mode::empty())
                .map_err(|why| Fault::new("go up from directory", shown(), why))?;
            let stat = rustix::fs::fstat(&above)
                .map_err(|why| Fault::new("inspect the directory above", shown(), why))?;
            if (stat.st_dev, stat.st_ino) != (*device, *inode) {
                return Err(Fault::new("go up from a directory that was moved", shown(), Errno::STALE));
            }
            self.frames[top].state = State::Open(above);
            self.closed = top;
        }
        Ok(Some(left.name))
    }

    /// Where the walk is, for errors.
    pub fn path(&self) -> PathBuf {
        let mut path = self.shown_root.clone();
        for frame in &self.frames[1..] {
            path.push(OsStr::from_bytes(frame.name.to_bytes()));
        }
        path
    }

    /// The path of `name` where the walk is, for errors.
    pub fn path_of(&self, name: &CStr) -> PathBuf {
        self.path().join(OsStr::from_bytes(name.to_bytes()))
    }
}
