//! What an action wrote and did not declare.
//!
//! Files, symlinks and special files of the upper layer that no output covers, and names of inputs that it
//! removed. Directories alone are not listed.
//!
//! Invariant: bounded in what it lists and in what it walks; it says when there is more.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::limits::UNDECLARED_SHOWN_MAX;
use super::marks::Marks;
use super::merged;
use crate::action::{ExecPath, Outputs};
use crate::stage::descent::Descent;
use crate::stage::limits::TreeLimits;
use crate::stage::{Fault, TreeError, beneath};

/// Changes of an action beside its outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undeclared {
    /// Paths written.
    pub written: Vec<PathBuf>,
    /// Paths of inputs removed.
    pub removed: Vec<PathBuf>,
    /// There are more than are listed.
    pub more: bool,
}

/// Lists what `upper` has beside the declared outputs. Call it after quiet, before or after collecting.
pub fn undeclared(
    upper: BorrowedFd<'_>,
    outputs: &Outputs,
    marks: Marks,
    limits: TreeLimits,
) -> Result<Undeclared, TreeError> {
    let fault = |why| Fault::new("list", "the layer", why);
    let top = beneath::open_dir(upper, c".").map_err(fault)?;
    let deepest = outputs.iter().map(|output| output.path.components().count()).max().unwrap_or(0);
    let mut walk = Descent::new(top, PathBuf::new());
    let mut found = Undeclared::default();
    let mut levels = vec![beneath::list(walk.dir()?, UNDECLARED_WALK_MAX).map_err(fault)?.0];
    let mut entries = 0;
    while let Some(level) = levels.last_mut() {
        let Some((name, _)) = level.pop() else {
            levels.pop();
            walk.leave()?;
            continue;
        };
        entries += 1;
        if entries > UNDECLARED_WALK_MAX || found.written.len() + found.removed.len() >= UNDECLARED_SHOWN_MAX
        {
            found.more = true;
            break;
        }
        let covered = walk.depth() < deepest
            && ExecPath::new(walk.path_of(&name)).is_ok_and(|path| outputs.cover(&path));
        if !covered && look(&mut walk, &name, marks, limits, &mut found)? {
            let fault = |why| Fault::new("list", walk.path(), why);
            levels.push(beneath::list(walk.dir()?, UNDECLARED_WALK_MAX).map_err(fault)?.0);
        }
    }
    found.written.sort();
    found.removed.sort();
    Ok(found)
}

/// Entries looked at before the list is called incomplete: a report is not worth more.
const UNDECLARED_WALK_MAX: usize = 200_000;

/// Notes one entry; true if it is a directory that has now been entered.
fn look(
    walk: &mut Descent,
    name: &CStr,
    marks: Marks,
    limits: TreeLimits,
    found: &mut Undeclared,
) -> Result<bool, Fault> {
    let fault = |why: Errno| Fault::new("inspect", walk.path_of(name), why);
    let Some(stat) = beneath::look(walk.dir()?, name).map_err(fault)? else { return Ok(false) };
    if beneath::kind(&stat) != FileType::Directory {
        let gone = marks.is_whiteout(walk.dir()?, name, &stat).map_err(fault)?;
        let list = if gone { &mut found.removed } else { &mut found.written };
        list.push(walk.path_of(name));
        return Ok(false);
    }
    if walk.depth() >= limits.depth_max {
        found.more = true;
        return Ok(false);
    }
    let child = merged::open_upper(walk.dir()?.as_fd(), name).map_err(fault)?;
    walk.enter(name, child)?;
    Ok(true)
}
