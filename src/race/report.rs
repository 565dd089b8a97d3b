//! What happened in a race, and in all of them.

use super::step::{CacheAnswer, End, Outcome, Why};
use crate::commit::Side;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One branch. Times count from the beginning of the race.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BranchReport {
    /// Why it started when it did; `None`: it was not wanted.
    pub why: Option<Why>,
    /// When it was wanted. Between that and its start, a local branch waited for its place.
    pub wanted_at: Option<Duration>,
    /// When it started.
    pub started_at: Option<Duration>,
    /// When it ended; `None`: it never started, or the reaper waits for it.
    pub ended_at: Option<Duration>,
    /// How it ended.
    pub end: Option<End>,
    /// Processor time that it used, as far as it is known.
    pub cpu: Duration,
    /// When it was told to stop.
    pub aborted_at: Option<Duration>,
}

impl BranchReport {
    /// How long it ran until `at`, or until its end.
    fn ran(&self, at: Duration) -> Duration {
        self.started_at.map_or(Duration::ZERO, |from| self.ended_at.unwrap_or(at).saturating_sub(from))
    }
}

/// What the remote said of an execution. Times count from the beginning of the race.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Execution {
    /// When it was told to execute.
    pub permitted_at: Option<Duration>,
    /// When it said that it does.
    pub begun_at: Option<Duration>,
}

/// One race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The local branch.
    pub local: BranchReport,
    /// The remote branch.
    pub remote: BranchReport,
    /// What the remote cache said, and when.
    pub answer: Option<(CacheAnswer, Duration)>,
    /// The remote execution, if there was one.
    pub execution: Execution,
    /// When it returned.
    pub returned_at: Duration,
    /// When the outputs were published.
    pub published_at: Option<Duration>,
    /// With `debug_spawn_scheduler`: what happened, as Bazel says it.
    pub lines: Vec<String>,
}

impl Report {
    /// The side that published.
    #[must_use]
    pub fn winner(&self) -> Option<Side> {
        match self.outcome {
            Outcome::Won(side) => Some(side),
            _ => None,
        }
    }

    /// The report of a side.
    #[must_use]
    pub fn side(&self, side: Side) -> &BranchReport {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }

    /// By how much the winner was faster; `None` unless both came to a result. A loser that was stopped would have
    /// taken longer, nobody knows how long.
    #[must_use]
    pub fn margin(&self) -> Option<Duration> {
        let winner = self.winner()?;
        let loser = self.side(winner.other());
        if loser.aborted_at.is_some() || loser.end != Some(End::Ready) {
            return None;
        }
        Some(loser.ended_at?.saturating_sub(self.side(winner).ended_at?))
    }

    /// Time and processor time of branches whose results nobody has: what is known of them at the return.
    #[must_use]
    pub fn wasted(&self) -> (Duration, Duration) {
        let losers = [Side::Local, Side::Remote].into_iter().filter(|side| Some(*side) != self.useful());
        losers.map(|side| self.side(side)).fold((Duration::ZERO, Duration::ZERO), |(wall, cpu), branch| {
            (wall + branch.ran(self.returned_at), cpu + branch.cpu)
        })
    }

    /// From the claim to the end of the loser, if it has ended: how long a machine was busy with nothing.
    #[must_use]
    pub fn time_to_quiet(&self) -> Option<Duration> {
        let loser = self.side(self.winner()?.other());
        Some(loser.ended_at?.saturating_sub(loser.aborted_at?))
    }

    fn useful(&self) -> Option<Side> {
        match self.outcome {
            Outcome::Won(side) | Outcome::Failed(side) => Some(side),
            _ => None,
        }
    }
}

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Sums over all races, for status and metrics.
        #[derive(Debug, Default)]
        pub struct Totals { $($name: AtomicU64,)* }

        /// [`Totals`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct TotalsNow { $($(#[$doc])* pub $name: u64,)* }

        impl Totals {
            /// The sums as they are.
            #[must_use]
            pub fn now(&self) -> TotalsNow {
                TotalsNow { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

totals! {
    /// Races that returned.
    races,
    /// Those in which both branches started.
    raced,
    /// Published by the local branch.
    local_wins,
    /// Published by the remote branch.
    remote_wins,
    /// Remote wins that came from the cache.
    hits,
    /// Actions that failed.
    failed,
    /// Without a result, for reasons that are not the action's.
    no_result,
    /// Cancelled, or out of time.
    stopped,
    /// Claimed, and not all published.
    broken,
    /// Losers that their race did not wait for.
    reaped,
    /// Bugs of branches that had lost already.
    late_bugs,
    /// Time of branches whose results nobody has, in microseconds.
    wasted_wall_us,
    /// Processor time of those, in microseconds.
    wasted_cpu_us,
    /// Sum of margins, in microseconds.
    margin_us,
}

impl Totals {
    /// Adds a race.
    pub fn add(&self, report: &Report) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        count(&self.races);
        if report.local.started_at.is_some() && report.remote.started_at.is_some() {
            count(&self.raced);
        }
        match report.outcome {
            Outcome::Won(Side::Local) => count(&self.local_wins),
            Outcome::Won(Side::Remote) => {
                if matches!(report.answer, Some((CacheAnswer::Hit, _))) {
                    count(&self.hits);
                }
                count(&self.remote_wins)
            }
            Outcome::Failed(_) => count(&self.failed),
            Outcome::NoResult | Outcome::Bug(_) => count(&self.no_result),
            Outcome::Canceled | Outcome::Deadline => count(&self.stopped),
            Outcome::Broken(_) => count(&self.broken),
        };
        let (wall, cpu) = report.wasted();
        self.waste(wall, cpu);
        if let Some(margin) = report.margin() {
            self.margin_us.fetch_add(micros(margin), Ordering::Relaxed);
        }
    }

    /// Adds what a loser used after its race had returned.
    pub fn waste(&self, wall: Duration, cpu: Duration) {
        self.wasted_wall_us.fetch_add(micros(wall), Ordering::Relaxed);
        self.wasted_cpu_us.fetch_add(micros(cpu), Ordering::Relaxed);
    }

    /// A loser was left to the reaper.
    pub(super) fn count_reaped(&self) {
        self.reaped.fetch_add(1, Ordering::Relaxed);
    }

    /// A loser had a bug.
    pub(super) fn count_late_bug(&self) {
        self.late_bugs.fetch_add(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
