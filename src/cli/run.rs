//! `fulgurite run`: one command in a sandbox of its own.
//!
//! ```text
//! check options ─► runtime (zygote) ─► sandbox ─► inputs, layer ─► command ─► quiet ─► outputs ─► publish ─► clean up
//! ```
//! Prints nothing but the command's own output, unless it fails. Outputs appear only if it succeeded.
use super::keep::{self, Keeper};
use super::profile::Profiled;
use super::run_args::{RunArgs, RunSettings, state_dir};
use super::signals::{BlockedSignals, Interruption};
use super::stats::{PhaseStats, stats};
use super::streams::Streams;
use crate::action::Outputs;
use crate::commit::{self, Journal, PublishOptions, Published, publish_unopposed};
use crate::exec::view::{Strategy, ViewSpec};
use crate::exec::{Executed, LocalAction, execute};
use crate::failure::{self, Failure, tell};
use crate::stage::limits::TreeLimits;
use crate::stage::{self, Owner};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::runtime::{CgroupUse, Runtime, RuntimeOptions, Template};
use fulgurite_sandbox::sandbox::Sandbox;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Runs `fulgurite run`; gives the exit code.
///
/// # Errors
/// A failure of Fulgurite's own.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    if let Some(socket) = &args.daemon {
        return super::daemon::run(args, socket.as_deref());
    }
    if args.remote.is_some() {
        return super::run_remote::run(args);
    }
    if args.worker.protocol.is_some() {
        return super::run_worker::run(args);
    }
    if args.exec_strategy.is_some() || args.race.is_given() {
        let hint = match args.exec_strategy {
            Some(_) => "give --remote, or --daemon",
            None => "give --remote",
        };
        return Err(Failure::new("there is nothing to race against").hint(Some(hint)));
    }
    let begun = Instant::now();
    let signals = BlockedSignals::block();
    // The front checks nothing itself: a list of inputs on standard input can be read only once.
    let keeper = match (args.keep_on_failure, Keeper::from_environment()) {
        (true, None) => return keep::supervise(signals, &state_dir()),
        (true, keeper) => keeper,
        (false, _) => None,
    };
    let settings = args.settings()?;
    can_write_stats(args.stats.as_deref())?;
    recover_and_sweep(&settings)?;
    let runtime =
        Arc::new(Runtime::start(&RuntimeOptions { cgroups: cgroup_use(args, &settings), once: true })?);
    keeper.as_ref().map_or(Ok(()), Keeper::end_with_front)?;
    let interruption = signals
        .wait_in_background()
        .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
    let phases = PhaseStats { runtime_us: since(begun), ..PhaseStats::default() };
    let job = Job { args, settings: &settings, runtime: &runtime, interruption: &interruption, begun };
    let result = job.run(keeper, phases);
    // Whatever happened, nothing of the sandbox stays.
    let stopped = match Arc::into_inner(runtime) {
        Some(runtime) => runtime.stop().map_err(Failure::from),
        None => Ok(()),
    };
    match (result, stopped) {
        (Ok(code), Ok(())) => Ok(interruption.number().map_or(code, |n| failure::SIGNAL_BASE + n as u8)),
        (Err(failure), _) | (Ok(_), Err(failure)) => Err(failure),
    }
}

/// Finishes what a run that died was publishing, and then removes what it left.
pub(super) fn recover_and_sweep(settings: &RunSettings) -> Result<(), Failure> {
    let failed = |error: stage::StageError| Failure::new(error.to_string()).hint(error.hint());
    let recovered = commit::recover_all(&settings.places, settings.durability).map_err(failed)?;
    for line in recovered.all_told() {
        tell(line);
    }
    stage::sweep_all_but(&settings.places, &recovered.needed).map_err(failed)?;
    Ok(())
}

fn since(start: Instant) -> u64 {
    start.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
}

/// Limits and full accounting need the v1 controllers where there are any; joining those costs milliseconds.
pub(super) fn cgroup_use(args: &RunArgs, settings: &RunSettings) -> CgroupUse {
    let wanted = settings.limits != Limits::default() || args.stats.is_some();
    if wanted { CgroupUse::All } else { CgroupUse::OnlyV2 }
}

/// What all parts of a run need.
#[derive(Clone, Copy)]
struct Job<'a> {
    args: &'a RunArgs,
    settings: &'a RunSettings,
    runtime: &'a Arc<Runtime>,
    interruption: &'a Interruption,
    begun: Instant,
}

/// What is left when the command is over and its outputs are published.
struct Finished {
    code: u8,
    layer: Option<stage::Layer>,
}

