//! Whether all that a result names is there, also inside its trees.

use super::blobs::Blobs;
use super::instance::digest;
use super::limits::TREE_BYTES_MAX;
use crate::action::{Digest, DigestFunction};
use crate::cas::CasError;
use fulgurite_proto::reapi;
use prost::Message;
use tonic::Status;

/// The blobs that a result names and that are not there. Counts as a use of those that are.
///
/// A digest that is none, or a tree that is none, is an error.
pub(super) fn missing(
    blobs: &Blobs,
    function: DigestFunction,
    result: &reapi::ActionResult,
) -> Result<Vec<Digest>, Status> {
    let mut named = Vec::with_capacity(result.output_files.len() + 2);
    for file in &result.output_files {
        named.push(digest(function, "OutputFile", file.digest.as_ref())?);
    }
    for stream in [&result.stdout_digest, &result.stderr_digest].into_iter().flatten() {
        named.push(digest(function, "ActionResult", Some(stream))?);
    }
    let mut missing = blobs.missing(named);
    for directory in &result.output_directories {
        if let Some(tree) = &directory.tree_digest {
            missing.extend(missing_of_tree(blobs, digest(function, "OutputDirectory", Some(tree))?)?);
        }
        if let Some(root) = &directory.root_directory_digest {
            let root = digest(function, "OutputDirectory", Some(root))?;
            missing.extend(super::walk::missing(blobs, root)?);
        }
    }
    Ok(missing)
}

fn missing_of_tree(blobs: &Blobs, tree: Digest) -> Result<Vec<Digest>, Status> {
    let encoded = match blobs.read(&tree, TREE_BYTES_MAX) {
        Ok(encoded) => encoded,
        Err(CasError::Missing(_)) => return Ok(vec![tree]),
        Err(error) => return Err(super::status::of_blob(&error)),
    };
    let decoded = reapi::Tree::decode(encoded)
        .map_err(|error| Status::invalid_argument(format!("{tree} is no Tree: {error}")))?;
    let mut files = Vec::new();
    for directory in decoded.root.iter().chain(&decoded.children) {
        for file in &directory.files {
            files.push(digest(tree.function, "FileNode", file.digest.as_ref())?);
        }
    }
    Ok(blobs.missing(files))
}

/// Whether looking takes long enough to be done on another thread.
pub(super) fn takes_long(result: &reapi::ActionResult) -> bool {
    !result.output_directories.is_empty() || result.output_files.len() > 64
}
