//! Files taken by several threads where that pays.
//!
//! ```text
//!   walk ──small, or nobody is free──> taken at once, by the walking thread
//!     └──else──> queue (bounded) ──> hashing threads, started one by one as files wait
//! ```
//! Invariants: the threads of all handoffs together are bounded, and every one is joined before the call returns; the
//! digests are the same whoever took which file; of several errors that of the first file is told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::HandoffError;
use super::file::{Job, Taker};
use crate::action::{Digest, Handoff};
use crate::output::limits::{FILE_COST_BYTES, HASHED_ALONE_BYTES, HASHING_QUEUE, HASHING_THREADS_MAX};

/// Hashing threads of this process that live now.
static HELPING: AtomicUsize = AtomicUsize::new(0);

/// What was taken by one thread, or by all.
#[derive(Default)]
pub(super) struct Taken {
    pub digests: Vec<(usize, Digest)>,
    pub handoff: Handoff,
    error: Option<(usize, HandoffError)>,
}

impl Taken {
    fn take(&mut self, taker: &Taker<'_>, job: &Job, stop: &AtomicBool) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match taker.take(job, &mut self.handoff) {
            Ok(digest) => self.digests.push((job.index, digest)),
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                self.error = Some((job.index, error));
            }
        }
    }

    fn merge(&mut self, other: Taken) {
        self.digests.extend(other.digests);
        self.handoff.renamed += other.handoff.renamed;
        self.handoff.known += other.handoff.known;
        self.handoff.copied += other.handoff.copied;
        self.handoff.bytes_copied += other.handoff.bytes_copied;
        self.error = match (self.error.take(), other.error) {
            (Some(ours), Some(theirs)) if theirs.0 < ours.0 => Some(theirs),
            (ours, theirs) => ours.or(theirs),
        };
    }
}

/// What all threads of one handoff share.
pub(super) struct Shared<'a> {
    taker: Taker<'a>,
    queue: Mutex<Receiver<Job>>,
    stop: AtomicBool,
    /// Jobs sent and not finished.
    waiting: AtomicUsize,
}

/// Where the walk puts files.
pub(super) struct Takers<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env>,
    sender: Option<SyncSender<Job>>,
    threads: Vec<ScopedJoinHandle<'scope, Taken>>,
    own: Taken,
    spent_bytes: u64,
}

impl<'a> Shared<'a> {
    /// With the end of the queue that the walk sends to.
    pub fn new(taker: Taker<'a>) -> (Self, SyncSender<Job>) {
        let (sender, receiver) = sync_channel(HASHING_QUEUE);
        let (stop, waiting) = (AtomicBool::new(false), AtomicUsize::new(0));
        (Shared { taker, queue: Mutex::new(receiver), stop, waiting }, sender)
    }

    /// Takes what is queued until the walk is over.
    fn help(&self) -> Taken {
        let mut taken = Taken::default();
        loop {
            let job = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return taken };
            taken.take(&self.taker, &job, &self.stop);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<'scope, 'env> Takers<'scope, 'env> {
    pub fn new(
        scope: &'scope Scope<'scope, 'env>,
        shared: &'env Shared<'env>,
        sender: SyncSender<Job>,
    ) -> Self {
        let own = Taken::default();
        Takers { scope, shared, sender: Some(sender), threads: Vec::new(), own, spent_bytes: 0 }
    }

    /// True once a file could not be taken: there is no use in walking on.
    pub fn failed(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Takes a file, now or soon.
    pub fn put(&mut self, job: Job) {
        let cost = job.stat.st_size.unsigned_abs().saturating_add(FILE_COST_BYTES);
        self.spent_bytes = self.spent_bytes.saturating_add(cost);
        let mut here = Some(job);
        if self.spent_bytes > HASHED_ALONE_BYTES
            && self.has_help()
            && let (Some(sender), Some(job)) = (&self.sender, here.take())
        {
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = sender.try_send(job) {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                here = Some(job);
            }
        }
        if let Some(job) = here {
            self.own.take(&self.shared.taker, &job, &self.shared.stop);
        }
    }

    /// Waits until every file is taken.
    pub fn finish(mut self) -> Result<Taken, HandoffError> {
        self.sender = None;
        if !self.threads.is_empty() {
            self.own.merge(self.shared.help());
        }
        for thread in self.threads {
            // A thread that panicked has ended the process, or ends the scope.
            if let Ok(taken) = thread.join() {
                self.own.merge(taken);
            }
        }
        match self.own.error.take() {
            Some((_, error)) => Err(error),
            None => Ok(self.own),
        }
    }

    /// True if a thread will take what is queued; starts another one where files wait for those that there are.
    fn has_help(&mut self) -> bool {
        let busy = self.shared.waiting.load(Ordering::Relaxed) >= self.threads.len();
        if busy && let Some(seat) = Seat::free() {
            let shared = self.shared;
            let help = move || {
                let _seat = seat;
                shared.help()
            };
            // Without another thread the work is done all the same.
            let started = Builder::new().name("hash".to_owned()).spawn_scoped(self.scope, help);
            self.threads.extend(started);
        }
        !self.threads.is_empty()
    }
}

/// The right to be a hashing thread.
struct Seat;

impl Seat {
    fn free() -> Option<Seat> {
        static SEATS: OnceLock<usize> = OnceLock::new();
        let seats = *SEATS.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            // The caller's own thread hashes too.
            (cores - 1).min(HASHING_THREADS_MAX)
        });
        let more = |count: usize| (count < seats).then_some(count + 1);
        HELPING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        HELPING.fetch_sub(1, Ordering::Relaxed);
    }
}
