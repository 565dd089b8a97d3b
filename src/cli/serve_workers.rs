//! The persistent workers of `fulgurite serve`, put together from its configuration.

use crate::cas::Cas;
use crate::config::{Config, IpcChoice, OnCrash, WorkerCache, WorkerView};
use crate::exec::{Cacheable, Sandboxed, Workered, WorkeredOptions};
use crate::failure::Failure;
use crate::stage::LayerHome;
use crate::stage::root::Stager;
use crate::uring::{Choice, Ipc};
use crate::worker::arguments::Mode;
use crate::worker::machine::PoolLimits;
use crate::worker::{Ground, Manner, Workers, WorkersOptions};
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::runtime::Runtime;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker may take to end after its standard input was closed and SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Idle sandboxes of one kind that are kept for the next worker.
const IDLE_SANDBOXES_MAX: usize = 2;

/// Wraps the executor: what asks for a worker gets one. Also gives the pool of workers' sandboxes, to be stopped after.
pub(super) fn workered(
    config: &Config,
    sandboxed: Sandboxed,
    (cas, stager, layers): (&Cas, Stager, LayerHome),
    runtime: &Arc<Runtime>,
) -> Result<(Workered, Pool), Failure> {
    let worker = &config.worker;
    let failed = |error: std::io::Error| Failure::new(format!("cannot keep persistent workers: {error}"));
    let limits = limits(config);
    // One more for each that resets itself.
    let sandboxes_max = limits.workers_max.saturating_mul(2).max(2);
    let options = PoolOptions { sandboxes_max, idle_max: IDLE_SANDBOXES_MAX };
    let pool = Pool::new(runtime.clone(), options).map_err(failed)?;
    let ground = Ground::new(pool.clone(), cas.clone(), stager, layers).map_err(failed)?;
    let choice = match worker.ipc {
        IpcChoice::Auto => Choice::Auto,
        IpcChoice::Uring => Choice::Uring,
        IpcChoice::Epoll => Choice::Epoll,
    };
    let ipc = Ipc::start(choice).map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
    let backend = ipc.backend().name();
    match ipc.fallback() {
        Some(why) => tracing::info!("workers are talked to by {backend}: {why}"),
        None => tracing::info!("workers are talked to by {backend}"),
    }
    let options = WorkersOptions {
        limits,
        log_dir: config.state_dir.join("workers"),
        stop_grace: STOP_GRACE,
        connect_within: worker.connect_max,
        manner: Manner {
            verbosity: 0,
            mode: if worker.strict_flag_files { Mode::Strict } else { Mode::Legacy },
            extra_flags: extra_flags(&worker.extra_flags.0)?,
            by_build: worker.quit_after_build.is_some(),
        },
    };
    let workers = Workers::start(ground, ipc, options).map_err(failed)?;
    let options = WorkeredOptions {
        one_shot_after_crash: worker.on_crash == OnCrash::OneShot,
        cache: match worker.cache {
            WorkerCache::All => Cacheable::All,
            WorkerCache::Keyed => Cacheable::Keyed,
            WorkerCache::None => Cacheable::None,
        },
        shares: worker.view == WorkerView::Shared,
    };
    Ok((Workered::new(sandboxed, workers, options), pool))
}

/// Whether what is configured can be understood.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    extra_flags(&config.worker.extra_flags.0).map(drop)
}

/// Flags by mnemonic, in their order.
fn extra_flags(pairs: &[String]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in pairs {
        let (mnemonic, flag) =
            pair.split_once('=').filter(|(mnemonic, _)| !mnemonic.is_empty()).ok_or_else(|| {
                Failure::new(format!("worker.extra_flags: {pair:?} is no Mnemonic=flag"))
                    .hint(Some("such as Javac=-Xmx2g"))
            })?;
        flags.entry(mnemonic.to_owned()).or_default().push(flag.to_owned());
    }
    Ok(flags)
}

fn limits(config: &Config) -> PoolLimits {
    let worker = &config.worker;
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    PoolLimits {
        workers_max: count(worker.workers_max),
        // Beyond one for each slot there is somebody to serve only while another finishes what nobody wants any more,
        // and a further one that starts meanwhile would take its processor from it: that one is waited for.
        per_key_max: count(worker.per_key_max).min(count(config.execution.slots)).max(1),
        per_mnemonic_max: count(worker.per_mnemonic_max),
        slots: worker.multiplex_slots.clamp(1, fulgurite_sandbox::hosted::Hosted::SLOTS_MAX),
        starting_max: count(worker.starting_max),
        memory_bytes_max: worker.memory_max.map(|bytes| bytes.0),
        freeze_after: worker.freeze_after,
        idle_max: worker.idle_max,
        build_pause_max: worker.quit_after_build,
        cancel_grace: worker.cancel_grace,
        finish_max: worker.finish_max,
        retry_crashed: worker.on_crash != OnCrash::Fail,
        ..PoolLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_keep_their_order_and_their_signs() {
        let pairs = ["Javac=-Xmx1g", "Scalac=--a=b", "Javac=", "Javac=-ea"].map(str::to_owned);
        let flags = extra_flags(&pairs).unwrap();
        assert_eq!(flags["Javac"], ["-Xmx1g", "", "-ea"]);
        assert_eq!(flags["Scalac"], ["--a=b"]);
        for wrong in ["--flag", "=x", ""] {
            let error = extra_flags(&[wrong.to_owned()]).unwrap_err();
            assert!(error.message.contains("is no Mnemonic=flag"), "{}", error.message);
        }
    }
}
