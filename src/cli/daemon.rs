//! Actions by a daemon: `fulgurite run --daemon`, `fulgurite rewrap`, `fulgurite status`.
//!
//! A thin client: it starts no sandbox, hashes nothing, and passes on what the daemon tells. Ctrl-C and a closed
//! terminal end the call, which cancels the run.

use super::daemon_stats::DaemonStats;
use super::profile::Profiled;
use super::run_args::{DurabilityArg, NetworkArg, RunArgs, RunSettings, StrategyArg};
use crate::action::{InputSpec, OutputSpec, Source};
use crate::config::quantity;
use crate::exec::executor::Placement;
use crate::failure::{self, Failure, tell};
use crate::remote::daemon::{Daemon, DaemonEnd, DaemonError, DaemonEvent, DaemonOutcome, DaemonRun};
use clap::{Args, ValueEnum, ValueHint};
use fulgurite_sandbox::spec::Network;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Where an action runs; names as in reclient's rewrapper.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum ExecStrategyArg {
    /// On this machine
    Local,
    /// On another
    Remote,
    /// On another, and here if that cannot be had
    RemoteLocalFallback,
    /// On both; the first result counts
    Racing,
}

impl ExecStrategyArg {
    /// Whether both sides may start.
    pub(super) fn races(self) -> bool {
        matches!(self, ExecStrategyArg::Racing)
    }

    fn placement(self) -> Placement {
        match self {
            ExecStrategyArg::Local => Placement::Local,
            ExecStrategyArg::Remote => Placement::Remote,
            ExecStrategyArg::RemoteLocalFallback => Placement::RemoteLocalFallback,
            ExecStrategyArg::Racing => Placement::Racing,
        }
    }
}

