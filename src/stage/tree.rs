//! The declared inputs, and nothing else, as a directory tree: the lower layer of the action's overlay.
//!
//! ```text
//!   InputSpec { source: Beneath("src/a.c"), dest: "in/a.c" }
//!       source   exec root ─openat2 BENEATH──> src ── a.c          symlinks may stay beneath
//!       dest     tree ─mkdir, one by one──> in ── a.c              no symlink on the way, ever
//! ```
//!
//! An input that is a symlink stays the symlink it is, with one exception: an absolute source is resolved
//! first, because its text would mean something else at another place. Symlinks inside directories always
//! stay.
//!
//! Invariants: destinations are sorted, so that a directory is made before what is declared below it; what is
//! declared twice with one meaning is made once, and with two meanings refused.
//!
//! Limits: see [`super::replicate`] on hard links. The tree root is 0755 and its parent is expected to be
//! 0700.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{self, Owner, Way};
use super::error::StageError;
use super::fault::Fault;
use super::limits::TreeLimits;
use super::replicate::{Replicated, Replicator};
use crate::action::{ExecPath, InputSpec, Source};

/// A staged input tree. It lives in a layer's directory and goes away with it.
#[derive(Debug)]
pub struct InputTree {
    /// Its root directory.
    pub root: OwnedFd,
    /// What making it took.
    pub made: Replicated,
}

impl InputTree {
    /// Makes the tree as `name` in the private directory `staging`. Directories and copies belong to `owner`,
    /// who is the action's user as the host sees it; `None` if that is this process.
    pub fn build(
        staging: BorrowedFd<'_>,
        name: &CStr,
        exec_root: BorrowedFd<'_>,
        inputs: &[InputSpec],
        owner: Option<Owner>,
        limits: TreeLimits,
    ) -> Result<Self, StageError> {
        let shown = OsStr::from_bytes(name.to_bytes());
        let root = make_directory(staging, name, owner).map_err(Fault::of("create directory", shown))?;
        let mut sorted: Vec<&InputSpec> = inputs.iter().collect();
        sorted.sort_by(|a, b| a.dest.cmp(&b.dest));
        let mut build = Build {
            root: root.as_fd(),
            exec_root,
            owner,
            parent: None,
            above: Vec::new(),
            replicator: Replicator::new(true, owner, limits),
        };
        for input in sorted {
            build.place(input)?;
        }
        let made = build.replicator.done;
        Ok(Self { root, made })
    }
}

struct Build<'a> {
    root: BorrowedFd<'a>,
    exec_root: BorrowedFd<'a>,
    owner: Option<Owner>,
    /// The directory that the last destination was made in; sorted destinations often share it.
    parent: Option<(ExecPath, OwnedFd)>,
    /// The inputs placed at or above the last destination, outermost first.
    above: Vec<&'a InputSpec>,
    replicator: Replicator,
}

impl<'a> Build<'a> {
    fn place(&mut self, input: &'a InputSpec) -> Result<(), StageError> {
        let (source_dir, source_name) = self.resolve(&input.source)?;
        while self
            .above
            .last()
            .is_some_and(|above| above.dest != input.dest && input.dest.below(&above.dest).is_none())
        {
            self.above.pop();
        }
        let covered = self.above.last().is_some_and(|above| covers(above, input));
        self.above.push(input);
        let conflict =
            |why| StageError::Conflict { input: input.source.to_string(), dest: input.dest.clone(), why };
        let target_name = name_of(&input.dest);
        let opened;
        let target_dir = match input.dest.parent() {
            None => self.root,
            Some(parent) => {
                opened = self.open_parent(parent).map_err(|fault| match fault.why {
                    Errno::LOOP | Errno::NOTDIR => conflict("an input above it is no directory"),
                    _ => fault.into(),
                })?;
                opened.as_fd()
            }
        };
        let there =
            beneath::look(target_dir, &target_name).map_err(Fault::of("inspect", input.dest.as_path()))?;
        let source_dir = source_dir.as_ref().map_or(self.exec_root, AsFd::as_fd);
        match there {
            Some(_) if covered => return Ok(()),
            Some(there) => {
                let source = beneath::look(source_dir, &source_name).ok().flatten();
                let directory = |stat| beneath::kind(stat) == FileType::Directory;
                if !(directory(&there) && source.as_ref().is_some_and(directory)) {
                    return Err(conflict("another input is already there"));
                }
            }
            None => {}
        }
        let shown = match &input.source {
            Source::Beneath(path) => path.as_path().to_path_buf(),
            Source::Absolute(path) => path.clone(),
        };
        self.replicator.replicate((source_dir, &source_name), (target_dir, &target_name), shown).map_err(
            |error| match error {
                super::TreeError::Fault(fault) if fault.why == Errno::EXIST => {
                    conflict("it holds another input's file")
                }
                error => error.into(),
            },
        )
    }

