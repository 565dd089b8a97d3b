//! An action of a client of REAPI, run in a sandbox of the pool.
//!
//! ```text
//!   stage the root ─► lease ─► layer, overlay ─► run ─► quiet ─► hand off ─► answer
//!     │                 │                                          │            └ later: layer removed, sandbox reset
//!     Missing           Unavailable                                FailedPrecondition
//! ```
//! Invariants: whatever ends the command, what it printed is in the result; the layer is looked into only when all is
//! quiet; nothing of an action is left when `execute` returns but a layer and a sandbox that are being cleaned.
//! Limits: one action at a time and thread; how many threads there are is the door's decision.

use super::executor::{Cancel, Execution, Executor, Job, Verdict, Watch};
use super::platform::{Offer, Platform, platform};
use super::verdict;
use super::view::marks;
use crate::action::{ActionResult, Command, Digest, DigestFunction, Directory, Timestamp};
use crate::cas::Cas;
use crate::failpoint;
use crate::observe;
use crate::output::limits::HandoffLimits;
use crate::output::lookout::TooMuch;
use crate::output::{HandoffRequest, Inputs, Lookout, NoInputs, Spool, Spools, hand_off};
use crate::stage::root::{RootView, StagedRoot, Stager};
use crate::stage::{Layer, LayerHome, Owner, prepare_parents};
use fulgurite_sandbox::outcome::{End, Outcome};
use fulgurite_sandbox::pool::{Cleaner, Lease, Pool};
use fulgurite_sandbox::sandbox::{Action, Killer, Sandbox};
use fulgurite_sandbox::spec::{Network, SandboxSpec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Threads that unmount and remove: they mostly wait for the kernel.
const CLEANERS: usize = 3;
/// Where the input root is, inside.
const WORK: &str = "/work";

/// How actions are run.
#[derive(Clone, Debug)]
pub struct SandboxedOptions {
    /// Who says so in results: the machine's name.
    pub worker: String,
    /// What every sandbox is like, but for tenant and network.
    pub spec: SandboxSpec,
    /// What actions may ask for, by tenant. Nobody else has any run.
    pub tenants: HashMap<String, Allowance>,
    /// How many run at a time.
    pub slots: usize,
}

/// What the actions of a tenant may ask for.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Network and limits.
    pub offer: Offer,
    /// Time of an action that asks for none.
    pub timeout_default: Duration,
    /// Time that an action may ask for.
    pub timeout_max: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Sandboxed {
    pool: Pool,
    cas: Cas,
    stager: Stager,
    layers: LayerHome,
    /// Whether a layer can be mounted alone.
    plain_layers: bool,
    spools: Spools,
    lookout: Lookout,
    cleaners: [Cleaner; CLEANERS],
    turn: AtomicUsize,
    nothing: OwnedFd,
    options: SandboxedOptions,
}

/// The input root, as handoff looks at it.
struct StagedInputs<'a>(&'a StagedRoot);

impl Inputs for StagedInputs<'_> {
    fn root(&self) -> Option<&Directory> {
        self.0.directory(self.0.root())
    }

    fn directory(&self, digest: &Digest) -> Option<&Directory> {
        self.0.directory(digest)
    }
}

/// A run, ready to begin.
struct Ready {
    staged: Arc<StagedRoot>,
    lease: Lease,
    layer: Layer,
    view: RootView,
    platform: Platform,
    timeout: Duration,
}

impl Sandboxed {
    /// Runs actions in the sandboxes of `pool`, whose layers lie in `layers`, on the filesystem of `cas`.
    ///
    /// # Errors
    /// When /dev/null cannot be opened, or a thread not be started.
    pub fn new(
        pool: Pool,
        cas: Cas,
        stager: Stager,
        layers: LayerHome,
        spools: Spools,
        options: SandboxedOptions,
    ) -> std::io::Result<Self> {
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let cleaners = [Cleaner::start()?, Cleaner::start()?, Cleaner::start()?];
        let (turn, lookout) = (AtomicUsize::new(0), Lookout::start()?);
        let plain_layers = pool.runtime().features().privileged && layers.has_programs();
        Ok(Sandboxed {
            pool,
            cas,
            stager,
            layers,
            plain_layers,
            spools,
            lookout,
            cleaners,
            turn,
            nothing,
            options,
        })
    }

