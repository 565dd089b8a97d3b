//! What `fulgurite serve` tells of itself, put together from its configuration: sources of numbers, and the trace.

use crate::cache::ActionCache;
use crate::cas::Cas;
use crate::config::Config;
use crate::exec::Executor;
use crate::failure::{Failure, tell};
use crate::observe::trace::{self, Trace};
use crate::observe::{Family, Reading, Source, source};
use fulgurite_sandbox::pool::Pool;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

/// Where numbers are told.
pub(super) fn metrics(config: &Config) -> Result<Vec<SocketAddr>, Failure> {
    let Some(place) = &config.observe.metrics else { return Ok(Vec::new()) };
    let found = (place.host.as_str(), place.port).to_socket_addrs();
    let found = found.map_err(|error| Failure::new(format!("cannot tell metrics at {place}: {error}")))?;
    // One scraper asks at one address.
    Ok(found.take(1).collect())
}

/// The trace, if one is wanted, and its file.
pub(super) struct Profile(Option<(Trace, PathBuf)>);

/// Begins the trace, if one is wanted.
pub(super) fn begin_profile(path: Option<&PathBuf>) -> Result<Profile, Failure> {
    let Some(path) = path else { return Ok(Profile(None)) };
    let failed = |error| Failure::new(format!("cannot write a trace to {}: {error}", path.display()));
    Ok(Profile(Some((trace::begin(path).map_err(failed)?, path.clone()))))
}

impl Profile {
    /// Ends it. What went wrong is told: nothing that was done depends on it.
    pub(super) fn finish(self) {
        if let Some((trace, path)) = self.0
            && let Err(error) = trace.finish()
        {
            tell(format!("warning: the trace in {} is not whole: {error}", path.display()));
        }
    }
}

/// The parts of a daemon that have numbers.
pub(super) struct Parts<'a> {
    pub(super) cas: &'a Cas,
    pub(super) results: &'a ActionCache,
    pub(super) pool: &'a Pool,
    pub(super) workers_pool: Option<&'a Pool>,
    pub(super) executor: &'a Arc<dyn Executor>,
}

/// Tells the numbers of these until it is dropped, which must be before they are stopped.
pub(super) fn sources(parts: &Parts<'_>) -> Vec<Source> {
    let (cas, results, executor) = (parts.cas.clone(), parts.results.clone(), Arc::downgrade(parts.executor));
    let mut sources = vec![
        source(move |reading| store(&cas, reading)),
        source(move |reading| {
            let stats = results.stats();
            reading.put(Family::CacheEvicted, &[], stats.evicted);
            reading.put(Family::CacheDropped, &[], stats.dropped);
        }),
        source(move |reading| {
            let counters = executor.upgrade().map(|executor| executor.counters()).unwrap_or_default();
            for (name, family) in [
                ("reaped", Family::RaceReaped),
                ("wasted_wall_us", Family::RaceWastedWall),
                ("wasted_cpu_us", Family::RaceWastedCpu),
            ] {
                let found = counters.iter().find(|(other, _)| *other == name);
                found.into_iter().for_each(|(_, value)| reading.put(family, &[], *value));
            }
        }),
    ];
    for (name, pool) in [("actions", Some(parts.pool)), ("workers", parts.workers_pool)] {
        if let Some(pool) = pool.cloned() {
            sources.push(source(move |reading| sandboxes(name, &pool, reading)));
        }
    }
    sources
}

fn store(cas: &Cas, reading: &mut Reading) {
    let stats = cas.stats();
    for (family, value) in [
        (Family::StoreBlobs, stats.blobs),
        (Family::StoreBytes, stats.bytes),
        (Family::StoreBytesMax, stats.bytes_max),
        (Family::StorePinned, stats.pinned),
        (Family::StoreCopied, stats.bytes_copied),
        (Family::StoreEvicted, stats.evicted),
        (Family::StoreBytesEvicted, stats.bytes_evicted),
        (Family::StoreQuarantined, stats.quarantined),
    ] {
        reading.put(family, &[], value);
    }
    for (how, value) in [
        ("written", stats.written),
        ("renamed", stats.renamed),
        ("copied", stats.copied),
        ("known", stats.known),
    ] {
        reading.put(Family::StoreAdded, &[how], value);
    }
}

fn sandboxes(name: &'static str, pool: &Pool, reading: &mut Reading) {
    let counts = pool.counts();
    reading.put(Family::Sandboxes, &[name, "ready"], counts.idle as u64);
    reading.put(Family::Sandboxes, &[name, "leased"], counts.leased as u64);
    reading.put(Family::SandboxesMade, &[name], counts.made);
    reading.put(Family::SandboxesDestroyed, &[name], counts.destroyed);
}
