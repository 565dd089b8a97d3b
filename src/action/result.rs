//! What came of an action, as the action cache keeps it and clients of REAPI read it.
//!
//! Invariant: all digests of one result are of one function. Limits: contents are named, never held, but for standard
//! output and error where a client asked to have them inline.

use super::digest::Digest;
use super::tree::{NodeProperties, Timestamp};
use std::time::Duration;

/// A file among the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// As declared.
    pub path: String,
    /// Its content.
    pub digest: Digest,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// The properties that were asked for.
    pub properties: NodeProperties,
}

/// A directory among the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputDirectory {
    /// As declared.
    pub path: String,
    /// Its Tree message, topologically sorted, if asked for.
    pub tree_digest: Option<Digest>,
    /// Its root Directory message, if asked for.
    pub root_directory_digest: Option<Digest>,
}

/// A symlink among the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSymlink {
    /// As declared.
    pub path: String,
    /// What it says.
    pub target: String,
    /// Whether it leads to a directory within the outputs or inputs; for clients that read the older fields only.
    pub to_directory: bool,
    /// The properties that were asked for.
    pub properties: NodeProperties,
}

/// When things happened, in the order in which they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The request came.
    pub queued: Option<Timestamp>,
    /// It was its turn.
    pub worker_start: Option<Timestamp>,
    /// Staging began.
    pub input_fetch_start: Option<Timestamp>,
    /// Staging was done.
    pub input_fetch_completed: Option<Timestamp>,
    /// The command was started.
    pub execution_start: Option<Timestamp>,
    /// All of it was quiet.
    pub execution_completed: Option<Timestamp>,
    /// Handoff began.
    pub output_upload_start: Option<Timestamp>,
    /// Handoff was done.
    pub output_upload_completed: Option<Timestamp>,
    /// The answer was ready.
    pub worker_completed: Option<Timestamp>,
}

/// What it used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The cgroup's peak of memory, or the largest resident set where there is no such figure.
    pub peak_bytes: u64,
    /// The name of the signal that ended it, without `SIG`, if one did.
    pub termination_signal: Option<String>,
    /// Limits and hardening that were enforced, name and value.
    pub enforced: Vec<(String, String)>,
    /// How the inputs were staged: `composefs`, `directory-cache` or `copy`, and `known` or `new`.
    pub staging: Option<String>,
    /// Outputs that were renamed into the store, and those that had to be copied.
    pub handoff: Handoff,
    /// Processes that the command had left behind and that were killed.
    pub stragglers: u32,
    /// The persistent worker that made it, if one did.
    pub persistent: Option<PersistentWorker>,
    /// Why it ran by itself although a worker was asked for.
    pub one_shot_because: Option<String>,
    /// How this machine and a cluster raced for it, if they did.
    pub race: Option<RaceSummary>,
    /// Whether policy refuses to cache it.
    pub is_uncacheable: bool,
}

/// How two branches raced for a result. Times count from the beginning of the race.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaceSummary {
    /// `local`, `remote`, or nothing.
    pub winner: String,
    /// The remote cache had a result.
    pub remote_hit: bool,
    /// Why the local branch was started when it was.
    pub local_why: Option<String>,
    /// When.
    pub local_started: Option<Duration>,
    /// Why the remote branch was started when it was.
    pub remote_why: Option<String>,
    /// When.
    pub remote_started: Option<Duration>,
    /// By how much the winner was faster, if both came to a result.
    pub margin: Option<Duration>,
    /// Time of the loser.
    pub wasted_wall: Duration,
    /// Processor time of the loser, as far as it is known.
    pub wasted_cpu: Duration,
}

/// The persistent worker that made a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistentWorker {
    /// Its number since the server's start.
    pub number: u64,
    /// The beginning of its key.
    pub key: String,
    /// What stands for its tools: `marked`, `declared` or `weak`.
    pub key_quality: String,
    /// Which of its requests this was, from one.
    pub request: u64,
    /// Whether the outputs were sealed as a whole; else each file was looked at by itself.
    pub sealed: bool,
}

/// How outputs came into the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handoff {
    /// Files that were renamed.
    pub renamed: u64,
    /// Files that were there already.
    pub known: u64,
    /// Files that had to be copied.
    pub copied: u64,
    /// Bytes that had to be copied.
    pub bytes_copied: u64,
}

/// What came of an action (REAPI `ActionResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionResult {
    /// Output files, sorted by path.
    pub files: Vec<OutputFile>,
    /// Output directories, sorted by path.
    pub directories: Vec<OutputDirectory>,
    /// Output symlinks, sorted by path.
    pub symlinks: Vec<OutputSymlink>,
    /// The exit code; 128 + the signal's number if a signal ended it.
    pub exit_code: i32,
    /// Standard output; `None` if nothing was printed.
    pub stdout: Option<Digest>,
    /// Standard error; `None` if nothing was printed.
    pub stderr: Option<Digest>,
    /// Who ran it.
    pub worker: String,
    /// When.
    pub timeline: Timeline,
    /// With what.
    pub usage: Usage,
}
