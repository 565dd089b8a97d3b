//! Removing a tree that somebody hostile may have built.
//!
//! ```text
//!   unlink ──is a directory──> rmdir ──not empty──> enter: list a batch, remove each, list again … leave, rmdir
//!              │ refused: give the directory u+rwx, clear immutable flags, once; then again
//! ```
//!
//! Invariants: relative to descriptors, never through a symlink or into another mount; no recursion; a
//! bounded number of descriptors and names, whatever the depth and width. A tree too large for the budget is
//! left smaller than before, and a second call goes on.
//!
//! Limits: stops at the first entry that cannot be removed, and names it. Nobody else may be working in the
//! tree.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, IFlags, Mode};
use rustix::io::Errno;

use super::beneath::{self, Entry};
use super::descent::Descent;
use super::fault::{Fault, TreeError};
use super::limits::REMOVE_BATCH;

/// What a removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub entries: u64,
}

/// Removes `name` in `parent` and all below it; no error if there is nothing. At most `entries_max` names go.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr, entries_max: u64) -> Result<Removed, TreeError> {
    let mut removed = Removed::default();
    let shown = || OsStr::from_bytes(name.to_bytes()).to_os_string();
    let first = match remove_leaf(parent, name) {
        // The directory that holds the tree is not part of it, and stays as it is.
        Err(Errno::PERM | Errno::ACCESS) => {
            if let Ok(Some(stat)) = beneath::look(parent, name) {
                unlock_entry(parent, name, beneath::kind(&stat));
            }
            remove_leaf(parent, name)
        }
        answer => answer,
    };
    match first {
        Ok(Leaf::Gone) => return Ok(Removed { entries: 1 }),
        Ok(Leaf::Full) => {}
        Err(Errno::NOENT) => return Ok(removed),
        Err(why) => return Err(Fault::new("remove", shown(), why).into()),
    }
    let top = open_for_removal(parent, name).map_err(|why| Fault::new("open directory", shown(), why))?;
    let mut walk = Descent::new(top, shown());
    let mut batches = vec![batch(&walk)?];
    while let Some(level) = batches.last_mut() {
        if let Some((name, kind)) = level.entries.pop() {
            if removed.entries >= entries_max {
                return Err(TreeError::TooLarge {
                    path: walk.path(),
                    unit: "entries to remove",
                    max: entries_max,
                });
            }
            match remove_entry(&walk, &name, kind)? {
                None => removed.entries += 1,
                Some(fd) => {
                    walk.enter(&name, fd)?;
                    batches.push(batch(&walk)?);
                }
            }
        } else if level.more {
            *level = batch(&walk)?;
        } else {
            batches.pop();
            let Some(left) = walk.leave()? else { break };
            remove_directory(walk.dir()?, &left)
                .map_err(|why| Fault::new("remove directory", walk.path_of(&left), why))?;
            removed.entries += 1;
        }
    }
    remove_directory(parent, name).map_err(|why| Fault::new("remove directory", shown(), why))?;
    removed.entries += 1;
    Ok(removed)
}

struct Batch {
    entries: Vec<Entry>,
    more: bool,
}

fn batch(walk: &Descent) -> Result<Batch, Fault> {
    let (entries, more) = beneath::list(walk.dir()?, REMOVE_BATCH)
        .map_err(|why| Fault::new("list directory", walk.path(), why))?;
    Ok(Batch { entries, more })
}

/// Removes one entry, or opens it if it is a directory with something in it.
fn remove_entry(walk: &Descent, name: &CStr, kind: FileType) -> Result<Option<OwnedFd>, Fault> {
    let dir = walk.dir()?;
    let known_directory = kind == FileType::Directory;
    let first = if known_directory { remove_empty(dir, name) } else { remove_leaf(dir, name) };
    let again = match first {
        Err(Errno::PERM | Errno::ACCESS) => {
            unlock(dir);
            unlock_entry(dir, name, kind);
            remove_leaf(dir, name)
        }
        answer => answer,
    };
    match again {
        Ok(Leaf::Gone) | Err(Errno::NOENT) => Ok(None),
        Ok(Leaf::Full) => open_for_removal(dir, name)
            .map(Some)
            .map_err(|why| Fault::new("open directory", walk.path_of(name), why)),
        Err(why) => Err(Fault::new("remove", walk.path_of(name), why)),
    }
}

enum Leaf {
    Gone,
    Full,
}

fn remove_leaf(dir: BorrowedFd<'_>, name: &CStr) -> Result<Leaf, Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(Leaf::Gone),
        Err(Errno::ISDIR) => remove_empty(dir, name),
        Err(why) => Err(why),
    }
}

fn remove_empty(dir: BorrowedFd<'_>, name: &CStr) -> Result<Leaf, Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(Leaf::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Leaf::Full),
        Err(why) => Err(why),
    }
}

fn remove_directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::PERM | Errno::ACCESS) => {
            unlock(dir);
            unlock_entry(dir, name, FileType::Directory);
            rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
        }
        Err(Errno::NOENT) => Ok(()),
        answer => answer,
    }
}

fn open_for_removal(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let opened = match beneath::open_dir(dir, name) {
        Err(Errno::ACCESS) => {
            beneath::change_mode(dir, name, Mode::RWXU)?;
            beneath::open_dir(dir, name)?
        }
        answer => answer?,
    };
    // Listing needs r, removing needs w and x; root needs none of them, so a failure here shows later, if at
    // all.
    if !beneath::mode(&rustix::fs::fstat(&opened)?).contains(Mode::RWXU) {
        let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

/// Makes a directory writable again. Best effort: the removal that follows reports what is still refused.
fn unlock(dir: BorrowedFd<'_>) {
    clear_flags(dir);
    let _ = rustix::fs::fchmod(dir, Mode::RWXU);
}

/// Clears the immutable and append-only flags of an entry. Special files have none and are not opened.
fn unlock_entry(dir: BorrowedFd<'_>, name: &CStr, kind: FileType) {
    let opened = match kind {
        FileType::RegularFile => beneath::open_file(dir, name),
        FileType::Directory => beneath::open_dir(dir, name),
        _ => return,
    };
    if let Ok(opened) = opened {
        clear_flags(opened.as_fd());
    }
}

fn clear_flags(fd: BorrowedFd<'_>) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(fd) {
        let locked = IFlags::IMMUTABLE | IFlags::APPEND;
        if flags.intersects(locked) {
            let _ = rustix::fs::ioctl_setflags(fd, flags - locked);
        }
    }
}
