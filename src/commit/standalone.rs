//! After a command that ran straight in the tree and lost: what it left goes, and only then may another publish.
//!
//! ```text
//!   killed ──► quiet: nothing of it lives (`exec::Quiet`) ──► clear ──► `Cleared` ──► publish_cleared
//!                                                              a file or symlink goes; of a directory, what is in it
//! ```
//! As Bazel does, the directory of an output stays, and so do the directories above it.
//!
//! Invariant: a [`Cleared`] exists only for a tree in which no process of the loser can write any more.
//!
//! Limits: what the command wrote and did not declare stays, as it does in Bazel; so does, of course, what it had
//! overwritten: a standalone command has no old outputs to come back.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::PublishError;
use super::limits::CLEAR_BATCH;
use crate::action::{ExecPath, Outputs};
use crate::exec::Quiet;
use crate::failpoint::hit;
use crate::stage::beneath::{self, Way};
use crate::stage::{Fault, remove_tree};

/// The proof that a tree holds nothing of a standalone command's declared outputs, and will not.
#[derive(Debug)]
#[must_use = "it is needed to publish"]
pub struct Cleared {
    pub(super) root_inode: u64,
    /// Names that went.
    pub removed: u64,
}

/// Removes what a standalone command left of `outputs` below `root`.
///
/// # Errors
/// [`PublishError`], naming the output that could not be removed.
pub fn clear(_quiet: Quiet, root: BorrowedFd<'_>, outputs: &Outputs) -> Result<Cleared, PublishError> {
    let mut removed = 0;
    let of_root = Fault::of("inspect", "the destination");
    let root_inode = rustix::fs::fstat(root).map(|stat| stat.st_ino);
    let root_inode = root_inode.map_err(|why| PublishError::Journal { outputs: 0, why: of_root(why) })?;
    for output in outputs.iter() {
        let fault = |why| PublishError::Prepare {
            output: output.path.clone(),
            why: Fault::new("clear", output.path.as_path(), why).into(),
        };
        hit("commit.clear").map_err(fault)?;
        removed += clear_one(root, &output.path)?;
    }
    Ok(Cleared { root_inode, removed })
}

pub(super) fn clear_one(root: BorrowedFd<'_>, path: &ExecPath) -> Result<u64, PublishError> {
    let failed = |why| PublishError::Prepare { output: path.clone(), why };
    let fault = |why| failed(Fault::new("clear", path.as_path(), why).into());
    let parent = path.parent();
    let parent = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
    let dir = match beneath::open_dir_at(root, parent, Way::NoSymlinks) {
        Err(Errno::NOENT) => return Ok(0),
        dir => dir.map_err(fault)?,
    };
    let name = name_of(path);
    let Some(stat) = beneath::look(dir.as_fd(), &name).map_err(fault)? else { return Ok(0) };
    if beneath::kind(&stat) != FileType::Directory {
        return Ok(remove_tree(dir.as_fd(), &name, 1).map_err(failed)?.entries);
    }
    let top =
        beneath::open_dir_at(dir.as_fd(), Path::new(path.file_name()), Way::NoSymlinks).map_err(fault)?;
    let mut removed = 0;
    loop {
        let (entries, _) = beneath::list(top.as_fd(), CLEAR_BATCH).map_err(fault)?;
        if entries.is_empty() {
            return Ok(removed);
        }
        for (entry, _) in entries {
            removed += remove_tree(top.as_fd(), &entry, u64::MAX).map_err(failed)?.entries;
        }
    }
}

pub(super) fn name_of(path: &ExecPath) -> CString {
    // A path has no NUL.
    CString::new(path.file_name().as_bytes()).unwrap_or_default()
}
