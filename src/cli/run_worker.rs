//! `fulgurite run --worker`: one command by a persistent worker.
//!
//! ```text
//!   --daemon          the daemon's pool: the worker stays for the next command that is like this one
//!   without           a daemon within this process, for this command: the worker is started for it, and ended after it
//! ```
//! Invariants: what cannot go to a worker is refused before anything starts; a worker that cannot be had when it comes
//! to it is done without, and the run says so.
//! Limits: without a daemon, inputs are hashed into a store that stays for the next time; of those there are at most
//! 64, each for one run at a time.

use super::daemon;
use super::run_args::{RunArgs, StrategyArg, state_dir};
use super::serve::serve_while;
use super::serve_args::ServeArgs;
use crate::action::ExecPath;
use crate::exec::workered::WORKER_CRASHED;
use crate::failure::{Failure, tell};
use crate::remote::daemon::{DaemonEnd, DaemonOutcome, DaemonWorker, DaemonWorkerView};
use crate::worker::arguments::{self, ArgumentsError, Mode};
use clap::{Args, ValueEnum, ValueHint};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Stores for runs at the same time: more of them do not fit on the cores of any machine that has no daemon.
const STORES_MAX: usize = 64;

/// What a worker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// Bazel's, protocol buffers on standard input and output
    Proto,
    /// Bazel's, JSON on standard input and output
    Json,
    /// As proto, several requests at a time, each in a directory of its own
    MultiplexProto,
    /// As json, several requests at a time, each in a directory of its own
    MultiplexJson,
    /// Buck2's, gRPC over the socket of WORKER_SOCKET
    Buck2,
}

/// What a worker sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ViewArg {
    /// Of each request its own inputs, in its time
    Own,
    /// One directory, which is changed for each
    Shared,
}

/// Options of a worker.
#[derive(Args, Clone, Debug, Default)]
pub struct WorkerArgs {
    /// Let a persistent worker run it that speaks this; it gets what @FILE and --flagfile=FILE among the arguments say
    #[arg(id = "worker", long = "worker", value_name = "PROTOCOL", value_enum, help_heading = "Worker")]
    pub protocol: Option<ProtocolArg>,
    /// File or directory of the worker's own, among the inputs: when it changes, another worker is started
    #[arg(id = "worker_tool", long = "worker-tool", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    #[arg(requires = "worker", help_heading = "Worker")]
    pub tools: Vec<OsString>,
    /// Commands with different keys have different workers, whatever else they have in common
    #[arg(
        id = "worker_key",
        long = "worker-key",
        value_name = "KEY",
        requires = "worker",
        help_heading = "Worker"
    )]
    pub key: Option<String>,
    /// With buck2: so many arguments start the worker, and the others are its request, as they are
    #[arg(id = "worker_startup", long = "worker-startup", value_name = "COUNT", requires = "worker")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), help_heading = "Worker")]
    pub startup: Option<u32>,
    /// The worker knows how to cancel; one of buck2 says so itself
    #[arg(id = "worker_cancels", long = "worker-cancels", requires = "worker", help_heading = "Worker")]
    pub cancels: bool,
    /// What the worker sees
    #[arg(id = "worker_view", long = "worker-view", value_name = "VIEW", value_enum, requires = "worker")]
    #[arg(help_heading = "Worker")]
    pub view: Option<ViewArg>,
}