/// Options of reclient's rewrapper, as far as they mean something here.
#[derive(Args, Clone, Debug)]
#[command(rename_all = "snake_case")]
pub struct RewrapArgs {
    /// Socket of the daemon
    #[arg(long, env = "RBE_server_address", value_name = "unix:PATH", value_hint = ValueHint::FilePath)]
    pub server_address: Option<String>,
    /// Directory that inputs and outputs are relative to
    #[arg(long, env = "RBE_exec_root", value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub exec_root: PathBuf,
    /// Files or directories that the command may see, relative to the exec root
    #[arg(long, env = "RBE_inputs", value_name = "PATH,…", value_delimiter = ',')]
    pub inputs: Vec<OsString>,
    /// Files with a list of inputs, a line each
    #[arg(long, env = "RBE_input_list_paths", value_name = "FILE,…", value_delimiter = ',')]
    pub input_list_paths: Vec<PathBuf>,
    /// Files that the command makes, relative to the exec root
    #[arg(long, env = "RBE_output_files", value_name = "PATH,…", value_delimiter = ',')]
    pub output_files: Vec<OsString>,
    /// Directories that the command makes, relative to the exec root
    #[arg(long, env = "RBE_output_directories", value_name = "PATH,…", value_delimiter = ',')]
    pub output_directories: Vec<OsString>,
    /// Variables to take from this environment
    #[arg(long, env = "RBE_env_var_allowlist", value_name = "NAME,…", value_delimiter = ',')]
    pub env_var_allowlist: Vec<String>,
    /// What kind of action it is: type=compile,lang=cpp
    #[arg(long, env = "RBE_labels", value_name = "KEY=VALUE,…")]
    pub labels: Option<String>,
    /// Platform properties: container-image=…,OSFamily=linux
    #[arg(long, env = "RBE_platform", value_name = "KEY=VALUE,…")]
    pub platform: Option<String>,
    /// Where it runs
    #[arg(long, env = "RBE_exec_strategy", value_enum, default_value = "remote_local_fallback")]
    pub exec_strategy: ExecStrategyArg,
    /// Kill the command after this time
    #[arg(long, env = "RBE_exec_timeout", value_name = "TIME", value_parser = quantity::timeout)]
    pub exec_timeout: Option<Duration>,
    /// Keep trying to reach the daemon for this long
    #[arg(long, env = "RBE_dial_timeout", value_name = "TIME", default_value = "3m")]
    #[arg(value_parser = quantity::duration)]
    pub dial_timeout: Duration,
    /// Take a result out of the cache
    #[arg(long, env = "RBE_remote_accept_cache", value_name = "BOOL", default_value = "true", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub remote_accept_cache: bool,
    /// Do not keep the result in the cache
    #[arg(long, env = "RBE_do_not_cache", value_name = "BOOL", default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub do_not_cache: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The flags of `rewrap` as Go programs take them, with one dash or two, become those with two. Nothing else is
/// touched.
pub(super) fn with_long_flags(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_none_or(|verb| verb != "rewrap") {
        return arguments;
    }
    let flags =
        arguments.iter_mut().skip(2).take_while(|flag| *flag != "--" && flag.as_bytes().starts_with(b"-"));
    for flag in flags {
        let bytes = flag.as_bytes();
        if bytes.len() > 2 && bytes[1] != b'-' {
            *flag = OsString::from_vec([b"-", bytes].concat());
        }
    }
    arguments
}

/// Where a daemon listens if nothing is configured.
pub(super) fn default_socket() -> PathBuf {
    std::env::var_os("FULGURITE_DAEMON")
        .filter(|path| !path.is_empty())
        .map_or_else(|| super::serve_args::host().socket(), PathBuf::from)
}

/// `fulgurite run --daemon`.
///
/// # Errors
/// A failure of Fulgurite's own, or of reaching the daemon.
pub fn run(args: &RunArgs, socket: Option<&Path>) -> Result<u8, Failure> {
    refuse_what_needs_no_daemon(args, "from a daemon")?;
    let socket = socket.map_or_else(default_socket, Path::to_owned);
    run_at(args, &socket)
}

/// Runs a command by the daemon at this socket.
pub(super) fn run_at(args: &RunArgs, socket: &Path) -> Result<u8, Failure> {
    let begun = Instant::now();
    super::run::can_write_stats(args.stats.as_deref())?;
    let run = request(args, &args.settings()?)?;
    let profile = args.profile.as_deref().map(|file| (file, args.mnemonic.as_str()));
    let is_worker_wanted = run.worker.is_some();
    perform(socket, run, (Duration::ZERO, profile), &args.command, |outcome| {
        if is_worker_wanted {
            super::run_worker::tell_of_it(outcome);
        }
        let Some(file) = &args.stats else { return Ok(()) };
        let wall_us = begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        super::run::write_stats(file, &DaemonStats::of(outcome, wall_us))
    })
}

/// A command as a daemon is asked for it.
pub(super) fn request(args: &RunArgs, settings: &RunSettings) -> Result<DaemonRun, Failure> {
    let worker = args.worker.wanted(args, &settings.exec_root)?;
    let variables = settings.variables.iter().map(|variable| {
        let bytes = variable.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        (bytes[..at].to_vec(), bytes.get(at + 1..).unwrap_or_default().to_vec())
    });
    let outputs = settings.outputs.iter().map(declared);
    let run = DaemonRun {
        exec_root: settings.exec_root.as_os_str().as_bytes().to_vec(),
        arguments: settings.arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: variables.collect(),
        inputs: settings.inputs.iter().flatten().map(input).collect(),
        outputs: outputs.collect(),
        outputs_on_failure: args.outputs_on_failure,
        working_directory: args
            .chdir
            .as_ref()
            .map(|dir| dir.as_os_str().as_bytes().to_vec())
            .unwrap_or_default(),
        timeout: args.timeout,
        limits: (args.memory, args.cpus, args.pids),
        // Loopback is what daemons give, and what clusters with names of their own for platforms need not be told.
        network: match args.network {
            NetworkArg::None => Some(Network::None),
            NetworkArg::Loopback => None,
            NetworkArg::Host => Some(Network::Host),
        },
        placement: match (args.exec_strategy, args.strategy) {
            (Some(strategy), _) => strategy.placement(),
            (None, StrategyArg::Dynamic) => Placement::Racing,
            (None, _) => Placement::Configured,
        },
        mnemonic: args.mnemonic.clone(),
        worker,
        ..DaemonRun::default()
    };
    if settings.inputs.as_ref().is_some_and(Vec::is_empty) {
        let hint = "name an input, or leave the list out to show the whole exec root";
        return Err(Failure::new("the list of inputs is empty").hint(Some(hint)));
    }
    Ok(run)
}

/// `whence` says in an error where it cannot be had: `from a daemon`.
pub(super) fn refuse_what_needs_no_daemon(args: &RunArgs, whence: &str) -> Result<(), Failure> {
    let refused = [
        (args.race.is_given(), "an option of races, which is the daemon's own,"),
        (args.rootfs.is_some(), "--rootfs"),
        (!args.mounts.is_empty(), "--mount"),
        (!args.writable.is_empty(), "--writable"),
        (args.fake_root, "--fake-root"),
        (args.stdin, "--stdin"),
        (args.keep_on_failure, "--keep-on-failure"),
        (args.list_undeclared, "--list-undeclared"),
        (args.layer_dir.is_some(), "--layer-dir"),
        (!args.kill_delay.is_zero(), "--kill-delay"),
        (
            args.durability != DurabilityArg::Process,
            "--durability, which is the daemon's own (store.durability),",
        ),
        (matches!(args.strategy, StrategyArg::Standalone), "--strategy standalone"),
    ];
    match refused.into_iter().find(|(is_there, _)| *is_there) {
        Some((_, option)) => {
            let hint = match args.daemon {
                Some(_) => "leave out --daemon, and the command runs in a sandbox of this process",
                None => "leave one of them out",
            };
            Err(Failure::new(format!("{option} cannot be had {whence}")).hint(Some(hint)))
        }
        None => Ok(()),
    }
}

fn input(spec: &InputSpec) -> (Vec<u8>, Vec<u8>) {
    let source = match &spec.source {
        Source::Beneath(path) => path.as_os_str().as_bytes().to_vec(),
        Source::Absolute(path) => path.as_os_str().as_bytes().to_vec(),
    };
    (source, spec.dest.as_os_str().as_bytes().to_vec())
}

fn declared(output: &OutputSpec) -> Vec<u8> {
    let mut path = output.path.as_os_str().as_bytes().to_vec();
    if output.must_be_directory {
        path.push(b'/');
    }
    path
}

/// `fulgurite rewrap`.
///
/// # Errors
/// A failure of Fulgurite's own, or of reaching the daemon.
pub fn rewrap(args: &RewrapArgs) -> Result<u8, Failure> {
    let socket = match args.server_address.as_deref() {
        None => default_socket(),
        Some(address) => match address.strip_prefix("unix:").map(|path| path.trim_start_matches("//")) {
            Some(path) => PathBuf::from(path),
            None => {
                let hint = "give --server_address=unix:/path/of/the/socket";
                return Err(Failure::new(format!(
                    "cannot use the server address {address:?}: it is no Unix socket"
                ))
                .hint(Some(hint)));
            }
        },
    };
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot open exec root {}: {error}", args.exec_root.display()))
    };
    let exec_root = std::fs::canonicalize(&args.exec_root).map_err(failed)?;
    let here = std::env::current_dir().map_err(failed)?;
    let Ok(working_directory) = here.strip_prefix(&exec_root) else {
        let (here, root) = (here.display(), exec_root.display());
        return Err(Failure::new(format!("the working directory {here} is not below the exec root {root}"))
            .hint(Some("give --exec-root the directory that holds all inputs")));
    };
    let mut inputs: Vec<Vec<u8>> = args.inputs.iter().map(|input| input.as_bytes().to_vec()).collect();
    for list in &args.input_list_paths {
        let read = std::fs::read(list);
        let bytes = read
            .map_err(|error| Failure::new(format!("cannot read inputs from {}: {error}", list.display())))?;
        inputs.extend(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
    }
    let mut outputs: Vec<Vec<u8>> = args.output_files.iter().map(|path| path.as_bytes().to_vec()).collect();
    outputs.extend(args.output_directories.iter().map(|path| [path.as_bytes(), b"/"].concat()));
    let labels = pairs(args.labels.as_deref(), "--labels")?;
    let run = DaemonRun {
        exec_root: exec_root.into_os_string().into_vec(),
        arguments: args.command.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: environment(&args.env_var_allowlist),
        inputs: inputs.into_iter().filter(|input| !input.is_empty()).map(|path| (path, Vec::new())).collect(),
        outputs,
        working_directory: working_directory.as_os_str().as_bytes().to_vec(),
        platform: pairs(args.platform.as_deref(), "--platform")?,
        timeout: args.exec_timeout,
        mnemonic: mnemonic(&labels),
        placement: args.exec_strategy.placement(),
        do_not_cache: args.do_not_cache,
        fresh: !args.remote_accept_cache,
        ..DaemonRun::default()
    };
    perform(&socket, run, (args.dial_timeout, None), &args.command, |_| Ok(()))
}

fn pairs(list: Option<&str>, option: &str) -> Result<Vec<(String, String)>, Failure> {
    let parts = list.unwrap_or_default().split(',').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let pair = part.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| Failure::new(format!("{option}: {part:?} is not KEY=VALUE")))
    };
    parts.map(pair).collect()
}

