//! `fulgurite serve`: the daemon, put together from its configuration.
//!
//! ```text
//!   configuration ─► runtime (zygote) ─► store, action cache, stager, pool ─► executor ─► server
//!   SIGTERM, Ctrl-C: nothing new is taken, what runs may end ─► a second one: it is killed ─► all is closed
//!   state directory
//!     store/  action-cache.redb  roots/  layers/  spools/
//! ```
//! What is printed on standard output is where it listens, a line an address, once clients can come; the log goes to
//! standard error.
use super::serve_args::ServeArgs;
use super::serve_listen::{access, listening, places};
use super::serve_observe::{self, Parts};
use super::signals::BlockedSignals;
use crate::cache::{ActionCache, ActionCacheOptions};
use crate::cas::{Cas, CasOptions, Durability as StoreDurability};
use crate::commit;
use crate::config::{ActionLimits, CacheWriters, Config, Durability, HandoffMode, NetworkPolicy, StageMode};
use crate::exec::{Allowance, Executor, Offer, Sandboxed, SandboxedOptions};
use crate::failure::{Failure, put, tell};
use crate::output::{HandoffWay, Spools};
use crate::remote::Elsewhere;
use crate::sched::SchedulerLimits;
use crate::serve::{
    ActionCacheWriters, InstanceOptions, LocalOptions, OfferedProperty, OfferedValues, PlatformOffer,
    ServeLimits, ServeOptions, Server,
};
use crate::stage::root::{Stager, StagerOptions, Way, WayChoice};
use crate::stage::{LayerHome, Places, sweep_all_but};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};
use fulgurite_sandbox::spec::{Network, SandboxSpec};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::io::IsTerminal;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// Most threads that decode, hash small blobs and answer: the work beside them is the actions'.
const WORKER_THREADS_MAX: usize = 8;

/// Runs `fulgurite serve`.
///
/// # Errors
/// When it cannot start: a mistake in the configuration, a directory that is in use, an address that is taken.
pub fn serve(args: &ServeArgs) -> Result<u8, Failure> {
    if args.end_with_parent {
        // Who has no parent any more by now has ended as well: then it serves nobody, and is found by its name.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .map_err(|errno| Failure::new(format!("cannot end with the parent: {errno}")))?;
    }
    let resolved = args.load()?;
    log_to_stderr(&resolved.config.log.0)?;
    for warning in &resolved.warnings {
        tell(format!("warning: {warning}"));
    }
    let config = resolved.config;
    prepare_directory(&config.state_dir)?;
    let signals = BlockedSignals::block();
    let runtime = Arc::new(Runtime::start(&RuntimeOptions::default())?);
    let (count, signaled) = watch::channel(0u32);
    signals
        .forward_in_background(move |_| count.send_modify(|count| *count += 1))
        .map_err(|error| Failure::new(format!("cannot start a thread that waits for signals: {error}")))?;
    let config = without_limits_that_nobody_asked_for(config, &runtime)?;
    let profile = serve_observe::begin_profile(config.observe.profile.as_ref())?;
    let daemon = Daemon::assemble(&config, &runtime)?;
    let served = daemon.serve(&config, signaled, put);
    let stopped = daemon.stop(runtime);
    profile.finish();
    served?;
    stopped.map(|()| 0)
}

/// Runs a daemon within this process for as long as `work` takes, which is told when it listens.
///
/// # Errors
/// As [`serve`], and those of `work`.
pub(super) fn serve_while(
    args: &ServeArgs,
    work: impl FnOnce() -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let config = args.load()?.config;
    log_to_stderr(&config.log.0)?;
    prepare_directory(&config.state_dir)?;
    let runtime = Arc::new(Runtime::start(&RuntimeOptions::default())?);
    let config = without_limits_that_nobody_asked_for(config, &runtime)?;
    let profile = serve_observe::begin_profile(config.observe.profile.as_ref())?;
    let daemon = Daemon::assemble(&config, &runtime).map_err(|failure| {
        let hint =
            "another run may have it: let a daemon run both, with `fulgurite serve` and `run --daemon`";
        if failure.hint.is_some() { failure } else { failure.hint(Some(hint)) }
    })?;
    let (count, signaled) = watch::channel(0u32);
    let (listens, is_up) = std::sync::mpsc::sync_channel(1);
    let done = std::thread::scope(|scope| {
        let announce = move |_: &str| {
            // Who waits for it waits until it comes, or until the server has ended.
            let _ = listens.send(());
            Ok(())
        };
        let server = scope.spawn({
            let (daemon, config) = (&daemon, &config);
            move || daemon.serve(config, signaled, announce)
        });
        let done = loop {
            match is_up.recv_timeout(std::time::Duration::from_millis(20)) {
                Ok(()) => break work(),
                Err(_) if server.is_finished() => break Err(Failure::new("the daemon within has ended")),
                Err(_) => {}
            }
        };
        // Nobody else waits for it: it ends at once.
        count.send_replace(2);
        match server.join() {
            Ok(Ok(())) => done,
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::new("the daemon within has panicked")),
        }
    });
    let stopped = daemon.stop(runtime);
    profile.finish();
    let code = done?;
    stopped.map(|()| code)
}

