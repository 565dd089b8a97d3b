//! Handoff: the outputs of an action from its layer into the store, and what the result says of them.
//!
//! ```text
//!   quiet ──> locate each declared path in the view (layer over inputs); missing ones are left out
//!         ──> walk: directories into memory, files to hashing threads ──> sealed, hashed, renamed into the store
//!         ──> Directory and Tree messages ──> HandedOff { files, directories, symlinks, counters }
//! ```
//! Call it only after *quiet*. For a live worker, detach its request's mount first: the read lease that every file is
//! taken under refuses what is open for writing, but a path that leads to the file could still open it afterwards.
//!
//! Invariants:
//! - every step is one name relative to a descriptor (`openat2` with BENEATH, NO_SYMLINKS, NO_MAGICLINKS, NO_XDEV); no
//!   special file is opened; a symlink is taken as it is, and never followed;
//! - an output that the action did not touch is known by the digest that it has among the inputs, and not read;
//! - the answer is deterministic: sorted by path, whatever the order in which files were hashed;
//! - an output below another one is found in the tree that was walked for the other: each file is taken once.
//!
//! Limits: [`HandoffLimits`]. Directories that were made for the action before it started must be in the layer or among
//! the inputs, or they are not seen. A redirected directory more than 64 levels deep ends in an error.

mod error;
mod file;
mod locate;
mod message;
mod takers;
#[cfg(test)]
mod tests;
mod view;
mod walk;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;

use rustix::fs::FileType;

pub use error::HandoffError;
pub(super) use file::count;
pub use view::{Inputs, NoInputs};

use self::file::Taker;
use self::locate::{Found, leads_to, locate, shown};
use self::message::{Messages, content};
use self::takers::{Shared, Takers};
use self::view::View;
use self::walk::{Dir, Leaf, TreeFile, Walk};
use crate::action::{
    Command, CommandOutput, Digest, DigestFunction, ExecPath, Handoff, OutputDirectory, OutputFile,
    OutputKind, OutputSymlink, SymlinkNode,
};
use crate::cas::Cas;
use crate::output::limits::HandoffLimits;
use crate::output::marks::Marks;

/// What to hand off.
pub struct HandoffRequest<'a> {
    /// The layer's upper directory.
    pub upper: BorrowedFd<'a>,
    /// The overlay, attached or not: read where the content of a file or directory is in another layer.
    pub merged: Option<BorrowedFd<'a>>,
    /// What was run; its outputs count.
    pub command: &'a Command,
    /// What it ran on.
    pub inputs: &'a dyn Inputs,
    /// How the overlay was mounted.
    pub marks: Marks,
    /// How blobs are named.
    pub function: DigestFunction,
    /// Where they go.
    pub cas: &'a Cas,
    /// How much may go there.
    pub limits: HandoffLimits,
}

/// The outputs of one action, in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOff {
    /// Files, sorted by path.
    pub files: Vec<OutputFile>,
    /// Directories, sorted by path.
    pub directories: Vec<OutputDirectory>,
    /// Symlinks, sorted by path.
    pub symlinks: Vec<OutputSymlink>,
    /// How the files came into the store.
    pub handoff: Handoff,
}

/// An output that no other output contains.
enum Top {
    File(TreeFile),
    Symlink(SymlinkNode),
    Directory(usize),
}

