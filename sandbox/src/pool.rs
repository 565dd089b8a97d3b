//! The sandboxes kept ready.
//!
//! ```text
//! lease(spec) ─► an idle one of this spec (tenant included), the last used of those whose reset is done
//!            └─► a new one, while fewer than `sandboxes_max` live ─► else an idle one of another spec makes room
//!                                                                 └► else wait for one to be given back
//! lease dropped ─► reset begins (in the sandbox's init) ─► idle     unsound ─► taken apart by the cleaner
//! ```
//! Invariants: a sandbox that could not be reset is never leased; a lease is the only way to a sandbox, and is linear;
//! taking sandboxes apart happens on one background thread with a bounded queue, never on the path of an action.
use crate::outcome::Outcome;
use crate::runtime::{Runtime, SandboxError, Template};
use crate::sandbox::{Action, Killer, Sandbox};
use crate::spec::SandboxSpec;
use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Jobs that may wait for the cleaner; a further one is done by whoever has it.
const CLEANING_QUEUE_MAX: usize = 256;

/// How many sandboxes there may be.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Live sandboxes, leased and idle.
    pub sandboxes_max: usize,
    /// Idle sandboxes of one spec; a further one is taken apart.
    pub idle_max: usize,
}

/// Sandboxes, as they are now; and what was since the pool began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Ready, or getting ready.
    pub idle: usize,
    /// Leased, or being made for a lease.
    pub leased: usize,
    /// Made.
    pub made: u64,
    /// Taken apart, or taken out of the pool.
    pub destroyed: u64,
}

/// Work for the background thread.
type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what nobody should wait for, in order, from a bounded queue.
#[derive(Debug)]
pub struct Cleaner {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> std::io::Result<Cleaner> {
        let (queue, jobs) = sync_channel::<Job>(CLEANING_QUEUE_MAX);
        let work = move || jobs.into_iter().for_each(|job| job());
        let thread = std::thread::Builder::new().name("fulgurite-clean".to_owned()).spawn(work)?;
        Ok(Cleaner { queue: Some(queue), thread: Some(thread) })
    }

    /// Leaves a job to the thread, or does it at once if the queue is full.
    pub fn clean(&self, job: impl FnOnce() + Send + 'static) {
        let Some(queue) = &self.queue else { return job() };
        match queue.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job(),
        }
    }

    /// Returns when everything is done that was left to the thread before.
    pub fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, waited) = sync_channel(1);
        // There is room for one.
        let last: Job = Box::new(move || done.send(()).unwrap_or(()));
        // A thread that a job has ended does nothing more, and drops what it had.
        if queue.send(last).is_ok() {
            let _ = waited.recv();
        }
    }

    /// Finishes what is queued and ends the thread.
    pub fn stop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A job that panicked has ended the thread; there is nothing to add.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    idle: HashMap<SandboxSpec, Vec<Sandbox>>,
    live: usize,
    /// Since the pool began.
    made: u64,
    /// Since then, too.
    destroyed: u64,
}

impl State {
    fn enter(&mut self) {
        self.live += 1;
        self.made += 1;
    }

    fn leave(&mut self) {
        self.live -= 1;
        self.destroyed += 1;
    }
}

#[derive(Debug)]
struct Shared {
    runtime: Arc<Runtime>,
    options: PoolOptions,
    state: Mutex<State>,
    changed: Condvar,
    cleaner: Cleaner,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// What a lease could be made from.
enum Found {
    Idle(Box<Sandbox>),
    Room(Option<Box<Sandbox>>),
}

impl Pool {
    /// An empty pool.
    ///
    /// # Errors
    /// When its background thread cannot be started.
    pub fn new(runtime: Arc<Runtime>, options: PoolOptions) -> std::io::Result<Pool> {
        let cleaner = Cleaner::start()?;
        let shared = Shared { runtime, options, state: Mutex::default(), changed: Condvar::new(), cleaner };
        Ok(Pool { shared: Arc::new(shared) })
    }

    /// Makes sandboxes ahead until `count` of this spec are idle.
    ///
    /// # Errors
    /// As [`Sandbox::create`].
    pub fn prepare(&self, spec: &SandboxSpec, count: usize) -> Result<(), SandboxError> {
        let template = self.shared.runtime.template(spec)?;
        loop {
            let full = {
                let mut state = self.shared.lock();
                let idle = state.idle.get(spec).map_or(0, Vec::len);
                let full = idle >= count || state.live >= self.shared.options.sandboxes_max;
                if !full {
                    state.enter();
                }
                full
            };
            if full {
                return Ok(());
            }
            let sandbox = self.create(&template)?;
            self.shared.lock().idle.entry(spec.clone()).or_default().push(sandbox);
            self.shared.changed.notify_one();
        }
    }

    /// Leases a sandbox of this spec; waits while all that may live are leased.
    ///
    /// # Errors
    /// As [`Runtime::template`] and [`Sandbox::create`].
    pub fn lease(&self, spec: &SandboxSpec) -> Result<Lease, SandboxError> {
        let template = self.shared.runtime.template(spec)?;
        loop {
            match self.find(spec) {
                Found::Idle(mut sandbox) => match sandbox.finish_reset() {
                    Ok(()) => return Ok(Lease { pool: self.clone(), sandbox: Some(*sandbox) }),
                    // It cannot prove that it is clean: it goes, and another is found.
                    Err(_) => self.shared.take_apart(*sandbox),
                },
                Found::Room(evicted) => {
                    if let Some(evicted) = evicted {
                        // Its place is already counted as ours.
                        let _ = evicted.destroy(&self.shared.runtime);
                    }
                    let sandbox = self.create(&template)?;
                    return Ok(Lease { pool: self.clone(), sandbox: Some(sandbox) });
                }
            }
        }
    }

