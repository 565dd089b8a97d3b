//! What the benchmark and the demo of workers stand on: a store, a stager, sandboxes, workers, as in the daemon.
//!
//! ```text
//!   blobs ─► store ─► roots;  Job (one action) ─► Workered ─► worker, if its platform asks for one
//!                                                    └──────► sandbox, one-shot
//! ```
//! Invariants: an action that asks for a worker and does not get one is an error here, never a slow success; workers
//! are not frozen between portions.
use super::cpu::TreeCpu;
use super::error::BenchError;
use super::filesystem::{Filesystem, FilesystemKind};
use super::sandboxed::limits;
use super::scratch::Scratch;
use crate::action::{
    ActionResult, ActionSpec, Command, Digest, DigestFunction, Directory, FileNode, NodeProperties, Timeline,
    Timestamp, encode,
};
use crate::cas::{Cas, CasOptions};
use crate::exec::executor::{Cancel, Executor, Job, Placement, Verdict, Watch};
use crate::exec::{Allowance, Offer, Sandboxed, SandboxedOptions, Workered, WorkeredOptions};
use crate::output::Spools;
use crate::stage::root::{Stager, StagerOptions};
use crate::stage::{LayerHome, Places};
use crate::uring::{Choice, Ipc};
use crate::worker::machine::PoolLimits;
use crate::worker::{Ground, Manner, Workers, WorkersOptions};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::spec::{HostMount, Network, SandboxSpec};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How blobs are named.
pub const FUNCTION: DigestFunction = DigestFunction::Sha256;
/// Whose actions these are.
const TENANT: &str = "bench";
/// No action takes this long.
const TIMEOUT: Duration = Duration::from_secs(120);
/// No worker is frozen or stopped while it waits for its turn.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// Sandboxes of each kind: one at work, one that resets itself, for each core and case.
const SANDBOXES_MAX: usize = 8;
/// Processes and threads of an action: a JVM has some dozens.
const PIDS_MAX: u32 = 512;
/// Characters of what an action said that an error shows.
const SAID_CHARACTERS_MAX: usize = 500;

/// Where files lie: dropped last.
#[derive(Debug)]
enum Home {
    New(Filesystem),
    Scratch(Scratch),
}

/// See the module's documentation.
pub struct WorkerGround {
    /// `None` only while it is dropped.
    executor: Option<Workered>,
    pools: Vec<Pool>,
    cas: Cas,
    /// Counts the CPU time of everything.
    pub cpu: TreeCpu,
    /// The limits of each action and of each worker.
    pub limits: Limits,
    home: Home,
    directories: AtomicU32,
}

/// What one action gave.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its result.
    pub result: ActionResult,
    /// From the call to the result.
    pub latency: Duration,
}

/// A file of an input root.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its name, at the top.
    pub name: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
    /// Whether it may be executed.
    pub executable: bool,
    /// Whether it is a file of the worker's.
    pub is_tool: bool,
}

struct Nobody;

impl Watch for Nobody {
    fn started(&self, _: &Timeline) {}
}

fn failed(why: impl std::fmt::Display) -> BenchError {
    BenchError::Worker { why: why.to_string() }
}

