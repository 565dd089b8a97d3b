//! The circuit breaker: an outage is noticed once, not once per action.
//!
//! ```text
//!   Closed ── too many failures in the window, or a row of them ──► Open(until)
//!     ▲                                                               │ its time is over: one call may try
//!     └────────── it succeeded ──────────── HalfOpen ◄────────────────┘
//!                                              └── it failed: Open again, for twice as long
//! ```
//! Pure: events and a clock in, answers out. Names are those of Bazel's flags
//! (`--experimental_remote_failure_rate_threshold` and its companions).
//!
//! Invariants: while it is open nobody waits for the remote; while it is half open exactly one call is on its way.
//! Limits: only failures of the infrastructure count; a failed action or a miss is a success of the remote's.

use std::collections::VecDeque;
use std::time::Duration;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerOptions {
    /// Failed calls of the window, in percent, at which it opens.
    pub failure_rate_percent: u32,
    /// The window.
    pub failure_window: Duration,
    /// Calls in the window before the rate counts.
    pub min_calls: usize,
    /// Failures in a row that open it without any rate.
    pub failures_in_a_row: u32,
    /// How long it stays open the first time; doubled for each failed trial.
    pub recovery_delay: Duration,
    /// How long at most.
    pub recovery_delay_max: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        BreakerOptions {
            failure_rate_percent: 10,
            failure_window: Duration::from_secs(60),
            min_calls: 100,
            failures_in_a_row: 3,
            recovery_delay: Duration::from_secs(1),
            recovery_delay_max: Duration::from_secs(60),
        }
    }
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go,
    /// It may, and what comes of it decides for all others.
    Trial,
    /// It may not: the remote is taken to be gone for so long.
    Refused {
        /// When a trial is allowed.
        retry_in: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Duration, delay: Duration },
    HalfOpen { delay: Duration },
}

/// See the module's documentation. Times count from any fixed moment.
#[derive(Clone, Debug)]
pub struct Breaker {
    options: BreakerOptions,
    state: State,
    /// When calls ended, and whether they failed.
    calls: VecDeque<(Duration, bool)>,
    failures: usize,
    in_a_row: u32,
}

