//! One step at a time through what the action saw: its layer over the inputs as they are known by digest.
//!
//! ```text
//!   upper has               inputs have    the action saw
//!   whiteout                anything       nothing
//!   directory               directory      both, merged (opaque: upper alone; redirected: ask the overlay itself)
//!   directory, other        other          upper
//!   nothing                 anything       inputs
//! ```
//! Invariant: the inputs are never read from a disk: what the action did not touch is known by its digest.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::HandoffError;
use crate::action::{Digest, Directory, FileNode, SymlinkNode};
use crate::output::marks::Marks;
use crate::output::merged;
use crate::stage::Fault;
use crate::stage::beneath::{self, Way};

/// The input tree, as staging had it.
pub trait Inputs: Sync {
    /// The root of the inputs; `None` if there are none.
    fn root(&self) -> Option<&Directory>;

    /// A directory below the root, by the digest that its parent has for it.
    fn directory(&self, digest: &Digest) -> Option<&Directory>;
}

/// No inputs at all.
#[derive(Clone, Copy, Debug)]
pub struct NoInputs;

impl Inputs for NoInputs {
    fn root(&self) -> Option<&Directory> {
        None
    }

    fn directory(&self, _: &Digest) -> Option<&Directory> {
        None
    }
}

/// What the view is made of.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub upper: BorrowedFd<'a>,
    /// The overlay, where the layer alone does not tell.
    pub merged: Option<BorrowedFd<'a>>,
    pub inputs: &'a dyn Inputs,
    pub marks: Marks,
}

/// A directory as the action saw it.
pub(super) struct Here<'a> {
    /// Of the layer, or of the overlay if `through`.
    pub dir: Option<OwnedFd>,
    pub input: Option<&'a Directory>,
    /// `dir` belongs to the overlay: what is in it can be read, not moved.
    pub through: bool,
}

/// The same, borrowed.
#[derive(Clone, Copy)]
pub(super) struct At<'a, 'd> {
    pub dir: Option<BorrowedFd<'d>>,
    pub input: Option<&'a Directory>,
    pub through: bool,
}

impl<'a> Here<'a> {
    pub fn at(&self) -> At<'a, '_> {
        At { dir: self.dir.as_ref().map(AsFd::as_fd), input: self.input, through: self.through }
    }
}

/// What the action saw at a name.
pub(super) enum Seen<'a> {
    Nothing,
    /// In `Here::dir`.
    There(Stat),
    File(&'a FileNode),
    Directory(&'a Digest),
    Symlink(&'a SymlinkNode),
}

impl Seen<'_> {
    pub fn kind(&self) -> Option<FileType> {
        match self {
            Seen::Nothing => None,
            Seen::There(stat) => Some(beneath::kind(stat)),
            Seen::File(_) => Some(FileType::RegularFile),
            Seen::Directory(_) => Some(FileType::Directory),
            Seen::Symlink(_) => Some(FileType::Symlink),
        }
    }
}

impl<'a> View<'a> {
    /// The input root.
    pub fn root(&self) -> Result<Here<'a>, HandoffError> {
        let opened = beneath::open_dir(self.upper, c".");
        let dir = opened.map_err(|why| HandoffError::io("open", "the layer", why))?;
        Ok(Here { dir: Some(dir), input: self.inputs.root(), through: false })
    }

    /// What is at `name` of `here`.
    pub fn see(&self, here: At<'a, '_>, name: &CStr) -> Result<Seen<'a>, Errno> {
        if let Some(dir) = here.dir
            && let Some(stat) = beneath::look(dir, name)?
        {
            let gone = !here.through && self.marks.is_whiteout(dir, name, &stat)?;
            return Ok(if gone { Seen::Nothing } else { Seen::There(stat) });
        }
        Ok(here.input.map_or(Seen::Nothing, |input| find(input, name)))
    }

    /// The directory `name` of `here`, which has been seen as `seen`. `path` is its own, below the input root.
    pub fn enter(
        &self,
        here: At<'a, '_>,
        name: &CStr,
        seen: &Seen<'a>,
        path: &dyn Fn() -> PathBuf,
    ) -> Result<Here<'a>, HandoffError> {
        let fault = |why| HandoffError::from(Fault::new("open directory", path(), why));
        let known = |digest: &Digest| {
            let known = self.inputs.directory(digest);
            known.ok_or_else(|| HandoffError::UnknownInput { path: path() })
        };
        match (seen, here.dir) {
            (Seen::There(_), Some(dir)) if here.through => {
                let dir = beneath::open_dir(dir, name).map_err(fault)?;
                Ok(Here { dir: Some(dir), input: None, through: true })
            }
            (Seen::There(_), Some(dir)) => {
                let dir = merged::open_upper(dir, name).map_err(fault)?;
                if self.marks.is_redirected(dir.as_fd()).map_err(fault)? {
                    let dir = self.open_merged(&path(), true)?;
                    return Ok(Here { dir: Some(dir), input: None, through: true });
                }
                let below = match here.input.map(|input| find(input, name)) {
                    Some(Seen::Directory(digest)) if !self.marks.is_opaque(dir.as_fd()).map_err(fault)? => {
                        Some(known(digest)?)
                    }
                    _ => None,
                };
                Ok(Here { dir: Some(dir), input: below, through: false })
            }
            (Seen::Directory(digest), _) => {
                Ok(Here { dir: None, input: Some(known(digest)?), through: false })
            }
            _ => Err(fault(Errno::NOTDIR)),
        }
    }

    /// Opens `path` in the overlay itself.
    pub fn open_merged(&self, path: &Path, directory: bool) -> Result<OwnedFd, HandoffError> {
        let why = "its content is in another layer, and there is no overlay to read it through";
        let merged = self.merged.ok_or_else(|| HandoffError::Refused { path: path.to_path_buf(), why })?;
        let opened = match (directory, path.parent(), path.file_name()) {
            (true, ..) => beneath::open_dir_at(merged, path, Way::Strict),
            (false, Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                beneath::open_dir_at(merged, parent, Way::Strict)
                    .and_then(|dir| beneath::open_file(dir.as_fd(), &c_name(name)))
            }
            _ => Err(Errno::INVAL),
        };
        opened.map_err(|why| HandoffError::io("read through the overlay", path, why))
    }
}

/// What an input directory has at `name`.
pub(super) fn find<'a>(input: &'a Directory, name: &CStr) -> Seen<'a> {
    let Ok(name) = name.to_str() else { return Seen::Nothing };
    if let Ok(at) = input.files.binary_search_by(|file| file.name.as_str().cmp(name)) {
        return Seen::File(&input.files[at]);
    }
    if let Ok(at) = input.directories.binary_search_by(|child| child.name.as_str().cmp(name)) {
        return Seen::Directory(&input.directories[at].digest);
    }
    match input.symlinks.binary_search_by(|link| link.name.as_str().cmp(name)) {
        Ok(at) => Seen::Symlink(&input.symlinks[at]),
        Err(_) => Seen::Nothing,
    }
}

/// A component as the kernel takes it. Components have no NUL.
pub(super) fn c_name(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap_or_default()
}
