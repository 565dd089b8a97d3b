//! One action, from a cluster: looked up, or uploaded and executed, and fetched.
//!
//! ```text
//!   cache ── hit ──────────────────────────────────────────────► fetch ─► result, all of it in our store
//!     └ miss ─► `go` ─► upload what is missing ─► Execute ─────────┘ │ a blob is gone: once more, without the cache
//! ```
//! Invariants: a result is handed out only when all that it names is in our store, verified, but for files that may
//! stay where they are and that the cluster says to have; what went wrong with the cluster is never told as a failure
//! of the action. Limits: a loser's uploads go on; its execution is canceled.

use super::cluster::{Cluster, ClusterError};
use super::decode::RemoteResult;
use super::execution::{Ended, Stage};
use super::fetch::Fetched;
use super::limits::EXECUTIONS_MAX;
use crate::action::{ActionResult, ActionSpec, Command, Digest, decode};
use crate::cas::Cas;
use std::collections::HashSet;
use std::time::Duration;
use tonic::Code;

/// What the cluster shall do.
#[derive(Clone, Debug)]
pub struct RemoteJob {
    /// The action's name.
    pub action_digest: Digest,
    /// The action.
    pub action: ActionSpec,
    /// Its command.
    pub command: Command,
    /// What kind of action it is.
    pub mnemonic: String,
    /// The cluster executes: else it is a cache alone.
    pub executes: bool,
    /// A result of the action cache is welcome.
    pub accept_cached: bool,
    /// Files of the outputs may stay where they are.
    pub lazily: bool,
}

/// How it ended.
#[derive(Clone, Debug)]
pub enum RemoteEnd {
    /// The command ended by itself: everything is here.
    Result {
        /// The result.
        result: Box<ActionResult>,
        /// It came out of the action cache.
        cached: bool,
        /// Bytes that were fetched.
        fetched_bytes: u64,
        /// Files that the cluster has and our store does not; none unless that was asked for.
        later: Vec<Digest>,
    },
    /// The action's own fault: it ran out of time, or is not allowed.
    Action {
        /// DEADLINE_EXCEEDED, INVALID_ARGUMENT, …
        timed_out: bool,
        /// As the cluster says it.
        message: String,
    },
    /// A cache without a result.
    Miss,
}

/// Told of progress.
pub trait RemoteWatch {
    /// The cache has answered. After a miss the future may wait, and say false if nothing more is wanted.
    fn answered(&self, hit: bool) -> impl Future<Output = bool>;
    /// The action is queued, or runs.
    fn stage(&self, stage: Stage);
}

/// Runs it. Dropping the call cancels what is the action's alone.
///
/// # Errors
/// [`ClusterError`]: no fault of the action's.
pub async fn run(
    cluster: &Cluster,
    job: &RemoteJob,
    store: &Cas,
    watch: &impl RemoteWatch,
) -> Result<RemoteEnd, ClusterError> {
    let cacheable = job.accept_cached && !job.action.do_not_cache;
    if cacheable {
        let found = cluster.action_result(&job.action_digest).await?;
        // A failure that somebody put there is no reason not to try.
        if let Some(found) = found.filter(|found| found.result.exit_code == 0) {
            if !watch.answered(true).await {
                return Ok(RemoteEnd::Miss);
            }
            match fetch(cluster, job, store, found).await {
                Ok(fetched) => return Ok(ended(fetched, true)),
                // It forgot its blobs: as good as none.
                Err(ClusterError::Missing(_)) if job.executes => {}
                Err(ClusterError::Missing(_)) => return Ok(RemoteEnd::Miss),
                Err(error) => return Err(error),
            }
        } else if !watch.answered(false).await {
            return Ok(RemoteEnd::Miss);
        }
    }
    if !job.executes {
        return Ok(RemoteEnd::Miss);
    }
    execute(cluster, job, store, watch, cacheable).await
}

async fn fetch(
    cluster: &Cluster,
    job: &RemoteJob,
    store: &Cas,
    found: RemoteResult,
) -> Result<Fetched, ClusterError> {
    // A failure is read by people, and soon.
    if job.lazily && found.result.exit_code == 0 {
        return cluster.fetch_lazily(store, &job.command, found).await;
    }
    let (result, fetched_bytes) = cluster.fetch(store, &job.command, found).await?;
    Ok(Fetched { result, later: Vec::new(), fetched_bytes })
}

fn ended(fetched: Fetched, cached: bool) -> RemoteEnd {
    let Fetched { mut result, later, fetched_bytes } = fetched;
    if cached {
        // That was used when it was made, and nothing is used now.
        (result.usage.user, result.usage.system) = (Duration::ZERO, Duration::ZERO);
    }
    RemoteEnd::Result { result: Box::new(result), cached, fetched_bytes, later }
}

async fn execute(
    cluster: &Cluster,
    job: &RemoteJob,
    store: &Cas,
    watch: &impl RemoteWatch,
    cacheable: bool,
) -> Result<RemoteEnd, ClusterError> {
    let (from, of) = (store.clone(), job.clone());
    // Away from the threads that wait for peers: there may be many directories.
    let read = tokio::task::spawn_blocking(move || closure(&from, &of)).await;
    let blobs = read.map_err(|error| ClusterError::Store(error.to_string()))??;
    let mut skip_cache = !cacheable;
    let mut lost = Vec::new();
    for _ in 0..EXECUTIONS_MAX {
        cluster.upload(store, &blobs).await?;
        match cluster.execute(&job.action_digest, skip_cache, |stage| watch.stage(stage)).await? {
            Ended::Action { code, message } => {
                return Ok(RemoteEnd::Action { timed_out: code == Code::DeadlineExceeded, message });
            }
            Ended::Missing(digests) => {
                // Believed to be there, and not: all is asked for again.
                cluster.forget(if digests.is_empty() { &blobs } else { &digests });
                lost = digests;
            }
            Ended::Result { cached, result } => match fetch(cluster, job, store, *result).await {
                Ok(fetched) => return Ok(ended(fetched, cached)),
                Err(ClusterError::Missing(digests)) => {
                    // A success whose outputs nobody has is none.
                    skip_cache = true;
                    lost = digests;
                }
                Err(error) => return Err(error),
            },
        }
    }
    Err(ClusterError::Missing(lost))
}

/// All that the cluster needs: the action, its command, and the closure of its inputs.
fn closure(store: &Cas, job: &RemoteJob) -> Result<Vec<Digest>, ClusterError> {
    let failed = |error: String| ClusterError::Store(error);
    let function = job.action_digest.function;
    let mut blobs = vec![job.action_digest, job.action.command_digest];
    // A file may have the bytes of a directory, and is still not read as one.
    let (mut seen, mut files) = (HashSet::from([job.action.input_root_digest]), HashSet::new());
    let mut ahead = vec![job.action.input_root_digest];
    while let Some(digest) = ahead.pop() {
        blobs.push(digest);
        if digest.is_empty() {
            continue;
        }
        let encoded = store.read(&digest, super::limits::TREE_BYTES_MAX);
        let encoded = encoded.map_err(|error| failed(error.to_string()))?;
        let directory = decode::directory(function, &encoded).map_err(|error| failed(error.to_string()))?;
        blobs.extend(directory.files.iter().map(|file| file.digest).filter(|digest| files.insert(*digest)));
        let below = directory.directories.iter().map(|below| below.digest);
        ahead.extend(below.filter(|digest| seen.insert(*digest)));
    }
    Ok(blobs)
}