/// One word for a set of labels: `compile-clang-cpp`.
fn mnemonic(labels: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = labels.iter().collect();
    sorted.sort_by_key(|(name, _)| match name.as_str() {
        "type" => (0, name),
        _ => (1, name),
    });
    sorted.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("-")
}

fn environment(allowed: &[String]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut variables = vec![
        (b"HOME".to_vec(), b"/tmp".to_vec()),
        (b"PATH".to_vec(), b"/usr/local/bin:/usr/bin:/bin".to_vec()),
        (b"TMPDIR".to_vec(), b"/tmp".to_vec()),
    ];
    for name in allowed {
        if let Some(value) = std::env::var_os(name) {
            variables.retain(|(old, _)| old != name.as_bytes());
            variables.push((name.as_bytes().to_vec(), value.into_vec()));
        }
    }
    variables
}

/// A runtime of this thread alone.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::new(format!("cannot start: {error}")))
}

pub(super) fn unreachable_daemon(error: DaemonError) -> Failure {
    let hint = match &error {
        DaemonError::Connect { why, .. } if why.starts_with("Permission denied") => {
            Some("the socket is its user's alone: start one of your own: fulgurite serve")
        }
        DaemonError::Connect { .. } => Some("start one: fulgurite serve"),
        DaemonError::Lost { .. } => None,
    };
    Failure::new(error.to_string()).hint(hint)
}

