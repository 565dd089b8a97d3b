//! What came of a run by a daemon.

use crate::action::PersistentWorker;
use fulgurite_proto::v1;
use std::collections::BTreeMap;
use tonic::Status;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonEnd {
    /// The command's own exit code.
    Exited(i32),
    /// It was killed at the end of its time.
    TimedOut,
    /// It used more memory than it may.
    OutOfMemory,
    /// It was canceled.
    Canceled,
    /// The run itself failed.
    Failed {
        /// What, and why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
}

impl Default for DaemonEnd {
    fn default() -> Self {
        DaemonEnd::Failed { message: "the daemon told no end".to_owned(), hint: None }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonOutcome {
    /// How it ended.
    pub end: DaemonEnd,
    /// Out of the action cache.
    pub cached: bool,
    /// Who ran it.
    pub worker: String,
    /// Outputs that are published.
    pub outputs: usize,
    /// What the daemon has to say.
    pub notes: Vec<String>,
    /// Microseconds by phase.
    pub phases: Vec<(String, u64)>,
    /// The persistent worker that made it.
    pub persistent_worker: Option<PersistentWorker>,
    /// Why none did, though one was asked for.
    pub one_shot_because: Option<String>,
    /// Microseconds of processor time, of the user and of the system, where they are known.
    pub cpu_us: Option<(u64, u64)>,
    /// The most memory in use at once, where it is known.
    pub memory_peak_bytes: Option<u64>,
    /// Limits and hardening that were enforced, name and value.
    pub enforced: BTreeMap<String, String>,
}

/// A request that was refused as a whole is the caller's mistake, and its outcome.
pub(super) fn refusal(status: &Status) -> DaemonOutcome {
    let message = status.message();
    let split = message.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (hint: "));
    let (message, hint) = match split {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (message.to_owned(), None),
    };
    DaemonOutcome { end: DaemonEnd::Failed { message, hint }, ..DaemonOutcome::default() }
}

pub(super) fn decode(outcome: v1::ActionOutcome) -> DaemonOutcome {
    use v1::action_outcome::End;
    let said = if outcome.message.is_empty() { None } else { Some(outcome.message) };
    let end = match outcome.end {
        Some(End::ExitCode(code)) => DaemonEnd::Exited(code),
        Some(End::Signal(signal)) => DaemonEnd::Exited(128 + signal),
        Some(End::OutOfMemory(_)) => DaemonEnd::OutOfMemory,
        Some(End::TimedOut(_)) => DaemonEnd::TimedOut,
        Some(End::Cancelled(_)) => DaemonEnd::Canceled,
        Some(End::Failure(failure)) => {
            DaemonEnd::Failed { message: failure.message, hint: failure.hints.into_iter().next() }
        }
        None => DaemonEnd::default(),
    };
    let is_failure = matches!(end, DaemonEnd::Failed { .. });
    let persistent_worker = outcome.persistent_worker.map(|worker| PersistentWorker {
        number: worker.number,
        key: worker.key,
        key_quality: worker.key_quality,
        request: worker.request,
        sealed: worker.sealed,
    });
    let usage = outcome.usage.unwrap_or_default();
    DaemonOutcome {
        end,
        cpu_us: usage.cpu_user_us.zip(usage.cpu_system_us),
        memory_peak_bytes: usage.memory_peak_bytes,
        enforced: outcome.enforced.into_iter().collect(),
        persistent_worker,
        one_shot_because: Some(outcome.one_shot_because).filter(|why| !why.is_empty()),
        cached: outcome.cached,
        worker: outcome.worker,
        outputs: outcome.outputs.len(),
        notes: outcome.notes.into_iter().chain(said.filter(|_| !is_failure)).collect(),
        phases: outcome.phases.into_iter().map(|phase| (phase.name, phase.duration_us)).collect(),
    }
}