/// Where there are no cgroups, the default of processes cannot hold and is left out, aloud; a limit that was asked for
/// is an error.
fn without_limits_that_nobody_asked_for(mut config: Config, runtime: &Runtime) -> Result<Config, Failure> {
    let features = runtime.features();
    if features.cgroup_v2 || features.shares_memory_cgroup {
        return Ok(config);
    }
    let hint = "run as root, or under: systemd-run --user --scope -p Delegate=yes";
    let execution = &mut config.execution;
    let instances = config.instances.values().any(|instance| instance.memory_default.is_some());
    if execution.memory_default.is_some() || execution.cpus.is_some() || instances {
        let what = "cannot apply the limits that are configured: there is no cgroup to be had";
        return Err(Failure::new(what).hint(Some(hint)));
    }
    tell(format!("warning: without a cgroup there are no limits, not even pids_max (hint: {hint})"));
    execution.pids_max = 0;
    Ok(config)
}

pub(super) fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(format!("cannot use the log filter {filter:?}: {error}")))?;
    // A second subscriber would be a second `serve` in one process, which there is not.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An event that cannot be written, for the disk of the log is full, is lost: to say so would be a panic.
    let _ = subscriber.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false).try_init();
    Ok(())
}

/// Makes the state directory for us alone.
pub(super) fn prepare_directory(path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot use the state directory {}: {error}", path.display()))
            .hint(Some("choose one of your own with --state-dir"))
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o022 != 0 {
        let shown = path.display();
        return Err(Failure::new(format!("cannot use the state directory {shown}: others may write to it"))
            .hint(Some(format!("chmod 0700 {shown}"))));
    }
    Ok(())
}

/// What a daemon is made of.
struct Daemon {
    cas: Cas,
    results: ActionCache,
    pool: Pool,
    workers_pool: Option<Pool>,
    executor: Arc<dyn Executor>,
    sources: Vec<crate::observe::Source>,
    elsewhere: Option<Elsewhere>,
}

pub(super) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

impl Daemon {
    fn assemble(config: &Config, runtime: &Arc<Runtime>) -> Result<Daemon, Failure> {
        let dir = &config.state_dir;
        let store = &config.store;
        let options = CasOptions { dir: dir.join("store"), size_bytes_max: store.size_bytes_max.0 };
        let durability = match store.durability {
            Durability::Process => StoreDurability::Process,
            Durability::Power => StoreDurability::Power,
        };
        let cas = Cas::open_durable(&options, durability).map_err(failed)?;
        let entries = ActionCacheOptions {
            entries_max: store.action_cache_entries_max,
            size_bytes_max: store.action_cache_bytes_max.0,
            hot_bytes_max: store.action_cache_memory_bytes_max.0,
        };
        let results = ActionCache::open(dir, cas.clone(), &entries).map_err(failed)?;
        let way = match config.execution.stage {
            StageMode::Auto => WayChoice::Auto,
            StageMode::Composefs => WayChoice::Forced(Way::Composefs),
            StageMode::DirectoryCache => WayChoice::Forced(Way::DirectoryCache),
            StageMode::Copy => WayChoice::Forced(Way::Copy),
        };
        let options = StagerOptions { way, ..StagerOptions::default() };
        let stager = Stager::open(cas.clone(), &dir.join("roots"), runtime, options)
            .map_err(|error| failed(&error).hint(error.hint()))?;
        for (way, why) in stager.passed_over() {
            tracing::info!("inputs are not staged by {way}: {why}");
        }
        let slots = usize::try_from(config.execution.slots).unwrap_or(1);
        // While one sandbox resets itself, its slot has another; a short action may run beside those with slots.
        let places = PoolOptions { sandboxes_max: 2 * (slots + 1), idle_max: 2 * slots };
        let pool = Pool::new(runtime.clone(), places)
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
        let layers = layers(config, &cas)?;
        let sandboxed = executor(config, &cas, stager.clone(), layers.clone(), &pool)?;
        let (executor, workers_pool): (Arc<dyn Executor>, _) = match config.worker.enabled {
            true => {
                let (workered, pool) =
                    super::serve_workers::workered(config, sandboxed, (&cas, stager, layers), runtime)?;
                (Arc::new(workered), Some(pool))
            }
            false => (Arc::new(sandboxed), None),
        };
        let (executor, elsewhere) = super::serve_race::racing(config, executor, &cas)?;
        let parts = Parts {
            cas: &cas,
            results: &results,
            pool: &pool,
            workers_pool: workers_pool.as_ref(),
            executor: &executor,
        };
        let sources = serve_observe::sources(&parts);
        Ok(Daemon { cas, results, pool, workers_pool, executor, sources, elsewhere })
    }