/// Calls that are remembered.
const CALLS_MAX: usize = 10_000;

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(options: BreakerOptions) -> Self {
        Breaker { options, state: State::Closed, calls: VecDeque::new(), failures: 0, in_a_row: 0 }
    }

    /// Whether nobody is refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether a trial is on its way.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.state, State::HalfOpen { .. })
    }

    /// Whether so many failed in a row that nobody needs to wait for an answer any more.
    pub(super) fn is_row(&self) -> bool {
        self.in_a_row >= self.options.failures_in_a_row
    }

    /// When a trial will be allowed.
    pub(super) fn retry_in(&self, now: Duration) -> Duration {
        match self.state {
            State::Closed => Duration::ZERO,
            State::Open { until, .. } => until.saturating_sub(now),
            State::HalfOpen { delay } => delay,
        }
    }

    /// Whether the next call would be the one that finds out.
    #[must_use]
    pub fn is_trial_due(&self, now: Duration) -> bool {
        matches!(self.state, State::Open { until, .. } if now >= until)
    }

    /// A call wants to be made.
    pub fn admit(&mut self, now: Duration) -> Admission {
        match self.state {
            State::Closed => Admission::Go,
            State::Open { until, delay } if now >= until => {
                self.state = State::HalfOpen { delay };
                Admission::Trial
            }
            State::Open { until, .. } => Admission::Refused { retry_in: until - now },
            State::HalfOpen { delay } => Admission::Refused { retry_in: delay },
        }
    }

    /// A call ended well: the remote answered. True if that closed it.
    pub fn succeeded(&mut self, now: Duration) -> bool {
        self.in_a_row = 0;
        match self.state {
            State::HalfOpen { .. } => {
                *self = Breaker::new(self.options);
                true
            }
            // A call of before: it says nothing of now.
            State::Open { .. } => false,
            State::Closed => {
                self.note(now, false);
                false
            }
        }
    }

    /// Nobody answers where the remote should be: as many failures in a row as it takes. True if that opened it.
    pub fn vanished(&mut self, now: Duration) -> bool {
        self.in_a_row = self.in_a_row.max(self.options.failures_in_a_row.saturating_sub(1));
        self.failed(now)
    }

    /// A call failed for a reason that is the remote's. True if that opened it.
    pub fn failed(&mut self, now: Duration) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match self.state {
            State::Open { .. } => false,
            State::HalfOpen { delay } => {
                let delay = (delay * 2).min(self.options.recovery_delay_max);
                self.state = State::Open { until: now + delay, delay };
                true
            }
            State::Closed => {
                self.note(now, true);
                let total = self.calls.len();
                let rate = self.failures * 100 >= total * self.options.failure_rate_percent as usize;
                let by_rate = total >= self.options.min_calls && rate;
                if by_rate || self.in_a_row >= self.options.failures_in_a_row {
                    let delay = self.options.recovery_delay;
                    self.state = State::Open { until: now + delay, delay };
                    self.calls.clear();
                    self.failures = 0;
                }
                !self.is_closed()
            }
        }
    }

    /// A trial ended without an answer of the remote's, since its caller gave it up: another may try at once.
    pub fn abandoned(&mut self, now: Duration) {
        if let State::HalfOpen { delay } = self.state {
            self.state = State::Open { until: now, delay };
        }
    }

    fn note(&mut self, now: Duration, failed: bool) {
        self.calls.push_back((now, failed));
        self.failures += usize::from(failed);
        let from = now.saturating_sub(self.options.failure_window);
        while self.calls.len() > CALLS_MAX || self.calls.front().is_some_and(|(at, _)| *at < from) {
            if let Some((_, failed)) = self.calls.pop_front() {
                self.failures -= usize::from(failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_row_of_failures_opens_it_and_one_trial_decides() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        assert_eq!(breaker.admit(SECOND), Admission::Go);
        assert!(!breaker.failed(SECOND) && !breaker.failed(SECOND) && breaker.failed(SECOND));
        assert_eq!(breaker.admit(SECOND), Admission::Refused { retry_in: SECOND });
        assert!(!breaker.failed(SECOND), "a call of before its opening");
        assert!(!breaker.succeeded(SECOND), "a call of before its opening");
        assert_eq!(breaker.admit(2 * SECOND), Admission::Trial);
        assert!(matches!(breaker.admit(2 * SECOND), Admission::Refused { .. }), "one at a time");
        assert!(breaker.failed(2 * SECOND));
        assert_eq!(breaker.admit(3 * SECOND), Admission::Refused { retry_in: SECOND }, "twice as long");
        assert_eq!(breaker.admit(4 * SECOND), Admission::Trial);
        breaker.abandoned(4 * SECOND);
        assert_eq!(breaker.admit(4 * SECOND), Admission::Trial);
        assert!(breaker.succeeded(4 * SECOND) && breaker.is_closed());
        assert_eq!(breaker.admit(4 * SECOND), Admission::Go);
    }

    #[test]
    fn a_rate_opens_it_once_there_are_enough_calls() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        for call in 0..99u32 {
            let at = SECOND * call / 10;
            let opened = if call % 9 == 0 { breaker.failed(at) } else { breaker.succeeded(at) };
            assert!(!opened, "{call}");
        }
        assert!(breaker.failed(10 * SECOND));
    }

    #[test]
    fn old_calls_are_forgotten() {
        let mut breaker = Breaker::new(BreakerOptions { min_calls: 4, ..BreakerOptions::default() });
        for _ in 0..2 {
            breaker.failed(SECOND);
            breaker.succeeded(SECOND);
        }
        // Two of four would be enough, were they not so long ago.
        let later = 100 * SECOND;
        for _ in 0..40 {
            breaker.succeeded(later);
        }
        assert!(!breaker.failed(later));
    }

    #[test]
    fn it_never_stays_open_for_longer_than_allowed() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        let mut now = SECOND;
        (0..3).for_each(|_| {
            breaker.failed(now);
        });
        for _ in 0..20 {
            let Admission::Refused { retry_in } = breaker.admit(now) else { panic!("it is closed") };
            assert!(retry_in <= 60 * SECOND);
            now += retry_in;
            assert_eq!(breaker.admit(now), Admission::Trial);
            breaker.failed(now);
        }
    }
}
