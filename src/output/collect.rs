//! From declared outputs to sealed ones: locate all, then seal each.
//!
//! Invariants: nothing in the layer changes before every output has been located; a missing output is
//! reported together with all other missing ones. The lower layer is only read.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::OutputError;
use super::marks::Marks;
use super::merged::{self, Seen, see};
use super::seal::Sealer;
use crate::action::{ExecPath, OutputSpec, Outputs};
use crate::stage::limits::TreeLimits;
use crate::stage::{Fault, Owner, beneath};

/// How outputs are collected.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// How the overlay was mounted.
    pub marks: Marks,
    /// Who owns the outputs: the invoking user. `None` if that is this process.
    pub owner: Option<Owner>,
    /// How large outputs may be, all together.
    pub limits: TreeLimits,
    /// Take what is there, and list what is not ([`Collected::missing`]): for outputs of failed actions.
    pub missing_allowed: bool,
    /// The lower layer is the very tree that the outputs go back to. What the action left untouched is then
    /// linked into the output instead of copied: the published directory has the same inodes that it had
    /// before.
    pub lower_is_destination: bool,
}

/// What an output turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A regular file.
    File,
    /// A directory with all that is in it.
    Directory,
    /// A symlink, wherever it leads.
    Symlink,
}

/// One sealed output, at its path in the upper layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectedOutput {
    /// Where it is in the layer, and where it goes.
    pub path: ExecPath,
    /// What it is.
    pub kind: OutputKind,
}

/// The sealed outputs of one action.
#[derive(Debug)]
pub struct Collected {
    /// The upper layer that holds them.
    pub(crate) upper: OwnedFd,
    /// The outputs, sorted.
    pub outputs: Vec<CollectedOutput>,
    /// Declared outputs that are not there; empty unless that is allowed.
    pub missing: Vec<ExecPath>,
    /// Regular files in all outputs.
    pub files: u64,
    /// Apparent bytes of the files that the action wrote.
    pub bytes: u64,
    /// Bytes copied: of files that had more than one link, and of inputs that are part of an output.
    pub bytes_copied: u64,
}

/// Seals the declared outputs in `upper`, the upper layer over `lower`. Call it after quiet (see [`super`]).
pub fn collect(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    outputs: &Outputs,
    options: &CollectOptions,
) -> Result<Collected, OutputError> {
    let (found, missing) = locate(upper, lower, outputs, options.marks)?;
    if !missing.is_empty() && !options.missing_allowed {
        return Err(OutputError::Missing { outputs: missing });
    }
    let mut sealer = Sealer::new(options);
    let mut collected = Vec::with_capacity(found.len());
    for output in found {
        collected.push(seal(upper, lower, output, options.marks, &mut sealer)?);
    }
    let upper = upper.try_clone_to_owned().map_err(|error| {
        Fault::new("keep", "the layer", Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    Ok(Collected {
        upper,
        outputs: collected,
        missing,
        files: sealer.files + sealer.replicator.done.files,
        bytes: sealer.bytes,
        bytes_copied: sealer.replicator.done.bytes_copied + sealer.copier.done.bytes_copied,
    })
}

/// Splits the outputs into those that are there and those that are not, and checks what can be checked
/// unopened.
fn locate<'a>(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    outputs: &'a Outputs,
    marks: Marks,
) -> Result<(Vec<&'a OutputSpec>, Vec<ExecPath>), OutputError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for output in outputs.iter() {
        let seen = match merged::parent_of(upper, lower, output, marks)? {
            None => Seen::Nothing,
            Some(parent) => {
                let (upper, lower) =
                    (parent.upper.as_ref().map(AsFd::as_fd), parent.lower.as_ref().map(AsFd::as_fd));
                see(upper, lower, &name_of(output), marks)
                    .map_err(|why| Fault::new("inspect output", output.path.as_path(), why))?
            }
        };
        match seen {
            Seen::Nothing => missing.push(output.path.clone()),
            Seen::Upper(stat) | Seen::Lower(stat) => {
                let kind = beneath::kind(&stat);
                if let Some(kind) = beneath::special(kind) {
                    let path = output.path.as_path().to_path_buf();
                    return Err(crate::stage::TreeError::Special { path, kind }.into());
                }
                if output.must_be_directory && kind != FileType::Directory {
                    let kind = merged::called(kind);
                    return Err(OutputError::NotDirectory { output: output.path.clone(), kind });
                }
                found.push(output);
            }
        }
    }
    Ok((found, missing))
}

fn seal(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    output: &OutputSpec,
    marks: Marks,
    sealer: &mut Sealer,
) -> Result<CollectedOutput, OutputError> {
    let name = name_of(output);
    let shown = || output.path.as_path().to_path_buf();
    let fault = |why| Fault::new("find output", shown(), why);
    let parent = merged::parent_of(upper, lower, output, marks)?.ok_or(Errno::NOENT).map_err(fault)?;
    let lower_dir = parent.lower.as_ref().map(AsFd::as_fd);
    let stat = match see(parent.upper.as_ref().map(AsFd::as_fd), lower_dir, &name, marks).map_err(fault)? {
        Seen::Nothing => return Err(fault(Errno::NOENT).into()),
        Seen::Upper(stat) => {
            let dir = parent.upper.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF).map_err(fault)?;
            if beneath::kind(&stat) == FileType::Directory {
                sealer.directory(dir, lower_dir, &name, shown())?;
            } else {
                sealer.leaf(dir, &name, &stat, &shown)?;
            }
            stat
        }
        Seen::Lower(stat) => {
            let made;
            let dir = match &parent.upper {
                Some(dir) => dir.as_fd(),
                None => {
                    made = merged::make_upper_parent(upper, &output.path)?;
                    made.as_fd()
                }
            };
            let lower_dir = lower_dir.ok_or(Errno::BADF).map_err(fault)?;
            sealer.bring(lower_dir, dir, &name, shown())?;
            stat
        }
    };
    let kind = match beneath::kind(&stat) {
        FileType::Directory => OutputKind::Directory,
        FileType::Symlink => OutputKind::Symlink,
        _ => OutputKind::File,
    };
    Ok(CollectedOutput { path: output.path.clone(), kind })
}

fn name_of(output: &OutputSpec) -> CString {
    CString::new(output.path.file_name().as_bytes()).unwrap_or_default()
}
