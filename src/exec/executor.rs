//! What a door asks of whoever runs actions, and what it gets back.
//!
//! ```text
//!   door ── Job, Watch ──► Executor::execute (blocks a thread of the door's choosing) ──► Execution
//!              ▲  started: the command runs
//!   Cancel ────┘  cancel: from any thread, before, during or after; the execution then ends as Canceled
//! ```
//! Invariants: an execution leaves no process, mount or layer behind when `execute` returns; what the command printed
//! is in the result whatever ended it.

use crate::action::{ActionResult, ActionSpec, Command, Digest, DigestFunction, Timeline, Timestamp};
use crate::worker::Workers;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An action that shall run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Whose it is: sandboxes, images and results are never shared between tenants.
    pub tenant: String,
    /// How blobs are named.
    pub function: DigestFunction,
    /// The action's name.
    pub action_digest: Digest,
    /// The action.
    pub action: ActionSpec,
    /// Its command.
    pub command: Command,
    /// When the request came.
    pub queued: Timestamp,
    /// What kind of action it is, as `CppCompile`; empty if nobody said.
    pub mnemonic: String,
    /// The build that it is a part of; empty if nobody said.
    pub invocation: String,
    /// Where it shall run.
    pub placement: Placement,
    /// No result of earlier is welcome, from whatever cache.
    pub fresh: bool,
}

/// Where an action shall run; an executor that knows no other machine runs all but `Remote` here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// As the daemon is configured.
    #[default]
    Configured,
    /// On this machine.
    Local,
    /// On another one.
    Remote,
    /// On another one, and here if that cannot be had.
    RemoteLocalFallback,
    /// On both: the first result counts.
    Racing,
}

impl Job {
    /// The platform properties that count: the action's own, or those of its command.
    #[must_use]
    pub fn platform(&self) -> &[(String, String)] {
        match self.action.platform.as_slice() {
            [] => &self.command.platform,
            own => own,
        }
    }
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The command ended by itself, with whatever exit code, or by a signal that was not ours.
    Exited,
    /// It was killed at the end of its time.
    TimedOut {
        /// The time that it had.
        limit: Duration,
    },
    /// It was canceled.
    Canceled,
    /// The kernel killed it for its use of memory.
    OutOfMemory {
        /// The most that it used.
        peak_bytes: u64,
        /// What it was allowed.
        limit_bytes: Option<u64>,
    },
    /// Blobs that it needs are not in the store: all of them.
    Missing(Vec<Digest>),
    /// The client's fault: the action cannot run as it is.
    Invalid(String),
    /// The outputs, or what the platform asks for, cannot be had here.
    FailedPrecondition(String),
    /// No fault of the action: it may succeed another time, or elsewhere.
    Unavailable(String),
    /// Our own fault.
    Internal(String),
}

/// What came of a job.
#[derive(Clone, Debug)]
pub struct Execution {
    /// How it ended.
    pub verdict: Verdict,
    /// Outputs, what was printed, and metadata: as much as there is. Empty if the command never ran.
    pub result: ActionResult,
}

/// Told of progress, on the executing thread.
pub trait Watch: Send + Sync {
    /// The command is about to be started; `timeline` is known up to that point.
    fn started(&self, timeline: &Timeline);
}

/// Cancels a job. Clones cancel the same one.
#[derive(Clone, Default)]
pub struct Cancel {
    state: Arc<Mutex<CancelState>>,
}

#[derive(Default)]
struct CancelState {
    canceled: bool,
    kill: Option<Box<dyn Fn() + Send>>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("canceled", &self.is_canceled()).finish_non_exhaustive()
    }
}

impl Cancel {
    /// Cancels the job: at once if it runs, else before it does.
    pub fn cancel(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.canceled = true;
        if let Some(kill) = &state.kill {
            kill();
        }
    }

    /// Whether it was canceled.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).canceled
    }

    /// Says how to kill the run that begins now; it is killed at once if it was canceled before.
    pub fn arm(&self, kill: impl Fn() + Send + 'static) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.canceled {
            kill();
        }
        state.kill = Some(Box::new(kill));
    }

    /// The run is over: nothing is left to kill.
    pub fn disarm(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).kill = None;
    }
}

/// The start of a persistent worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStart {
    /// What kind of worker.
    pub kind: String,
    /// Until its first answer, or so far.
    pub took: Duration,
    /// Whether it has answered.
    pub is_over: bool,
}

/// Runs actions.
pub trait Executor: Send + Sync {
    /// Runs one, and blocks until it and all that it started has ended.
    fn execute(&self, job: &Job, cancel: &Cancel, watch: &dyn Watch) -> Execution;

    /// How many it can run at the same time.
    fn slots(&self) -> usize;

    /// Its persistent workers, if it keeps any.
    fn workers(&self) -> Option<&Workers> {
        None
    }

    /// The kind of persistent worker that would have to be started for an action; `None`: it can begin at once.
    fn cold_worker(&self, _: &Job) -> Option<String> {
        None
    }

    /// How long workers took from their start to their first answer: those that came to it since the last call, and
    /// those that are on their way.
    fn worker_starts(&self) -> Vec<WorkerStart> {
        Vec::new()
    }

    /// What it counts, by name; for status.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Cancel;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_job_is_killed_whenever_it_is_canceled() {
        let kills = Arc::new(AtomicU32::new(0));
        let count = || {
            let kills = kills.clone();
            move || {
                kills.fetch_add(1, Ordering::Relaxed);
            }
        };
        let before = Cancel::default();
        before.cancel();
        before.arm(count());
        assert_eq!(kills.load(Ordering::Relaxed), 1);
        let during = Cancel::default();
        during.arm(count());
        during.clone().cancel();
        assert_eq!(kills.load(Ordering::Relaxed), 2);
        let after = Cancel::default();
        after.arm(count());
        after.disarm();
        after.cancel();
        assert!(after.is_canceled());
        assert_eq!(kills.load(Ordering::Relaxed), 2);
    }
}
