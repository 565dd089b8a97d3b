//! What the scheduler is asked, and what it answers.

use crate::action::Digest;
use std::time::Duration;

/// Names an operation. Drawn at random by whoever submits it: it is what clients hold, and nobody shall guess it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u128);

/// Names a run, in the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How long it had its slot, or the CPU time of its command if that is more: what it is charged.
    pub held: Duration,
    /// CPU time of everything that was done for it: on a full machine that is known far better than the time it takes.
    pub work: Duration,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its name.
    pub operation: OperationId,
    /// Whose it is.
    pub tenant: String,
    /// The build that it is a part of, for fairness. May be empty.
    pub invocation: String,
    /// Lower is sooner.
    pub priority: i32,
    /// The action's name; `None`: it is neither merged with others nor others with it.
    pub key: Option<Digest>,
    /// The result must not have been visible before.
    pub fresh: bool,
}

/// A request that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What is done for it.
    pub run: RunId,
    /// Whether the run was there already.
    pub joined: bool,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too much of this tenant waits.
    #[error("the queue is full: {waiting} actions of this instance wait")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// Too many operations of this tenant.
    #[error("{operations} operations of this instance are under way, which is the most there may be")]
    TooManyOperations {
        /// How many there are.
        operations: usize,
    },
    /// The daemon is about to end.
    #[error("the server is shutting down")]
    Draining,
}

/// How an operation ends without its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody canceled it.
    Canceled,
    /// Nobody waited for it.
    Abandoned,
    /// It had not started when the daemon was told to end.
    Drained,
}

/// How somebody stops waiting for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It ended its stream, or closed its connection: were it to come back, the way is open.
    Left,
    /// Its connection fell silent, and it cannot come back before the network recovers.
    Lost,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A slot is free for it: start it.
    Start {
        /// Which.
        run: RunId,
        /// Whether a result that is in the cache by now will do.
        may_use_cache: bool,
    },
    /// Kill it; it will be reported as finished.
    Kill(RunId),
    /// It never started and never will.
    Drop(RunId),
    /// Tell whoever waits for it that it is over.
    End(OperationId, Ending),
    /// It cannot be asked for any more.
    Forget(OperationId),
}
