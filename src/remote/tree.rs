//! Trees that a cluster names: read, and known to be bounded before any of their files is fetched.
//!
//! ```text
//!   Tree message ─ cut into encoded Directories, each named by its hash ─► root and all that it refers to ─► files
//! ```
//! Invariants: a tree has one root, and every directory that it refers to; the paths that it unfolds to are bounded,
//! although few distinct directories can unfold to any number. Limits: see `limits`.

use super::cluster::ClusterError;
use super::limits::{DEPTH_MAX, OUTPUT_FILES_MAX, TREE_BYTES_MAX};
use crate::action::{Digest, DigestFunction, Directory, decode};
use crate::cas::Cas;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::collections::HashMap;

fn malformed(why: impl Into<String>) -> ClusterError {
    ClusterError::Malformed { call: "a result", why: why.into() }
}

/// A hierarchy of directories by digest.
pub(super) struct Tree {
    pub(super) root: Digest,
    pub(super) directories: HashMap<Digest, Directory>,
}

/// What a directory unfolds to.
#[derive(Clone, Copy)]
struct Unfolded {
    entries: u64,
    depth: usize,
}

impl Tree {
    /// Adds the files of all its directories.
    pub(super) fn files(&self, to: &mut Vec<Digest>) -> Result<(), ClusterError> {
        let mut known = HashMap::new();
        self.unfold(&self.root, 0, &mut known)?;
        for digest in known.keys() {
            let files = self.directories.get(digest).into_iter().flat_map(|directory| &directory.files);
            to.extend(files.map(|file| file.digest));
            if to.len() > OUTPUT_FILES_MAX {
                return Err(malformed("the outputs have too many files"));
            }
        }
        Ok(())
    }

    fn unfold(
        &self,
        digest: &Digest,
        above: usize,
        known: &mut HashMap<Digest, Unfolded>,
    ) -> Result<Unfolded, ClusterError> {
        if let Some(unfolded) = known.get(digest) {
            return Ok(*unfolded);
        }
        let mut unfolded = Unfolded { entries: 0, depth: 1 };
        match self.directories.get(digest) {
            Some(directory) => {
                unfolded.entries += (directory.files.len() + directory.symlinks.len()) as u64;
                for below in &directory.directories {
                    if above >= DEPTH_MAX {
                        return Err(malformed("a tree is too deep"));
                    }
                    let below = self.unfold(&below.digest, above + 1, known)?;
                    unfolded.entries = unfolded.entries.saturating_add(below.entries + 1);
                    unfolded.depth = unfolded.depth.max(below.depth + 1);
                }
            }
            // The empty directory need not be sent.
            None if digest.is_empty() => {}
            None => return Err(malformed(format!("a tree does not have its directory {digest}"))),
        }
        if unfolded.entries > OUTPUT_FILES_MAX as u64 || unfolded.depth > DEPTH_MAX {
            return Err(malformed("a tree unfolds to too many entries, or is too deep"));
        }
        known.insert(*digest, unfolded);
        Ok(unfolded)
    }
}

fn read_blob(from: &Cas, digest: &Digest) -> Result<Vec<u8>, ClusterError> {
    if digest.is_empty() {
        return Ok(Vec::new());
    }
    from.read(digest, TREE_BYTES_MAX).map_err(|error| ClusterError::Store(error.to_string()))
}

/// Reads a Directory.
pub(super) fn read_directory(from: &Cas, digest: &Digest) -> Result<Directory, ClusterError> {
    let encoded = read_blob(from, digest)?;
    decode::directory(digest.function, &encoded).map_err(|error| malformed(error.to_string()))
}

/// Reads a Tree.
pub(super) fn read(from: &Cas, digest: &Digest) -> Result<Tree, ClusterError> {
    parse(digest.function, &read_blob(from, digest)?)
}

fn parse(function: DigestFunction, encoded: &[u8]) -> Result<Tree, ClusterError> {
    let mut root = None;
    let mut directories = HashMap::new();
    let mut rest = encoded;
    while !rest.is_empty() {
        let (is_root, part) = match next(&mut rest) {
            Ok(Some(part)) => part,
            Ok(None) => continue,
            Err(error) => return Err(malformed(format!("not an encoded Tree: {error}"))),
        };
        let directory = decode::directory(function, part).map_err(|error| malformed(error.to_string()))?;
        // By the bytes that came: what we would write could lack fields that we do not know.
        let digest = Digest::of(function, part);
        directories.insert(digest, directory);
        if is_root && root.replace(digest).is_some() {
            return Err(malformed("a tree has two roots"));
        }
    }
    let root = root.ok_or_else(|| malformed("a tree has no root"))?;
    Ok(Tree { root, directories })
}

/// The next field: the root (1), or one of the children (2), or one that we do not know.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(bool, &'a [u8])>, String> {
    let cut = |error: prost::DecodeError| error.to_string();
    let (tag, wire) = decode_key(rest).map_err(cut)?;
    if !matches!((tag, wire), (1 | 2, WireType::LengthDelimited)) {
        return skip_field(wire, tag, rest, DecodeContext::default()).map(|()| None).map_err(cut);
    }
    let length = usize::try_from(decode_varint(rest).map_err(cut)?).unwrap_or(usize::MAX);
    let (part, after) = rest.split_at_checked(length).ok_or("a directory is cut off")?;
    *rest = after;
    Ok(Some((tag == 1, part)))
}