    fn serve(
        &self,
        config: &Config,
        signaled: watch::Receiver<u32>,
        announce: impl FnOnce(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // Each more that has little to do costs a wakeup for each message.
        let workers = usize::try_from(config.execution.slots / 2).unwrap_or(1).clamp(1, WORKER_THREADS_MAX);
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("fulgurite-serve")
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
        let options = self.options(config)?;
        tokio.block_on(async {
            let server = Server::bind(options, Some(self.executor.clone())).await.map_err(failed)?;
            announce(&listening(config, &server))?;
            let after = |count: u32| {
                let mut signaled = signaled.clone();
                async move {
                    // The sender lives as long as the process.
                    let _ = signaled.wait_for(|seen| *seen >= count).await;
                    match count {
                        1 => tracing::info!("ending: running actions may finish; a second signal kills them"),
                        _ => tracing::info!("ending at once"),
                    }
                }
            };
            server.run(after(1), after(2)).await.map_err(failed)
        })
    }

    fn options(&self, config: &Config) -> Result<ServeOptions, Failure> {
        let mut listen = Vec::new();
        for place in &config.listen {
            listen.extend(places(place, config)?);
        }
        let instances = config.instances.iter().map(|(name, instance)| InstanceOptions {
            name: name.clone(),
            cas: self.cas.clone(),
            elsewhere: self.elsewhere.clone(),
            results: Arc::new(self.results.clone()),
            execution: instance.execution,
            writers: match instance.action_cache_writers {
                CacheWriters::Executor => ActionCacheWriters::Executor,
                CacheWriters::Clients => ActionCacheWriters::Clients,
            },
            platform: platform(config),
        });
        let longest = config.instances.keys().filter_map(|name| config.limits_of(name));
        let longest = longest.map(|limits| limits.timeout_max).max().unwrap_or(config.execution.timeout_max);
        Ok(ServeOptions {
            listen,
            access: access(config)?,
            instances: instances.collect(),
            limits: ServeLimits { timeout_max: longest, ..ServeLimits::default() },
            scheduler: SchedulerLimits {
                queued_per_tenant: usize::try_from(config.execution.queue_max).unwrap_or(usize::MAX),
                ..SchedulerLimits::default()
            },
            drain_for: config.drain_timeout,
            metrics: serve_observe::metrics(config)?,
            local: self.local(config),
        })
    }

    /// The local API is for the first instance that executes, if there is a Unix socket to come by.
    fn local(&self, config: &Config) -> Option<LocalOptions> {
        let has_socket = config.listen.iter().any(|place| matches!(place, crate::config::Listen::Unix(_)));
        let (name, _) = config.instances.iter().find(|(_, instance)| instance.execution)?;
        let uid = rustix::process::geteuid().as_raw();
        let places = Places { state_dir: Some(config.state_dir.clone()), uid, ..Places::default() };
        let (instance, cas) = (name.clone(), self.cas.clone());
        let handoff = match config.execution.handoff {
            HandoffMode::Auto => HandoffWay::Auto,
            HandoffMode::Reflink => HandoffWay::Reflink,
            HandoffMode::Hardlink => HandoffWay::Hardlink,
            HandoffMode::Copy => HandoffWay::Copy,
        };
        has_socket.then_some(LocalOptions {
            instance,
            cas,
            places,
            durability: durability_of(config),
            handoff,
        })
    }

    /// Gives everything back. What cannot be is found by the next start.
    fn stop(self, runtime: Arc<Runtime>) -> Result<(), Failure> {
        let Daemon { cas, results, pool, workers_pool, executor, sources, elsewhere } = self;
        drop(sources);
        // Ends all workers.
        drop((executor, elsewhere));
        let closed = results.close().map_err(failed);
        drop(results);
        cas.close();
        let pool = workers_pool.map_or(Ok(()), Pool::stop).and(pool.stop());
        let runtime = Arc::into_inner(runtime).map_or(Ok(()), Runtime::stop);
        pool?;
        runtime?;
        closed
    }
}

/// What published outputs outlive: the same as what the store does.
fn durability_of(config: &Config) -> commit::Durability {
    match config.store.durability {
        Durability::Process => commit::Durability::Process,
        Durability::Power => commit::Durability::Power,
    }
}

/// Where layers lie. Those of an earlier start are removed.
fn layers(config: &Config, cas: &Cas) -> Result<LayerHome, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    let places = Places { state_dir: Some(config.state_dir.clone()), uid, ..Places::default() };
    let needed = match commit::recover_all(&places, durability_of(config)) {
        Ok(recovered) => {
            for line in recovered.all_told() {
                tracing::warn!("{line}");
            }
            recovered.needed
        }
        Err(error) => return Err(failed(error)),
    };
    match sweep_all_but(&places, &needed) {
        Ok(swept) if swept.removed > 0 => tracing::info!("{} old layers are removed", swept.removed),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "old layers cannot be removed"),
    }
    LayerHome::choose(&places, cas.objects()).map_err(failed)
}

