//! Configuration of the server: typed, layered, validated.
//!
//! ```text
//!   default < /etc/fulgurite/config.toml < the user's config.toml   < environment < flags
//!             └──── or the one of --config FILE, alone ────────┘
//!      each: (key, value, origin) ──► set in Config ──► values that fit each other ──► Resolved
//! ```
//! Every key stands once, in `keys`, with its type and its purpose: reading, printing, the example under `packaging`
//! and `docs/configuration.md` come from there.
//!
//! Invariants:
//! - a key that does not exist is an error, with its place and the nearest name: nothing is silently not applied;
//! - of every value it is known where it came from;
//! - nothing here reads the environment or looks at the host: [`Host`] and [`Sources`] bring it.
//!
//! Limits: lists and tables are replaced as a whole, never merged; instances are configured in files and by `--set`
//! only, since a variable's name cannot hold theirs.

mod error;
mod file;
mod keys;
pub mod limits;
mod observe;
mod origin;
pub mod quantity;
mod reference;
mod remote;
mod resolve;
#[cfg(test)]
mod tests;
mod tokens;
mod value;
mod worker;

pub use error::ConfigError;
pub use observe::{Observe, TcpPlace};
pub use origin::Origin;
pub use reference::{documentation, example};
pub use remote::{RaceSettings, RemoteCluster};
pub use resolve::{FlagSetting, Printed, Resolved, Sources};
pub use tokens::{Tokens, TokensError};
pub use value::{
    Bytes, CacheWriters, Durability, HandoffMode, IpcChoice, Listen, LogFilter, MilliCores, NetworkPolicy,
    OnCrash, Properties, RemoteMode, RemoteOutputs, StageMode, Strategy, Text, Texts, WorkerCache,
    WorkerView,
};
pub use worker::Worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the store, the action cache and layers lie.
    pub state_dir: PathBuf,
    /// Where clients connect; at least one place.
    pub listen: Vec<Listen>,
    /// Bearer tokens; see [`Tokens::load`].
    pub tokens_file: Option<PathBuf>,
    /// Which events are logged.
    pub log: LogFilter,
    /// How long actions may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Encryption of TCP.
    pub tls: Tls,
    /// Blobs and results on disk.
    pub store: Store,
    /// How actions run.
    pub execution: Execution,
    /// Persistent workers.
    pub worker: Worker,
    /// A cluster.
    pub remote: RemoteCluster,
    /// How actions race.
    pub race: RaceSettings,
    /// What is told, and where.
    pub observe: Observe,
    /// By name. That of the empty name is always there.
    pub instances: BTreeMap<String, Instance>,
}

/// `[tls]`: certificate and key are both there or neither is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the server's certificates.
    pub certificate: Option<PathBuf>,
    /// PEM file with the key of the first.
    pub key: Option<PathBuf>,
    /// PEM file with those who sign client certificates.
    pub client_ca: Option<PathBuf>,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Of all blobs together.
    pub size_bytes_max: Bytes,
    /// What the store has outlived when a client gets its answer.
    pub durability: Durability,
    /// Results of all instances together.
    pub action_cache_entries_max: u64,
    /// Their bytes on disk.
    pub action_cache_bytes_max: Bytes,
    /// Their bytes in memory.
    pub action_cache_memory_bytes_max: Bytes,
}

/// `[execution]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Actions at the same time.
    pub slots: u32,
    /// Actions that wait.
    pub queue_max: u32,
    /// Of an action that does not say; at most `timeout_max`.
    pub timeout_default: Duration,
    /// That an action may ask for.
    pub timeout_max: Duration,
    /// Of an action that does not say; at most `memory_max`.
    pub memory_default: Option<Bytes>,
    /// That an action may ask for.
    pub memory_max: Option<Bytes>,
    /// Of one action.
    pub cpus: Option<MilliCores>,
    /// Processes and threads of one action.
    pub pids_max: u32,
    /// Kept of each of standard output and error.
    pub stdout_bytes_max: Bytes,
    /// How input roots become visible.
    pub stage: StageMode,
    /// How an output of the local API comes from the store into the tree.
    pub handoff: HandoffMode,
    /// What of the network actions see.
    pub network: NetworkPolicy,
    /// Platform properties that this host offers.
    pub platform: Properties,
}

/// `[instances.NAME]`: what is `None` is as in [`Execution`]; see [`Config::limits_of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Who may write results.
    pub action_cache_writers: CacheWriters,
    /// Whether actions are executed.
    pub execution: bool,
    /// Of an action that does not say.
    pub timeout_default: Option<Duration>,
    /// That an action may ask for.
    pub timeout_max: Option<Duration>,
    /// Of an action that does not say.
    pub memory_default: Option<Bytes>,
    /// That an action may ask for.
    pub memory_max: Option<Bytes>,
}

