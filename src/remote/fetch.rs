//! A remote result becomes one of ours: all that it names is in our store, verified.
//!
//! ```text
//!   RemoteResult ─► paths: only those that were declared ─► inline contents kept, blobs fetched
//!                └► trees: the Tree, or Directory by Directory ─► their files
//! ```
//! Invariants: a result comes out whole or not at all; no path in it is any but a declared one, and no name in a tree
//! is any but a plain segment (see [`crate::action::decode`]). Limits: see `limits`; a tree's size is bounded before its
//! files are fetched.

use super::cluster::{Cluster, ClusterError};
use super::decode::RemoteResult;
use super::limits::{DIRECTORIES_MAX, OUTPUT_FILES_MAX, TREE_BYTES_MAX};
use super::transfer::keep;
use crate::action::{ActionResult, Command, Digest, Directory, decode};
use crate::cas::Cas;
use fulgurite_proto::reapi;
use prost::Message;
use std::collections::HashSet;

const CALL: &str = "a result";

fn malformed(why: impl Into<String>) -> ClusterError {
    ClusterError::Malformed { call: CALL, why: why.into() }
}

/// The paths that a result may have.
fn check_paths(command: &Command, result: &ActionResult) -> Result<(), ClusterError> {
    let mut declared: HashSet<&str> = command.outputs.iter().map(|output| output.declared.as_str()).collect();
    let files = result.files.iter().map(|file| file.path.as_str());
    let directories = result.directories.iter().map(|directory| directory.path.as_str());
    let symlinks = result.symlinks.iter().map(|link| link.path.as_str());
    for path in files.chain(directories).chain(symlinks) {
        if !declared.remove(path) {
            return Err(malformed(format!("output {path:?} was not declared, or comes twice")));
        }
    }
    Ok(())
}

impl Cluster {
    /// Fetches all that a result names into `into`.
    ///
    /// # Errors
    /// [`ClusterError`]: what is missing, corrupt, or not allowed.
    pub async fn fetch(
        &self,
        into: &Cas,
        command: &Command,
        remote: RemoteResult,
    ) -> Result<(ActionResult, u64), ClusterError> {
        let RemoteResult { mut result, inline } = remote;
        check_paths(command, &result)?;
        for (digest, bytes) in inline.files {
            keep(into, digest, &bytes)?;
        }
        for (raw, digest) in [(inline.stdout, &mut result.stdout), (inline.stderr, &mut result.stderr)] {
            if !raw.is_empty() {
                let own = Digest::of(self.function(), &raw);
                if digest.is_some_and(|told| told != own) {
                    return Err(ClusterError::Corrupt {
                        wanted: digest.unwrap_or(own),
                        got: own.to_string(),
                    });
                }
                keep(into, own, &raw)?;
                *digest = Some(own);
            }
        }
        let trees: Vec<Digest> =
            result.directories.iter().filter_map(|directory| directory.tree_digest).collect();
        if let Some(large) = trees.iter().find(|tree| tree.size_bytes > TREE_BYTES_MAX) {
            return Err(malformed(format!("a tree of {} bytes", large.size_bytes)));
        }
        let mut bytes = self.download(into, &trees).await?;
        let mut blobs: Vec<Digest> = result.files.iter().map(|file| file.digest).collect();
        blobs.extend(result.stdout.iter().chain(result.stderr.iter()));
        for tree in &trees {
            self.files_of_tree(into, tree, &mut blobs)?;
        }
        for directory in &result.directories {
            if let Some(root) = directory.root_directory_digest {
                bytes += self.directories(into, root, &mut blobs).await?;
            } else if directory.tree_digest.is_none() {
                return Err(malformed(format!("output directory {:?} has no digest", directory.path)));
            }
        }
        bytes += self.download(into, &blobs).await?;
        Ok((result, bytes))
    }

    fn files_of_tree(&self, from: &Cas, tree: &Digest, blobs: &mut Vec<Digest>) -> Result<(), ClusterError> {
        let read = if tree.is_empty() { Ok(Vec::new()) } else { from.read(tree, TREE_BYTES_MAX) };
        let encoded = read.map_err(|error| ClusterError::Store(error.to_string()))?;
        let decoded =
            reapi::Tree::decode(encoded.as_slice()).map_err(|error| malformed(error.to_string()))?;
        for sent in decoded.root.into_iter().chain(decoded.children) {
            let directory = decode::directory_message(self.function(), sent);
            let directory = directory.map_err(|error| malformed(error.to_string()))?;
            add_files(&directory, blobs)?;
        }
        Ok(())
    }

    /// Fetches a hierarchy of Directory messages, level by level.
    async fn directories(
        &self,
        into: &Cas,
        root: Digest,
        blobs: &mut Vec<Digest>,
    ) -> Result<u64, ClusterError> {
        let mut seen = HashSet::from([root]);
        let mut level = vec![root];
        let mut bytes = 0;
        while !level.is_empty() {
            if let Some(large) = level.iter().find(|digest| digest.size_bytes > TREE_BYTES_MAX) {
                return Err(malformed(format!("a directory of {} bytes", large.size_bytes)));
            }
            bytes += self.download(into, &level).await?;
            let mut next = Vec::new();
            for digest in &level {
                let read = if digest.is_empty() { Ok(Vec::new()) } else { into.read(digest, TREE_BYTES_MAX) };
                let encoded = read.map_err(|error| ClusterError::Store(error.to_string()))?;
                let directory = decode::directory(self.function(), &encoded);
                let directory = directory.map_err(|error| malformed(error.to_string()))?;
                add_files(&directory, blobs)?;
                let below = directory.directories.iter().map(|below| below.digest);
                next.extend(below.filter(|digest| seen.insert(*digest)));
            }
            if seen.len() > DIRECTORIES_MAX {
                return Err(malformed("an output has too many directories"));
            }
            level = next;
        }
        Ok(bytes)
    }
}

fn add_files(directory: &Directory, blobs: &mut Vec<Digest>) -> Result<(), ClusterError> {
    blobs.extend(directory.files.iter().map(|file| file.digest));
    if blobs.len() > OUTPUT_FILES_MAX {
        return Err(malformed("the outputs have too many files"));
    }
    Ok(())
}

/// All blobs that a result of ours names: what a cluster must have before it gets the result.
///
/// # Errors
/// [`ClusterError`], when a tree cannot be read.
pub fn blobs_of(from: &Cas, result: &ActionResult) -> Result<Vec<Digest>, ClusterError> {
    let mut blobs: Vec<Digest> = result.files.iter().map(|file| file.digest).collect();
    blobs.extend(result.stdout.iter().chain(result.stderr.iter()));
    for tree in result.directories.iter().filter_map(|directory| directory.tree_digest) {
        blobs.push(tree);
        let read =
            from.read(&tree, TREE_BYTES_MAX).map_err(|error| ClusterError::Store(error.to_string()))?;
        let decoded = reapi::Tree::decode(read.as_slice()).map_err(|error| malformed(error.to_string()))?;
        for sent in decoded.root.into_iter().chain(decoded.children) {
            let directory = decode::directory_message(tree.function, sent);
            add_files(&directory.map_err(|error| malformed(error.to_string()))?, &mut blobs)?;
        }
    }
    Ok(blobs)
}
