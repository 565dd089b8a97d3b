//! A walk through a tree of directories, each distinct one once: bounded by directories and bytes, not by paths.

use super::blobs::Blobs;
use super::limits::{DIRECTORY_BYTES_MAX, WALK_BYTES_MAX, WALK_DIRECTORIES_MAX};
use crate::action::Digest;
use crate::cas::CasError;
use bytes::Bytes;
use fulgurite_proto::reapi;
use prost::Message;
use std::collections::{HashSet, VecDeque};
use tonic::Status;

/// The walk, breadth first.
pub(super) struct Walk {
    blobs: Blobs,
    ahead: VecDeque<Digest>,
    seen: HashSet<Digest>,
    bytes: u64,
}

/// What stands at a digest.
pub(super) enum Step {
    /// A directory, and how many bytes it has encoded.
    Directory(Box<reapi::Directory>, usize),
    /// Nothing: it is not in the store.
    Missing(Digest),
}

impl Walk {
    pub(super) fn new(blobs: Blobs, root: Digest) -> Self {
        Walk { blobs, ahead: VecDeque::from([root]), seen: HashSet::from([root]), bytes: 0 }
    }

    /// The next directory.
    pub(super) fn next(&mut self) -> Option<Result<Step, Status>> {
        let digest = self.ahead.pop_front()?;
        Some(self.visit(digest))
    }

    fn visit(&mut self, digest: Digest) -> Result<Step, Status> {
        let encoded: Bytes = match self.blobs.read(&digest, DIRECTORY_BYTES_MAX) {
            Ok(encoded) => encoded,
            Err(CasError::Missing(_)) => return Ok(Step::Missing(digest)),
            Err(error) => return Err(super::status::of_blob(&error)),
        };
        self.bytes += encoded.len() as u64;
        let size = encoded.len();
        let directory = reapi::Directory::decode(encoded)
            .map_err(|error| Status::invalid_argument(format!("{digest} is no Directory: {error}")))?;
        for child in &directory.directories {
            let child = super::instance::digest(digest.function, "DirectoryNode", child.digest.as_ref())?;
            if self.seen.insert(child) {
                self.ahead.push_back(child);
            }
        }
        if self.seen.len() > WALK_DIRECTORIES_MAX || self.bytes > WALK_BYTES_MAX {
            return Err(Status::resource_exhausted("the tree has too many directories"));
        }
        Ok(Step::Directory(Box::new(directory), size))
    }
}

/// All of a tree that is not in the store: directories, and files of those that are.
pub(super) fn missing(blobs: &Blobs, root: Digest) -> Result<Vec<Digest>, Status> {
    let mut walk = Walk::new(blobs.clone(), root);
    let mut missing = Vec::new();
    while let Some(step) = walk.next() {
        match step? {
            Step::Missing(digest) => missing.push(digest),
            Step::Directory(directory, _) => {
                let mut files = Vec::with_capacity(directory.files.len());
                for file in &directory.files {
                    files.push(super::instance::digest(root.function, "FileNode", file.digest.as_ref())?);
                }
                missing.extend(blobs.missing(files));
            }
        }
    }
    let mut seen = HashSet::new();
    missing.retain(|digest| seen.insert(*digest));
    Ok(missing)
}
