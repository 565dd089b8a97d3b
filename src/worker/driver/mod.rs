//! Performs what the machine decides: workers in sandboxes, requests on their channels, views under their feet.
//!
//! ```text
//!   caller's thread:  submit ─► Assigned ─► view ─► send ─► Response ─► seal, take away ─► Released ─► hand off
//!                                   └──────── Lost (the worker is gone; it comes again) ◄──┘     or End: back at once
//!   worker's thread:  lease, host ─► Started ─► orders: take away what nobody waits for, stop, kill ─► quiet ─► Gone
//!   ipc thread:       bytes ─► responses ─► the machine, the caller      (never blocks); for Buck2's wire: `talk`
//!   timer:            ticks when the machine is due; looks at memory, and whether idle ones write unasked
//! ```
//! Invariants: the lock of the board is held for decisions and for what cannot block, never for a mount or a write to a
//! disk; a layer is removed only when its view is out of the worker, or the worker is quiet; every thread is joined by
//! [`Workers::stop`].

mod board;
mod ear;
mod process;
mod request;
mod seen;
mod start;
mod talk;
mod ticket;

pub use process::Used;
pub use request::{WorkerDone, WorkerEnd};

use super::ground::Ground;
use super::job::{Launch, Manner, NoWorker, Prepared, WorkerJob, prepare};
use super::limits::LOOK_EVERY;
use super::log;
use super::machine::{Counts, Event, PoolLimits, RequestId, Submission, WorkerId, WorkerState};
use crate::exec::executor::{Cancel, WorkerStart};
use crate::uring::Ipc;
use board::Board;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use ticket::Ticket;
use tokio::sync::watch;

/// How workers are kept.
#[derive(Clone, Debug)]
pub struct WorkersOptions {
    /// How many, and how long.
    pub limits: PoolLimits,
    /// Where their logs lie; ours alone.
    pub log_dir: PathBuf,
    /// How long a worker may take to end after SIGTERM.
    pub stop_grace: Duration,
    /// How long one of Buck2's protocol may take to serve its socket.
    pub connect_within: Duration,
    /// How actions become requests.
    pub manner: Manner,
}

/// The persistent workers of a daemon. Clones are the same ones.
#[derive(Debug)]
pub struct Workers {
    inner: Arc<Inner>,
    timer: Option<JoinHandle<()>>,
    _source: crate::observe::Source,
}

#[derive(Debug)]
struct Inner {
    ground: Ground,
    ipc: Ipc,
    options: WorkersOptions,
    board: Mutex<Board>,
    /// The machine may be due sooner than the timer knows.
    sooner: Condvar,
    /// A worker is gone.
    fewer: Condvar,
    begun: Instant,
    requests: AtomicU64,
    /// Set when all is stopped: nobody waits for a worker's socket any more.
    closing: watch::Sender<bool>,
}

impl Workers {
    /// Starts with none. Removes the logs of an earlier start.
    ///
    /// # Errors
    /// When the directory of logs cannot be used, or no thread be started.
    pub fn start(ground: Ground, ipc: Ipc, options: WorkersOptions) -> std::io::Result<Self> {
        std::fs::create_dir_all(&options.log_dir)?;
        log::sweep(&options.log_dir)?;
        let inner = Arc::new(Inner {
            ground,
            ipc,
            board: Mutex::new(Board::new(options.limits.clone())),
            options,
            sooner: Condvar::new(),
            fewer: Condvar::new(),
            begun: Instant::now(),
            requests: AtomicU64::new(1),
            closing: watch::Sender::new(false),
        });
        let ticking = inner.clone();
        let timer = std::thread::Builder::new()
            .name("fulgurite-workers".to_owned())
            .spawn(move || ticking.keep_time())?;
        let source = seen::source(&inner);
        Ok(Workers { inner, timer: Some(timer), _source: source })
    }

    /// Has a worker do it, and returns when there is a result, or none will come. Blocks; `cancel` ends it at once.
    #[must_use]
    pub fn execute(&self, work: &WorkerJob<'_>, cancel: &Cancel) -> WorkerEnd {
        match prepare(work, &self.inner.ground.cas, &self.inner.options.manner) {
            Ok(prepared) => self.inner.execute(work, prepared, cancel),
            Err(why) => WorkerEnd::NoWorker(why),
        }
    }

    /// Says that an action of this build is here, as long as what it gives lives: whether a worker is asked for or not.
    #[must_use]
    pub fn enter(&self, build: &str) -> Option<Stay> {
        self.inner.options.manner.by_build.then(|| {
            self.inner.event(Event::Entered(build.to_owned()));
            Stay { inner: self.inner.clone(), build: build.to_owned() }
        })
    }

    /// All workers, oldest first. Asks neither them nor the kernel.
    #[must_use]
    pub fn states(&self) -> Vec<WorkerState> {
        let board = self.inner.lock();
        let mut states = board.machine.states(self.inner.now());
        for state in &mut states {
            if let Some(process) = board.processes.get(&state.id) {
                state.served = process.served.load(Ordering::Relaxed);
                state.cpu = process.cpu_seen();
            }
        }
        states
    }

