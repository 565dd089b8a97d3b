//! What the machine knows of its workers, for whoever asks: lists, metrics.

use super::types::{RequestEnd, StopReason, WorkerId};
use super::{Life, Machine, Worker};
use crate::worker::key::WorkerKey;
use std::time::Duration;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerPhase {
    /// It is being started.
    Starting,
    /// It waits for work.
    Idle,
    /// It waits for work, and does not run until there is some.
    Frozen,
    /// It has work.
    Busy,
    /// It is being ended.
    Ending,
}

impl WorkerPhase {
    /// Its name in lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WorkerPhase::Starting => "starting",
            WorkerPhase::Idle => "idle",
            WorkerPhase::Frozen => "frozen",
            WorkerPhase::Busy => "busy",
            WorkerPhase::Ending => "ending",
        }
    }
}

/// One worker, as it was at one moment.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// Its number since the server's start.
    pub id: WorkerId,
    /// What it can serve.
    pub key: WorkerKey,
    /// Its kind.
    pub mnemonic: String,
    /// Whether it takes several requests at a time.
    pub multiplex: bool,
    /// What it is doing.
    pub phase: WorkerPhase,
    /// Requests that it has now.
    pub requests: usize,
    /// Requests that it was sent so far.
    pub served: u64,
    /// Its memory when it was looked at last, every few seconds.
    pub memory_bytes: u64,
    /// Its processor time when it was looked at last, if that is counted.
    pub cpu: Option<Duration>,
    /// For how long it has had nothing to do.
    pub idle: Option<Duration>,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers that were started, or tried to.
    pub started: u64,
    /// Ended gently: nobody needed them, or their files changed, or memory was short.
    pub stopped: u64,
    /// Killed, because they did not answer in time.
    pub hung: u64,
    /// Killed, because they broke the protocol or their view could not be handled.
    pub broken: u64,
    /// Ended by themselves, or by the kernel.
    pub died: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were given to another worker after the first went down.
    pub retried: u64,
    /// Requests that ended with their worker.
    pub crashed: u64,
    /// Requests that took too long.
    pub timed_out: u64,
    /// Requests whose caller left.
    pub canceled: u64,
    /// Requests for which there was no worker.
    pub refused: u64,
}

impl Counts {
    pub(super) fn end_of_request(&mut self, end: &RequestEnd) {
        let count = match end {
            RequestEnd::Answered => &mut self.answered,
            RequestEnd::Canceled => &mut self.canceled,
            RequestEnd::TimedOut(_) => &mut self.timed_out,
            RequestEnd::Crashed(..) => &mut self.crashed,
            RequestEnd::StartFailed(_)
            | RequestEnd::NoWorker(_)
            | RequestEnd::QueueFull(_)
            | RequestEnd::Draining => &mut self.refused,
        };
        *count += 1;
    }

    pub(super) fn end_of_worker(&mut self, why: &StopReason) {
        let count = match why {
            StopReason::Hung => &mut self.hung,
            StopReason::Broken(_) => &mut self.broken,
            _ => &mut self.stopped,
        };
        *count += 1;
    }
}

impl Machine {
    /// All workers, in the order in which they were started. What only the driver knows is left empty.
    #[must_use]
    pub fn states(&self, now: Duration) -> Vec<WorkerState> {
        let state = |(id, worker): (&WorkerId, &Worker)| WorkerState {
            id: *id,
            key: worker.key,
            mnemonic: worker.mnemonic.clone(),
            multiplex: worker.multiplex,
            phase: match worker.life {
                Life::Starting => WorkerPhase::Starting,
                Life::Dying => WorkerPhase::Ending,
                Life::Ready if worker.frozen => WorkerPhase::Frozen,
                Life::Ready if worker.flights.is_empty() => WorkerPhase::Idle,
                Life::Ready => WorkerPhase::Busy,
            },
            requests: worker.flights.len(),
            served: 0,
            memory_bytes: worker.bytes,
            cpu: None,
            idle: worker.is_idle().then(|| now.saturating_sub(worker.idle_since)),
        };
        self.workers.iter().map(state).collect()
    }

    /// Those that live, dying ones among them.
    pub fn ids(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.keys().copied()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Workers that have nothing to do: what they write now nobody has asked for.
    #[must_use]
    pub fn idle(&self) -> Vec<WorkerId> {
        let idle = self.workers.iter().filter(|(_, worker)| worker.is_idle());
        idle.map(|(id, _)| *id).collect()
    }
}