    /// What an action asks for, as far as its tenant may.
    pub(super) fn terms(&self, job: &Job) -> Result<(Platform, Duration), Verdict> {
        let Some(allowance) = self.options.tenants.get(&job.tenant) else {
            return Err(Verdict::FailedPrecondition(format!("instance {:?} executes nothing", job.tenant)));
        };
        let timeout = job.action.timeout.unwrap_or(allowance.timeout_default);
        if timeout > allowance.timeout_max {
            let (asked, max) = (timeout.as_secs(), allowance.timeout_max.as_secs());
            return Err(Verdict::Invalid(format!("a timeout of {asked} s is too long: at most {max} s")));
        }
        Ok((platform(job.platform(), &allowance.offer)?, timeout))
    }

    /// The action's inputs.
    pub(super) fn stage(&self, job: &Job, result: &mut ActionResult) -> Result<Arc<StagedRoot>, Verdict> {
        let staged = self.stager.stage(&job.tenant, &job.action.input_root_digest)?;
        let known = if staged.known { "known" } else { "new" };
        result.usage.staging = Some(format!("{} {known}", staged.way));
        pass("exec.staged")?;
        Ok(staged)
    }

    /// What the sandboxes of a tenant are like.
    pub(super) fn spec(&self, tenant: &str, network: Network) -> SandboxSpec {
        SandboxSpec { tenant: tenant.to_owned(), network, ..self.options.spec.clone() }
    }

    pub(super) fn cas(&self) -> &Cas {
        &self.cas
    }

    /// The result of a job that begins now.
    pub(super) fn begun(&self, job: &Job) -> ActionResult {
        let mut result = ActionResult { worker: self.options.worker.clone(), ..ActionResult::default() };
        result.timeline.queued = Some(job.queued);
        result.timeline.worker_start = Some(now());
        result
    }

    /// All that comes before the command.
    fn prepare(&self, job: &Job, result: &mut ActionResult) -> Result<Ready, Verdict> {
        let (platform, timeout) = self.terms(job)?;
        result.timeline.input_fetch_start = Some(now());
        let staged = self.stage(job, result)?;
        let spec = self.spec(&job.tenant, platform.network);
        let mut lease = self.pool.lease(&spec)?;
        tell_reset(&mut lease);
        let runtime = self.pool.runtime();
        let id = lease.action_id();
        let owner = runtime.features().privileged.then_some(Owner { uid: id, gid: id });
        let is_plain = self.plain_layers && staged.is_plain() && owner.is_some();
        let layer = match is_plain {
            true => self.layers.create_plain(owner)?,
            false => self.layers.create(owner)?,
        };
        let view = pass("exec.leased").and_then(|()| self.view(job, &staged, &layer, (owner, id), is_plain));
        match view.and_then(|view| pass("exec.mounted").map(|()| view)) {
            Ok(view) => {
                result.timeline.input_fetch_completed = Some(now());
                Ok(Ready { staged, lease, layer, view, platform, timeout })
            }
            Err(verdict) => {
                self.remove(layer, None);
                Err(verdict)
            }
        }
    }

    fn view(
        &self,
        job: &Job,
        staged: &StagedRoot,
        layer: &Layer,
        (owner, id): (Option<Owner>, u32),
        is_plain: bool,
    ) -> Result<RootView, Verdict> {
        let paths = job.command.outputs.iter().filter_map(|output| output.path.as_ref());
        let prepare = |lower: BorrowedFd<'_>| Ok(prepare_parents(layer.upper(), Some(lower), paths, owner)?);
        match is_plain {
            true => staged.plain_view_after(id, layer, prepare),
            false => staged.view_after(self.pool.runtime(), id, layer, prepare),
        }
    }

