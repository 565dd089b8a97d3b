//! One step at a time through what the action saw: an upper layer over a lower one.
//!
//! ```text
//!   upper has      lower has     the action saw
//!   whiteout       anything      nothing
//!   directory      directory     both, merged (opaque: upper alone)
//!   directory      other         upper
//!   other          anything      upper
//!   nothing        anything      lower
//! ```

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;

use super::error::OutputError;
use super::marks::Marks;
use crate::action::{ExecPath, OutputSpec};
use crate::stage::replicate::permissions;
use crate::stage::{Fault, beneath};

/// A directory as the action saw it. At least one side is there.
pub(super) struct MergedDir {
    pub upper: Option<OwnedFd>,
    pub lower: Option<OwnedFd>,
}

/// What the action saw at a name.
pub(super) enum Seen {
    Nothing,
    Upper(Stat),
    Lower(Stat),
}

/// What is at `name` of the two directories, of which either may be missing.
pub(super) fn see(
    upper: Option<BorrowedFd<'_>>,
    lower: Option<BorrowedFd<'_>>,
    name: &CStr,
    marks: Marks,
) -> Result<Seen, Errno> {
    if let Some(dir) = upper
        && let Some(stat) = beneath::look(dir, name)?
    {
        return match marks.is_whiteout(dir, name, &stat)? {
            true => Ok(Seen::Nothing),
            false => Ok(Seen::Upper(stat)),
        };
    }
    match lower {
        Some(dir) => Ok(beneath::look(dir, name)?.map_or(Seen::Nothing, Seen::Lower)),
        None => Ok(Seen::Nothing),
    }
}

/// Opens a directory of the upper layer. It is ours now: permissions that the action took away come back.
pub(super) fn open_upper(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    match beneath::open_dir(dir, name) {
        Err(Errno::ACCESS) => {
            let stat = beneath::look(dir, name)?.ok_or(Errno::NOENT)?;
            beneath::change_mode(dir, name, (beneath::mode(&stat) & permissions()) | Mode::RWXU)?;
            beneath::open_dir(dir, name)
        }
        answer => answer,
    }
}

/// The lower directory that shows through `upper_child`, the directory `name` of the upper layer.
pub(super) fn lower_under(
    upper_child: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    name: &CStr,
    marks: Marks,
) -> Result<Option<OwnedFd>, Errno> {
    let Some(lower) = lower else { return Ok(None) };
    if marks.is_opaque(upper_child)? {
        return Ok(None);
    }
    match beneath::look(lower, name)? {
        Some(stat) if beneath::kind(&stat) == FileType::Directory => beneath::open_dir(lower, name).map(Some),
        _ => Ok(None),
    }
}

/// The directory that holds an output, or `None` if there is none.
pub(super) fn parent_of(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    output: &OutputSpec,
    marks: Marks,
) -> Result<Option<MergedDir>, OutputError> {
    let fault = |why| Fault::new("open the directory of output", output.path.as_path(), why);
    let mut here: Option<MergedDir> = None;
    let components: Vec<_> = output.path.components().collect();
    for component in &components[..components.len() - 1] {
        let name = CString::new(component.as_bytes()).unwrap_or_default();
        let upper_dir = here.as_ref().map_or(Some(upper), |dir| dir.upper.as_ref().map(AsFd::as_fd));
        let lower_dir = here.as_ref().map_or(lower, |dir| dir.lower.as_ref().map(AsFd::as_fd));
        let next = match see(upper_dir, lower_dir, &name, marks).map_err(fault)? {
            Seen::Nothing => return Ok(None),
            Seen::Upper(stat) | Seen::Lower(stat) if beneath::kind(&stat) != FileType::Directory => {
                let component = format!("{component:?}");
                let kind = called(beneath::kind(&stat));
                return Err(OutputError::OnTheWay { output: output.path.clone(), component, kind });
            }
            Seen::Upper(_) => {
                let child = open_upper(upper_dir.ok_or(Errno::BADF).map_err(fault)?, &name).map_err(fault)?;
                let under = lower_under(child.as_fd(), lower_dir, &name, marks).map_err(fault)?;
                MergedDir { upper: Some(child), lower: under }
            }
            Seen::Lower(_) => {
                let child =
                    beneath::open_dir(lower_dir.ok_or(Errno::BADF).map_err(fault)?, &name).map_err(fault)?;
                MergedDir { upper: None, lower: Some(child) }
            }
        };
        here = Some(next);
    }
    match here {
        Some(dir) => Ok(Some(dir)),
        None => {
            let clone = |dir: BorrowedFd<'_>| {
                dir.try_clone_to_owned()
                    .map_err(|error| fault(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
            };
            Ok(Some(MergedDir { upper: Some(clone(upper)?), lower: lower.map(clone).transpose()? }))
        }
    }
}

/// Makes the directory that holds `path` in the upper layer, where only the lower one has it.
pub(super) fn make_upper_parent(upper: BorrowedFd<'_>, path: &ExecPath) -> Result<OwnedFd, Fault> {
    let fault = |why| Fault::new("create the directory of output", path.as_path(), why);
    let mut dir = upper
        .try_clone_to_owned()
        .map_err(|error| fault(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let components: Vec<_> = path.components().collect();
    for component in &components[..components.len() - 1] {
        let name = CString::new(component.as_bytes()).unwrap_or_default();
        match rustix::fs::mkdirat(&dir, &name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(why) => return Err(fault(why)),
        }
        dir = open_upper(dir.as_fd(), &name).map_err(fault)?;
    }
    Ok(dir)
}

/// A kind of file with its article.
pub(super) fn called(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symlink",
        other => beneath::special(other).unwrap_or("of unknown type"),
    }
}
