//! Options of `fulgurite run` and `fulgurite explain`: as typed by clap, and as meant.
use super::keep::VARIABLE;
use crate::action::{InputSpec, OutputSpec, Outputs, parse_inputs_from};
use crate::commit::Durability;
use crate::config::quantity;
use crate::exec::Strategy;
use crate::failure::Failure;
use crate::stage::Places;
use clap::{Args, ValueEnum, ValueHint};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::spec::{HostMount, Identity, Network, RootView, SandboxSpec};
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What of the network the command sees.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NetworkArg {
    /// Nothing, not even loopback
    None,
    /// Loopback only, private to the sandbox
    Loopback,
    /// The host's network
    Host,
}

/// How the command runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StrategyArg {
    /// Over a private layer; outputs are published when it succeeded
    Sandboxed,
    /// Straight in the exec root, which it can write to
    Standalone,
    /// Here and on the cluster of --remote; the first result counts
    Dynamic,
}

/// What published outputs outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// The death of any process
    Process,
    /// That, and a loss of power: all of it is on disk before the end
    Power,
}

/// What `run` and `explain` take.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Directory that inputs and outputs are relative to
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath, help_heading = "Files")]
    pub exec_root: PathBuf,
    /// File or directory that the command may see; without any, it sees the whole exec root
    #[arg(long = "input", value_name = "PATH[=DEST]", help_heading = "Files")]
    pub inputs: Vec<OsString>,
    /// File with one input a line, or NUL-separated; - for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Files")]
    pub inputs_from: Option<PathBuf>,
    /// File or directory that the command makes; it appears in the exec root if the command succeeds
    #[arg(long = "output", value_name = "PATH", help_heading = "Files")]
    pub outputs: Vec<OsString>,
    /// Publish what there is of the outputs although the command failed
    #[arg(long, help_heading = "Files")]
    pub outputs_on_failure: bool,
    /// List on standard error what the command wrote and did not declare
    #[arg(long, help_heading = "Files")]
    pub list_undeclared: bool,
    /// Directory to start in, relative to the exec root
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    pub chdir: Option<PathBuf>,
    /// Directory for private layers, best on the filesystem of the exec root
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Files")]
    pub layer_dir: Option<PathBuf>,

    /// What published outputs outlive
    #[arg(long, value_enum, default_value = "process", help_heading = "Files")]
    pub durability: DurabilityArg,

    /// Directory whose contents are the root, instead of the host's toolchain directories
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Sandbox")]
    pub rootfs: Option<PathBuf>,
    /// More of the host, read-only
    #[arg(long = "mount", value_name = "PATH[=DEST]", help_heading = "Sandbox")]
    pub mounts: Vec<OsString>,
    /// Host directory that the command may write to, in place: at its own absolute path, or at DEST
    #[arg(long = "writable", value_name = "PATH[=DEST]", help_heading = "Sandbox")]
    pub writable: Vec<OsString>,
    /// Network of the command
    #[arg(long, value_enum, default_value = "loopback", help_heading = "Sandbox")]
    pub network: NetworkArg,
    /// How the command runs
    #[arg(long, value_enum, default_value = "sandboxed", help_heading = "Sandbox")]
    pub strategy: StrategyArg,
    /// User 0 inside, without any power for it
    #[arg(long, help_heading = "Sandbox")]
    pub fake_root: bool,

    /// Let a daemon run it, whose socket is at PATH; outputs are published by the daemon
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true)]
    #[arg(value_hint = ValueHint::FilePath, help_heading = "Daemon")]
    pub daemon: Option<Option<PathBuf>>,
    /// Cluster that may run it: grpc://host:port, grpcs://host:port or unix:/path
    #[arg(long, value_name = "ADDRESS", conflicts_with = "daemon", help_heading = "Daemon")]
    pub remote: Option<String>,
    /// Bazel's options of dynamic execution
    #[command(flatten)]
    pub race: super::serve_args::RaceArgs,
    /// Where it runs, with --remote or --daemon; the same as --strategy dynamic: racing
    #[arg(long, value_enum, help_heading = "Daemon")]
    pub exec_strategy: Option<super::daemon::ExecStrategyArg>,
    /// What kind of action it is, as CppCompile
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    #[arg(help_heading = "Daemon")]
    pub mnemonic: String,

    /// Options of a persistent worker
    #[command(flatten)]
    pub worker: super::run_worker::WorkerArgs,

    /// Variable of the command's environment
    #[arg(long = "env", value_name = "NAME=VALUE", help_heading = "Command")]
    pub variables: Vec<OsString>,
    /// Variable to take from this environment; without a name, all of them
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "*")]
    #[arg(help_heading = "Command")]
    pub inherit_env: Vec<OsString>,
    /// Let the command read standard input; otherwise it finds it empty
    #[arg(long, help_heading = "Command")]
    pub stdin: bool,

    /// Kill the command after this time: 90, 1.5s, 10m
    #[arg(long, value_name = "TIME", value_parser = quantity::timeout, help_heading = "Limits")]
    #[arg(allow_negative_numbers = true)]
    pub timeout: Option<Duration>,
    /// After the timeout send SIGTERM, and kill only this much later
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, default_value = "0", help_heading = "Limits")]
    pub kill_delay: Duration,
    /// Most memory, swap included: 512M, 2G
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes, help_heading = "Limits")]
    #[arg(allow_negative_numbers = true)]
    pub memory: Option<u64>,
    /// Most cores: 0.5, 2
    #[arg(long, value_name = "CORES", value_parser = quantity::cores, help_heading = "Limits")]
    #[arg(allow_negative_numbers = true)]
    pub cpus: Option<u32>,
    /// Most processes and threads
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub pids: Option<u32>,

    /// Write what happened as JSON; - for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Report")]
    pub stats: Option<PathBuf>,
    /// Write a trace for Perfetto into this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Report")]
    pub profile: Option<PathBuf>,
    /// If the command fails, keep the sandbox for `fulgurite enter`
    #[arg(long, help_heading = "Report")]
    pub keep_on_failure: bool,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND", help_heading = "Arguments")]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// The options as meant: paths absolute, texts checked.
