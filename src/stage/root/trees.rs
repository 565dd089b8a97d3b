//! The other two ways: directories with files in them.
//!
//! ```text
//!   trees/<n>/          the tree of one root: directories, symlinks, and links of ─┐
//!   files/<key>         one inode for each (blob, mode, time), made once ◄─────────┘   reflink, else copy
//! ```
//! *directory cache*: a tree is made once and is the lower layer of every action with that root; what an action
//! writes is copied up, so that no link is written through. Modes and times belong to an inode, and no inode of the
//! store may be given any: so the links go to inodes of our own, which are not the store's, and which share its
//! blocks where the filesystem can. *copy*: a tree of the action's own, in its layer, which it owns. The same in the
//! layer itself, with no overlay over it, is what tiny roots get.
//!
//! Invariants: what stands below `files` is whole (it gets its name when it is); trees do not outlive the daemon that
//! made them: [`TreeCache::open`] removes what a killed one left. Limits: the same blob at two paths is one inode
//! with two links here, where it is two inodes of an image; two different files are never one.

use super::closure::{Closure, is_empty_blob};
use super::error::StageRootError;
use super::limits::PLAIN_BYTES_MAX;
use super::paths::{PathNode, What, expand};
use crate::action::{Digest, Timestamp};
use crate::cas::Cas;
use crate::stage::beneath::{self, Owner, Way};
use crate::stage::contents::{Transfer, transfer};
use crate::stage::{Shown, TreeError, remove_tree};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// The directories that trees and their files are in.
#[derive(Debug)]
pub struct TreeCache {
    trees: OwnedFd,
    files: OwnedFd,
    files_bytes_max: u64,
    files_bytes: Mutex<u64>,
    next: AtomicU64,
}

/// How files get into a tree.
enum Source<'a> {
    Links(&'a TreeCache),
    Copies(Option<Owner>),
    /// Copies in a directory that nobody sees before all is there.
    Unseen(Option<Owner>),
    Marks(Option<Owner>),
}

impl Source<'_> {
    /// Who what is made belongs to; `None`: this process.
    fn owner(&self) -> Option<Owner> {
        match self {
            Source::Links(_) => None,
            Source::Copies(owner) | Source::Unseen(owner) | Source::Marks(owner) => *owner,
        }
    }
}

impl TreeCache {
    /// Opens it in a directory of ours, emptied.
    ///
    /// # Errors
    /// [`StageRootError::Io`].
    pub fn open(dir: BorrowedFd<'_>, files_bytes_max: u64) -> Result<Self, StageRootError> {
        let made = |name: &CStr| -> Result<OwnedFd, StageRootError> {
            let shown = name.to_string_lossy().into_owned();
            match remove_tree(dir, name, u64::MAX) {
                Ok(_) => {}
                Err(TreeError::Fault(fault)) if fault.why == Errno::NOENT => {}
                Err(error) => return Err(tree_error("empty the directory cache")(error)),
            }
            rustix::fs::mkdirat(dir, name, Mode::RWXU)
                .and_then(|()| beneath::open_dir(dir, name))
                .map_err(StageRootError::io(format!("make the directory {shown} of the directory cache")))
        };
        let (trees, files) = (made(c"trees")?, made(c"files")?);
        Ok(TreeCache { trees, files, files_bytes_max, files_bytes: Mutex::new(0), next: AtomicU64::new(0) })
    }

    /// The directory of trees, on the filesystem that they are on.
    #[must_use]
    pub fn trees(&self) -> BorrowedFd<'_> {
        self.trees.as_fd()
    }

    /// Makes the tree of a closure. Answers it and its name.
    ///
    /// # Errors
    /// [`StageRootError::Cas`], [`StageRootError::Io`]; nothing is left of it then.
    pub fn build(&self, cas: &Cas, closure: &Closure) -> Result<(OwnedFd, CString), StageRootError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(number.to_string()).unwrap_or_default();
        match build(self.trees.as_fd(), &name, cas, closure, &Source::Links(self)) {
            Ok(tree) => Ok((tree, name)),
            Err(error) => {
                let _ = remove_tree(self.trees.as_fd(), &name, u64::MAX);
                Err(error)
            }
        }
    }

    /// Removes a tree that nothing is mounted from any more, and files that no tree has, if there are too many.
    ///
    /// # Errors
    /// [`StageRootError::Io`].
    pub fn remove(&self, name: &CStr) -> Result<(), StageRootError> {
        remove_tree(self.trees.as_fd(), name, u64::MAX).map_err(tree_error("remove a tree"))?;
        let mut bytes = self.files_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if *bytes > self.files_bytes_max {
            *bytes -= self.drop_unlinked().map_err(StageRootError::io("remove files without a tree"))?;
        }
        Ok(())
    }

    /// Removes files that no tree has. Answers their bytes.
    fn drop_unlinked(&self) -> Result<u64, Errno> {
        let (names, _) = beneath::list(self.files.as_fd(), usize::MAX)?;
        let mut dropped = 0;
        for (name, _) in names {
            if let Some(stat) = beneath::look(self.files.as_fd(), &name)?
                && stat.st_nlink == 1
            {
                rustix::fs::unlinkat(&self.files, &name, AtFlags::empty())?;
                dropped += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        Ok(dropped)
    }

    /// Links a file into a tree; its inode is made if there is none yet.
    fn link(
        &self,
        cas: &Cas,
        file: &File<'_>,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(), StageRootError> {
        let digest = file.digest;
        let Timestamp { seconds, nanos } = file.mtime;
        let key = format!("{}-{}-{:o}-{seconds}-{nanos}", digest.hex(), digest.size_bytes, file.mode);
        let failed = || StageRootError::io(format!("link {} into a tree", Shown(file.shown)));
        for _ in 0..2 {
            match rustix::fs::linkat(&self.files, key.as_str(), dir, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::NOENT) => {}
                // This inode has as many links as its filesystem can count: the file gets one of its own.
                Err(Errno::MLINK) => break,
                Err(errno) => return Err(failed()(errno)),
            }
            let made = new_file(self.files.as_fd(), cas, file, None)?;
            match beneath::name_file(made.as_fd(), self.files.as_fd(), key.as_str()) {
                Ok(()) => {
                    let mut bytes = self.files_bytes.lock().unwrap_or_else(PoisonError::into_inner);
                    *bytes = bytes.saturating_add(digest.size_bytes);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed()(errno)),
            }
        }
        let made = new_file(self.files.as_fd(), cas, file, None)?;
        beneath::name_file(made.as_fd(), dir, name).map_err(failed())
    }
}

