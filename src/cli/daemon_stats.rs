//! The JSON that `--stats` writes of a run by a daemon: one object, names as those of a run without where they mean the
//! same, units last.
//!
//! Limits: what the daemon, or a cluster behind it, does not tell is `null`.

use crate::remote::daemon::{DaemonEnd, DaemonOutcome};
use serde::Serialize;
use std::collections::BTreeMap;

/// The persistent worker that made the result.
#[derive(Debug, Serialize)]
struct WorkerStats<'a> {
    /// Its number since the daemon's start.
    number: u64,
    /// The beginning of its key.
    key: &'a str,
    /// What stands for its tools: `marked`, `declared` or `weak`.
    key_quality: &'a str,
    /// Which of its requests this was.
    request: u64,
    /// Whether the outputs were sealed as a whole.
    sealed: bool,
}

#[derive(Debug, Serialize)]
struct OutputStats {
    published: usize,
}

/// The whole object.
#[derive(Debug, Serialize)]
pub(super) struct DaemonStats<'a> {
    /// `exited`, `timed_out`, `out_of_memory`, `canceled` or `failed`.
    outcome: &'static str,
    /// Why it failed.
    message: Option<&'a str>,
    exit_code: Option<i32>,
    /// Whether the result was in the action cache.
    cached: bool,
    /// The machine that ran it.
    machine: &'a str,
    /// `null`: none made it.
    persistent_worker: Option<WorkerStats<'a>>,
    /// Why none did although one was asked for.
    one_shot_because: Option<&'a str>,
    wall_us: u64,
    /// User CPU; `null`: whoever ran it has not told.
    cpu_user_us: Option<u64>,
    /// System CPU.
    cpu_system_us: Option<u64>,
    /// The most memory in use at once.
    memory_peak_bytes: Option<u64>,
    /// What was enforced, name and value; as of the run that made a cached result.
    enforced: &'a BTreeMap<String, String>,
    /// Time by phase.
    phases: BTreeMap<String, u64>,
    outputs: OutputStats,
}

impl<'a> DaemonStats<'a> {
    /// Of a run that took so long.
    pub(super) fn of(outcome: &'a DaemonOutcome, wall_us: u64) -> DaemonStats<'a> {
        let (name, exit_code, message) = match &outcome.end {
            DaemonEnd::Exited(code) => ("exited", Some(*code), None),
            DaemonEnd::TimedOut => ("timed_out", None, None),
            DaemonEnd::OutOfMemory => ("out_of_memory", None, None),
            DaemonEnd::Canceled => ("canceled", None, None),
            DaemonEnd::Failed { message, .. } => ("failed", None, Some(message.as_str())),
        };
        let worker = outcome.persistent_worker.as_ref();
        DaemonStats {
            outcome: name,
            message,
            exit_code,
            cached: outcome.cached,
            machine: &outcome.worker,
            persistent_worker: worker.map(|worker| WorkerStats {
                number: worker.number,
                key: &worker.key,
                key_quality: &worker.key_quality,
                request: worker.request,
                sealed: worker.sealed,
            }),
            one_shot_because: outcome.one_shot_because.as_deref(),
            wall_us,
            cpu_user_us: outcome.cpu_us.map(|(user, _)| user),
            cpu_system_us: outcome.cpu_us.map(|(_, system)| system),
            memory_peak_bytes: outcome.memory_peak_bytes,
            enforced: &outcome.enforced,
            phases: outcome.phases.iter().map(|(name, us)| (format!("{name}_us"), *us)).collect(),
            outputs: OutputStats { published: outcome.outputs },
        }
    }
}
