//! Declared inputs as an input root: named by digests, with every blob in the store.
//!
//! ```text
//!   InputSpec ──► files: hashed (or remembered), put into the store if it lacks them
//!             └─► directories, innermost first: encoded, put ──► digest of the root
//! ```
//! What a file's digest was is remembered by device, inode, size and times ([`DigestMemory`]), so that a second
//! import of a tree reads no file.
//!
//! Invariants: a symlink stays the symlink that it is, with one exception: an absolute source is resolved first; what
//! is declared twice with one meaning is taken once, and with two meanings refused; the bytes that a digest names are
//! those that the store has, even if somebody writes to the tree meanwhile (the store hashes what it takes).
//! Limits: names and symlinks must be UTF-8, for REAPI has no others; of a file's mode the owner's executable bit is
//! kept.

mod memory;
mod node;
mod walk;

pub use memory::{DigestMemory, Stamp};

use super::error::StageError;
use super::fault::{Fault, TreeError};
use super::limits::TreeLimits;
use crate::action::{Digest, DigestFunction, ExecPath, InputSpec};
use crate::cas::{Cas, CasError, Pin};
use node::Node;
use rustix::fd::BorrowedFd;
use std::path::PathBuf;

/// Why there is no input root.
#[derive(Debug, thiserror::Error)]
pub enum MerkleError {
    /// An input is missing, escapes, or conflicts with another.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The tree cannot be read, has what no input root can have, or is too large.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store refuses a blob.
    #[error("cannot take {} into the store: {why}", path.display())]
    Store {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: CasError,
    },
    /// A name that is no UTF-8.
    #[error("cannot send {} to another machine: {what} is not UTF-8", path.display())]
    NotUtf8 {
        /// Which file.
        path: PathBuf,
        /// Its name, or its target.
        what: &'static str,
    },
    /// The store is too small for the inputs, or others fill it faster than they can be kept.
    #[error("the store does not keep the inputs: {lost} blobs were gone before the run")]
    Full {
        /// How many went.
        lost: usize,
    },
    /// What is said to be a worker's own file is none of the inputs.
    #[error("{} is none of the inputs, and a worker's tool has to be one", .0.display())]
    NoTool(PathBuf),
    /// A file changed again and again while it was read.
    #[error("cannot take {} as an input: somebody is writing to it", .0.display())]
    Unsteady(PathBuf),
}

impl MerkleError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            MerkleError::Stage(error) => error.hint(),
            MerkleError::NotUtf8 { .. } => Some("rename it, or run the command here alone"),
            MerkleError::NoTool(_) => Some("declare it as an input as well, and name no symlink"),
            MerkleError::Unsteady(_) => Some("let the action that writes it end first"),
            MerkleError::Full { .. } => Some("give the store more room: store.size_bytes_max"),
            MerkleError::Tree(_) | MerkleError::Store { .. } => None,
        }
    }
}

impl From<Fault> for MerkleError {
    fn from(fault: Fault) -> Self {
        MerkleError::Tree(fault.into())
    }
}

/// What an import gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The input root.
    pub root: Digest,
    /// Regular files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were read, for they were not remembered.
    pub bytes_hashed: u64,
    /// Files that the store did not have.
    pub stored: u64,
    /// All of its blobs: files and directories, some of them twice.
    pub blobs: Vec<Digest>,
}

/// Where an import takes files from, and how much it takes.
#[derive(Clone, Copy, Debug)]
pub struct ImportFrom<'a> {
    /// The directory that inputs are relative to.
    pub exec_root: BorrowedFd<'a>,
    /// The declared inputs; `None`: the whole exec root.
    pub inputs: Option<&'a [InputSpec]>,
    /// Inputs, or directories of them, that get the mark of a worker's own files.
    pub tools: &'a [ExecPath],
    /// How much there may be.
    pub limits: TreeLimits,
    /// Nanoseconds since 1970.
    pub now_ns: i128,
}

/// Makes the input root of declared inputs, all of whose blobs are in `cas` afterwards.
///
/// # Errors
/// [`MerkleError`], naming the input.
pub fn import(
    cas: &Cas,
    function: DigestFunction,
    memory: &DigestMemory,
    from: &ImportFrom<'_>,
) -> Result<Imported, MerkleError> {
    let ImportFrom { exec_root, inputs, tools, limits, now_ns } = *from;
    let mut walk = walk::Walk::new(cas, function, memory, limits, now_ns);
    let mut root = match inputs {
        None => walk.directory(exec_root, PathBuf::new())?,
        Some(inputs) => walk.declared(exec_root, inputs)?,
    };
    for tool in tools {
        let names = tool.components().map(|name| name.to_str());
        let names: Option<Vec<&str>> = names.collect();
        if !names.is_some_and(|names| root.mark(&names)) {
            return Err(MerkleError::NoTool(tool.as_path().to_path_buf()));
        }
    }
    let mut blobs = Vec::new();
    let digest = node::seal(cas, function, Node::Directory(root), std::path::Path::new("."), &mut blobs)?;
    Ok(Imported { root: digest, blobs, ..walk.done(digest) })
}

/// The same, and keeps all of it in `cas`, with what is added, until the pin is dropped.
///
/// # Errors
/// As [`import`]; [`MerkleError::Full`] if the store has lost some of it each time.
pub fn import_pinned(
    cas: &Cas,
    function: DigestFunction,
    memory: &DigestMemory,
    from: &ImportFrom<'_>,
    mut add: impl FnMut(&Imported) -> Result<Vec<Digest>, CasError>,
) -> Result<(Imported, Pin), MerkleError> {
    let mut lost = 0;
    for _ in 0..IMPORTS_MAX {
        let imported = import(cas, function, memory, from)?;
        let added = add(&imported).map_err(|why| MerkleError::Store { path: PathBuf::from("."), why })?;
        let mut blobs = imported.blobs.clone();
        blobs.extend(added);
        blobs.retain(|digest| !digest.is_empty());
        match cas.pin(&blobs) {
            Ok(pin) => return Ok((imported, pin)),
            // Evicted since it was imported: what is there is not read a second time.
            Err(missing) => lost = missing.len(),
        }
    }
    Err(MerkleError::Full { lost })
}

/// How often an import is repeated whose blobs go as fast as they come.
const IMPORTS_MAX: usize = 3;

#[cfg(test)]
mod tests;
