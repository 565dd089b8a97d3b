//! The store's own clock: seconds during which a store was open, over all its life.
//!
//! No wall clock: one that jumps would make every blob old, or none. A store that was closed for a year opens with its
//! blobs as old as they were, so that grace holds then too. Limit: what came since the last checkpoint before a kill
//! is counted again.

use super::limits::USE_BUCKET_SECONDS;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Clock {
    base_seconds: u64,
    opened: Instant,
    /// What a test adds.
    ahead_seconds: AtomicU64,
}

impl Clock {
    pub(super) fn new(base_seconds: u64) -> Self {
        Clock { base_seconds, opened: Instant::now(), ahead_seconds: AtomicU64::new(0) }
    }

    pub(super) fn seconds(&self) -> u64 {
        let ahead = self.ahead_seconds.load(Ordering::Relaxed);
        self.base_seconds.saturating_add(self.opened.elapsed().as_secs()).saturating_add(ahead)
    }

    /// The moment of use that it is now: from 1, so that there is one before all.
    pub(super) fn now(&self) -> u32 {
        u32::try_from(self.seconds() / USE_BUCKET_SECONDS + 1).unwrap_or(u32::MAX)
    }

    #[cfg(test)]
    pub(super) fn advance(&self, seconds: u64) {
        self.ahead_seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}
