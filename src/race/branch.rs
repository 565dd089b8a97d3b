//! What a race asks of its branches.
//!
//! ```text
//!   run ──► BranchEnd: ready, failed, … with a product       on a thread of its own, which it may block
//!    ▲ Cancel: lost, or not wanted; it ends as soon as it can
//! ```
//! A *product* is a branch's result as a value: complete, verified and ready to publish, so that nothing can fail
//! between the claim and the publication but the publication.
//!
//! Duties of a branch: `run` returns when all that it started has ended (its process is quiet, its stream closed); what
//! it shares with other actions (uploads, downloads, staging) it only lets go of, and never cancels. A local branch in
//! place that returns without a product has removed what it wrote.

use super::step::{CacheAnswer, End};
use crate::commit::Side;
use std::time::Duration;

pub use crate::exec::Cancel;

/// A branch's result.
pub trait Product: Send + 'static {
    /// It is not wanted. What takes long is left to somebody else, but for a local product in place: that is gone when
    /// this returns.
    fn discard(self, side: Side);
}

/// How a branch ended.
#[derive(Debug)]
pub enum BranchEnd<P> {
    /// The action succeeded.
    Ready(P),
    /// The action failed.
    Failed(P),
    /// The command was killed by a signal that nobody here sent.
    Signal(i32, P),
    /// No fault of the action's: what was tried, on what, and why it failed.
    Infra(String),
    /// A cache without execution has no result.
    Miss,
    /// It was stopped.
    Canceled,
}

impl<P> BranchEnd<P> {
    /// As the transitions see it, with its product and its explanation.
    #[must_use]
    pub fn split(self) -> (End, Option<P>, Option<String>) {
        match self {
            BranchEnd::Ready(product) => (End::Ready, Some(product), None),
            BranchEnd::Failed(product) => (End::Failed, Some(product), None),
            BranchEnd::Signal(signal, product) => (End::Signal(signal), Some(product), None),
            BranchEnd::Infra(why) => (End::Infra, None, Some(why)),
            BranchEnd::Miss => (End::Miss, None, None),
            BranchEnd::Canceled => (End::Canceled, None, None),
        }
    }
}

/// What a branch gave, and used.
#[derive(Debug)]
pub struct Ended<P> {
    /// How it ended.
    pub end: BranchEnd<P>,
    /// Processor time, here or as the remote reports it.
    pub cpu: Duration,
}

/// Runs the action on this machine.
pub trait LocalBranch<P>: Send {
    /// Runs it.
    fn run(self: Box<Self>, cancel: &Cancel) -> Ended<P>;
}

/// Gets the action's result from elsewhere.
pub trait RemoteBranch<P>: Send {
    /// Looks it up, tells `desk` the answer, and fetches or executes.
    fn run(self: Box<Self>, cancel: &Cancel, desk: &dyn Desk) -> Ended<P>;
}

/// Where a remote branch reports.
pub trait Desk {
    /// The cache has a result, which is about to be fetched; or has none. After a miss this blocks until the action may
    /// be executed. False: the branch is to end.
    #[must_use]
    fn answer(&self, answer: CacheAnswer) -> bool;

    /// The action has left the remote's queue, and is executed there. May be said again.
    fn executing(&self);
}
