//! A tree of declared inputs while it is being put together, and its digests.

use super::MerkleError;
use crate::action::{
    Digest, DigestFunction, Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode, TOOL_INPUT,
    encode,
};
use crate::cas::Cas;
use std::collections::BTreeMap;
use std::path::Path;

/// One node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File { digest: Digest, executable: bool, is_tool: bool },
    Symlink { target: String },
    Directory(Branch),
}

/// A directory: names are sorted by bytes, as REAPI wants them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) entries: BTreeMap<String, Node>,
}

impl Branch {
    /// The branch at `path` below this one, made if it is not there; `None` if something else is in the way.
    pub(super) fn at<'a>(&mut self, path: impl Iterator<Item = &'a str>) -> Option<&mut Branch> {
        let mut branch = self;
        for name in path {
            let next = branch.entries.entry(name.to_owned()).or_insert(Node::Directory(Branch::default()));
            let Node::Directory(below) = next else { return None };
            branch = below;
        }
        Some(branch)
    }

    /// Marks a file, or all files below a directory, as a worker's own; false if there is no such thing.
    pub(super) fn mark(&mut self, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            self.mark_all();
            return true;
        };
        match (self.entries.get_mut(*first), rest) {
            (Some(Node::File { is_tool, .. }), []) => {
                *is_tool = true;
                true
            }
            (Some(Node::Directory(below)), rest) => below.mark(rest),
            _ => false,
        }
    }

    fn mark_all(&mut self) {
        for node in self.entries.values_mut() {
            match node {
                Node::File { is_tool, .. } => *is_tool = true,
                Node::Directory(below) => below.mark_all(),
                Node::Symlink { .. } => {}
            }
        }
    }

    /// Takes in what another branch has; the name at fault if both have one with two meanings.
    pub(super) fn merge(&mut self, other: Branch) -> Result<(), String> {
        for (name, node) in other.entries {
            match (self.entries.get_mut(&name), node) {
                (None, node) => {
                    self.entries.insert(name, node);
                }
                (Some(Node::Directory(ours)), Node::Directory(theirs)) => {
                    ours.merge(theirs).map_err(|below| format!("{name}/{below}"))?;
                }
                (Some(ours), theirs) if *ours == theirs => {}
                _ => return Err(name),
            }
        }
        Ok(())
    }
}

/// Puts the directories of a tree into the store, innermost first. Depth is bounded by who made the tree.
pub(super) fn seal(
    cas: &Cas,
    function: DigestFunction,
    node: Node,
    shown: &Path,
    blobs: &mut Vec<Digest>,
) -> Result<Digest, MerkleError> {
    let Node::Directory(branch) = node else { return Ok(Digest::empty(function)) };
    let mut directory = Directory::default();
    for (name, node) in branch.entries {
        match node {
            Node::File { digest, executable, is_tool } => {
                blobs.push(digest);
                let mark = is_tool.then(|| (TOOL_INPUT.to_owned(), String::new()));
                let properties =
                    NodeProperties { properties: mark.into_iter().collect(), ..NodeProperties::default() };
                directory.files.push(FileNode { name, digest, executable, properties });
            }
            Node::Symlink { target } => {
                directory.symlinks.push(SymlinkNode { name, target, properties: NodeProperties::default() });
            }
            below @ Node::Directory(_) => {
                let digest = seal(cas, function, below, &shown.join(&name), blobs)?;
                directory.directories.push(DirectoryNode { name, digest });
            }
        }
    }
    let encoded = encode::directory(&directory);
    let failed = |why| MerkleError::Store { path: shown.to_path_buf(), why };
    let digest = cas.put_bytes(function, &encoded).map_err(failed)?;
    blobs.push(digest);
    Ok(digest)
}
