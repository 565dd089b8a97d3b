//! When a call is tried again: backoff with full jitter, within a budget that all calls share.
//!
//! Pure: what failed, a random number and the budget in, a pause or the end out. The budget refills with successes, so
//! that a remote that fails now and then is tried again and one that fails always is not flooded (gRFC A6).

use std::time::Duration;
use tonic::Code;

/// How often, and after what pauses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryOptions {
    /// Tries in all.
    pub tries_max: u32,
    /// The longest first pause.
    pub first_pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        RetryOptions {
            tries_max: 5,
            first_pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
        }
    }
}

/// What all calls may spend on being tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    tokens: f32,
}

const TOKENS_MAX: f32 = 100.0;
const REFILL: f32 = 0.1;

impl Default for Budget {
    fn default() -> Self {
        Budget { tokens: TOKENS_MAX }
    }
}

impl Budget {
    /// A call succeeded.
    pub fn refill(&mut self) {
        self.tokens = (self.tokens + REFILL).min(TOKENS_MAX);
    }

    fn take(&mut self) -> bool {
        // Half of it is kept, as gRFC A6 has it: below that nothing is tried again.
        let enough = self.tokens > TOKENS_MAX / 2.0;
        self.tokens = (self.tokens - 1.0).max(0.0);
        enough
    }
}

/// Whether another try can help.
#[must_use]
pub fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::Internal | Code::Unknown
    )
}

impl RetryOptions {
    /// The pause before try number `next` (the second is 2); `None`: no more. `random` is within 0 and 1; `asked` is
    /// what the server wants.
    pub fn pause(
        &self,
        next: u32,
        code: Code,
        asked: Option<Duration>,
        random: f64,
        budget: &mut Budget,
    ) -> Option<Duration> {
        // Who says when to come again wants that we do, whatever the code.
        let is_welcome = is_transient(code) || asked.is_some() && code != Code::FailedPrecondition;
        if next > self.tries_max || !is_welcome || !budget.take() {
            return None;
        }
        if let Some(asked) = asked {
            return Some(asked.min(self.pause_max));
        }
        let doublings = next.saturating_sub(2).min(16);
        let longest = self.first_pause.saturating_mul(1 << doublings).min(self.pause_max);
        Some(longest.mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let options = RetryOptions::default();
        let mut budget = Budget::default();
        let mut pause = |next| options.pause(next, Code::Unavailable, None, 1.0, &mut budget);
        assert_eq!(pause(2), Some(Duration::from_millis(100)));
        assert_eq!(pause(4), Some(Duration::from_millis(400)));
        assert_eq!(pause(6), None);
        let asked = Some(Duration::from_secs(60));
        let asked = options.pause(2, Code::ResourceExhausted, asked, 0.0, &mut budget);
        assert_eq!(asked, Some(options.pause_max), "a server cannot make us wait for ever");
        for code in [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition, Code::DeadlineExceeded]
        {
            assert_eq!(options.pause(2, code, None, 1.0, &mut budget), None, "{code:?}");
        }
        let asked = Some(Duration::from_secs(1));
        assert_eq!(options.pause(2, Code::DeadlineExceeded, asked, 0.0, &mut budget), asked);
        assert_eq!(options.pause(2, Code::FailedPrecondition, asked, 0.0, &mut budget), None);
    }

    #[test]
    fn a_remote_that_always_fails_is_not_flooded() {
        let options = RetryOptions::default();
        let mut budget = Budget::default();
        let tried = (0..1000)
            .filter(|_| options.pause(2, Code::Unavailable, None, 1.0, &mut budget).is_some())
            .count();
        assert_eq!(tried, 50);
        (0..1000).for_each(|_| budget.refill());
        assert!(options.pause(2, Code::Unavailable, None, 1.0, &mut budget).is_some());
    }
}