    /// Makes a sandbox in a place that is already counted.
    fn create(&self, template: &Arc<Template>) -> Result<Sandbox, SandboxError> {
        Sandbox::create(&self.shared.runtime, template).inspect_err(|_| {
            let mut state = self.shared.lock();
            state.live -= 1;
            state.made -= 1;
            drop(state);
            self.shared.changed.notify_one();
        })
    }

    fn find(&self, spec: &SandboxSpec) -> Found {
        let mut state = self.shared.lock();
        loop {
            if let Some(sandbox) = state.idle.get_mut(spec).and_then(pick) {
                return Found::Idle(Box::new(sandbox));
            }
            if state.live < self.shared.options.sandboxes_max {
                state.enter();
                return Found::Room(None);
            }
            if let Some(other) = state.idle.values_mut().find_map(Vec::pop) {
                state.leave();
                state.enter();
                return Found::Room(Some(Box::new(other)));
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The thread for work that nobody should wait for.
    #[must_use]
    pub fn cleaner(&self) -> &Cleaner {
        &self.shared.cleaner
    }

    /// The runtime behind the pool.
    #[must_use]
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.shared.runtime
    }

    /// How many there are, and were.
    #[must_use]
    pub fn counts(&self) -> PoolCounts {
        let state = self.shared.lock();
        let idle = state.idle.values().map(Vec::len).sum();
        let (made, destroyed) = (state.made, state.destroyed);
        PoolCounts { idle, leased: state.live.saturating_sub(idle), made, destroyed }
    }

    /// How many sandboxes live, leased and idle.
    #[must_use]
    pub fn live(&self) -> usize {
        self.shared.lock().live
    }

    /// Takes all idle sandboxes apart and ends the background thread. Call it when no lease is left.
    ///
    /// # Errors
    /// [`SandboxError::Cgroup`] with directories that cannot be removed yet.
    pub fn stop(self) -> Result<(), SandboxError> {
        let idle = std::mem::take(&mut self.shared.lock().idle);
        let mut result = Ok(());
        for sandbox in idle.into_values().flatten() {
            self.shared.lock().leave();
            let ended = sandbox.destroy(&self.shared.runtime);
            result = result.and(ended);
        }
        if let Some(mut shared) = Arc::into_inner(self.shared) {
            shared.cleaner.stop();
        }
        result
    }
}

/// The one used last that is done with its reset; if none is, the one that has been at it longest.
fn pick(idle: &mut Vec<Sandbox>) -> Option<Sandbox> {
    let done = idle.iter().rposition(Sandbox::is_reset_done);
    match (done, idle.is_empty()) {
        (_, true) => None,
        (Some(index), _) => Some(idle.remove(index)),
        (None, _) => Some(idle.remove(0)),
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_apart(&self, sandbox: Sandbox) {
        let runtime = self.runtime.clone();
        self.cleaner.clean(move || {
            // Directories that are still busy are removed with the tree, at the latest by the next start.
            let _ = sandbox.destroy(&runtime);
        });
        self.lock().leave();
        self.changed.notify_one();
    }
}

/// The right to use one sandbox. When it is dropped, the sandbox resets itself.
#[derive(Debug)]
pub struct Lease {
    pool: Pool,
    sandbox: Option<Sandbox>,
}

impl Lease {
    /// Runs an action and returns when all is quiet.
    pub fn run(&mut self, action: &Action<'_>) -> Outcome {
        match &mut self.sandbox {
            Some(sandbox) => sandbox.run(action),
            None => Outcome::lost("cannot run an action: the lease is over"),
        }
    }

    /// The sandbox.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    /// The sandbox, to run something in it.
    #[must_use]
    pub fn sandbox_mut(&mut self) -> Option<&mut Sandbox> {
        self.sandbox.as_mut()
    }

    /// The id outside that owns what the action writes.
    #[must_use]
    pub fn action_id(&self) -> u32 {
        self.sandbox.as_ref().map_or(0, Sandbox::action_id)
    }

    /// A handle that kills what runs here.
    #[must_use]
    pub fn killer(&self) -> Option<Killer> {
        self.sandbox.as_ref().map(Sandbox::killer)
    }

    /// Takes the sandbox out of the pool, for good.
    #[must_use]
    pub fn keep(mut self) -> Option<Sandbox> {
        let sandbox = self.sandbox.take();
        self.pool.shared.lock().leave();
        self.pool.shared.changed.notify_one();
        sandbox
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut sandbox) = self.sandbox.take() else { return };
        let shared = &self.pool.shared;
        if !sandbox.is_sound() || sandbox.begin_reset().is_err() {
            return shared.take_apart(sandbox);
        }
        let mut state = shared.lock();
        let idle = state.idle.entry(sandbox.template().spec.clone()).or_default();
        if idle.len() >= shared.options.idle_max {
            drop(state);
            return shared.take_apart(sandbox);
        }
        idle.push(sandbox);
        drop(state);
        shared.changed.notify_one();
    }
}
