//! Drives the scheduler: threads that run actions, and operations that clients watch.
//!
//! ```text
//!   Execute ── submit ──► Scheduler ── Start ──► ready ──► slot threads ── Executor ──► finished
//!                │                                                            │
//!                └── watch channel of the operation ◄── Queued, Executing, Done
//! ```
//! Executions run on threads of their own, one a slot and one for a light action beside them, never on the threads of
//! the asynchronous runtime.
//! Invariants: decisions are the scheduler's; here nothing is awaited and nothing that may take long is done while the
//! state is locked.

use super::instance::Instance;
use super::limits::RETRY_AFTER;
use super::metrics::ServeMetrics;
use super::reply::{Done, Facts, Progress};
use super::seen;
use super::socket::Line;
use super::status;
use crate::exec::executor::{Cancel, Executor, Job};
use crate::failpoint;
use crate::sched::{
    Cost, Effect, Ending, Leaving, OperationId, Refusal, RunId, Scheduler, SchedulerLimits, Submission,
};
use fulgurite_proto::google::rpc;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::{Code, Status};

/// The engine. Clones share it.
#[derive(Clone)]
pub(super) struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something is ready, or the engine stops.
    work: Condvar,
    /// The same, for the thread beside those of the slots.
    more: Condvar,
    executor: Arc<dyn Executor>,
    metrics: Arc<ServeMetrics>,
    began: Instant,
    /// What runs is killed because the server ends.
    killing: AtomicBool,
    /// How many runs are not over.
    active: watch::Sender<usize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct State {
    scheduler: Scheduler,
    runs: HashMap<RunId, RunState>,
    operations: HashMap<OperationId, Held>,
    /// Runs that have a slot and no thread yet: at most as many as there are threads.
    ready: VecDeque<(RunId, bool)>,
    /// Threads of slots that have no run.
    free: usize,
    /// What the thread beside them runs.
    beside: Option<RunId>,
    stopping: bool,
}

struct RunState {
    task: Arc<Task>,
    progress: Progress,
}

struct Held {
    facts: Arc<Facts>,
    progress: watch::Sender<Progress>,
}

/// What a run is to do.
pub(super) struct Task {
    pub(super) instance: Arc<Instance>,
    pub(super) job: Job,
    pub(super) cancel: Cancel,
}

/// A run that a thread is to do.
pub(super) struct Assignment {
    pub(super) run: RunId,
    pub(super) task: Arc<Task>,
    pub(super) may_use_cache: bool,
}

/// Somebody who watches an operation. Dropping it is leaving.
pub(super) struct Watcher {
    engine: Engine,
    operation: OperationId,
    line: Line,
    pub(super) facts: Arc<Facts>,
    pub(super) progress: watch::Receiver<Progress>,
}