/// How the wait for a daemon went.
enum Ended {
    Outcome(Result<Box<DaemonOutcome>, DaemonError>),
    Signal(u8),
}

/// The file of a trace, and the kind of what is run.
type Profile<'a> = Option<(&'a Path, &'a str)>;

/// Runs it; `report` is told of what came of it before the failure, if it is one, is.
fn perform(
    socket: &Path,
    run: DaemonRun,
    (dial, profile): (Duration, Profile<'_>),
    command: &[OsString],
    report: impl FnOnce(&mut DaemonOutcome) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let began = Instant::now();
    let ended = runtime()?.block_on(async {
        let call = async {
            let mut daemon = dialed(socket, dial).await?;
            daemon.run(run, print).await
        };
        tokio::select! {
            outcome = call => Ok(Ended::Outcome(outcome.map(Box::new))),
            number = interrupted() => number.map(Ended::Signal),
        }
    });
    let ended = ended.map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
    match ended {
        Ended::Signal(number) => Ok(failure::SIGNAL_BASE + number),
        Ended::Outcome(Err(error)) => Err(unreachable_daemon(error)),
        Ended::Outcome(Ok(mut outcome)) => {
            let phases = outcome.phases.clone();
            let reported = report(&mut outcome);
            let code = match (conclude(*outcome, command), reported) {
                (Ok(0), Err(failure)) => Err(failure),
                (concluded, reported) => {
                    // The first failure is the one that counts.
                    reported.unwrap_or_else(|failure| tell(&failure));
                    concluded
                }
            }?;
            if let Some((file, mnemonic)) = profile {
                let command = command.first().map(OsString::as_os_str).unwrap_or_default();
                let parts: Vec<(&str, u64)> = phases.iter().map(|(name, us)| (name.as_str(), *us)).collect();
                Profiled { command, mnemonic, began, code }.write_parts(file, &parts)?;
            }
            Ok(code)
        }
    }
}

/// A daemon may be about to start: it is tried again, for as long as the caller is patient.
async fn dialed(socket: &Path, patience: Duration) -> Result<Daemon, DaemonError> {
    const PAUSE: Duration = Duration::from_millis(50);
    let until = tokio::time::Instant::now() + patience;
    loop {
        match Daemon::connect(socket).await {
            Err(DaemonError::Connect { .. }) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Waits for a signal that ends things, and gives its number.
pub(super) async fn interrupted() -> std::io::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(2),
        _ = terminate.recv() => Ok(15),
        _ = hangup.recv() => Ok(1),
    }
}

fn print(event: DaemonEvent) {
    // A reader that has seen enough is no failure of the action.
    let _ = match event {
        DaemonEvent::Stdout(bytes) => std::io::stdout().lock().write_all(&bytes),
        DaemonEvent::Stderr(bytes) => std::io::stderr().lock().write_all(&bytes),
    };
}

fn conclude(outcome: DaemonOutcome, command: &[OsString]) -> Result<u8, Failure> {
    let shown = command.first().map(|command| command.display().to_string()).unwrap_or_default();
    for note in &outcome.notes {
        tell(note);
    }
    Ok(match outcome.end {
        DaemonEnd::Exited(0) => 0,
        DaemonEnd::Exited(code) => {
            tell(format_args!("{shown} exited with {code}"));
            u8::try_from(code).unwrap_or(1)
        }
        DaemonEnd::TimedOut => {
            tell(format_args!("{shown} was killed at the end of its time (hint: raise the timeout)"));
            failure::TIMED_OUT
        }
        DaemonEnd::OutOfMemory => {
            tell(format_args!("{shown} was killed for its use of memory (hint: raise the limit)"));
            failure::SIGNAL_BASE + 9
        }
        DaemonEnd::Canceled => {
            tell(format_args!("{shown} was canceled"));
            failure::SIGNAL_BASE + 9
        }
        DaemonEnd::Failed { message, hint } => return Err(Failure::new(message).hint(hint)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_make_a_mnemonic() {
        let labels = pairs(Some("lang=cpp,compiler=clang,type=compile"), "--labels").unwrap();
        assert_eq!(mnemonic(&labels), "compile-clang-cpp");
        assert_eq!(mnemonic(&[]), "");
        assert_eq!(pairs(Some("x"), "--labels").unwrap_err().message, "--labels: \"x\" is not KEY=VALUE");
    }
}