fn executor(
    config: &Config,
    cas: &Cas,
    stager: Stager,
    layers: LayerHome,
    pool: &Pool,
) -> Result<Sandboxed, Failure> {
    let spools = Spools::new(directory(&config.state_dir.join("spools"))?)
        .map_err(failed)?
        .keeping(config.execution.stdout_bytes_max.0);
    let tenants = config
        .instances
        .keys()
        .filter_map(|name| config.limits_of(name).map(|limits| (name.clone(), allowance(config, &limits))));
    let slots = usize::try_from(config.execution.slots).unwrap_or(1);
    let spec = SandboxSpec::default();
    let options = SandboxedOptions {
        worker: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        spec: spec.clone(),
        tenants: tenants.collect(),
        slots,
    };
    // The first tenant's first actions find their sandboxes ready.
    if let Some(tenant) = options.tenants.keys().min() {
        let network = network(config.execution.network);
        pool.prepare(&SandboxSpec { tenant: tenant.clone(), network, ..spec }, 2 * slots)?;
    }
    Sandboxed::new(pool.clone(), cas.clone(), stager, layers, spools, options)
        .map_err(|errno| Failure::new(format!("cannot start the executor: {errno}")))
}

fn network(policy: NetworkPolicy) -> Network {
    match policy {
        NetworkPolicy::None => Network::None,
        NetworkPolicy::Loopback => Network::Loopback,
        NetworkPolicy::Host => Network::Host,
    }
}

fn allowance(config: &Config, limits: &ActionLimits) -> Allowance {
    let execution = &config.execution;
    Allowance {
        offer: Offer {
            network: network(execution.network),
            host_network: execution.network == NetworkPolicy::Host,
            limits: Limits {
                memory_bytes_max: limits.memory_default.map(|bytes| bytes.0),
                cpu_milli_max: execution.cpus.map(|cpus| cpus.0),
                pids_max: Some(execution.pids_max).filter(|max| *max > 0),
                ..Limits::default()
            },
            memory_bytes_max: limits.memory_max.map(|bytes| bytes.0),
        },
        timeout_default: limits.timeout_default,
        timeout_max: limits.timeout_max,
    }
}

pub(super) fn directory(path: &Path) -> Result<OwnedFd, Failure> {
    let failed = |why: String| Failure::new(format!("cannot use {}: {why}", path.display()));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed(error.to_string()))?;
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(errno.to_string()))
}

/// What is on offer: what any such machine has, with what the configuration says in its place.
fn platform(config: &Config) -> PlatformOffer {
    let mut offer = PlatformOffer::of_this_machine();
    for (name, values) in &config.execution.platform {
        offer.properties.retain(|property| !property.name.eq_ignore_ascii_case(name));
        let values = OfferedValues::OneOf(values.clone());
        offer.properties.push(OfferedProperty { name: name.clone(), values });
    }
    offer
}