impl WorkerGround {
    /// Makes one on a new ext4 with its image in `images`, or where that cannot be had on a tmpfs.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn new(runtime: &Arc<Runtime>, images: &Path) -> Result<Self, BenchError> {
        let home = match Filesystem::make(FilesystemKind::Ext4, images) {
            Ok(filesystem) => Home::New(filesystem),
            Err(_) => Home::Scratch(Scratch::new(None, &[])?),
        };
        let root = match &home {
            Home::New(filesystem) => filesystem.path().to_path_buf(),
            Home::Scratch(scratch) => scratch.path().to_path_buf(),
        };
        let limits = Limits { pids_max: limits(runtime).pids_max.map(|_| PIDS_MAX), ..limits(runtime) };
        let state = root.join("state");
        make(&state)?;
        let cas = Cas::open(&CasOptions { dir: state.join("store"), size_bytes_max: u64::MAX })?;
        let (executor, pools) = executor(runtime, &cas, &state, &limits)?;
        let cpu = TreeCpu::all(runtime);
        let directories = AtomicU32::new(0);
        Ok(WorkerGround { executor: Some(executor), pools, cas, cpu, limits, home, directories })
    }

    /// What the files lie on, for reports.
    #[must_use]
    pub fn filesystem(&self) -> String {
        match &self.home {
            Home::New(filesystem) => filesystem.description().to_owned(),
            Home::Scratch(scratch) => scratch.filesystem(),
        }
    }

    /// A new directory beside the state.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn directory(&self, name: &str) -> Result<PathBuf, BenchError> {
        let root = match &self.home {
            Home::New(filesystem) => filesystem.path(),
            Home::Scratch(scratch) => scratch.path(),
        };
        let number = self.directories.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{name}-{number}"));
        make(&path)?;
        Ok(path)
    }

    /// An input root of these files, which are put into the store.
    ///
    /// # Errors
    /// [`BenchError::Cas`].
    pub fn root(&self, inputs: &[Input<'_>]) -> Result<Digest, BenchError> {
        let mut directory = Directory::default();
        for input in inputs {
            let mut properties = NodeProperties::default();
            if input.is_tool {
                properties.properties.push(("bazel_tool_input".to_owned(), String::new()));
            }
            directory.files.push(FileNode {
                name: input.name.to_owned(),
                digest: self.store(input.bytes)?,
                executable: input.executable,
                properties,
            });
        }
        directory.files.sort_by(|one, other| one.name.cmp(&other.name));
        self.store(&encode::directory(&directory))
    }

    fn store(&self, bytes: &[u8]) -> Result<Digest, BenchError> {
        let digest = Digest::of(FUNCTION, bytes);
        if !self.cas.contains(&digest) {
            self.cas.put(digest, bytes)?;
        }
        Ok(digest)
    }

    /// An action that is ready to run.
    #[must_use]
    pub fn job(command: Command, root: Digest, platform: &[(&str, &str)]) -> Job {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let action = ActionSpec {
            command_digest: Digest::of(FUNCTION, &encode::command(&command)),
            input_root_digest: root,
            timeout: Some(TIMEOUT),
            do_not_cache: true,
            platform: platform.iter().map(owned).collect(),
        };
        Job {
            tenant: TENANT.to_owned(),
            function: FUNCTION,
            action_digest: Digest::of(FUNCTION, &encode::action(&action, &[])),
            action,
            command,
            queued: Timestamp { seconds: 0, nanos: 0 },
            mnemonic: String::new(),
            invocation: String::new(),
            fresh: false,
            placement: Placement::Local,
        }
    }

    /// Runs it, by a worker if that is what it asks for, and not else.
    ///
    /// # Errors
    /// Why it did not succeed, in one line.
    pub fn run(&self, job: &Job, by_worker: bool) -> Result<Ran, String> {
        let executor = self.executor.as_ref().ok_or("the executor has ended")?;
        let started = Instant::now();
        let execution = executor.execute(job, &Cancel::default(), &Nobody);
        let latency = started.elapsed();
        let result = execution.result;
        if execution.verdict != Verdict::Exited || result.exit_code != 0 {
            let said = result.stderr.or(result.stdout).map(|digest| self.text(&digest)).unwrap_or_default();
            return Err(format!("{:?}, exit code {}: {said}", execution.verdict, result.exit_code));
        }
        if by_worker != result.usage.persistent.is_some() {
            let why = result.usage.one_shot_because.clone().unwrap_or_default();
            return Err(format!("it ran {} a worker: {why}", if by_worker { "without" } else { "by" }));
        }
        Ok(Ran { result, latency })
    }

    /// The beginning of a text in the store, in one line.
    #[must_use]
    pub fn text(&self, digest: &Digest) -> String {
        let bytes = self.cas.read(digest, 1 << 20).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let line: Vec<&str> = text.split_whitespace().collect();
        line.join(" ").chars().take(SAID_CHARACTERS_MAX).collect()
    }

    /// Ends all workers and sandboxes.
    ///
    /// # Errors
    /// When something of them is left.
    pub fn close(mut self) -> Result<(), BenchError> {
        drop(self.executor.take());
        for pool in self.pools.drain(..) {
            pool.stop()?;
        }
        self.cas.close();
        Ok(())
    }
}

