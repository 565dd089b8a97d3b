//! From the walked tree to Directory and Tree messages.
//!
//! ```text
//!   last directory … first     encoded from the leaves up: a child comes after its parent in the walk
//!   root, then every distinct directory once, each after all that name it          Tree
//! ```
//! Invariants: deterministic; equal directories are one; bytes are counted before they are kept.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::HandoffError;
use super::walk::{Content, Dir};
use crate::action::{
    Digest, DigestFunction, Directory, DirectoryNode, FileNode, OutputDirectory, OutputDirectoryFormat,
    encode,
};
use crate::cas::Cas;

/// The encoded directories of one handoff.
pub(super) struct Messages {
    /// Of each walked directory.
    digests: Vec<Digest>,
    distinct: HashMap<Digest, Encoded>,
    /// What Trees may still take: outputs that overlap have all of what they share in each.
    bytes_left: u64,
    bytes_max: u64,
    /// Directories that are in the store.
    stored: HashSet<Digest>,
}

struct Encoded {
    bytes: Vec<u8>,
    /// Distinct, in the order of their first names.
    children: Vec<Digest>,
}

impl Messages {
    /// Encodes all directories. `digests` are those of the jobs.
    pub fn new(
        dirs: Vec<Dir>,
        digests: &[Option<Digest>],
        function: DigestFunction,
        bytes_max: u64,
    ) -> Result<Self, HandoffError> {
        let mut made = vec![Digest::empty(function); dirs.len()];
        let mut distinct = HashMap::new();
        let mut bytes_left = bytes_max;
        for (place, dir) in dirs.into_iter().enumerate().rev() {
            let (mut children, mut seen) = (Vec::new(), HashSet::new());
            let directories = dir.directories.into_iter().map(|(name, child)| {
                let digest = made[child];
                if seen.insert(digest) {
                    children.push(digest);
                }
                DirectoryNode { name, digest }
            });
            let directories = directories.collect();
            let files = dir.files.into_iter().filter_map(|file| {
                let (name, executable, properties) = (file.name, file.executable, file.properties);
                Some(FileNode { name, digest: content(file.content, digests)?, executable, properties })
            });
            let files = files.collect();
            let message =
                Directory { files, directories, symlinks: dir.symlinks, properties: dir.properties };
            let bytes = encode::directory(&message);
            made[place] = Digest::of(function, &bytes);
            if let std::collections::hash_map::Entry::Vacant(free) = distinct.entry(made[place]) {
                let left = bytes_left.checked_sub(bytes.len() as u64);
                bytes_left = left.ok_or_else(|| too_much(".", bytes_max))?;
                free.insert(Encoded { bytes, children });
            }
        }
        let stored = HashSet::new();
        Ok(Messages { digests: made, distinct, bytes_left: bytes_max, bytes_max, stored })
    }

    /// Stores what describes the directory at `place`, in the format that was asked for.
    pub fn store(
        &mut self,
        place: usize,
        path: String,
        format: OutputDirectoryFormat,
        cas: &Cas,
    ) -> Result<OutputDirectory, HandoffError> {
        let root = self.digests[place];
        let order = self.order(root);
        let encoded: Vec<(&Digest, &[u8])> = order
            .iter()
            .filter_map(|digest| Some((digest, self.distinct.get(digest)?.bytes.as_slice())))
            .collect();
        let (mut tree_digest, mut root_directory_digest) = (None, None);
        if format != OutputDirectoryFormat::DirectoryOnly {
            let bytes: u64 = encoded.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            let left = self.bytes_left.checked_sub(bytes);
            self.bytes_left = left.ok_or_else(|| too_much(&path, self.bytes_max))?;
            let tree = encode::tree(encoded.iter().map(|(_, bytes)| *bytes));
            tree_digest = Some(cas.put_bytes(root.function, &tree)?);
        }
        if format != OutputDirectoryFormat::TreeOnly {
            // A directory is never in the store before those that it names.
            for (digest, bytes) in encoded.into_iter().rev() {
                if self.stored.insert(*digest) {
                    cas.put(*digest, bytes)?;
                }
            }
            root_directory_digest = Some(root);
        }
        Ok(OutputDirectory { path, tree_digest, root_directory_digest })
    }

    /// The distinct directories from `root` on, each after all that name it.
    fn order(&self, root: Digest) -> Vec<Digest> {
        let children = |digest: &Digest| self.distinct.get(digest).map_or(&[][..], |found| &found.children);
        let (mut order, mut seen) = (Vec::new(), HashSet::from([root]));
        let mut stack = vec![(root, 0)];
        while let Some((digest, next)) = stack.last_mut() {
            // Backwards, so that the order comes out forwards.
            let below = children(digest);
            match below.len().checked_sub(*next + 1).map(|at| below[at]) {
                Some(child) => {
                    *next += 1;
                    if seen.insert(child) {
                        stack.push((child, 0));
                    }
                }
                None => {
                    order.push(*digest);
                    stack.pop();
                }
            }
        }
        order.reverse();
        order
    }
}

fn too_much(path: &str, max: u64) -> HandoffError {
    let path = if path.is_empty() { "." } else { path };
    HandoffError::TooMuch { path: PathBuf::from(path), unit: "bytes of directories", max }
}

/// The digest of a file; `None` only if it was never taken, which ends a handoff before.
pub(super) fn content(of: Content, digests: &[Option<Digest>]) -> Option<Digest> {
    match of {
        Content::Known(digest) => Some(digest),
        Content::Job(index) => digests.get(index).copied().flatten(),
    }
}
