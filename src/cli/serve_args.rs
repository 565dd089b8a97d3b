//! Options of `fulgurite serve`, and the sources of its configuration: files, environment, these options.

use crate::config::{Config, FlagSetting, Host, Resolved, Sources};
use crate::failure::Failure;
use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::Value;

/// What `serve` takes. Everything else is configured in files, or by `--set`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Configuration file, in place of /etc/fulgurite/config.toml and the user's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Any key of the configuration: execution.slots=4, instances.main.execution=false
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = "Configuration")]
    pub set: Vec<String>,

    /// Unix socket to listen at; together with --listen, in place of what is configured
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub unix: Vec<PathBuf>,
    /// unix:/path or host:port to listen at
    #[arg(long, value_name = "ADDRESS", help_heading = "Server")]
    pub listen: Vec<String>,
    /// Directory of the store, the action cache and layers
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Server")]
    pub state_dir: Option<PathBuf>,
    /// Bearer tokens, a line `name = token` each
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub tokens_file: Option<PathBuf>,
    /// Certificates for TCP
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub tls_certificate: Option<PathBuf>,
    /// Key of the first certificate
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub tls_key: Option<PathBuf>,
    /// Authorities of client certificates, which are then required
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub tls_client_ca: Option<PathBuf>,
    /// Which events are logged: info, warn,fulgurite::serve=debug
    #[arg(long, value_name = "FILTER", help_heading = "Server")]
    pub log: Option<String>,

    /// End when the process has ended that started this one
    #[arg(long, hide = true)]
    pub end_with_parent: bool,

    /// Answer GET /metrics here, for Prometheus: 127.0.0.1:9980
    #[arg(long, value_name = "ADDRESS", help_heading = "Server")]
    pub metrics: Option<String>,
    /// Write a trace for Perfetto into this file, until the end
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub profile: Option<PathBuf>,

    /// Cluster to race against: grpc://host:port, grpcs://host:port or unix:/path
    #[arg(long, value_name = "ADDRESS", help_heading = "Race")]
    pub remote: Option<String>,
    /// Where actions run that do not say: racing, local, remote or remote_local_fallback
    #[arg(long, value_name = "STRATEGY", help_heading = "Race")]
    pub exec_strategy: Option<String>,
    /// Bazel's options of dynamic execution
    #[command(flatten)]
    pub race: RaceArgs,

    /// Bazel's options of workers
    #[command(flatten)]
    pub worker: WorkerArgs,

    /// Most bytes of the store: 64GiB
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub store_size_bytes_max: Option<String>,
    /// Actions that run at the same time
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub slots: Option<String>,
    /// Most memory that an action may ask for: 8GiB
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub memory_max: Option<String>,
    /// Most time that an action may ask for: 1h
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    pub timeout_max: Option<String>,
}

/// Bazel's options of dynamic execution under their names, and ours. Each may stand several times; the last one for a
/// mnemonic counts.
#[derive(Args, Clone, Debug, Default)]
#[command(rename_all = "snake_case", next_help_heading = "Race")]
pub struct RaceArgs {
    /// How local branches run: worker, sandboxed; of `run --remote` also standalone, straight in the exec root
    #[arg(long, value_name = "[MNEMONIC=]LIST", alias = "local-strategy")]
    pub dynamic_local_strategy: Vec<String>,
    /// How remote branches run: remote
    #[arg(long, value_name = "[MNEMONIC=]LIST")]
    pub dynamic_remote_strategy: Vec<String>,
    /// How long local branches are held back after a cache hit, in milliseconds; auto: by what was measured
    #[arg(long, value_name = "[MNEMONIC=]TIME", alias = "experimental_local_execution_delay")]
    pub dynamic_local_execution_delay: Vec<String>,
    /// How far the number of local branches shrinks with the number that wait: 0 to 1
    #[arg(long, value_name = "[MNEMONIC=]FACTOR")]
    pub experimental_dynamic_local_load_factor: Vec<String>,
    /// A local branch that waits longer than this goes first
    #[arg(long, value_name = "[MNEMONIC=]TIME")]
    pub experimental_dynamic_slow_remote_time: Vec<String>,
    /// Signals of a local command that leave the decision to remote
    #[arg(long, value_name = "[MNEMONIC=]LIST")]
    pub experimental_dynamic_ignore_local_signals: Vec<String>,
    /// Of `standalone`: false lets it hold the outputs from its start, so that it cannot lose any more
    #[arg(long, value_name = "[MNEMONIC=]BOOL")]
    pub experimental_local_lockfree_output: Vec<String>,
    /// Taken, and of no effect yet: no client says which actions build tools
    #[arg(long, value_name = "[MNEMONIC=]BOOL")]
    pub experimental_dynamic_exclude_tools: Vec<String>,
    /// Log what happens to each race
    #[arg(long, value_name = "[MNEMONIC=]BOOL", alias = "experimental_debug_spawn_scheduler")]
    #[arg(num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub debug_spawn_scheduler: Vec<String>,
    /// Any other option of races: race_chance=0.3, low_pass=false, let_remote_finish=true, failure=other
    #[arg(long, value_name = "NAME=[MNEMONIC=]VALUE")]
    pub race: Vec<String>,
}

