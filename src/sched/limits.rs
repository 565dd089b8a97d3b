//! Bounds on what waits and on what is remembered, each with its reason.

use super::types::Leaving;
use std::time::Duration;

/// Bounds of a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Runs that one tenant may have waiting: beyond that its clients are told to come back, and others notice nothing.
    pub queued_per_tenant: usize,
    /// Operations of one tenant that are not over: each holds a few hundred bytes, a name and a channel.
    pub operations_per_tenant: usize,
    /// An operation whose last watcher's connection fell silent is canceled after this: networks recover, and clients
    /// wait ever longer before they try again.
    pub lost_after: Duration,
    /// One whose last watcher ended its stream or closed its connection is canceled after this. Bazel does no more than
    /// that on Ctrl-C; clients of a proxy that was restarted are back within seconds.
    pub left_after: Duration,
    /// An operation that is over can be asked for during this time.
    pub retained_for: Duration,
    /// How many that are over can be asked for: the oldest go first.
    pub retained: usize,
    /// Bytes of their results together.
    pub retained_bytes: u64,
}

impl SchedulerLimits {
    /// How long an operation is kept for somebody who left.
    pub(super) fn patience(&self, how: Leaving) -> Duration {
        match how {
            Leaving::Left => self.left_after,
            Leaving::Lost => self.lost_after,
        }
    }
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        SchedulerLimits {
            // Bazel asks with --jobs up to some hundreds; a dozen such clients fit.
            queued_per_tenant: 10_000,
            operations_per_tenant: 20_000,
            lost_after: Duration::from_secs(60),
            left_after: Duration::from_secs(10),
            retained_for: Duration::from_secs(5 * 60),
            retained: 4096,
            retained_bytes: 64 << 20,
        }
    }
}

/// Invocations whose use is remembered while they have nothing here: some bytes each, and an invocation that is
/// forgotten only loses what it owed.
pub(super) const IDLE_SHARES_MAX: usize = 1024;

/// What a run is charged at its start, in microseconds, until it is known what its invocation's runs cost.
pub(super) const FIRST_CHARGE_MICROS: u64 = 50_000;

/// What takes at most so many microseconds may run beside those that have slots, if it is lighter by far than each of
/// them: for no longer than a person notices.
pub(super) const LIGHT_MICROS_MAX: u64 = 100_000;
/// Lighter by far is what has half of the work, or a quarter of the time: a core that it shares with a heavy one loses
/// half of its time at the most. On a full machine everything takes longer than it should, and what is short by more
/// than what is long, so that times tell less than CPU times; and what sleeps has no CPU time.
pub(super) const LESS_WORK_TIMES: u64 = 2;
pub(super) const SHORTER_TIMES: u64 = 4;
