//! What is said to a race, and what it says.

use crate::commit::Side;
use crate::race::policy::Plan;
use std::time::Duration;

/// What holds for one race from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// When each side starts.
    pub plan: Plan,
    /// The local branch writes straight into the destination: a remote win waits until it is quiet.
    pub in_place: bool,
    /// Once it has started it holds the outputs, and cannot lose: remote is stopped then. Only of one in place.
    pub local_holds: bool,
    /// Whose failure fails the action.
    pub failure: FailureRule,
    /// A failed action's outputs are published as a successful one's are.
    pub publish_failures: bool,
    /// After a local win the remote execution goes on, and fills the remote cache.
    pub let_remote_finish: bool,
    /// A loser that has not ended may be left to the reaper.
    pub may_reap: bool,
    /// Signals of the local command that do not count as its failure.
    pub ignored_signals: SignalSet,
    /// The race is stopped at this time, counted from its beginning.
    pub deadline: Option<Duration>,
    /// How long a remote win waits for a local branch in place to be quiet.
    pub quiet_within: Duration,
}

/// Whose failure fails the action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureRule {
    /// The first one's: differences between local and remote must not go unnoticed.
    #[default]
    First,
    /// Nobody's, as long as the other side may succeed.
    Other,
}

/// Signals 1 to 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Adds a signal. False if there is none of that number.
    pub fn insert(&mut self, signal: i32) -> bool {
        let bit = bit_of(signal);
        self.0 |= bit;
        bit != 0
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(self, signal: i32) -> bool {
        self.0 & bit_of(signal) != 0
    }
}

fn bit_of(signal: i32) -> u64 {
    match signal {
        1..=64 => 1 << (signal - 1),
        _ => 0,
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The race begins.
    Begin,
    /// The time of [`State::wake_at`](super::State::wake_at) has come.
    Tick,
    /// The local branch was admitted.
    Admitted,
    /// The local branch will not be admitted: too many wait.
    Refused,
    /// The remote cache was asked.
    Answer(CacheAnswer),
    /// The remote says that it executes the action now.
    Executing,
    /// A branch has ended, with all that it started.
    Ended(Side, End),
    /// The claim is this side's.
    Claimed(Side),
    /// The claim is not this side's.
    Lost(Side),
    /// The race is over without a claim.
    Abandoned,
    /// A claim came before.
    NotAbandoned,
    /// All outputs of this side are published.
    Published(Side),
    /// They are not, or not all.
    Broken(Side),
    /// What a loser left in place is gone.
    Discarded(Side),
    /// The reaper has taken over.
    Reaped(Side),
    /// The reaper has no room.
    NotReaped(Side),
    /// Whoever asked does not want it any more.
    Cancel,
}

/// What the remote cache said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAnswer {
    /// It has a result, whose outputs are now fetched.
    Hit,
    /// It has none.
    Miss,
}

/// How a branch ended. The first three come with a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The action succeeded; its outputs are complete, verified, and ready to publish.
    Ready,
    /// The action failed.
    Failed,
    /// The command was killed by a signal that nobody here sent.
    Signal(i32),
    /// No fault of the action's: a sandbox that could not start, a peer that is gone, memory that ran out.
    Infra,
    /// A cache without execution has no result.
    Miss,
    /// It stopped because it was told to, or says so.
    Canceled,
    /// A bug of ours.
    Bug,
}

impl End {
    /// Whether the branch made something that is published, returned or discarded.
    #[must_use]
    pub fn has_product(self) -> bool {
        matches!(self, End::Ready | End::Failed | End::Signal(_))
    }
}

/// Why a branch started when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The plan said so.
    AtOnce,
    /// Its delay was over.
    DelayOver,
    /// The remote cache has no result.
    Miss,
    /// The remote cache has a result, which takes longer to fetch than was foreseen.
    SlowDownload,
    /// The remote cache does not answer.
    Silence,
    /// The other side could not do it.
    OtherCannot,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the remote branch.
    StartRemote(Why),
    /// The remote branch may execute what the cache did not have.
    ExecuteRemote(Why),
    /// Ask for the admission of the local branch; answer `Admitted` or `Refused`.
    AskLocal(Why),
    /// It is not wanted any more. An `Admitted` on its way is answered with another withdrawal.
    WithdrawLocal,
    /// Start the local branch.
    StartLocal,
    /// Tell a branch to stop; `Ended` follows.
    Abort(Side),
    /// It lost, and goes on all the same.
    LetRun(Side),
    /// Try to take the claim; answer `Claimed` or `Lost`.
    Claim(Side),
    /// Try to end the race without one; answer `Abandoned` or `NotAbandoned`.
    Abandon,
    /// Publish; answer `Published` or `Broken`.
    Publish(Side),
    /// Give up a claim that cannot be used.
    DropClaim(Side),
    /// Drop a loser's product. For a local branch in place: remove what it wrote; answer `Discarded`.
    Discard(Side),
    /// Hand a branch that has not ended to the reaper; answer `Reaped` or `NotReaped`.
    Reap(Side),
    /// The race is over.
    Return(Outcome),
}

/// How a race ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The outputs of this side are published.
    Won(Side),
    /// The action failed on this side.
    Failed(Side),
    /// Nobody could do it, for reasons that are not the action's.
    NoResult,
    /// It was cancelled.
    Canceled,
    /// Its time was over.
    Deadline,
    /// This side had the claim and could not publish everything.
    Broken(Side),
    /// A bug of ours, on this side.
    Bug(Side),
}

/// What is to be done, in this order.
pub type Effects = Vec<Effect>;