/// Bazel's options of persistent workers under their names.
#[derive(Args, Clone, Debug, Default)]
#[command(rename_all = "snake_case", next_help_heading = "Workers")]
pub struct WorkerArgs {
    /// One more argument for workers of a mnemonic, after --persistent_worker; may stand several times
    #[arg(long, value_name = "MNEMONIC=FLAG", allow_hyphen_values = true)]
    pub worker_extra_flag: Vec<String>,
    /// Take only actions whose last argument is their one flag file
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub experimental_worker_strict_flagfiles: Option<bool>,
    /// End workers soon after the last action of the build that they were started for
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub worker_quit_after_build: Option<bool>,
}

/// A build whose last action is so long ago is over, for those who say no time.
const BUILD_PAUSE_MAX: &str = "10s";

impl WorkerArgs {
    /// Flag, key and value of each that was given.
    fn settings(&self) -> Vec<(&'static str, &'static str, Value)> {
        let mut settings = Vec::new();
        if !self.worker_extra_flag.is_empty() {
            let flags = self.worker_extra_flag.iter().cloned().map(Value::String).collect();
            settings.push(("--worker_extra_flag", "worker.extra_flags", Value::Array(flags)));
        }
        if let Some(is_strict) = self.experimental_worker_strict_flagfiles {
            let flag = "--experimental_worker_strict_flagfiles";
            settings.push((flag, "worker.strict_flag_files", Value::Boolean(is_strict)));
        }
        if let Some(quits) = self.worker_quit_after_build {
            let after = Value::String(if quits { BUILD_PAUSE_MAX } else { "none" }.to_owned());
            settings.push(("--worker_quit_after_build", "worker.quit_after_build", after));
        }
        settings
    }
}

impl RaceArgs {
    /// Whether any was given.
    pub(super) fn is_given(&self) -> bool {
        !self.options().is_empty()
    }

    /// As `race.options` has them.
    fn options(&self) -> Vec<String> {
        let named = [
            ("local_strategy", &self.dynamic_local_strategy),
            ("remote_strategy", &self.dynamic_remote_strategy),
            ("local_execution_delay", &self.dynamic_local_execution_delay),
            ("local_load_factor", &self.experimental_dynamic_local_load_factor),
            ("slow_remote_time", &self.experimental_dynamic_slow_remote_time),
            ("ignore_local_signals", &self.experimental_dynamic_ignore_local_signals),
            ("local_lockfree_output", &self.experimental_local_lockfree_output),
            ("exclude_tools", &self.experimental_dynamic_exclude_tools),
            ("debug_spawn_scheduler", &self.debug_spawn_scheduler),
        ];
        let named = named.into_iter();
        let all = named.flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")));
        all.chain(self.race.iter().cloned()).collect()
    }
}

impl ServeArgs {
    /// Reads all files and the environment, and puts these options over them.
    ///
    /// # Errors
    /// For the first mistake in any of them.
    pub fn load(&self) -> Result<Resolved, Failure> {
        Ok(Config::load(&self.sources()?)?)
    }