#[derive(Debug)]
pub struct RunSettings {
    /// The exec root, absolute.
    pub exec_root: PathBuf,
    /// Declared inputs, if any.
    pub inputs: Option<Vec<InputSpec>>,
    /// Declared outputs.
    pub outputs: Outputs,
    /// How it runs.
    pub strategy: Strategy,
    /// The sandbox.
    pub spec: SandboxSpec,
    /// Its limits.
    pub limits: Limits,
    /// The command.
    pub arguments: Vec<CString>,
    /// Its environment.
    pub variables: Vec<CString>,
    /// Its working directory inside.
    pub directory: CString,
    /// Where layers may lie.
    pub places: Places,
    /// What published outputs outlive.
    pub durability: Durability,
}

impl RunArgs {
    /// Checks everything that can be checked without the kernel.
    ///
    /// # Errors
    /// One line that names the option and what is wrong with it.
    pub fn settings(&self) -> Result<RunSettings, Failure> {
        let exec_root = std::fs::canonicalize(&self.exec_root).map_err(|error| {
            Failure::new(format!("cannot open exec root {}: {error}", self.exec_root.display()))
        })?;
        let inputs = self.input_specs(&exec_root)?;
        let outputs = self.output_specs(&exec_root)?;
        let limits = Limits {
            memory_bytes_max: self.memory,
            memory_bytes_high: None,
            cpu_milli_max: self.cpus,
            cpu_weight: None,
            pids_max: self.pids,
        };
        let hint = Some("limits are given with --memory, --cpus and --pids");
        limits.validate().map_err(|error| Failure::new(error.to_string()).hint(hint))?;
        let strategy = match self.strategy {
            StrategyArg::Dynamic if self.daemon.is_none() && self.remote.is_none() => {
                let hint = "give --remote, or --daemon";
                return Err(
                    Failure::new("--strategy dynamic needs a cluster to race against").hint(Some(hint))
                );
            }
            StrategyArg::Sandboxed | StrategyArg::Dynamic => Strategy::Sandboxed,
            StrategyArg::Standalone => Strategy::Standalone,
        };
        if strategy == Strategy::Standalone && inputs.is_some() {
            let hint = "without --input the command sees the whole exec root";
            return Err(Failure::new("--input needs --strategy sandboxed").hint(Some(hint)));
        }
        Ok(RunSettings {
            spec: self.spec()?,
            inputs,
            outputs,
            strategy,
            limits,
            arguments: self
                .command
                .iter()
                .map(|text| c_string("an argument", text))
                .collect::<Result<_, _>>()?,
            variables: self.variables()?,
            directory: self.directory()?,
            places: places(self.layer_dir.clone(), &exec_root),
            durability: self.durability(),
            exec_root,
        })
    }

    /// What published outputs outlive.
    pub(super) fn durability(&self) -> Durability {
        match self.durability {
            DurabilityArg::Process => Durability::Process,
            DurabilityArg::Power => Durability::Power,
        }
    }