impl Job<'_> {
    fn run(self, keeper: Option<Keeper>, mut phases: PhaseStats) -> Result<u8, Failure> {
        let made = Instant::now();
        let template = self.runtime.template(&self.settings.spec)?;
        let mut sandbox = Sandbox::begin(self.runtime, &template)?;
        self.interruption.watch(sandbox.killer());
        phases.sandbox_us = since(made);
        let Finished { code, layer } = match self.act(&template, &mut sandbox, phases) {
            Ok(finished) => finished,
            Err(failure) => {
                // The first failure is the one that counts; the next start finds what is left.
                let _ = sandbox.destroy(self.runtime);
                return Err(failure);
            }
        };
        if let (Some(keeper), true, None) =
            (keeper, code != 0 && sandbox.is_sound(), self.interruption.number())
        {
            keeper.keep(&mut sandbox, code, &self.settings.variables, self.interruption);
        }
        let destroyed = sandbox.destroy(self.runtime);
        if let Some(layer) = layer {
            layer.destroy().map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
        }
        destroyed?;
        Ok(code)
    }

    fn act(
        self,
        template: &Arc<Template>,
        sandbox: &mut Sandbox,
        mut phases: PhaseStats,
    ) -> Result<Finished, Failure> {
        let root = open_root(self.settings)?;
        let owner = output_owner(&root, self.runtime.features().privileged)?;
        let mut executed = self.execute(&root, owner, sandbox)?;
        let publishing = Instant::now();
        let published = hand_over(&mut executed, self.settings, &root, owner);
        phases.publish_us = since(publishing);
        tell_undeclared(&executed);
        let (code, line) = code_of(&executed.outcome.end, self.args);
        let handed = published.as_ref().ok().and_then(Option::as_ref);
        let stats_written = self.report(&executed, template, handed, phases, code);
        let layer = executed.layer.take();
        match published.map(drop).and(stats_written) {
            Err(failure) if code == 0 => {
                // The first failure is the one that counts; what is left is swept at the next start.
                let _ = layer.map(stage::Layer::destroy);
                return Err(failure);
            }
            Err(failure) => tell(&failure),
            Ok(()) => {}
        }
        if let Some(line) = line {
            tell(format_args!("{line}{}", look_closer(self.args, &executed)));
        }
        Ok(Finished { code, layer })
    }

    /// Writes what was asked for of what happened.
    fn report(
        self,
        executed: &Executed,
        template: &Template,
        handed: Option<&Published>,
        phases: PhaseStats,
        code: u8,
    ) -> Result<(), Failure> {
        let Job { args, settings, begun, .. } = self;
        if args.stats.is_none() && args.profile.is_none() {
            return Ok(());
        }
        let object = stats(executed, &template.enforcement, &settings.limits, handed, phases, since(begun));
        let command = args.command.first().map(OsString::as_os_str).unwrap_or_default();
        let profiled = Profiled { command, mnemonic: &args.mnemonic, began: begun, code };
        let profile = args.profile.as_deref().map_or(Ok(()), |file| profiled.write(file, &object.phases));
        args.stats.as_deref().map_or(Ok(()), |file| write_stats(file, &object)).and(profile)
    }

    fn execute(
        self,
        root: &OwnedFd,
        owner: Option<Owner>,
        sandbox: &mut Sandbox,
    ) -> Result<Executed, Failure> {
        let Job { args, settings, .. } = self;
        let streams = Streams::open(args.stdin)
            .map_err(|error| Failure::new(format!("cannot prepare the standard streams: {error}")))?;
        let action = LocalAction {
            view: ViewSpec {
                exec_root: root.as_fd(),
                inputs: settings.inputs.as_deref(),
                outputs: &settings.outputs,
                places: &settings.places,
                strategy: settings.strategy,
            },
            arguments: &settings.arguments,
            variables: &settings.variables,
            directory: &settings.directory,
            streams: streams.borrowed(),
            limits: &settings.limits,
            timeout: args.timeout,
            kill_delay: args.kill_delay,
            outputs_on_failure: args.outputs_on_failure,
            list_undeclared: args.list_undeclared,
            owner,
        };
        let executed = execute(self.runtime, sandbox, &action)
            .map_err(|error| Failure::new(error.to_string()).hint(error.hint()));
        streams.finish();
        executed
    }
}

