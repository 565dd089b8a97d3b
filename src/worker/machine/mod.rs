//! Which worker gets which request, and when workers come and go: events in, effects out. Time is given to it.
//!
//! ```text
//!   request:  waiting ─► running ─► answered                       worker:  starting ─► ready ⇄ busy
//!                ▲          │  └─► orphan (canceled, timed out)                          │      │
//!                └─ crash, once                 └─► answered, or it ends the worker      └► dying ─► gone
//! ```
//! Invariants, which the tests check over random histories: a request gets exactly one end; a worker that takes one
//! request at a time never has two; no id is used twice in a process; counts are never above their limits; a request
//! is run at most twice.
//!
//! What a crash costs: the request that was in flight. It is run once more on a worker that was started after the
//! crash, if [`PoolLimits::retry_crashed`]; of several in a multiplex worker each is, and runs alone there, so that the
//! one that is to blame brings no other down with it. A key whose workers crash in a row waits before the next start.
//!
//! What a hang costs: the request. Its caller is told at its deadline; the worker gets nothing new, and is killed when
//! nobody else is in it. A multiplex worker that answers cancels is asked to cancel instead, and stays if it does. One
//! that says nothing at all for as long as the late request was given is wedged, or stopped: it is killed, and the
//! others in it run once more, as after a crash. No wire has a heartbeat: an answer is the only sign of life.

mod builds;
mod clock;
mod limits;
mod pump;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub use limits::PoolLimits;
pub use state::{Counts, WorkerPhase, WorkerState};
pub use types::{Effect, Event, RequestEnd, RequestId, StopReason, Submission, WorkerId};

use crate::worker::key::{WorkerKey, changed_tools};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    limits: PoolLimits,
    workers: BTreeMap<WorkerId, Worker>,
    requests: HashMap<RequestId, Request>,
    /// In the order of submission: a request that is retried has its old place.
    waiting: BTreeSet<RequestId>,
    crashes: HashMap<WorkerKey, Crashes>,
    builds: HashMap<String, builds::Build>,
    counts: Counts,
    next_worker: u64,
    uses: u64,
    draining: bool,
    /// The time of the last event.
    handled: Duration,
    effects: Vec<Effect>,
}

#[derive(Debug)]
struct Request {
    submission: Submission,
    since: Duration,
    /// Runs that a crash has ended.
    crashes: u32,
    /// Only workers from this one on are fresh enough.
    fresh_from: u64,
    at: Option<WorkerId>,
}

impl Request {
    /// Whether it must have its worker for itself: it may be what kills workers.
    fn is_suspect(&self) -> bool {
        self.crashes > 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Ready,
    Dying,
}

#[derive(Debug)]
struct Worker {
    key: WorkerKey,
    tools: Arc<[(String, String)]>,
    mnemonic: String,
    build: Option<String>,
    multiplex: bool,
    cancels: bool,
    life: Life,
    /// It runs, though it may be a while until it is ready.
    executed: bool,
    flights: Vec<Flight>,
    wire_id: i32,
    bytes: u64,
    frozen: bool,
    idle_since: Duration,
    /// The larger the later it was used.
    used: u64,
    /// Gets nothing new, and goes when nothing is left.
    doomed: Option<StopReason>,
    /// When it answered anything last, or was started.
    heard: Duration,
    /// Since one of its requests was late: for how long it may say nothing while others wait for it.
    silence_max: Option<Duration>,
}

impl Worker {
    fn is_idle(&self) -> bool {
        self.life == Life::Ready && self.flights.is_empty()
    }

    /// When it counts as wedged, if it goes on to say nothing.
    fn silent_until(&self) -> Option<Duration> {
        let is_waited_for = self.flights.iter().any(|flight| matches!(flight.phase, Phase::Running(_)));
        let silence_max = self.silence_max.filter(|_| self.life == Life::Ready && is_waited_for)?;
        Some(self.heard.saturating_add(silence_max))
    }

    fn flight(&mut self, wire_id: i32) -> Option<&mut Flight> {
        self.flights.iter_mut().find(|flight| flight.wire_id == wire_id)
    }
}

/// A request as its worker has it.
#[derive(Clone, Copy, Debug)]
struct Flight {
    request: RequestId,
    wire_id: i32,
    slot: u32,
    alone: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its caller waits, until then.
    Running(Duration),
    /// Nobody waits for it; the worker has until then.
    Orphan(Duration),
    /// The view is being sealed.
    Answered,
}

#[derive(Clone, Copy, Debug)]
struct Crashes {
    count: u32,
    not_before: Duration,
}

impl Machine {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Machine {
            limits,
            workers: BTreeMap::new(),
            requests: HashMap::new(),
            waiting: BTreeSet::new(),
            crashes: HashMap::new(),
            builds: HashMap::new(),
            counts: Counts::default(),
            next_worker: 1,
            uses: 0,
            draining: false,
            handled: Duration::ZERO,
            effects: Vec::new(),
        }
    }

