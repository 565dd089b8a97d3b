//! Counters of what the server did. They only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many until now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct ServeMetrics {
    /// Connections that were accepted.
    pub connections: Counter,
    /// Connections that were closed at once, for lack of room or for their user.
    pub connections_refused: Counter,
    /// Calls that were let in.
    pub calls: Counter,
    /// Calls that were not, for lack of room or of authority.
    pub calls_refused: Counter,
    /// Bytes of blobs that clients sent.
    pub bytes_received: Counter,
    /// Bytes of blobs that clients got.
    pub bytes_sent: Counter,
    /// Results that were served from the action cache.
    pub cache_hits: Counter,
    /// Lookups in the action cache that found nothing whole.
    pub cache_misses: Counter,
    /// Requests that joined a run on its way.
    pub merged: Counter,
    /// Runs that were started.
    pub runs: Counter,
    /// Runs whose verdict was not that the command ended by itself.
    pub runs_failed: Counter,
    /// Requests that were turned away because too much waits.
    pub queue_full: Counter,
}
