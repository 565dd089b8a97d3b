//! The clock of what is told: microseconds since 1970, so that a trace, an event and a log can be laid side by side.

use crate::action::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now. A clock before 1970 is no clock.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A moment as results have it.
#[must_use]
pub fn stamp_us(at: Timestamp) -> u64 {
    let seconds = u64::try_from(at.seconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::from(at.nanos) / 1000)
}