/// What a declared output is.
enum Piece<'a> {
    File(&'a TreeFile),
    Symlink(&'a SymlinkNode),
    Directory(usize),
}

/// Takes the declared outputs into the store.
///
/// # Errors
/// [`HandoffError`]. The layer is then not good for anything any more; blobs that are in the store already stay there.
pub fn hand_off(request: &HandoffRequest<'_>) -> Result<HandedOff, HandoffError> {
    let HandoffRequest { upper, merged, inputs, marks, .. } = *request;
    let view = View { upper, merged, inputs, marks };
    let links = check_kinds(&view, request.command)?;
    let taker = Taker { view, cas: request.cas, function: request.function, copies: AtomicU64::new(0) };
    let (shared, sender) = Shared::new(taker);
    let mut walk = Walk::new(view, request.limits, &request.command.output_properties);
    let (tops, taken) = std::thread::scope(|scope| {
        let mut takers = Takers::new(scope, &shared, sender);
        let tops = collect(&view, request.command, &mut walk, &mut takers)?;
        Ok::<_, HandoffError>((tops, takers.finish()?))
    })?;
    let mut digests: Vec<Option<Digest>> = vec![None; walk.jobs];
    for (index, digest) in taken.digests {
        digests[index] = Some(digest);
    }
    let mut done = HandedOff { handoff: taken.handoff, ..HandedOff::default() };
    done.handoff.known += walk.known;
    let pieces = pieces(request.command, &tops, &walk.dirs)?;
    let mut directories = Vec::new();
    for (output, piece) in pieces {
        let path = output.declared.clone();
        match piece {
            Piece::File(file) => {
                let Some(digest) = content(file.content, &digests) else { continue };
                let (executable, properties) = (file.executable, file.properties.clone());
                done.files.push(OutputFile { path, digest, executable, properties });
            }
            Piece::Symlink(link) => {
                let to_directory = links.get(&path).copied().unwrap_or(false);
                let (target, properties) = (link.target.clone(), link.properties.clone());
                done.symlinks.push(OutputSymlink { path, target, to_directory, properties });
            }
            Piece::Directory(place) => directories.push((place, path)),
        }
    }
    if !directories.is_empty() {
        let max = request.limits.message_bytes_max;
        let mut messages = Messages::new(walk.dirs, &digests, request.function, max)?;
        for (place, path) in directories {
            let format = request.command.output_directory_format;
            done.directories.push(messages.store(place, path, format, request.cas)?);
        }
    }
    done.files.sort_by(|one, other| one.path.cmp(&other.path));
    done.symlinks.sort_by(|one, other| one.path.cmp(&other.path));
    done.directories.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(done)
}

/// Checks what the older fields say of kinds, before anything is taken; says which symlinks lead to directories.
fn check_kinds(view: &View<'_>, command: &Command) -> Result<BTreeMap<String, bool>, HandoffError> {
    let mut links = BTreeMap::new();
    for output in &command.outputs {
        if output.kind == OutputKind::Any && !command.outputs_are_typed {
            continue;
        }
        let path = output.path.as_ref();
        let (kind, is_link) = match (locate(view, path)?, path) {
            (Found::Nothing, _) => continue,
            (Found::Directory(_), _) => (Some(FileType::Directory), false),
            (Found::Leaf { seen, .. }, Some(path)) if seen.kind() == Some(FileType::Symlink) => {
                (leads_to(view, path)?, true)
            }
            (Found::Leaf { seen, .. }, _) => (seen.kind(), false),
        };
        let is_directory = kind.map(|kind| kind == FileType::Directory);
        if is_link {
            // Where it leads nowhere, it is what it was declared as.
            let declared = output.kind == OutputKind::Directory;
            links.insert(output.declared.clone(), is_directory.unwrap_or(declared));
        }
        let (declared, found) = match (output.kind, is_directory) {
            (OutputKind::File, Some(true)) if is_link => ("a file", "a symlink to a directory"),
            (OutputKind::File, Some(true)) => ("a file", "a directory"),
            (OutputKind::Directory, Some(false)) if is_link => ("a directory", "a symlink to a file"),
            (OutputKind::Directory, Some(false)) => ("a directory", "a file"),
            _ => continue,
        };
        return Err(HandoffError::WrongKind { path: shown(path), declared, found });
    }
    Ok(links)
}

/// The outputs that no other output contains, by path: the empty one for the input root.
type Tops = Vec<(Option<ExecPath>, Top)>;

/// Walks all outputs, each part of the layer once.
fn collect<'a>(
    view: &View<'a>,
    command: &Command,
    walk: &mut Walk<'a>,
    takers: &mut Takers<'_, '_>,
) -> Result<Tops, HandoffError> {
    let mut paths: Vec<Option<&ExecPath>> =
        command.outputs.iter().map(|output| output.path.as_ref()).collect();
    // By component: what lies below a path follows it, and the input root comes first.
    paths.sort();
    paths.dedup();
    let mut tops: Tops = Vec::new();
    for path in paths {
        if tops.last().is_some_and(|(top, found)| {
            matches!(found, Top::Directory(_)) && below(path, top.as_ref()).is_some()
        }) {
            continue;
        }
        let top = match locate(view, path)? {
            Found::Nothing => continue,
            Found::Directory(here) => {
                let named = path.map_or_else(std::path::PathBuf::new, |path| path.as_path().to_path_buf());
                Top::Directory(walk.directory(here, named, takers)?)
            }
            Found::Leaf { here, name, seen } => {
                match walk.leaf(here.at(), None, (&name, seen), &|| shown(path), takers)? {
                    Leaf::File(file) => Top::File(file),
                    Leaf::Symlink(link) => Top::Symlink(link),
                }
            }
        };
        tops.push((path.cloned(), top));
    }
    Ok(tops)
}

