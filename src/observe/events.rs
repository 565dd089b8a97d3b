//! What happens, as it happens, for those who watch: a bounded ring that all watchers share.
//!
//! Invariants: whoever tells never waits; a watcher that is too slow is told how many events it missed and goes on with
//! the oldest that are still there; while nobody watches, an event costs a load.

use super::clock::now_us;
use super::limits::EVENTS_MAX;
use super::metrics;
use super::words::{Outcome, RaceEnd, Resource, StartWhy, Strategy, WorkerGone};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, in microseconds since 1970.
    pub time_us: u64,
    /// To whose action; `None`: to the daemon as a whole.
    pub tenant: Option<String>,
    /// What.
    pub what: What,
}

/// The name of an action in events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionName {
    /// The operation's name; empty if it has none.
    pub operation: String,
    /// The action's digest.
    pub digest: String,
    /// Its kind.
    pub mnemonic: String,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionEnd {
    /// How.
    pub outcome: Outcome,
    /// Who made the result.
    pub strategy: Strategy,
    /// Of the command.
    pub exit_code: i32,
    /// From the turn to the answer.
    pub wall_us: u64,
    /// Of the command and all that it started, in user mode.
    pub cpu_user_us: u64,
    /// The same, in the kernel.
    pub cpu_system_us: u64,
    /// The most memory that it used; 0: not known.
    pub memory_peak_bytes: u64,
    /// The machine.
    pub worker: String,
    /// What there is to say.
    pub message: String,
}

/// How a race ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaceTold {
    /// How.
    pub end: RaceEnd,
    /// By a result of the cluster's cache.
    pub remote_hit: bool,
    /// Why the local branch started, and when; `None`: it did not.
    pub local: Option<(StartWhy, Duration)>,
    /// The same of the remote branch.
    pub remote: Option<(StartWhy, Duration)>,
    /// By how much the winner was faster, if both came to a result.
    pub margin: Option<Duration>,
    /// Time of the loser.
    pub wasted_wall: Duration,
    /// Its processor time.
    pub wasted_cpu: Duration,
}

/// A persistent worker at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerTold {
    /// Its number since the start.
    pub number: u64,
    /// Its kind.
    pub mnemonic: String,
    /// The beginning of its key.
    pub key: String,
    /// Requests that it was sent.
    pub requests: u64,
    /// Its memory, as it was seen last.
    pub memory_kib: u64,
    /// Its processor time.
    pub cpu_ms: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// An action waits for a slot.
    Queued(ActionName),
    /// An action's command is about to start.
    Started(ActionName),
    /// An action is over.
    Ended(ActionName, Box<ActionEnd>),
    /// An operation is over, and its action was not waited for.
    Left(ActionName, String),
    /// A race is decided.
    Raced(ActionName, Box<RaceTold>),
    /// A worker can be spoken with.
    WorkerStarted(WorkerTold),
    /// A worker as it is now.
    Worker(WorkerTold),
    /// A worker is there no more: why, and in words.
    WorkerEnded(WorkerTold, WorkerGone, String),
    /// Tasks wait for something: thousandths of the last 10 s.
    Pressure(Resource, u64),
    /// The store has thrown away, or taken out, so many blobs since the last time.
    Store {
        /// For lack of room.
        evicted: u64,
        /// Bytes of those.
        bytes_evicted: u64,
        /// Since they were bad.
        quarantined: u64,
        /// Operations that failed.
        errors: u64,
    },
    /// The cluster is taken to be gone, or is there again.
    Cluster {
        /// Which of the two.
        gone: bool,
    },
}

static RING: LazyLock<broadcast::Sender<Arc<Event>>> = LazyLock::new(|| broadcast::Sender::new(EVENTS_MAX));

/// How many watch. The ring knows as well, behind a lock.
static WATCHERS: AtomicUsize = AtomicUsize::new(0);

/// Whether anybody watches.
#[must_use]
pub fn is_watched() -> bool {
    WATCHERS.load(Ordering::Relaxed) > 0
}

/// Tells what happened to an action of a tenant, or to the daemon.
pub fn tell(tenant: Option<&str>, what: impl FnOnce() -> What) {
    if is_watched() {
        let event = Event { time_us: now_us(), tenant: tenant.map(str::to_owned), what: what() };
        // The last watcher may just have left.
        let _ = RING.send(Arc::new(event));
    }
}

/// What a watcher gets.
#[derive(Clone, Debug)]
pub enum Seen {
    /// This happened.
    Event(Arc<Event>),
    /// So many events came and went before this watcher asked.
    Missed(u64),
}

/// Somebody who watches, from now on.
#[derive(Debug)]
pub struct Watcher(broadcast::Receiver<Arc<Event>>);

/// Watches what happens from now on.
#[must_use]
pub fn watch() -> Watcher {
    let watcher = Watcher(RING.subscribe());
    WATCHERS.fetch_add(1, Ordering::Relaxed);
    watcher
}

impl Drop for Watcher {
    fn drop(&mut self) {
        WATCHERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watcher {
    /// The next event. Waits for it.
    pub async fn next(&mut self) -> Seen {
        loop {
            match self.0.recv().await {
                Ok(event) => return Seen::Event(event),
                Err(RecvError::Lagged(count)) => {
                    metrics().events_missed.add(count);
                    return Seen::Missed(count);
                }
                // The ring is as old as the program.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