/// Tells the threads of an engine to end when it is dropped: for a server that never ran.
pub(super) struct StopOnDrop(pub(super) Engine);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.tell_to_stop();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let now = self.engine.now();
        let how = if self.line.is_lost() { Leaving::Lost } else { Leaving::Left };
        self.engine.lock().scheduler.detach(now, self.operation, how);
    }
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(super) fn start(
        executor: Arc<dyn Executor>,
        limits: SchedulerLimits,
        metrics: Arc<ServeMetrics>,
    ) -> std::io::Result<Engine> {
        let slots = executor.slots().max(1);
        let state = State {
            scheduler: Scheduler::new(slots, limits),
            runs: HashMap::new(),
            operations: HashMap::new(),
            ready: VecDeque::new(),
            free: slots,
            beside: None,
            stopping: false,
        };
        let engine = Engine {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                work: Condvar::new(),
                more: Condvar::new(),
                executor,
                metrics,
                began: Instant::now(),
                killing: AtomicBool::new(false),
                active: watch::Sender::new(0),
                threads: Mutex::default(),
            }),
        };
        // The scheduler may let one more run beside those that have a slot.
        for slot in 0..=slots {
            let worker = engine.clone();
            let thread = std::thread::Builder::new()
                .name(format!("slot {slot}"))
                .spawn(move || super::slot::work(&worker, slot, slot == slots))?;
            engine.shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(engine)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    pub(super) fn executor(&self) -> &dyn Executor {
        &*self.shared.executor
    }

    /// Whether actions are killed because the server ends, and by no client.
    pub(super) fn is_killing(&self) -> bool {
        self.shared.killing.load(Ordering::Relaxed)
    }

    pub(super) fn metrics(&self) -> &ServeMetrics {
        &self.shared.metrics
    }

    /// Brings a request in, which came by a line.
    pub(super) fn submit(
        &self,
        line: Line,
        request: Submission,
        facts: Facts,
        task: impl FnOnce() -> Task,
    ) -> Result<Watcher, Status> {
        let operation = request.operation;
        let mut effects = Vec::new();
        let mut state = self.lock();
        let accepted = state.scheduler.submit(request, &mut effects);
        let accepted = accepted.map_err(|refusal| self.refuse(refusal))?;
        if accepted.joined {
            self.shared.metrics.merged.count();
        }
        let run = state
            .runs
            .entry(accepted.run)
            .or_insert_with(|| RunState { task: Arc::new(task()), progress: Progress::Queued });
        seen::queued(operation, &run.task);
        if matches!(run.progress, Progress::Executing(_)) {
            seen::started(operation, &run.task);
        }
        let (sender, receiver) = watch::channel(run.progress.clone());
        let facts = Arc::new(facts);
        state.operations.insert(operation, Held { facts: facts.clone(), progress: sender });
        // A test can only ask for death here.
        let _ = failpoint::hit("serve.queued");
        self.perform(state, effects);
        Ok(Watcher { engine: self.clone(), operation, line, facts, progress: receiver })
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        let code = match refusal {
            Refusal::QueueFull { .. } | Refusal::TooManyOperations { .. } => {
                self.shared.metrics.queue_full.count();
                Code::ResourceExhausted
            }
            Refusal::Draining => Code::Unavailable,
        };
        status::to_call(&status::retry(code, refusal.to_string(), RETRY_AFTER))
    }

    /// Watches an operation that is there.
    pub(super) fn watch(&self, line: Line, operation: OperationId) -> Option<Watcher> {
        let mut state = self.lock();
        if !state.scheduler.attach(operation) {
            return None;
        }
        let held = state.operations.get(&operation)?;
        let (facts, progress) = (held.facts.clone(), held.progress.subscribe());
        Some(Watcher { engine: self.clone(), operation, line, facts, progress })
    }

    /// Whose an operation is.
    pub(super) fn tenant(&self, operation: OperationId) -> Option<String> {
        self.lock().scheduler.tenant(operation).map(str::to_owned)
    }

    /// The state of operations of a tenant, by name.
    pub(super) fn list(&self, tenant: &str) -> Vec<(Arc<Facts>, Progress)> {
        let state = self.lock();
        let names = state.scheduler.operations_of(tenant);
        let held = names.iter().filter_map(|name| state.operations.get(name));
        held.map(|held| (held.facts.clone(), held.progress.borrow().clone())).collect()
    }

    /// Cancels an operation. False if there is none of that name.
    pub(super) fn cancel(&self, operation: OperationId) -> bool {
        let mut effects = Vec::new();
        let mut state = self.lock();
        let found = state.scheduler.cancel(self.now(), operation, &mut effects);
        self.perform(state, effects);
        found
    }

    /// Looks at what time brings.
    pub(super) fn tick(&self) {
        let mut effects = Vec::new();
        let mut state = self.lock();
        state.scheduler.tick(self.now(), &mut effects);
        self.perform(state, effects);
    }

    /// Accepts nothing more, and ends what has not started.
    pub(super) fn drain(&self) {
        let mut effects = Vec::new();
        let mut state = self.lock();
        state.scheduler.drain(self.now(), &mut effects);
        self.perform(state, effects);
    }

    /// Kills what runs: its clients shall try again elsewhere.
    pub(super) fn kill_all(&self) {
        self.shared.killing.store(true, Ordering::Relaxed);
        let mut effects = Vec::new();
        let mut state = self.lock();
        state.scheduler.kill_all(&mut effects);
        self.perform(state, effects);
    }

    /// How many runs are started, and how many wait.
    pub(super) fn counts(&self) -> (u32, u32) {
        let (waiting, running) = self.lock().scheduler.load();
        (u32::try_from(running).unwrap_or(u32::MAX), u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    /// How many runs are not over, and its changes.
    pub(super) fn active(&self) -> watch::Receiver<usize> {
        self.shared.active.subscribe()
    }

    /// Tells the threads to end, once they are done with what they run.
    fn tell_to_stop(&self) {
        self.lock().stopping = true;
        self.shared.work.notify_all();
        self.shared.more.notify_all();
    }

    /// Ends the threads, once they are done with what they run. Blocks.
    pub(super) fn stop(&self) {
        self.tell_to_stop();
        let threads =
            std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread that runs actions has panicked");
            }
        }
    }

    fn perform(&self, mut state: MutexGuard<'_, State>, effects: Vec<Effect>) {
        let mut kills = Vec::new();
        for effect in effects {
            match effect {
                Effect::Start { run, may_use_cache } => {
                    state.ready.push_back((run, may_use_cache));
                    let next = if state.needs_more() { &self.shared.more } else { &self.shared.work };
                    next.notify_one();
                }
                Effect::Kill(run) => {
                    kills.extend(state.runs.get(&run).map(|found| found.task.cancel.clone()));
                }
                Effect::Drop(run) => {
                    state.runs.remove(&run);
                }
                Effect::End(operation, how) => {
                    if let Some(held) = state.operations.get(&operation) {
                        let done = ended(how);
                        let tenant = state.scheduler.tenant(operation).unwrap_or_default();
                        seen::left(operation, tenant, held.facts.action.to_string(), &done.message);
                        held.progress.send_replace(Progress::Done(Arc::new(done)));
                    }
                }
                Effect::Forget(operation) => {
                    state.operations.remove(&operation);
                }
            }
        }
        self.shared.active.send_replace(state.runs.len());
        drop(state);
        for kill in kills {
            kill.cancel();
        }
    }

    /// The next run for a thread of a slot, or for the one beside them; `None` once the engine stops. Blocks.
    pub(super) fn next(&self, is_beside: bool) -> Option<Assignment> {
        let mut state = self.lock();
        loop {
            let may_take = !is_beside || state.needs_more();
            if may_take && let Some((run, may_use_cache)) = state.ready.pop_front() {
                let Some(task) = state.runs.get(&run).map(|found| found.task.clone()) else { continue };
                match is_beside {
                    true => state.beside = Some(run),
                    false => state.free -= 1,
                }
                return Some(Assignment { run, task, may_use_cache });
            }
            // What is ready is done by the threads of slots.
            if state.stopping {
                return None;
            }
            let work = if is_beside { &self.shared.more } else { &self.shared.work };
            state = work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A run's command is about to start.
    pub(super) fn executing(&self, run: RunId, progress: &Progress) {
        let mut state = self.lock();
        state.scheduler.executing(run);
        if let Some(found) = state.runs.get_mut(&run) {
            found.progress = progress.clone();
        }
        for operation in state.scheduler.waiting_for(run) {
            state.runs.get(&run).into_iter().for_each(|found| seen::started(*operation, &found.task));
            if let Some(held) = state.operations.get(operation) {
                held.progress.send_replace(progress.clone());
            }
        }
    }

    /// A run's result is about to be put into the action cache.
    pub(super) fn publishing(&self, run: RunId) {
        self.lock().scheduler.publishing(run);
    }

    /// A run is over.
    pub(super) fn finished(&self, run: RunId, cost: Cost, done: Done) {
        let weight = done.result.as_ref().map_or(0, bytes::Bytes::len) as u64;
        let done = Progress::Done(Arc::new(done));
        let mut effects = Vec::new();
        let mut state = self.lock();
        match state.beside == Some(run) {
            true => state.beside = None,
            false => state.free += 1,
        }
        let over = state.scheduler.finished(self.now(), run, cost, weight, &mut effects);
        let task = state.runs.remove(&run).map(|found| found.task);
        for operation in over {
            if let (Some(task), Progress::Done(done)) = (&task, &done) {
                seen::ended(operation, task, done);
            }
            if let Some(held) = state.operations.get(&operation) {
                held.progress.send_replace(done.clone());
            }
        }
        self.perform(state, effects);
    }
}

impl State {
    /// Whether more is ready than threads of slots are free for: then it is the turn of the one beside them.
    fn needs_more(&self) -> bool {
        self.ready.len() > self.free
    }
}

/// What is told of an operation that ended without its run.
fn ended(how: Ending) -> Done {
    let status: rpc::Status = match how {
        Ending::Canceled => status::plain(Code::Cancelled, "the operation was canceled"),
        Ending::Abandoned => status::plain(Code::Cancelled, "nobody waited for the operation any longer"),
        Ending::Drained => status::retry(
            Code::Unavailable,
            "the server is shutting down, and the action had not started",
            RETRY_AFTER,
        ),
    };
    Done { message: status.message.clone(), status, ..Done::default() }
}
