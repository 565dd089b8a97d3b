//! Bounds on what waits and on what is remembered, each with its reason.

use std::time::Duration;

/// Bounds of a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Runs that one tenant may have waiting: beyond that its clients are told to come back, and others notice nothing.
    pub queued_per_tenant: usize,
    /// Operations of one tenant that are not over: each holds a few hundred bytes, a name and a channel.
    pub operations_per_tenant: usize,
    /// An operation that nobody waits for is canceled after this; clients reconnect within seconds.
    pub abandoned_after: Duration,
    /// An operation that is over can be asked for during this time.
    pub retained_for: Duration,
    /// How many that are over can be asked for: the oldest go first.
    pub retained: usize,
    /// Bytes of their results together.
    pub retained_bytes: u64,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        SchedulerLimits {
            // Bazel asks with --jobs up to some hundreds; a dozen such clients fit.
            queued_per_tenant: 10_000,
            operations_per_tenant: 20_000,
            abandoned_after: Duration::from_secs(60),
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