    fn run(&self, job: &Job, cancel: &Cancel, watch: &dyn Watch, result: &mut ActionResult) -> Verdict {
        let mut ready = match self.prepare(job, result) {
            Ok(ready) => ready,
            Err(verdict) => return verdict,
        };
        let streams = self.spools.take().and_then(|out| Ok((out, self.spools.take()?)));
        let (out, err) = match streams {
            Ok(streams) => streams,
            Err(error) => {
                self.remove(ready.layer, Some(ready.view));
                return error.into();
            }
        };
        watch.started(&result.timeline);
        let _ = failpoint::hit("exec.started");
        result.timeline.execution_start = Some(now());
        let (outcome, too_much) = self.command(job, cancel, &mut ready, [&out, &err]);
        let _ = failpoint::hit("exec.quiet");
        explain(&outcome, &job.command, &err);
        result.timeline.execution_completed = Some(now());
        let enforcement = ready.lease.sandbox().map(|sandbox| sandbox.template().enforcement.clone());
        verdict::account(&outcome, enforcement.as_ref(), &ready.platform.limits, &mut result.usage);
        result.timeline.output_upload_start = Some(now());
        let printed = self.printed(job.function, out, err, &outcome, result).and(pass("exec.printed"));
        let handed = self.outputs(job, &ready, &outcome, result).and(pass("exec.handed-off"));
        result.timeline.output_upload_completed = Some(now());
        let Ready { staged, lease, layer, view, .. } = ready;
        // The sandbox resets itself from now on.
        drop((lease, staged));
        if outcome.quiet {
            self.remove(layer, Some(view));
        }
        let _ = failpoint::hit("exec.released");
        match (verdict::of(&outcome, result, printed.and(handed)), too_much) {
            // It was killed as if it had been canceled.
            (Verdict::Canceled, Some(too_much)) if !cancel.is_canceled() => {
                Verdict::FailedPrecondition(too_much.to_string())
            }
            (verdict, _) => verdict,
        }
    }

    fn command(
        &self,
        job: &Job,
        cancel: &Cancel,
        ready: &mut Ready,
        [out, err]: [&Spool; 2],
    ) -> (Outcome, Option<TooMuch>) {
        let directory = match &job.command.working_directory {
            None => WORK.to_owned(),
            Some(path) => format!("{WORK}/{}", path.as_path().display()),
        };
        let strings = strings(&job.command, directory);
        let Ok((arguments, variables, directory)) = strings else {
            return (never_began("the command has a NUL byte".to_owned()), None);
        };
        let killer = ready.lease.killer();
        let stop = killer.clone();
        let watched = self.lookout.watch(out, err, move || stop.iter().for_each(Killer::kill));
        let watched = match watched {
            Ok(watched) => watched,
            Err(error) => return (never_began(format!("cannot watch what is printed: {error}")), None),
        };
        if let Some(killer) = killer {
            cancel.arm(move || {
                killer.kill();
                let _ = failpoint::hit("exec.killing");
            });
        }
        let outcome = ready.lease.run(&Action {
            arguments: &arguments,
            variables: &variables,
            directory: &directory,
            stdin: self.nothing.as_fd(),
            stdout: out.writer(),
            stderr: err.writer(),
            work: Some(ready.view.mount.as_fd()),
            limits: &ready.platform.limits,
            timeout: Some(ready.timeout),
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: 0,
        });
        cancel.disarm();
        (outcome, watched.over())
    }

    /// What was printed, whatever ended the command: only when all is quiet can it no longer change.
    fn printed(
        &self,
        function: DigestFunction,
        out: Spool,
        err: Spool,
        outcome: &Outcome,
        result: &mut ActionResult,
    ) -> Result<(), Verdict> {
        if !outcome.quiet {
            return Ok(());
        }
        for (spool, digest) in [(out, &mut result.stdout), (err, &mut result.stderr)] {
            *digest = self.spools.finish(spool, &self.cas, function).map_err(Verdict::from)?.digest;
        }
        Ok(())
    }

