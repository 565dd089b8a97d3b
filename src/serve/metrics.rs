//! Counters of what the server did. They only grow.

pub use crate::observe::Counter;

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