/// What follows `top` in `path`: `Some(None)` if they are the same.
fn below(path: Option<&ExecPath>, top: Option<&ExecPath>) -> Option<Option<ExecPath>> {
    match (path, top) {
        (None, None) => Some(None),
        (Some(path), None) => Some(Some(path.clone())),
        (Some(path), Some(top)) if path == top => Some(None),
        (Some(path), Some(top)) => path.below(top).map(Some),
        (None, Some(_)) => None,
    }
}

/// What each declared output is; missing ones are left out.
fn pieces<'a>(
    command: &'a Command,
    tops: &'a Tops,
    dirs: &'a [Dir],
) -> Result<Vec<(&'a CommandOutput, Piece<'a>)>, HandoffError> {
    let mut found = Vec::new();
    for output in &command.outputs {
        let path = output.path.as_ref();
        // The last one that is not after it: the only one that can contain it.
        let at = tops.partition_point(|(top, _)| top.as_ref() <= path);
        let Some((top, what)) = at.checked_sub(1).and_then(|at| tops.get(at)) else { continue };
        let piece = match (what, below(path, top.as_ref())) {
            (_, None) => None,
            (Top::File(file), Some(None)) => Some(Piece::File(file)),
            (Top::Symlink(link), Some(None)) => Some(Piece::Symlink(link)),
            (Top::Directory(place), Some(None)) => Some(Piece::Directory(*place)),
            (Top::Directory(place), Some(Some(rest))) => inside(dirs, *place, &rest, output)?,
            (_, Some(Some(_))) => None,
        };
        found.extend(piece.map(|piece| (output, piece)));
    }
    Ok(found)
}

/// What is at `rest` below a walked directory.
fn inside<'a>(
    dirs: &'a [Dir],
    mut place: usize,
    rest: &ExecPath,
    output: &CommandOutput,
) -> Result<Option<Piece<'a>>, HandoffError> {
    let last = rest.components().count() - 1;
    for (index, name) in rest.components().enumerate() {
        let (Some(dir), Some(name)) = (dirs.get(place), name.to_str()) else { return Ok(None) };
        if let Ok(at) = dir.directories.binary_search_by(|(child, _)| child.as_str().cmp(name)) {
            place = dir.directories[at].1;
            continue;
        }
        if let Ok(at) = dir.symlinks.binary_search_by(|link| link.name.as_str().cmp(name)) {
            if index == last {
                return Ok(Some(Piece::Symlink(&dir.symlinks[at])));
            }
            let why = "there is a symlink on the way to it";
            return Err(HandoffError::Refused { path: shown(output.path.as_ref()), why });
        }
        let file = dir.files.binary_search_by(|file| file.name.as_str().cmp(name));
        return Ok(file.ok().filter(|_| index == last).map(|at| Piece::File(&dir.files[at])));
    }
    Ok(Some(Piece::Directory(place)))
}