impl WorkerArgs {
    /// The worker that is asked for, if one is.
    ///
    /// # Errors
    /// What of the command or of other options cannot go to a worker.
    pub fn wanted(&self, args: &RunArgs, exec_root: &Path) -> Result<Option<DaemonWorker>, Failure> {
        let Some(protocol) = self.protocol else { return Ok(None) };
        let is_buck2 = protocol == ProtocolArg::Buck2;
        let is_multiplex = matches!(protocol, ProtocolArg::MultiplexProto | ProtocolArg::MultiplexJson);
        if matches!(args.strategy, StrategyArg::Standalone) {
            let hint =
                "leave out one of them: a worker writes to a private layer, and its outputs are published";
            return Err(Failure::new("--worker cannot be had with --strategy standalone").hint(Some(hint)));
        }
        if self.startup.is_some() && !is_buck2 {
            let hint = "leave it out: Bazel's workers get what their flag files say";
            return Err(Failure::new("--worker-startup is for --worker buck2").hint(Some(hint)));
        }
        if is_multiplex && self.view == Some(ViewArg::Shared) {
            let hint = "leave out --worker-view, or choose a protocol without multiplex";
            return Err(Failure::new("several requests at a time cannot share one view").hint(Some(hint)));
        }
        check_arguments(args, is_buck2, self.startup)?;
        let tools = self.tools.iter().map(|path| {
            let parsed = ExecPath::new_under(path, exec_root);
            let parsed = parsed.map_err(|error| Failure::new(format!("--worker-tool: {error}")))?;
            Ok(parsed.as_os_str().as_bytes().to_vec())
        });
        Ok(Some(DaemonWorker {
            protocol: match protocol {
                ProtocolArg::Proto | ProtocolArg::MultiplexProto => crate::worker::wire::Protocol::Proto,
                ProtocolArg::Json | ProtocolArg::MultiplexJson => crate::worker::wire::Protocol::Json,
                ProtocolArg::Buck2 => crate::worker::wire::Protocol::Buck2,
            },
            multiplex: is_multiplex,
            tools: tools.collect::<Result<_, Failure>>()?,
            key: self.key.clone().unwrap_or_default(),
            startup_arguments: self.startup.unwrap_or(0),
            cancels: self.cancels,
            view: self.view.map(|view| match view {
                ViewArg::Own => DaemonWorkerView::Own,
                ViewArg::Shared => DaemonWorkerView::Shared,
            }),
        }))
    }
}

/// Whether there is something to start and something to ask.
fn check_arguments(args: &RunArgs, is_buck2: bool, startup: Option<u32>) -> Result<(), Failure> {
    let text = |argument: &OsString| argument.to_str().map(str::to_owned);
    let Some(texts) = args.command.iter().map(text).collect::<Option<Vec<_>>>() else {
        return Err(Failure::new("an argument is not UTF-8, which a worker cannot be told"));
    };
    let split = if is_buck2 {
        arguments::split_at(&texts, startup.and_then(|count| usize::try_from(count).ok()))
    } else {
        arguments::split(&texts, Mode::Legacy)
    };
    let Err(why) = split else { return Ok(()) };
    let name = texts.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program));
    let name = if args.mnemonic.is_empty() { name } else { &args.mnemonic };
    let hint = match (&why, is_buck2) {
        (ArgumentsError::NoFlagFile, true) => "say with --worker-startup how many arguments start the worker",
        (ArgumentsError::NoFlagFile, false) => {
            "write the arguments of the request into a file, an input, and give @FILE in their place"
        }
        (ArgumentsError::TooFew { .. }, _) => "lower --worker-startup",
        _ => "name the worker's program first",
    };
    Err(Failure::new(why.for_action(name)).hint(Some(hint)))
}

/// `fulgurite run --worker` without a daemon.
///
/// # Errors
/// A failure of Fulgurite's own.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    daemon::refuse_what_needs_no_daemon(args, "by a worker")?;
    // What is wrong with the command line is said before anything starts.
    args.worker.wanted(args, &args.settings()?.exec_root)?;
    let (_lock, state) = store()?;
    let socket = state.join("socket");
    let serve = ServeArgs {
        state_dir: Some(state),
        unix: vec![socket.clone()],
        log: Some(std::env::var("FULGURITE_LOG").unwrap_or_else(|_| "warn".to_owned())),
        ..ServeArgs::default()
    };
    serve_while(&serve, || daemon::run_at(args, &socket))
}

/// The first state directory that no other run has, for as long as the lock lives.
fn store() -> Result<(File, PathBuf), Failure> {
    let parent = state_dir().join("run-worker");
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(format!("cannot keep a store for workers in {}: {error}", path.display()))
    };
    std::fs::create_dir_all(&parent).map_err(|error| failed(&parent, error))?;
    for number in 0..STORES_MAX {
        let path = parent.join(format!("{number}.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| failed(&path, error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((lock, parent.join(number.to_string())));
        }
    }
    let hint = "let a daemon run them: fulgurite serve, and run --daemon";
    Err(Failure::new(format!("{STORES_MAX} other runs with workers go on")).hint(Some(hint)))
}