    /// Takes an event, and says what is to be done.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        match event {
            Event::Submit(submission) => self.submit(submission, now),
            Event::Cancel(request) => self.cancel(request, now),
            Event::Executed(worker) => self.executed(worker),
            Event::Started(worker) => self.started(worker, now),
            Event::StartFailed(worker, why) => self.start_failed(worker, &why, now),
            Event::KnowsNoCancel(worker) => self.knows_no_cancel(worker),
            Event::Answered(worker, wire_id) => self.answered(worker, wire_id, now),
            Event::Released(worker, wire_id) => self.released(worker, wire_id, now),
            Event::Broken(worker, why) => self.broken(worker, why, now),
            Event::Gone(worker, why) => self.gone(worker, &why, now),
            Event::Memory(worker, bytes) => self.memory(worker, bytes),
            Event::Entered(build) => self.entered(build, now),
            Event::Left(build) => self.left(&build, now),
            Event::Tick => self.tick(now),
            Event::Clear => self.clear(),
            Event::Drain => self.drain(),
        }
        self.pump(now);
        self.handled = now;
        std::mem::take(&mut self.effects)
    }

    /// Live workers, dying ones among them.
    #[must_use]
    pub fn live(&self) -> usize {
        self.workers.len()
    }

    /// Ready workers, whose memory is worth a look.
    #[must_use]
    pub fn ready(&self) -> Vec<WorkerId> {
        let ready = self.workers.iter().filter(|(_, worker)| worker.life == Life::Ready);
        ready.map(|(id, _)| *id).collect()
    }

    /// Requests that wait for a worker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn submit(&mut self, submission: Submission, now: Duration) {
        let request = submission.request;
        if self.draining {
            return self.effects.push(Effect::End(request, RequestEnd::Draining));
        }
        if self.waiting.len() >= self.limits.waiting_max {
            let end = RequestEnd::QueueFull(self.waiting.len());
            return self.effects.push(Effect::End(request, end));
        }
        let stale = self.workers.iter().filter(|(_, worker)| {
            worker.is_idle() && worker.key.is_out_of_date_for(&submission.key) && worker.doomed.is_none()
        });
        let stale: Vec<_> = stale.map(|(id, worker)| (*id, worker.tools.clone())).collect();
        for (id, tools) in stale {
            self.doom(id, StopReason::ToolsChanged(changed_tools(&tools, &submission.tools)));
        }
        self.waiting.insert(request);
        let entry = Request { submission, since: now, crashes: 0, fresh_from: 0, at: None };
        self.requests.insert(request, entry);
    }

    fn cancel(&mut self, request: RequestId, now: Duration) {
        let Some(entry) = self.requests.get(&request) else { return };
        let Some(id) = entry.at else { return self.end(request, RequestEnd::Canceled) };
        let (grace, finish) = (self.limits.cancel_grace, self.limits.finish_max);
        if let Some(worker) = self.workers.get_mut(&id) {
            let cancels = worker.cancels;
            let flight = worker.flights.iter_mut().find(|flight| flight.request == request);
            if let Some(flight) = flight {
                let patience = if cancels { grace } else { finish };
                flight.phase = Phase::Orphan(now.saturating_add(patience));
                if cancels {
                    self.effects.push(Effect::SendCancel(id, flight.wire_id));
                } else if patience.is_zero() {
                    worker.doomed.get_or_insert(StopReason::Hung);
                }
            }
        }
        self.end(request, RequestEnd::Canceled);
        self.settle(id);
    }

    /// What it does now, or does not do, is no start of ours: others may start beside it.
    fn executed(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.executed = true;
        }
    }

    fn started(&mut self, id: WorkerId, now: Duration) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.life == Life::Starting) else {
            return;
        };
        worker.life = Life::Ready;
        worker.idle_since = now;
        worker.heard = now;
        self.settle(id);
    }

    /// From now on a canceled request has the time of one that nobody can be told of. One that is canceled already
    /// keeps its own: it has not begun.
    fn knows_no_cancel(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.cancels = false;
        }
    }

    fn start_failed(&mut self, id: WorkerId, why: &str, now: Duration) {
        let Some(worker) = self.workers.remove(&id) else { return };
        if worker.life == Life::Dying {
            return;
        }
        self.count_crash(worker.key, now);
        let others = self.workers.values().any(|other| other.key == worker.key && other.life != Life::Dying);
        if others {
            return;
        }
        let of_key = |request: &&RequestId| {
            self.requests.get(*request).is_some_and(|entry| entry.submission.key == worker.key)
        };
        let lost: Vec<RequestId> = self.waiting.iter().filter(of_key).copied().collect();
        for request in lost {
            self.end(request, RequestEnd::StartFailed(why.to_owned()));
        }
    }

    fn answered(&mut self, id: WorkerId, wire_id: i32, now: Duration) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.life == Life::Ready) else {
            return;
        };
        let key = worker.key;
        worker.heard = now;
        let flight = worker.flight(wire_id).filter(|flight| flight.phase != Phase::Answered);
        let Some(flight) = flight else {
            let why = format!("it answered request {wire_id}, which it does not have");
            return self.broken(id, why, now);
        };
        let (request, was_wanted) = (flight.request, matches!(flight.phase, Phase::Running(_)));
        flight.phase = Phase::Answered;
        if was_wanted {
            self.crashes.remove(&key);
            self.end(request, RequestEnd::Answered);
        }
    }

    fn released(&mut self, id: WorkerId, wire_id: i32, now: Duration) {
        self.uses += 1;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.flights.retain(|flight| flight.wire_id != wire_id || flight.phase != Phase::Answered);
        worker.used = self.uses;
        worker.idle_since = now;
        if worker.wire_id >= limits::WIRE_ID_MAX {
            worker.doomed.get_or_insert(StopReason::WornOut);
        }
        self.settle(id);
    }

    fn broken(&mut self, id: WorkerId, why: String, now: Duration) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.life != Life::Dying) else { return };
        self.count_crash(worker.key, now);
        self.fail_flights(id, &why);
        self.bury(id, Effect::Kill(id, StopReason::Broken(why)));
    }

    fn gone(&mut self, id: WorkerId, why: &str, now: Duration) {
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.life != Life::Dying {
            let was_wanted = worker.life == Life::Starting || !worker.flights.is_empty();
            // One that leaves while nobody needs it owes nobody anything.
            if was_wanted {
                self.count_crash(worker.key, now);
            }
            self.counts.died += 1;
            self.fail_flights(id, why);
        }
        self.workers.remove(&id);
    }

    /// What was running in it runs once more, or has ended.
    fn fail_flights(&mut self, id: WorkerId, why: &str) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let multiplex = worker.multiplex;
        for flight in std::mem::take(&mut worker.flights) {
            if !matches!(flight.phase, Phase::Running(_)) {
                continue;
            }
            let request = flight.request;
            let retry = multiplex || self.limits.retry_crashed;
            match self.requests.get_mut(&request) {
                Some(entry) if retry && entry.crashes == 0 && !self.draining => {
                    entry.crashes += 1;
                    entry.fresh_from = self.next_worker;
                    entry.at = None;
                    self.counts.retried += 1;
                    self.waiting.insert(request);
                }
                Some(_) => self.end(request, RequestEnd::Crashed(id, why.to_owned())),
                None => {}
            }
        }
    }

    fn count_crash(&mut self, key: WorkerKey, now: Duration) {
        let PoolLimits { backoff_first, backoff_max, .. } = self.limits;
        if self.crashes.len() >= limits::CRASHES_MAX && !self.crashes.contains_key(&key) {
            let oldest = self.crashes.iter().min_by_key(|(key, crashes)| (crashes.not_before, **key));
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.crashes.remove(&oldest);
            }
        }
        let crashes = self.crashes.entry(key).or_insert(Crashes { count: 0, not_before: now });
        // The first is replaced at once.
        let pause = match crashes.count {
            0 => Duration::ZERO,
            count => backoff_first.saturating_mul(1 << (count - 1).min(20)).min(backoff_max),
        };
        crashes.count = crashes.count.saturating_add(1);
        crashes.not_before = now.saturating_add(pause);
    }

    fn end(&mut self, request: RequestId, end: RequestEnd) {
        self.waiting.remove(&request);
        if self.requests.remove(&request).is_some() {
            self.counts.end_of_request(&end);
            self.effects.push(Effect::End(request, end));
        }
    }

    /// It gets nothing new, and goes when nobody waits for it.
    fn doom(&mut self, id: WorkerId, why: StopReason) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.doomed.get_or_insert(why);
        }
        self.settle(id);
    }

    /// Ends a doomed worker once nobody waits for anything in it.
    fn settle(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.life == Life::Ready) else { return };
        let Some(why) = worker.doomed.clone() else { return };
        if worker.flights.iter().any(|flight| !matches!(flight.phase, Phase::Orphan(_))) {
            return;
        }
        let gently = worker.flights.is_empty() && why != StopReason::Hung;
        self.bury(id, if gently { Effect::Stop(id, why) } else { Effect::Kill(id, why) });
    }

    fn bury(&mut self, id: WorkerId, how: Effect) {
        if let Effect::Stop(_, why) | Effect::Kill(_, why) = &how {
            self.counts.end_of_worker(why);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.life = Life::Dying;
            worker.flights.clear();
            if std::mem::take(&mut worker.frozen) {
                self.effects.push(Effect::Thaw(id));
            }
        }
        self.effects.push(how);
    }

    fn clear(&mut self) {
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in all {
            self.doom(id, StopReason::Cleared);
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        for request in std::mem::take(&mut self.waiting) {
            self.end(request, RequestEnd::Draining);
        }
        self.clear();
    }
}