impl Default for Instance {
    fn default() -> Self {
        Instance {
            action_cache_writers: CacheWriters::Executor,
            execution: true,
            timeout_default: None,
            timeout_max: None,
            memory_default: None,
            memory_max: None,
        }
    }
}

/// What the actions of one instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionLimits {
    /// Of an action that does not say; at most `timeout_max`.
    pub timeout_default: Duration,
    /// That an action may ask for.
    pub timeout_max: Duration,
    /// Of an action that does not say; at most `memory_max`.
    pub memory_default: Option<Bytes>,
    /// That an action may ask for.
    pub memory_max: Option<Bytes>,
}

/// What defaults depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Whether the server is root.
    pub root: bool,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// How many cores there are for us.
    pub cores: u32,
    /// As Rust names it.
    pub architecture: &'static str,
}

impl Host {
    fn state_dir(&self) -> PathBuf {
        let of_home = || self.home.as_ref().map(|home| home.join(".local/state"));
        match self.state_home.clone().or_else(of_home) {
            Some(home) if !self.root => home.join("fulgurite"),
            _ => PathBuf::from("/var/lib/fulgurite"),
        }
    }

    /// Where a server listens if nothing else is configured.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match &self.runtime_dir {
            _ if self.root => PathBuf::from("/run/fulgurite/fulgurite.sock"),
            Some(dir) => dir.join("fulgurite.sock"),
            None => self.state_dir().join("fulgurite.sock"),
        }
    }

    fn platform(&self) -> Properties {
        // As remote-apis' lexicon has them.
        let isa = match self.architecture {
            "x86_64" => "x86-64",
            "aarch64" => "arm-a64",
            other => other,
        };
        let pairs = [("OSFamily", vec!["linux", "Linux"]), ("ISA", vec![isa])];
        pairs
            .into_iter()
            .map(|(name, values)| (name.to_owned(), values.into_iter().map(str::to_owned).collect()))
            .collect()
    }
}

impl Config {
    /// What holds on a host if nobody says anything.
    #[must_use]
    pub fn defaults(host: &Host) -> Config {
        const MINUTE: Duration = Duration::from_secs(60);
        Config {
            state_dir: host.state_dir(),
            listen: vec![Listen::Unix(host.socket())],
            tokens_file: None,
            log: LogFilter("info".to_owned()),
            drain_timeout: 5 * MINUTE,
            tls: Tls::default(),
            store: Store {
                size_bytes_max: Bytes(64 << 30),
                durability: Durability::Process,
                action_cache_entries_max: 1 << 20,
                action_cache_bytes_max: Bytes(1 << 30),
                action_cache_memory_bytes_max: Bytes(16 << 20),
            },
            execution: Execution {
                // One more than cores: an action waits for the kernel now and then.
                slots: host.cores.max(1) + 1,
                queue_max: 10_000,
                timeout_default: 60 * MINUTE,
                timeout_max: 6 * 60 * MINUTE,
                memory_default: None,
                memory_max: None,
                cpus: None,
                pids_max: 4096,
                stdout_bytes_max: Bytes(64 << 20),
                stage: StageMode::Auto,
                handoff: HandoffMode::Auto,
                network: NetworkPolicy::Loopback,
                platform: host.platform(),
            },
            worker: Worker::default(),
            remote: RemoteCluster::default(),
            race: RaceSettings::default(),
            observe: Observe::default(),
            instances: BTreeMap::from([(String::new(), Instance::default())]),
        }
    }

    /// What the actions of an instance may use; `None` if there is no such instance, or it does not execute.
    #[must_use]
    pub fn limits_of(&self, instance: &str) -> Option<ActionLimits> {
        let instance = self.instances.get(instance).filter(|instance| instance.execution)?;
        let of_all = &self.execution;
        let timeout_max = instance.timeout_max.unwrap_or(of_all.timeout_max);
        let memory_max = instance.memory_max.or(of_all.memory_max);
        let memory_default = instance.memory_default.or(of_all.memory_default);
        Some(ActionLimits {
            timeout_default: instance.timeout_default.unwrap_or(of_all.timeout_default).min(timeout_max),
            timeout_max,
            // Where there is a bound, an action that says nothing must not be without one.
            memory_default: match (memory_default, memory_max) {
                (Some(default), Some(max)) => Some(default.min(max)),
                (default, max) => default.or(max),
            },
            memory_max,
        })
    }
}
