//! What goes into the machine and what comes out of it.

use crate::worker::key::WorkerKey;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Names a worker process, in the order in which they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// Names a request, in the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A request that wants a worker.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its name; larger than those before.
    pub request: RequestId,
    /// The worker that it needs.
    pub key: WorkerKey,
    /// The files of that worker, to say which changed.
    pub tools: Arc<[(String, String)]>,
    /// Its kind.
    pub mnemonic: String,
    /// The build that it is of, where each has its own workers.
    pub build: Option<String>,
    /// Whether the worker takes several at a time.
    pub multiplex: bool,
    /// Whether the worker answers cancels.
    pub cancels: bool,
    /// How long it may take once it has a worker.
    pub timeout: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody wants something.
    Submit(Submission),
    /// Its caller is gone.
    Cancel(RequestId),
    /// Its program runs; it cannot be spoken with yet.
    Executed(WorkerId),
    /// A worker can be spoken with.
    Started(WorkerId),
    /// It could not be started.
    StartFailed(WorkerId, String),
    /// It was asked whether it takes cancels, and does not.
    KnowsNoCancel(WorkerId),
    /// It has answered; its view is still to be sealed and taken away.
    Answered(WorkerId, i32),
    /// The view of an answered request is gone.
    Released(WorkerId, i32),
    /// It did what a worker must not do, or its view could not be handled: it must go.
    Broken(WorkerId, String),
    /// No process of it is left; why, in words, counts if nobody has stopped it.
    Gone(WorkerId, String),
    /// What it uses.
    Memory(WorkerId, u64),
    /// An action of this build has come.
    Entered(String),
    /// It is over.
    Left(String),
    /// Time has passed.
    Tick,
    /// All workers go; those at work when that is done.
    Clear,
    /// The same, and nothing new is taken.
    Drain,
}

/// Why a worker is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Nobody wanted it for so long.
    Idle(Duration),
    /// Its files are not those of the action any more; a line each.
    ToolsChanged(Vec<String>),
    /// Workers use too much memory together.
    MemoryPressure {
        /// What it uses.
        bytes: u64,
        /// What all of them use.
        total_bytes: u64,
        /// What they may.
        bytes_max: u64,
    },
    /// The build that it was started for is over.
    BuildOver,
    /// Another kind of worker needs its place.
    MakeRoom,
    /// All are stopped.
    Cleared,
    /// It broke the protocol, or could not be handled.
    Broken(String),
    /// It did not answer in time.
    Hung,
    /// It has had as many requests as there are ids.
    WornOut,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Idle(time) => write!(f, "nobody wanted it for {} s", time.as_secs()),
            StopReason::ToolsChanged(lines) => {
                f.write_str("it can no longer be used, because its files have changed on disk:")?;
                lines.iter().try_for_each(|line| write!(f, "\n{line}"))
            }
            StopReason::MemoryPressure { bytes, total_bytes, bytes_max } => {
                let kib = |bytes: &u64| bytes >> 10;
                let (all, max, own) = (kib(total_bytes), kib(bytes_max), kib(bytes));
                write!(f, "workers use more memory than the limit ({all} KB > {max} KB), {own} KB of it here")
            }
            StopReason::BuildOver => f.write_str("its build is over"),
            StopReason::MakeRoom => f.write_str("another worker needs its place"),
            StopReason::Cleared => f.write_str("all workers are stopped"),
            StopReason::Broken(why) => f.write_str(why),
            StopReason::Hung => f.write_str("it did not answer in time"),
            StopReason::WornOut => f.write_str("it has no more request ids"),
        }
    }
}

/// How a request ended, each exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// Its answer is there.
    Answered,
    /// Nobody wants it.
    Canceled,
    /// It had this time.
    TimedOut(Duration),
    /// Its worker went down with it; for the last time, if it was retried.
    Crashed(WorkerId, String),
    /// No worker of its key can be started.
    StartFailed(String),
    /// None was free for so long.
    NoWorker(Duration),
    /// Too many wait.
    QueueFull(usize),
    /// The pool takes nothing any more.
    Draining,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a worker like this request wants it.
    Start(WorkerId, RequestId),
    /// The request has a worker.
    Assign {
        /// Which.
        request: RequestId,
        /// Whose.
        worker: WorkerId,
        /// As the worker knows it; 0 where it takes one at a time.
        wire_id: i32,
        /// Which of the worker's directories, below the number of slots.
        slot: u32,
    },
    /// Tell the worker that nobody wants this.
    SendCancel(WorkerId, i32),
    /// Let it not run.
    Freeze(WorkerId),
    /// Let it run.
    Thaw(WorkerId),
    /// End it, gently.
    Stop(WorkerId, StopReason),
    /// End it at once, with all that it started.
    Kill(WorkerId, StopReason),
    /// Tell the caller.
    End(RequestId, RequestEnd),
}