/// Makes a tree of copies as `name` in `dir`, which belongs to `owner`; `None`: to this process.
///
/// # Errors
/// [`StageRootError::Cas`], [`StageRootError::Io`].
pub fn copy(
    dir: BorrowedFd<'_>,
    name: &CStr,
    cas: &Cas,
    closure: &Closure,
    owner: Option<Owner>,
) -> Result<OwnedFd, StageRootError> {
    build(dir, name, cas, closure, &Source::Copies(owner))
}

/// Makes the tree of a small closure in a directory that is there, and that nobody else sees yet.
///
/// # Errors
/// [`StageRootError::Cas`], [`StageRootError::Io`].
pub fn copy_into(
    root: BorrowedFd<'_>,
    cas: &Cas,
    closure: &Closure,
    owner: Option<Owner>,
) -> Result<(), StageRootError> {
    fill(root, cas, closure, &Source::Unseen(owner))
}

/// Makes a tree as `name` in `dir` whose files are empty and say where in the store their bytes are, as those of an
/// image do: for roots so small that an image costs more.
///
/// # Errors
/// [`StageRootError::Io`].
pub fn marks(
    dir: BorrowedFd<'_>,
    name: &CStr,
    cas: &Cas,
    closure: &Closure,
    owner: Option<Owner>,
) -> Result<OwnedFd, StageRootError> {
    build(dir, name, cas, closure, &Source::Marks(owner))
}

/// A file to be made.
struct File<'a> {
    digest: &'a Digest,
    mode: u16,
    mtime: Timestamp,
    shown: &'a Path,
}

fn build(
    dir: BorrowedFd<'_>,
    name: &CStr,
    cas: &Cas,
    closure: &Closure,
    source: &Source<'_>,
) -> Result<OwnedFd, StageRootError> {
    let made = rustix::fs::mkdirat(dir, name, Mode::RWXU).and_then(|()| beneath::open_dir(dir, name));
    let root = made.map_err(StageRootError::io("make a tree"))?;
    fill(root.as_fd(), cas, closure, source)?;
    Ok(root)
}

fn fill(
    root: BorrowedFd<'_>,
    cas: &Cas,
    closure: &Closure,
    source: &Source<'_>,
) -> Result<(), StageRootError> {
    let nodes = expand(closure);
    // By place in the list; only those of directories are filled.
    let mut paths: Vec<PathBuf> = vec![PathBuf::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let What::Directory(_, first, count) = node.what else { continue };
        let path = if index == 0 { PathBuf::new() } else { paths[node.parent as usize].join(node.name) };
        let failed = |what: &str| StageRootError::io(format!("{what} {} of a tree", Shown(&path)));
        let opened = match index {
            0 => None,
            _ => Some(beneath::open_dir_at(root, &path, Way::Strict).map_err(failed("open directory"))?),
        };
        let here = opened.as_ref().map_or(root, AsFd::as_fd);
        for child in &nodes[first as usize..(first + count) as usize] {
            place(cas, source, here, child, &path)?;
        }
        finish(here, node, source).map_err(failed("finish directory"))?;
        paths[index] = path;
    }
    Ok(())
}

