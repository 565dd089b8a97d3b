//! The server's own numbers, for those who ask for all.

use super::context::Context;
use crate::observe::{Family, Reading, Source};
use std::sync::{Arc, Weak};

/// Tells them until this is dropped.
pub(super) fn source(context: &Arc<Context>) -> Source {
    let context = Arc::downgrade(context);
    crate::observe::source(move |reading| tell(&context, reading))
}

fn tell(context: &Weak<Context>, reading: &mut Reading) {
    let Some(context) = context.upgrade() else { return };
    let metrics = &context.metrics;
    for (family, counter) in [(Family::Merged, &metrics.merged), (Family::Refused, &metrics.queue_full)] {
        reading.put(family, &[], counter.value());
    }
    let found = [("yes", &metrics.cache_hits), ("no", &metrics.cache_misses)];
    found.into_iter().for_each(|(word, counter)| reading.put(Family::CacheLookups, &[word], counter.value()));
    for (family, admitted, refused) in [
        (Family::Connections, &metrics.connections, &metrics.connections_refused),
        (Family::Calls, &metrics.calls, &metrics.calls_refused),
    ] {
        reading.put(family, &["yes"], admitted.value());
        reading.put(family, &["no"], refused.value());
    }
    reading.put(Family::ClientBytes, &["up"], metrics.bytes_received.value());
    reading.put(Family::ClientBytes, &["down"], metrics.bytes_sent.value());
    if let Some(engine) = &context.engine {
        let (running, queued) = engine.counts();
        reading.put(Family::Slots, &[], engine.executor().slots() as u64);
        reading.put(Family::Running, &[], u64::from(running));
        reading.put(Family::Queued, &[], u64::from(queued));
    }
}