    fn input_specs(&self, exec_root: &Path) -> Result<Option<Vec<InputSpec>>, Failure> {
        let mut inputs = Vec::new();
        for raw in &self.inputs {
            let parsed = InputSpec::parse(raw, exec_root);
            inputs.push(parsed.map_err(|error| Failure::new(error.to_string()))?);
        }
        if let Some(file) = &self.inputs_from {
            let failed = |error: std::io::Error| {
                Failure::new(format!("cannot read inputs from {}: {error}", file.display()))
            };
            let bytes = if file == Path::new("-") {
                let mut bytes = Vec::new();
                std::io::stdin().lock().take(INPUT_LIST_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
                bytes
            } else {
                std::fs::read(file).map_err(failed)?
            };
            inputs.extend(
                parse_inputs_from(&bytes, exec_root).map_err(|error| Failure::new(error.to_string()))?,
            );
        }
        let declared = !self.inputs.is_empty() || self.inputs_from.is_some();
        Ok(declared.then_some(inputs))
    }

    fn output_specs(&self, exec_root: &Path) -> Result<Outputs, Failure> {
        let mut specs = Vec::new();
        for raw in &self.outputs {
            let parsed = OutputSpec::parse(raw, exec_root);
            specs.push(parsed.map_err(|error| Failure::new(error.to_string()).hint(Some(error.hint())))?);
        }
        Outputs::new(specs).map_err(|error| Failure::new(error.to_string()))
    }

    fn spec(&self) -> Result<SandboxSpec, Failure> {
        let mut spec = SandboxSpec {
            network: match self.network {
                NetworkArg::None => Network::None,
                NetworkArg::Loopback => Network::Loopback,
                NetworkArg::Host => Network::Host,
            },
            ..SandboxSpec::default()
        };
        if let Some(rootfs) = &self.rootfs {
            let absolute = std::fs::canonicalize(rootfs)
                .map_err(|error| Failure::new(format!("cannot open rootfs {}: {error}", rootfs.display())))?;
            spec.root = RootView::Directory(absolute);
        }
        if self.fake_root {
            spec.identity = Identity { uid: 0, gid: 0, name: "root".to_owned() };
        }
        for (list, writable) in [(&self.mounts, false), (&self.writable, true)] {
            for raw in list {
                spec.mounts.push(host_mount(raw, writable)?);
            }
        }
        Ok(spec)
    }

    fn variables(&self) -> Result<Vec<CString>, Failure> {
        let mut names: Vec<(OsString, OsString)> =
            [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/tmp"), ("TMPDIR", "/tmp")]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec();
        let mut put = |name: &OsStr, value: &OsStr| {
            names.retain(|(old, _)| old != name);
            names.push((name.to_owned(), value.to_owned()));
        };
        for wanted in &self.inherit_env {
            let all = wanted == "*";
            std::env::vars_os()
                .filter(|(name, _)| (all && name != VARIABLE) || name == wanted)
                .for_each(|(name, value)| put(&name, &value));
        }
        for raw in &self.variables {
            let bytes = raw.as_bytes();
            let Some(at) = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) else {
                return Err(Failure::new(format!("--env {} is not NAME=VALUE", raw.display())));
            };
            put(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]));
        }
        let join = |(name, value): (OsString, OsString)| {
            c_string("a variable", &OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat()))
        };
        names.into_iter().map(join).collect()
    }

    fn directory(&self) -> Result<CString, Failure> {
        let Some(chdir) = &self.chdir else { return Ok(c"/work".to_owned()) };
        let plain = chdir
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if !plain {
            let hint = "give a path below the exec root";
            return Err(Failure::new(format!("--chdir {} leads out of the exec root", chdir.display()))
                .hint(Some(hint)));
        }
        c_string("--chdir", Path::new("/work").join(chdir).as_os_str())
    }
}

/// The longest list of inputs that is read.
const INPUT_LIST_BYTES_MAX: u64 = 256 << 20;

fn c_string(what: &str, text: &OsStr) -> Result<CString, Failure> {
    CString::new(text.as_bytes()).map_err(|_| Failure::new(format!("{what} contains a NUL byte")))
}

fn host_mount(raw: &OsStr, writable: bool) -> Result<HostMount, Failure> {
    let option = if writable { "--writable" } else { "--mount" };
    let bytes = raw.as_bytes();
    let (source, target) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (raw, None),
    };
    let source = std::fs::canonicalize(source)
        .map_err(|error| Failure::new(format!("cannot open {option} {}: {error}", source.display())))?;
    let target = target.map_or_else(|| source.clone(), PathBuf::from);
    Ok(HostMount { source, target, writable })
}

/// Where layers may lie: where the user says, else on the exec root's filesystem.
#[must_use]
pub fn places(explicit: Option<PathBuf>, exec_root: &Path) -> Places {
    Places {
        explicit,
        state_dir: Some(state_dir()),
        exec_root_parent: exec_root.parent().map(Path::to_owned),
        uid: rustix::process::getuid().as_raw(),
    }
}

/// Where Fulgurite keeps its state: `FULGURITE_STATE_DIR`, else as the XDG Base Directory Specification says.
#[must_use]
pub fn state_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(chosen) = variable("FULGURITE_STATE_DIR") {
        return chosen;
    }
    if rustix::process::getuid().is_root() {
        return PathBuf::from("/var/lib/fulgurite");
    }
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from("/tmp"), |base| base.join("fulgurite"))
}