fn make(path: &Path) -> Result<(), BenchError> {
    std::fs::create_dir_all(path).map_err(BenchError::file(format!("make {}", path.display())))
}

fn executor(
    runtime: &Arc<Runtime>,
    cas: &Cas,
    state: &Path,
    limits: &Limits,
) -> Result<(Workered, Vec<Pool>), BenchError> {
    let options = PoolOptions { sandboxes_max: SANDBOXES_MAX, idle_max: SANDBOXES_MAX };
    let pool = Pool::new(runtime.clone(), options).map_err(failed)?;
    let workers_pool = Pool::new(runtime.clone(), options).map_err(failed)?;
    let stager = Stager::open(cas.clone(), &state.join("roots"), runtime, StagerOptions::default())?;
    let uid = rustix::process::geteuid().as_raw();
    let places = Places { state_dir: Some(state.to_path_buf()), uid, ..Places::default() };
    let layers = LayerHome::choose(&places, cas.objects()).map_err(failed)?;
    let spools = state.join("spools");
    make(&spools)?;
    let spools = super::scratch::open_directory(&spools).map_err(failed)?;
    let offer = Offer {
        network: Network::Loopback,
        host_network: false,
        limits: limits.clone(),
        memory_bytes_max: None,
    };
    let allowance = Allowance { offer, timeout_default: TIMEOUT, timeout_max: TIMEOUT };
    // Where Debian has what GHC knows of its packages; no other compiler lies outside of what sandboxes show.
    let ghc = PathBuf::from("/var/lib/ghc");
    let mounts = [HostMount { source: ghc.clone(), target: ghc, writable: false }];
    let mounts = mounts.into_iter().filter(|mount| mount.source.is_dir()).collect();
    let spec = SandboxSpec { mounts, ..SandboxSpec::default() };
    let options = SandboxedOptions {
        worker: "bench".to_owned(),
        spec: spec.clone(),
        tenants: HashMap::from([(TENANT.to_owned(), allowance)]),
        slots: SANDBOXES_MAX,
    };
    // As in a daemon, the first action finds its sandbox ready.
    pool.prepare(&SandboxSpec { tenant: TENANT.to_owned(), network: Network::Loopback, ..spec }, 2)?;
    let spools = Spools::new(spools).map_err(failed)?;
    let sandboxed =
        Sandboxed::new(pool.clone(), cas.clone(), stager.clone(), layers.clone(), spools, options)
            .map_err(failed)?;
    let ground = Ground::new(workers_pool.clone(), cas.clone(), stager, layers).map_err(failed)?;
    let ipc = Ipc::start(Choice::Auto).map_err(failed)?;
    let options = WorkersOptions {
        limits: PoolLimits {
            freeze_after: FOREVER,
            idle_max: FOREVER,
            per_key_max: 1,
            ..PoolLimits::default()
        },
        log_dir: state.join("workers"),
        stop_grace: Duration::from_secs(2),
        connect_within: FOREVER,
        manner: Manner::default(),
    };
    let workers = Workers::start(ground, ipc, options).map_err(failed)?;
    let executor = Workered::new(sandboxed, workers, WorkeredOptions::default());
    Ok((executor, vec![workers_pool, pool]))
}
