//! A remote result becomes one of ours: all that it names is in our store, verified.
//!
//! ```text
//!   RemoteResult ─► paths: only those that were declared ─► inline contents kept, blobs fetched
//!                └► trees: the Tree, or Directory by Directory ─► their files
//! ```
//! Invariants: a result comes out whole or not at all; no path in it is any but a declared one, and no name in a tree
//! is any but a plain segment (see [`crate::action::decode`]). Limits: see `limits`; a tree's size is bounded before
//! its files are fetched.

use super::cluster::{Cluster, ClusterError};
use super::decode::{Inline, RemoteResult};
use super::download::{check_sizes, keep};
use super::limits::{DIRECTORIES_MAX, TREE_BYTES_MAX};
use super::tree::{self, Tree};
use crate::action::{ActionResult, Command, Digest, DigestFunction, OutputKind};
use crate::cas::Cas;
use std::collections::{HashMap, HashSet};

const CALL: &str = "a result";

fn malformed(why: impl Into<String>) -> ClusterError {
    ClusterError::Malformed { call: CALL, why: why.into() }
}

/// A result whose files are not all here.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The result.
    pub result: ActionResult,
    /// Files that it names and that our store does not have; the cluster said that it has them.
    pub later: Vec<Digest>,
    /// Bytes that were fetched.
    pub fetched_bytes: u64,
}

/// The paths that a result may have, and what may be at them.
fn check_paths(command: &Command, result: &ActionResult) -> Result<(), ClusterError> {
    let outputs = command.outputs.iter();
    let mut declared: HashMap<&str, OutputKind> =
        outputs.map(|output| (output.declared.as_str(), output.kind)).collect();
    let mut check = |path: &str, never: Option<OutputKind>| match declared.remove(path) {
        Some(kind) if never == Some(kind) => {
            Err(malformed(format!("output {path:?} is not what it was declared to be")))
        }
        Some(_) => Ok(()),
        None => Err(malformed(format!("output {path:?} was not declared, or comes twice"))),
    };
    for file in &result.files {
        check(&file.path, Some(OutputKind::Directory))?;
    }
    for directory in &result.directories {
        check(&directory.path, Some(OutputKind::File))?;
    }
    result.symlinks.iter().try_for_each(|link| check(&link.path, None))
}

/// Keeps what came with a result.
fn keep_inline(
    function: DigestFunction,
    into: &Cas,
    result: &mut ActionResult,
    inline: Inline,
) -> Result<(), ClusterError> {
    for (digest, bytes) in inline.files {
        keep(into, digest, &bytes)?;
    }
    for (raw, digest) in [(inline.stdout, &mut result.stdout), (inline.stderr, &mut result.stderr)] {
        if !raw.is_empty() {
            let own = digest.unwrap_or_else(|| Digest::of(function, &raw));
            keep(into, own, &raw)?;
            *digest = Some(own);
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
        let Fetched { result, later, mut fetched_bytes } = self.fetch_names(into, command, remote).await?;
        fetched_bytes += self.download(into, &later).await?;
        Ok((result, fetched_bytes))
    }

    /// Fetches what a result says: standard output and error, trees, and what came inline; its files can be fetched
    /// later ([`Cluster::download`]), as long as the cluster keeps them.
    ///
    /// # Errors
    /// As [`Cluster::fetch`]; [`ClusterError::Missing`] if the cluster does not have all of the files.
    pub async fn fetch_lazily(
        &self,
        into: &Cas,
        command: &Command,
        remote: RemoteResult,
    ) -> Result<Fetched, ClusterError> {
        let fetched = self.fetch_names(into, command, remote).await?;
        check_sizes(&fetched.later)?;
        let missing = self.find_missing(&fetched.later).await?;
        if missing.is_empty() { Ok(fetched) } else { Err(ClusterError::Missing(missing)) }
    }

    async fn fetch_names(
        &self,
        into: &Cas,
        command: &Command,
        remote: RemoteResult,
    ) -> Result<Fetched, ClusterError> {
        let RemoteResult { mut result, inline } = remote;
        check_paths(command, &result)?;
        keep_inline(self.function(), into, &mut result, inline)?;
        let mut names: Vec<Digest> = result.stdout.iter().chain(result.stderr.iter()).copied().collect();
        let trees = result.directories.iter().filter_map(|directory| directory.tree_digest);
        names.extend(trees.clone());
        if let Some(large) = trees.clone().find(|tree| tree.size_bytes > TREE_BYTES_MAX) {
            return Err(malformed(format!("a tree of {} bytes", large.size_bytes)));
        }
        let mut fetched_bytes = self.download(into, &names).await?;
        let mut files: Vec<Digest> = result.files.iter().map(|file| file.digest).collect();
        for directory in &result.directories {
            if let Some(digest) = directory.tree_digest {
                let tree = tree::read(into, &digest)?;
                tree.files(&mut files)?;
                if directory.root_directory_digest.is_some_and(|root| root != tree.root) {
                    let why = format!("output directory {:?} has a tree of another root", directory.path);
                    return Err(malformed(why));
                }
            }
            match directory.root_directory_digest {
                Some(root) => fetched_bytes += self.directories(into, root, &mut files).await?,
                None if directory.tree_digest.is_some() => {}
                None => {
                    return Err(malformed(format!("output directory {:?} has no digest", directory.path)));
                }
            }
        }
        let mut later = into.missing(files.into_iter().filter(|digest| !digest.is_empty()));
        later.sort_unstable_by_key(|digest| (digest.size_bytes, digest.hex()));
        later.dedup();
        Ok(Fetched { result, later, fetched_bytes })
    }

    /// Fetches a hierarchy of Directory messages, level by level.
    async fn directories(
        &self,
        into: &Cas,
        root: Digest,
        files: &mut Vec<Digest>,
    ) -> Result<u64, ClusterError> {
        let mut tree = Tree { root, directories: HashMap::new() };
        let mut seen = HashSet::from([root]);
        let mut level = vec![root];
        let (mut fetched_bytes, mut total) = (0, 0u64);
        while !level.is_empty() {
            total = level.iter().fold(total, |total, digest| total.saturating_add(digest.size_bytes));
            if total > TREE_BYTES_MAX || seen.len() > DIRECTORIES_MAX {
                return Err(malformed("an output has too many directories"));
            }
            fetched_bytes += self.download(into, &level).await?;
            let mut next = Vec::new();
            for digest in level {
                let directory = tree::read_directory(into, &digest)?;
                let below = directory.directories.iter().map(|below| below.digest);
                next.extend(below.filter(|digest| seen.insert(*digest)));
                tree.directories.insert(digest, directory);
            }
            level = next;
        }
        tree.files(files)?;
        Ok(fetched_bytes)
    }
}

/// All blobs that a result of ours names: what a cluster must have before it gets the result.
///
/// # Errors
/// [`ClusterError`], when a tree cannot be read.
pub fn blobs_of(from: &Cas, result: &ActionResult) -> Result<Vec<Digest>, ClusterError> {
    let mut blobs: Vec<Digest> = result.files.iter().map(|file| file.digest).collect();
    blobs.extend(result.stdout.iter().chain(result.stderr.iter()));
    for digest in result.directories.iter().filter_map(|directory| directory.tree_digest) {
        blobs.push(digest);
        tree::read(from, &digest)?.files(&mut blobs)?;
    }
    Ok(blobs)
}
