//! The directories that declared outputs will be written in, made in the layer before the action starts.
//!
//! ```text
//!   output out/obj/a.o      upper: out/ obj/     mode: as in lower, else 0755; owner: the action's user
//! ```
//!
//! A directory made in the upper layer is merged by the kernel with the one of that name in the lower layer,
//! and its own mode and owner are what the action sees: hence the mirrored mode.
//!
//! Invariant: where the inputs have a file or a symlink in that place nothing is made; the output is refused.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::beneath::{self, Owner};
use super::error::StageError;
use super::fault::Fault;
use super::replicate::permissions;
use crate::action::{ExecPath, Outputs};

/// Makes the parent directory of every output in `upper`, the upper layer over `lower`, before either is
/// mounted. They belong to `owner`, or to this process. The mode of `upper` itself becomes that of `lower`.
pub fn prepare_output_parents(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    outputs: &Outputs,
    owner: Option<Owner>,
) -> Result<(), StageError> {
    prepare_parents(upper, lower, outputs.iter().map(|output| &output.path), owner)
}

/// As [`prepare_output_parents`], of any paths: they may lie below one another.
///
/// # Errors
/// [`StageError::OutputParent`] where the inputs have no directory, or what could not be made.
pub fn prepare_parents<'a>(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    outputs: impl IntoIterator<Item = &'a ExecPath>,
    owner: Option<Owner>,
) -> Result<(), StageError> {
    mirror(upper, lower, owner).map_err(Fault::of("set up the layer's directory", "."))?;
    let mut last: Option<ExecPath> = None;
    for output in outputs {
        let parent = output.parent();
        if parent.is_some() && parent != last {
            prepare_one(upper, lower, output, owner)?;
            last = parent;
        }
    }
    Ok(())
}

fn prepare_one(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    output: &ExecPath,
    owner: Option<Owner>,
) -> Result<(), StageError> {
    let mut above: Option<OwnedFd> = None;
    let mut below: Option<OwnedFd> = None;
    let mut in_lower = lower.is_some();
    let parents = output.components().rev().skip(1).collect::<Vec<_>>();
    for component in parents.into_iter().rev() {
        let name = CString::new(component.as_bytes()).unwrap_or_default();
        let fault = |tried| move |why| Fault::new(tried, output.as_path(), why);
        let lower_dir = below.as_ref().map(AsFd::as_fd).or(lower).filter(|_| in_lower);
        let lower_next = match lower_dir {
            Some(dir) => open_lower(dir, &name, output)?,
            None => None,
        };
        let upper_dir = above.as_ref().map_or(upper, AsFd::as_fd);
        let (upper_next, new) = match rustix::fs::mkdirat(upper_dir, &name, Mode::RWXU) {
            Ok(()) => (beneath::open_dir(upper_dir, &name), true),
            Err(Errno::EXIST) => (beneath::open_dir(upper_dir, &name), false),
            Err(why) => (Err(why), false),
        };
        let upper_next = upper_next.map_err(fault("create the directory of"))?;
        if new {
            mirror(upper_next.as_fd(), lower_next.as_ref().map(AsFd::as_fd), owner)
                .map_err(fault("set up the directory of"))?;
        }
        above = Some(upper_next);
        in_lower = lower_next.is_some();
        below = lower_next;
    }
    Ok(())
}

/// The directory `name` of the lower layer, `None` if there is nothing, an error if it is anything else.
fn open_lower(dir: BorrowedFd<'_>, name: &CStr, output: &ExecPath) -> Result<Option<OwnedFd>, StageError> {
    let fault = |why| Fault::new("inspect the directory of", output.as_path(), why);
    let Some(stat) = beneath::look(dir, name).map_err(fault)? else { return Ok(None) };
    let kind = match beneath::kind(&stat) {
        FileType::Directory => return Ok(Some(beneath::open_dir(dir, name).map_err(fault)?)),
        FileType::Symlink => "a symlink",
        FileType::RegularFile => "a file",
        other => beneath::special(other).unwrap_or("no directory"),
    };
    let component = format!("{:?}", name.to_string_lossy());
    Err(StageError::OutputParent { output: output.clone(), component, kind })
}

fn mirror(made: BorrowedFd<'_>, lower: Option<BorrowedFd<'_>>, owner: Option<Owner>) -> Result<(), Errno> {
    let mode = match lower {
        Some(lower) => (beneath::mode(&rustix::fs::fstat(lower)?) & permissions()) | Mode::RWXU,
        None => Mode::from_raw_mode(0o755),
    };
    if let Some(owner) = owner {
        rustix::fs::fchown(made, owner.user(), owner.group())?;
    }
    rustix::fs::fchmod(made, mode)
}
