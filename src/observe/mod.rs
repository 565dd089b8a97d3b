//! What the program tells of itself: numbers, a trace, events. One call where something happens; the rest is here.
//!
//! ```text
//!   slot, race, worker, cluster ── seen::action, race, worker_started … ─┬► Metrics ──┐
//!                                                                        ├► trace     ├► Reading ─► /metrics, status
//!   store, pool, scheduler ──────── sources, asked when somebody wants ──┼────────────┘
//!                                                                        └► events ─► who watches
//! ```
//! It is one for the process, as the clock is: whoever has something to tell calls it, and needs nothing for that.
//!
//! Invariants: nobody who tells waits for anybody who listens; a number that is counted costs an atomic addition;
//! without a trace and without watchers, what they would get costs a load; labels have few values.
//! Limits: one trace; what is told of workers and pools is told by number, not forever.

mod clock;
pub mod events;
mod family;
pub mod limits;
mod metrics;
mod numbers;
mod reading;
mod sample;
mod seen;
pub mod trace;
mod words;

pub use clock::{now_us, stamp_us};
pub use family::{Family, documentation};
pub use metrics::{Metrics, label};
pub use numbers::{By, Counter, Gauge, Times};
pub use reading::{Reading, Source};
pub use sample::{Sampler, look_at_pressure, workers};
pub use seen::{
    ActionSeen, BranchSeen, PhaseSeen, RaceSeen, action, cached, cluster, enter_slot, race, reset,
    worker_ended, worker_started, worker_stops,
};
pub use words::{
    Outcome, Phase, RaceEnd, Resource, Side, StartWhy, StoreFault, Strategy, Way, Word, WorkerGone,
};

use std::sync::{Arc, LazyLock};

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);
static SOURCES: LazyLock<reading::Sources> = LazyLock::new(reading::Sources::default);

/// The numbers of this process.
#[must_use]
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// Adds a source of numbers: `ask` is called whenever somebody wants numbers, on any thread, and must not block.
pub fn source(ask: impl Fn(&mut Reading) + Send + Sync + 'static) -> Source {
    SOURCES.add(Arc::new(ask))
}

/// All numbers, now.
#[must_use]
pub fn read() -> Reading {
    let mut reading = Reading::default();
    METRICS.read(&mut reading);
    SOURCES.read(&mut reading);
    reading
}

#[cfg(test)]
mod tests;