    /// Everything that says something: this is where the environment is read.
    ///
    /// # Errors
    /// When an option cannot be understood.
    pub fn sources(&self) -> Result<Sources, Failure> {
        let home = variable("HOME");
        let config_home =
            variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let mut files = vec![PathBuf::from("/etc/fulgurite/config.toml")];
        files.extend(config_home.map(|home| home.join("fulgurite/config.toml")));
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("FULGURITE_"))?;
            Some((name, value.to_string_lossy().into_owned()))
        };
        let mut environment: Vec<(String, String)> = std::env::vars_os().filter_map(ours).collect();
        environment.sort();
        Ok(Sources { host: host(), files, file: self.config.clone(), environment, flags: self.flags()? })
    }

    /// The layer of the command line.
    ///
    /// # Errors
    /// When an option cannot be understood.
    pub fn flags(&self) -> Result<Vec<FlagSetting>, Failure> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, key: &str, value: Value| {
            flags.push(FlagSetting { flag: flag.to_owned(), key: key.to_owned(), value });
        };
        let mut listen: Vec<Value> = Vec::new();
        for path in &self.unix {
            listen.push(Value::String(format!("unix:{}", absolute(path)?)));
        }
        listen.extend(self.listen.iter().cloned().map(Value::String));
        if !listen.is_empty() {
            add(if self.unix.is_empty() { "--listen" } else { "--unix" }, "listen", Value::Array(listen));
        }
        for (flag, key, path) in [
            ("--state-dir", "state_dir", &self.state_dir),
            ("--tokens-file", "tokens_file", &self.tokens_file),
            ("--tls-certificate", "tls.certificate", &self.tls_certificate),
            ("--tls-key", "tls.key", &self.tls_key),
            ("--tls-client-ca", "tls.client_ca", &self.tls_client_ca),
            ("--profile", "observe.profile", &self.profile),
        ] {
            if let Some(path) = path {
                add(flag, key, Value::String(absolute(path)?));
            }
        }
        for (flag, key, text) in [
            ("--log", "log", &self.log),
            ("--metrics", "observe.metrics", &self.metrics),
            ("--store-size-bytes-max", "store.size_bytes_max", &self.store_size_bytes_max),
            ("--slots", "execution.slots", &self.slots),
            ("--memory-max", "execution.memory_max", &self.memory_max),
            ("--timeout-max", "execution.timeout_max", &self.timeout_max),
            ("--remote", "remote.address", &self.remote),
            ("--exec-strategy", "race.strategy", &self.exec_strategy),
        ] {
            if let Some(text) = text {
                add(flag, key, Value::String(text.clone()));
            }
        }
        let options = self.race.options();
        if !options.is_empty() {
            let options = options.into_iter().map(Value::String).collect();
            add("an option of races", "race.options", Value::Array(options));
        }
        for (flag, key, value) in self.worker.settings() {
            add(flag, key, value);
        }
        for pair in &self.set {
            let no_pair = || {
                Failure::new(format!("--set {pair:?} is no KEY=VALUE"))
                    .hint(Some("such as --set execution.slots=4"))
            };
            let (key, value) = pair.split_once('=').ok_or_else(no_pair)?;
            add("--set", key.trim(), Value::String(value.trim().to_owned()));
        }
        Ok(flags)
    }
}

/// What a person types is relative to where they are.
fn absolute(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::new(format!("cannot use the path {}: {why}", path.display()));
    let path = std::path::absolute(path).map_err(|error| failed(error.to_string()))?;
    path.to_str().map(str::to_owned).ok_or_else(|| failed("it is not UTF-8".to_owned()))
}

fn variable(name: &str) -> Option<PathBuf> {
    // The XDG specification: relative paths are passed over.
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// What the defaults on this host depend on.
pub(super) fn host() -> Host {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Host {
        root: rustix::process::geteuid().is_root(),
        home: variable("HOME"),
        state_home: variable("XDG_STATE_HOME"),
        runtime_dir: variable("XDG_RUNTIME_DIR"),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        architecture: std::env::consts::ARCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_settings() {
        let args = ServeArgs {
            unix: vec!["relative.sock".into()],
            listen: vec!["localhost:8980".to_owned()],
            slots: Some("3".to_owned()),
            set: vec!["store.durability = power".to_owned()],
            ..ServeArgs::default()
        };
        let flags = args.flags().unwrap();
        let names: Vec<(&str, &str)> =
            flags.iter().map(|flag| (flag.flag.as_str(), flag.key.as_str())).collect();
        let expected = [("--unix", "listen"), ("--slots", "execution.slots"), ("--set", "store.durability")];
        assert_eq!(names, expected);
        let here = std::env::current_dir().unwrap();
        let socket = format!("unix:{}", here.join("relative.sock").display());
        let listen = vec![Value::String(socket), Value::String("localhost:8980".to_owned())];
        assert_eq!(flags[0].value, Value::Array(listen));
        let worker = WorkerArgs {
            worker_extra_flag: vec!["Javac=-Xmx1g".to_owned()],
            worker_quit_after_build: Some(true),
            ..WorkerArgs::default()
        };
        let flags = ServeArgs { worker, ..ServeArgs::default() }.flags().unwrap();
        let given: Vec<_> = flags.iter().map(|flag| (flag.key.as_str(), flag.value.to_string())).collect();
        let expected = [("worker.extra_flags", "[\"Javac=-Xmx1g\"]"), ("worker.quit_after_build", "\"10s\"")];
        assert_eq!(given, expected.map(|(key, value)| (key, value.to_owned())));
        let wrong = ServeArgs { set: vec!["slots".to_owned()], ..ServeArgs::default() };
        assert!(wrong.flags().unwrap_err().message.contains("KEY=VALUE"));
    }
}