fn place(
    cas: &Cas,
    source: &Source<'_>,
    dir: BorrowedFd<'_>,
    node: &PathNode<'_>,
    parent: &Path,
) -> Result<(), StageRootError> {
    let name = CString::new(node.name).unwrap_or_default();
    let shown = parent.join(node.name);
    let failed = |what: &str| StageRootError::io(format!("{what} {} of a tree", Shown(&shown)));
    match node.what {
        What::Directory(..) => rustix::fs::mkdirat(dir, &name, Mode::RWXU).map_err(failed("make directory")),
        What::Symlink(link) => {
            let made = || -> Result<(), Errno> {
                rustix::fs::symlinkat(link.target.as_str(), dir, &name)?;
                if let Some(owner) = source.owner() {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(dir, &name, owner.user(), owner.group(), flags)?;
                }
                rustix::fs::utimensat(dir, &name, &times(node.mtime()), AtFlags::SYMLINK_NOFOLLOW)
            };
            made().map_err(failed("make symlink"))
        }
        What::File(node_file) => {
            let digest = &node_file.digest;
            let file = File { digest, mode: node.mode(), mtime: node.mtime(), shown: &shown };
            match source {
                Source::Links(cache) => cache.link(cas, &file, dir, &name),
                Source::Marks(owner) => mark(dir, &name, &file, *owner).map_err(failed("make file")),
                Source::Unseen(owner) => small_file(dir, &name, cas, &file, *owner),
                Source::Copies(owner) => {
                    let made = new_file(dir, cas, &file, *owner)?;
                    beneath::name_file(made.as_fd(), dir, name.as_c_str()).map_err(failed("make file"))
                }
            }
        }
    }
}

/// A file without a name in `dir`, with all that it shall have.
fn new_file(
    dir: BorrowedFd<'_>,
    cas: &Cas,
    file: &File<'_>,
    owner: Option<Owner>,
) -> Result<OwnedFd, StageRootError> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let failed = || StageRootError::io(format!("make file {} of a tree", Shown(file.shown)));
    let made = rustix::fs::openat(dir, c".", flags, Mode::from_raw_mode(0o600)).map_err(failed())?;
    if !is_empty_blob(file.digest) {
        let blob = cas.open_blob(file.digest)?;
        let copied = transfer(blob.file.as_fd(), made.as_fd(), blob.size_bytes, u64::MAX).map_err(failed())?;
        if let Transfer::Copied(bytes) = copied
            && bytes > file.digest.size_bytes
        {
            return Err(failed()(Errno::IO));
        }
    }
    dress(&made, file, owner).map_err(failed())?;
    Ok(made)
}

/// A file with few bytes, which is seen before it has all.
fn small_file(
    dir: BorrowedFd<'_>,
    name: &CStr,
    cas: &Cas,
    file: &File<'_>,
    owner: Option<Owner>,
) -> Result<(), StageRootError> {
    let bytes = match is_empty_blob(file.digest) {
        true => Vec::new(),
        false => cas.read(file.digest, PLAIN_BYTES_MAX)?,
    };
    let made = || -> Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&made, rest))?;
            rest = &rest[written..];
        }
        dress(&made, file, owner)
    };
    made().map_err(StageRootError::io(format!("make file {} of a tree", Shown(file.shown))))
}

/// Owner, mode and times.
fn dress(made: &OwnedFd, file: &File<'_>, owner: Option<Owner>) -> Result<(), Errno> {
    if let Some(owner) = owner {
        rustix::fs::fchown(made, owner.user(), owner.group())?;
    }
    rustix::fs::fchmod(made, Mode::from_raw_mode(file.mode.into()))?;
    rustix::fs::futimens(made, &times(file.mtime))
}

/// A file as a layer of overlayfs has it whose bytes are in a data layer (Documentation/filesystems/overlayfs.rst).
fn mark(dir: BorrowedFd<'_>, name: &CStr, file: &File<'_>, owner: Option<Owner>) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    if !is_empty_blob(file.digest) {
        let place = format!("/{}", Cas::object_path(file.digest));
        rustix::fs::ftruncate(&made, file.digest.size_bytes)?;
        rustix::fs::fsetxattr(&made, c"trusted.overlay.metacopy", b"", XattrFlags::empty())?;
        rustix::fs::fsetxattr(&made, c"trusted.overlay.redirect", place.as_bytes(), XattrFlags::empty())?;
    }
    dress(&made, file, owner)
}

fn finish(dir: BorrowedFd<'_>, node: &PathNode<'_>, source: &Source<'_>) -> Result<(), Errno> {
    if let Some(owner) = source.owner() {
        rustix::fs::fchown(dir, owner.user(), owner.group())?;
    }
    rustix::fs::fchmod(dir, Mode::from_raw_mode(node.mode().into()))?;
    rustix::fs::futimens(dir, &times(node.mtime()))
}

/// A time for `utimensat`: of reading and of writing.
pub fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn tree_error(what: &'static str) -> impl Fn(TreeError) -> StageRootError {
    move |error| match error {
        TreeError::Fault(fault) => StageRootError::Io { what: fault.to_string(), errno: fault.why },
        other => StageRootError::Io { what: format!("{what}: {other}"), errno: Errno::IO },
    }
}