/// A worker that crashed has no exit code that means anything to who asked for it; what it said is printed.
fn name_crash(outcome: &mut DaemonOutcome) {
    let by_none = outcome.persistent_worker.is_none() && outcome.one_shot_because.is_none();
    if by_none && outcome.end == DaemonEnd::Exited(WORKER_CRASHED) {
        let what = "its worker crashed, or the command was aborted by a machine that has none";
        outcome.end =
            DaemonEnd::Failed { message: format!("{what} (exit code {WORKER_CRASHED})"), hint: None };
    }
}

/// Who asked for a worker and got none is told.
pub(super) fn tell_of_it(outcome: &mut DaemonOutcome) {
    name_crash(outcome);
    match &outcome.one_shot_because {
        _ if outcome.cached || outcome.persistent_worker.is_some() => {}
        Some(why) => tell(format_args!("the command ran by itself, without a worker: {why}")),
        None if matches!(outcome.end, DaemonEnd::Exited(_)) => {
            let machine = &outcome.worker;
            tell(format_args!("no worker ran the command: there are none on {machine:?}, which did"));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn wanted(options: &str, command: &str) -> Result<Option<DaemonWorker>, Failure> {
        let words = ["fulgurite", "run"].into_iter().chain(options.split_whitespace()).chain(["--"]);
        let parsed = Cli::try_parse_from(words.chain(command.split_whitespace()));
        let Verb::Run(args) = parsed.map_err(|error| Failure::new(error.to_string()))?.verb else { panic!() };
        args.worker.wanted(&args, Path::new("/root/of/exec"))
    }

    #[test]
    fn what_is_asked_for() {
        assert_eq!(wanted("", "tool x").unwrap(), None);
        let worker = wanted("--worker json --worker-tool t/a --worker-tool /root/of/exec/b", "tool @x");
        let worker = worker.unwrap().unwrap();
        assert_eq!(worker.tools, [b"t/a".to_vec(), b"b".to_vec()]);
        assert!(!worker.multiplex && !worker.cancels && worker.view.is_none());
        let many = wanted("--worker multiplex-proto --worker-cancels --worker-key k", "tool -x @x").unwrap();
        let many = many.unwrap();
        assert_eq!((many.multiplex, many.cancels, many.key.as_str()), (true, true, "k"));
        let buck2 = wanted("--worker buck2 --worker-startup 2 --worker-view shared", "tool -f x").unwrap();
        let buck2 = buck2.unwrap();
        assert_eq!((buck2.startup_arguments, buck2.view), (2, Some(DaemonWorkerView::Shared)));
    }

    #[test]
    fn what_cannot_be() {
        for (options, command, says) in [
            ("--worker smoke", "tool @x", "possible values: proto, json, multiplex-proto"),
            ("--worker proto", "tool x", "This tool action"),
            ("--worker proto --mnemonic Javac", "tool x", "this Javac action, because the command-line"),
            ("--worker proto", "@x", "contain nothing but"),
            ("--worker buck2", "tool x", "say with --worker-startup how many"),
            ("--worker buck2 --worker-startup 3", "tool x", "has 2 arguments, and 3"),
            ("--worker buck2 --worker-startup 0", "tool x", "0 is not in 1.."),
            ("--worker proto --worker-startup 1", "tool @x", "--worker-startup is for --worker buck2"),
            ("--worker json --strategy standalone", "tool @x", "cannot be had with --strategy standalone"),
            ("--worker multiplex-json --worker-view shared", "tool @x", "cannot share one view"),
            ("--worker proto --worker-tool ../x", "tool @x", "--worker-tool: "),
            ("--worker-tool x", "tool @x", "--worker <PROTOCOL>"),
        ] {
            let failure = wanted(options, command).unwrap_err();
            let said = format!("{failure}").to_lowercase();
            assert!(said.contains(&says.to_lowercase()), "{options}: {said}");
        }
    }
}