    /// The directory that holds the source (`None`: the exec root) and its name there.
    fn resolve(&self, source: &Source) -> Result<(Option<OwnedFd>, CString), StageError> {
        let input = || source.to_string();
        let fault = |why| match why {
            Errno::NOENT | Errno::NOTDIR => StageError::MissingInput { input: input() },
            Errno::XDEV => StageError::InputEscapes { input: input() },
            why => Fault::new("open the directory of", shown(source), why).into(),
        };
        let (dir, name) = match source {
            Source::Beneath(path) => {
                let dir = match path.parent() {
                    Some(parent) => Some(
                        beneath::open_dir_at(self.exec_root, parent.as_path(), Way::Beneath)
                            .map_err(fault)?,
                    ),
                    None => None,
                };
                (dir, name_of(path))
            }
            Source::Absolute(path) => {
                let real = std::fs::canonicalize(path)
                    .map_err(|error| fault(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
                let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
                    return Err(Fault::new("take the root directory as input", path, Errno::INVAL).into());
                };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(fault)?;
                (Some(dir), CString::new(name.as_bytes()).unwrap_or_default())
            }
        };
        let holder = dir.as_ref().map_or(self.exec_root, AsFd::as_fd);
        match beneath::look(holder, &name) {
            Ok(Some(_)) => Ok((dir, name)),
            Ok(None) => Err(StageError::MissingInput { input: input() }),
            Err(why) => Err(fault(why)),
        }
    }

    /// Opens the directory for a destination in the tree, and makes what is missing of it.
    fn open_parent(&mut self, parent: ExecPath) -> Result<OwnedFd, Fault> {
        let fault = |why| Fault::new("open directory", parent.as_path(), why);
        if let Some((path, dir)) = &self.parent
            && *path == parent
        {
            return dir.try_clone().map_err(|e| fault(Errno::from_io_error(&e).unwrap_or(Errno::IO)));
        }
        let mut dir: Option<OwnedFd> = None;
        for component in parent.components() {
            let name = CString::new(component.as_bytes()).unwrap_or_default();
            let here = dir.as_ref().map_or(self.root, AsFd::as_fd);
            let next = match beneath::open_dir(here, &name) {
                Err(Errno::NOENT) => make_directory(here, &name, self.owner),
                answer => answer,
            };
            dir = Some(next.map_err(fault)?);
        }
        let dir = dir.ok_or(Errno::INVAL).map_err(fault)?;
        let kept = dir.try_clone().map_err(|e| fault(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        self.parent = Some((parent, kept));
        Ok(dir)
    }
}

/// True if placing `above` has already placed `input`, word by word.
fn covers(above: &InputSpec, input: &InputSpec) -> bool {
    let Some(rest) = input.dest.below(&above.dest) else {
        return above.dest == input.dest && above.source == input.source;
    };
    match (&above.source, &input.source) {
        (Source::Beneath(above), Source::Beneath(input)) => above.join(&rest) == *input,
        (Source::Absolute(above), Source::Absolute(input)) => above.join(rest.as_path()) == *input,
        _ => false,
    }
}

/// Makes a directory that everybody may read and its owner may write.
pub(super) fn make_directory(
    dir: BorrowedFd<'_>,
    name: &CStr,
    owner: Option<Owner>,
) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    let made = beneath::open_dir(dir, name)?;
    if let Some(owner) = owner {
        rustix::fs::fchown(&made, owner.user(), owner.group())?;
    }
    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}

fn name_of(path: &ExecPath) -> CString {
    CString::new(path.file_name().as_bytes()).unwrap_or_default()
}

fn shown(source: &Source) -> &Path {
    match source {
        Source::Beneath(path) => path.as_path(),
        Source::Absolute(path) => path,
    }
}