    fn outputs(
        &self,
        job: &Job,
        ready: &Ready,
        outcome: &Outcome,
        result: &mut ActionResult,
    ) -> Result<(), Verdict> {
        if !outcome.quiet || matches!(outcome.end, End::Refused { .. } | End::NotStarted { .. }) {
            return Ok(());
        }
        let staged = StagedInputs(&ready.staged);
        // Where nothing is below the layer, all that the action left is in it.
        let (merged, inputs): (_, &dyn Inputs) = match ready.view.is_plain {
            true => (None, &NoInputs),
            false => (Some(ready.view.mount.as_fd()), &staged),
        };
        let request = HandoffRequest {
            upper: ready.layer.upper(),
            merged,
            command: &job.command,
            inputs,
            marks: marks(self.pool.runtime()),
            function: job.function,
            cas: &self.cas,
            limits: HandoffLimits::DEFAULT,
        };
        let handed = hand_off(&request).map_err(Verdict::from)?;
        result.files = handed.files;
        result.directories = handed.directories;
        result.symlinks = handed.symlinks;
        result.usage.handoff = handed.handoff;
        Ok(())
    }

    /// Unmounts a view and removes its layer, on a thread for what nobody should wait for: each mount takes the kernel
    /// a grace period.
    fn remove(&self, layer: Layer, view: Option<RootView>) {
        let stager = self.stager.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.cleaners[turn % CLEANERS].clean(move || {
            drop(view);
            // What cannot be removed now is found by the sweep of the next start.
            let _ = layer.destroy();
            let _ = stager.tidy();
        });
    }
}

/// Tells of the reset that made the sandbox ready.
fn tell_reset(lease: &mut Lease) {
    let number = u64::from(lease.action_id());
    if let Some((began, took)) = lease.sandbox_mut().and_then(Sandbox::take_reset) {
        observe::reset(number, observe::now_us().saturating_sub(micros(began.elapsed())), took);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Passes a place where a test may make us die, or fail as if the kernel had refused something.
fn pass(place: &'static str) -> Result<(), Verdict> {
    failpoint::hit(place).map_err(|errno| Verdict::Unavailable(format!("{place}: {errno}")))
}

/// Says why a command could not be started, where the client looks for what went wrong.
fn explain(outcome: &Outcome, command: &Command, err: &Spool) {
    if let End::NotStarted { failure, is_command: true } = &outcome.end {
        let program = command.arguments.first().map_or("", String::as_str);
        let why = failure.errno;
        // If that cannot be written, the exit code still says which of the two it was.
        let _ = rustix::io::write(
            err.writer(),
            format!("fulgurite: cannot execute {program:?}: {why}\n").as_bytes(),
        );
    }
}

/// The outcome of what was not even started: nothing runs.
fn never_began(why: String) -> Outcome {
    Outcome { quiet: true, ..Outcome::lost(why) }
}

/// The moment of now, as results have it.
pub(super) fn now() -> Timestamp {
    // A clock before 1970 is no clock.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs().try_into().unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

type Strings = (Vec<CString>, Vec<CString>, CString);

fn strings(command: &Command, directory: String) -> Result<Strings, std::ffi::NulError> {
    let arguments = command.arguments.iter().map(|argument| CString::new(argument.as_str()));
    let variables = command.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    Ok((arguments.collect::<Result<_, _>>()?, variables.collect::<Result<_, _>>()?, CString::new(directory)?))
}

impl Drop for Sandboxed {
    fn drop(&mut self) {
        self.cleaners.iter_mut().for_each(Cleaner::stop);
    }
}

impl Executor for Sandboxed {
    fn execute(&self, job: &Job, cancel: &Cancel, watch: &dyn Watch) -> Execution {
        let mut result = self.begun(job);
        let verdict =
            if cancel.is_canceled() { Verdict::Canceled } else { self.run(job, cancel, watch, &mut result) };
        result.timeline.worker_completed = Some(now());
        Execution { verdict, result }
    }

    fn slots(&self) -> usize {
        self.options.slots
    }
}