    /// What happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.lock().machine.counts()
    }

    /// How many workers live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.inner.lock().machine.live()
    }

    /// Whether a worker of this mnemonic lives that has answered before: it needs no start, and is likely warm.
    #[must_use]
    pub fn is_warm(&self, mnemonic: &str) -> bool {
        self.inner.lock().is_warm(mnemonic)
    }

    /// How long workers took from their start to their first answer: those that came to it since the last call, and
    /// those that are on their way.
    #[must_use]
    pub fn take_starts(&self) -> Vec<WorkerStart> {
        self.inner.lock().take_starts()
    }

    /// Memory that they use together, as it was seen last.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.inner.lock().machine.memory_bytes()
    }

    /// Stops all workers, those at work when they are done; new ones are started for new requests. Waits as long as
    /// `patience` for the ends of those that live now, and says how many there were and how many are left.
    pub fn clear(&self, patience: Duration) -> (usize, usize) {
        let mut board = self.inner.lock();
        let before: BTreeSet<WorkerId> = board.machine.ids().collect();
        self.inner.event_on(&mut board, Event::Clear);
        let left = |board: &mut Board| board.machine.ids().filter(|id| before.contains(id)).count();
        let waited = self.inner.fewer.wait_timeout_while(board, patience, |board| left(board) > 0);
        let (mut board, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (before.len(), left(&mut board))
    }

    /// Stops all workers and takes nothing more; returns when all are quiet. Requests that run may end, in their time.
    pub fn stop(&mut self) {
        self.inner.event(Event::Drain);
        self.inner.closing.send_replace(true);
        loop {
            let next = self.inner.lock().threads.pop_first();
            match next {
                // A thread that panicked has nothing more to say.
                Some((_, thread)) => drop(thread.join()),
                None => break,
            }
        }
        // Not by the end of `inner`: the ipc thread may hold it for a moment longer than the process lives.
        self.inner.ground.flush();
        self.inner.lock().ended = true;
        self.inner.sooner.notify_all();
        if let Some(timer) = self.timer.take() {
            let _ = timer.join();
        }
    }
}

/// See [`Workers::enter`].
#[derive(Debug)]
pub struct Stay {
    inner: Arc<Inner>,
    build: String,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.inner.event(Event::Left(std::mem::take(&mut self.build)));
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes in what happened, and does what follows.
    fn event(self: &Arc<Self>, event: Event) {
        let mut board = self.lock();
        self.event_on(&mut board, event);
    }

    fn event_on(self: &Arc<Self>, board: &mut Board, event: Event) {
        let now = self.now();
        let gone = match &event {
            Event::Gone(id, _) | Event::StartFailed(id, _) => Some(*id),
            _ => None,
        };
        let effects = board.machine.handle(event, now);
        self.perform(board, effects, gone);
        if gone.is_some() {
            self.fewer.notify_all();
        }
        let due = board.machine.due();
        if due.is_some_and(|due| board.planned.is_none_or(|planned| due < planned)) {
            self.sooner.notify_all();
        }
    }

    fn submit(self: &Arc<Self>, launch: &Arc<Launch>, timeout: Duration) -> (RequestId, Arc<Ticket>) {
        let request = RequestId(self.requests.fetch_add(1, Ordering::Relaxed));
        let ticket = Arc::new(Ticket::new(launch.clone()));
        let mut board = self.lock();
        board.tickets.insert(request, ticket.clone());
        let submission = Submission {
            request,
            key: launch.key,
            tools: launch.tools.clone(),
            mnemonic: launch.mnemonic.clone(),
            build: launch.build.clone(),
            multiplex: launch.multiplex,
            cancels: launch.cancels,
            timeout,
        };
        self.event_on(&mut board, Event::Submit(submission));
        (request, ticket)
    }

    /// The timer's thread.
    fn keep_time(self: &Arc<Self>) {
        let mut look_at = LOOK_EVERY;
        let mut board = self.lock();
        while !board.ended {
            let now = self.now();
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                drop(board);
                self.look_at_all();
                board = self.lock();
                continue;
            }
            if board.machine.due().is_some_and(|due| due <= now) {
                self.event_on(&mut board, Event::Tick);
                continue;
            }
            let until = board.machine.due().map_or(look_at, |due| due.min(look_at));
            board.planned = Some(until);
            let wait = until.saturating_sub(now);
            board = self.sooner.wait_timeout(board, wait).unwrap_or_else(PoisonError::into_inner).0;
            board.planned = None;
        }
    }

    /// What each uses; and whether those that nobody has asked anything have begun to answer.
    fn look_at_all(self: &Arc<Self>) {
        let (ready, processes) = {
            let board = self.lock();
            // Under the lock: nobody asks an idle one meanwhile.
            for process in board.machine.idle().iter().filter_map(|id| board.processes.get(id)) {
                if let Err(why) = process.is_silent() {
                    process.order(process::Order::Fail(why));
                }
            }
            (board.machine.ready(), board.processes.clone())
        };
        for id in ready {
            let Some(process) = processes.get(&id) else { continue };
            process.look_at_cpu();
            if let Some(bytes) = process.memory_bytes() {
                self.event(Event::Memory(id, bytes));
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.inner.lock().ended = true;
        self.inner.sooner.notify_all();
    }
}