fn open_root(settings: &RunSettings) -> Result<OwnedFd, Failure> {
    rustix::fs::open(
        settings.exec_root.as_path(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| Failure::new(format!("cannot open exec root {}: {errno}", settings.exec_root.display())))
}

/// As root, outputs belong to whom the exec root belongs to; an ordinary user's are its own already.
pub(super) fn output_owner(root: &OwnedFd, privileged: bool) -> Result<Option<Owner>, Failure> {
    if !privileged {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(root)
        .map_err(|errno| Failure::new(format!("cannot read the exec root: {errno}")))?;
    Ok(Some(Owner { uid: stat.st_uid, gid: stat.st_gid }))
}

fn hand_over(
    executed: &mut Executed,
    settings: &RunSettings,
    root: &OwnedFd,
    owner: Option<Owner>,
) -> Result<Option<Published>, Failure> {
    let Some(collected) = executed.collected.take() else {
        return standalone_outputs(executed, settings, root).map(|()| None);
    };
    let collected = collected.map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
    let failed = |error: commit::PublishError| Failure::new(error.to_string()).hint(error.hint());
    let options = PublishOptions { owner, limits: TreeLimits::default(), ..PublishOptions::default() };
    let Some(layer) = &executed.layer else { return Ok(None) };
    let journal = Journal::open(layer.place(), settings.durability)
        .map_err(|fault| Failure::new(fault.to_string()).hint(fault.hint()))?;
    let action = settings.arguments.first().map_or(&b""[..], |command| command.to_bytes());
    let published = publish_unopposed(collected, root.as_fd(), &journal, action, &options);
    journal.close();
    let published = published.map_err(failed)?;
    for leftover in &published.leftovers {
        tell(leftover);
    }
    Ok(Some(published))
}

/// A standalone command wrote its outputs itself; that they are there is all that can be checked.
fn standalone_outputs(executed: &Executed, settings: &RunSettings, root: &OwnedFd) -> Result<(), Failure> {
    if settings.strategy != Strategy::Standalone || !executed.outcome.end.is_success() {
        return Ok(());
    }
    check_standalone_outputs(root.as_fd(), &settings.outputs)
}

pub(super) fn check_standalone_outputs(root: BorrowedFd<'_>, outputs: &Outputs) -> Result<(), Failure> {
    let missing: Vec<String> = outputs
        .iter()
        .filter(|output| {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::statat(root, output.path.as_path(), flags).is_err()
        })
        .map(|output| output.path.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("the command succeeded and did not make {}", missing.join(", "))))
}

fn tell_undeclared(executed: &Executed) {
    let Some(listed) = &executed.undeclared else { return };
    for path in &listed.written {
        tell(format_args!("undeclared: {}", path.display()));
    }
    for path in &listed.removed {
        tell(format_args!("removed: {}", path.display()));
    }
    if listed.more {
        tell("undeclared: … and more");
    }
}

/// Finds out before the run whether its statistics can be written after it.
pub(super) fn can_write_stats(file: Option<&Path>) -> Result<(), Failure> {
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => can_write(file).map_err(|error| stats_failure(file, error)),
        None => Ok(()),
    }
}

fn can_write(file: &Path) -> std::io::Result<()> {
    match std::fs::File::create_new(file) {
        Ok(_) => std::fs::remove_file(file),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::OpenOptions::new().append(true).open(file).map(drop)
        }
        Err(error) => Err(error),
    }
}

fn stats_failure(file: &Path, error: std::io::Error) -> Failure {
    Failure::new(format!("cannot write stats to {}: {error}", file.display()))
}

pub(super) fn write_stats(file: &Path, object: &impl serde::Serialize) -> Result<(), Failure> {
    let failed = |error: std::io::Error| stats_failure(file, error);
    let mut text = serde_json::to_string_pretty(object).map_err(|error| failed(error.into()))?;
    text.push('\n');
    if file == Path::new("-") {
        return std::io::stdout().lock().write_all(text.as_bytes()).map_err(failed);
    }
    std::fs::write(file, text).map_err(failed)
}

/// The exit code of an end, and the line that explains it.
pub(super) fn code_of(end: &End, args: &RunArgs) -> (u8, Option<String>) {
    let command = args.command.first().map(|command| command.display().to_string()).unwrap_or_default();
    let line = Some(match end {
        End::NotStarted { failure, is_command: true } => {
            let why = match failure.errno {
                rustix::io::Errno::NOENT => "not found in the sandbox".to_owned(),
                errno => errno.to_string(),
            };
            format!("cannot execute {command}: {why}")
        }
        End::NotStarted { failure, .. } => failure.to_string(),
        End::Refused { why, hint } => {
            format!("{why}{}", hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default())
        }
        other => format!("{command} {other}"),
    });
    match end {
        End::Exited(0) => (0, None),
        End::Exited(code) => (u8::try_from(*code).unwrap_or(1), line),
        End::Signaled(signal) => (failure::SIGNAL_BASE.saturating_add(*signal as u8), line),
        End::OutOfMemory { .. } => (failure::SIGNAL_BASE + 9, line),
        End::TimedOut { .. } => (failure::TIMED_OUT, line),
        End::NotStarted { failure, is_command: true } => match failure.errno {
            rustix::io::Errno::NOENT => (failure::NOT_FOUND, line),
            _ => (failure::NOT_EXECUTABLE, line),
        },
        End::Canceled => (failure::SIGNAL_BASE + 9, line),
        End::NotStarted { .. } | End::Refused { .. } | End::Lost { .. } => (failure::OWN_FAILURE, line),
    }
}

fn look_closer(args: &RunArgs, executed: &Executed) -> String {
    match &executed.outcome.end {
        End::OutOfMemory { .. } => " (hint: raise --memory)".to_owned(),
        End::TimedOut { .. } => " (hint: raise --timeout)".to_owned(),
        End::NotStarted { is_command: true, .. } if args.rootfs.is_none() => {
            " (hint: only /usr, /bin, /lib*, /opt and the inputs are visible; --mount shows more)".to_owned()
        }
        End::Exited(_) | End::Signaled(_) if !args.keep_on_failure => {
            " (hint: --keep-on-failure keeps the sandbox for a look inside)".to_owned()
        }
        _ => String::new(),
    }
}
