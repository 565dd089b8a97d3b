//! From a declared path to what is there: no symlink on the way is ever followed.
//!
//! Also answers where a symlink leads, for clients whose older fields must be told: by single steps through the view,
//! never by a path that the kernel resolves.

use std::ffi::{CString, OsStr};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::HandoffError;
use super::view::{Here, Seen, View, c_name};
use crate::action::ExecPath;
use crate::output::limits::SYMLINKS_MAX;
use crate::stage::Fault;

/// What is at a declared path.
pub(super) enum Found<'a> {
    Nothing,
    /// A directory.
    Directory(Here<'a>),
    /// Anything else.
    Leaf {
        here: Here<'a>,
        name: CString,
        seen: Seen<'a>,
    },
}

/// Looks for `path`, or for the input root.
pub(super) fn locate<'a>(view: &View<'a>, path: Option<&ExecPath>) -> Result<Found<'a>, HandoffError> {
    let mut here = view.root()?;
    let Some(path) = path else { return Ok(Found::Directory(here)) };
    let mut so_far = PathBuf::new();
    let last = path.components().count() - 1;
    for (index, component) in path.components().enumerate() {
        so_far.push(component);
        let name = c_name(component);
        let seen = view.see(here.at(), &name).map_err(Fault::of("look for output", path.as_path()))?;
        match seen.kind() {
            None => return Ok(Found::Nothing),
            Some(FileType::Directory) => here = view.enter(here.at(), &name, &seen, &|| so_far.clone())?,
            _ if index == last => return Ok(Found::Leaf { here, name, seen }),
            Some(FileType::Symlink) => {
                let why = "there is a symlink on the way to it";
                return Err(HandoffError::Refused { path: path.as_path().to_path_buf(), why });
            }
            // Below a file there is nothing.
            _ => return Ok(Found::Nothing),
        }
    }
    Ok(Found::Directory(here))
}

/// What the symlink at `path` leads to in the end; `None` where that is nothing, or outside, or a loop.
pub(super) fn leads_to(view: &View<'_>, path: &ExecPath) -> Result<Option<FileType>, HandoffError> {
    let fault = |why| HandoffError::io("follow output symlink", path.as_path(), why);
    let mut stack = vec![view.root()?];
    let mut walked = PathBuf::new();
    let mut to_go: Vec<Vec<u8>> = split(path.as_os_str().as_encoded_bytes());
    let (mut followed, mut steps) = (0, 0);
    while let Some(component) = to_go.pop() {
        steps += 1;
        if steps > STEPS_MAX {
            return Ok(None);
        }
        if component == b".." {
            stack.pop();
            walked.pop();
            if stack.is_empty() {
                return Ok(None);
            }
            continue;
        }
        let Some(here) = stack.last() else { return Ok(None) };
        let Ok(name) = CString::new(component) else { return Ok(None) };
        let shown: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes());
        let seen = view.see(here.at(), &name).map_err(fault)?;
        match seen.kind() {
            Some(FileType::Directory) => {
                walked.push(shown);
                let next = view.enter(here.at(), &name, &seen, &|| walked.clone())?;
                stack.push(next);
            }
            Some(FileType::Symlink) => {
                followed += 1;
                let target = match (&seen, &here.dir) {
                    (Seen::Symlink(link), _) => link.target.as_bytes().to_vec(),
                    (_, Some(dir)) => {
                        rustix::fs::readlinkat(dir, &name, Vec::new()).map_err(fault)?.into_bytes()
                    }
                    _ => return Ok(None),
                };
                if followed > SYMLINKS_MAX || target.first() == Some(&b'/') {
                    return Ok(None);
                }
                to_go.extend(split(&target));
            }
            other if to_go.is_empty() => return Ok(other),
            _ => return Ok(None),
        }
    }
    Ok(Some(FileType::Directory))
}

/// Steps on the way to where a symlink leads: each opens a directory at most, and as many stay open.
const STEPS_MAX: usize = 256;

/// The components that mean anything, the last one first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let means = |part: &&[u8]| !part.is_empty() && *part != b".";
    let mut parts: Vec<_> = path.split(|byte| *byte == b'/').filter(means).map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

/// The path of an output as errors show it.
pub(super) fn shown(path: Option<&ExecPath>) -> PathBuf {
    path.map_or_else(|| Path::new(".").to_path_buf(), |path| path.as_path().to_path_buf())
}
