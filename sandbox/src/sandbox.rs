//! A live sandbox: runs one action after the other, and resets in between.
//!
//! ```text
//! create ─► Ready ─ run ─► Used ─ begin_reset ─► Resetting ─ finish_reset ─► Ready
//!                            └────────── destroy ─────────┴──────► seat, free for the next
//! ```
//! `run` returns when all is *quiet*: no process of the action is left and none can come. The reset goes on in the
//! sandbox's init while the caller already has its outcome.
pub use crate::action::{Action, Killer};
use crate::action::{Stop, candidates};
use crate::cgroup::{self, CgroupError, Limits};
use crate::hatch::{InitProcess, READY_PATIENCE, hatch, receive_until};
use crate::init::request;
use crate::init::wire::{FromInit, RUN_HOSTED, RUN_WITH_TERMINAL, RUN_WITH_WORK, ToInit};
use crate::outcome::{End, Outcome};
use crate::runtime::{Runtime, SandboxError, Template, sealed};
use crate::seat::{Seat, Taken};
use crate::sys::Errno;
use crate::verdict::{self, Facts, Terms, Waited};
use crate::zygote::ZygoteError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::Signal;
use rustix::time::Timespec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a killed action may take to become quiet before the sandbox is given up.
const QUIET_PATIENCE: Duration = Duration::from_secs(5);

/// What a sandbox can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Used,
    Resetting,
    Broken,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Sandbox {
    template: Arc<Template>,
    seat: Seat,
    control: Arc<OwnedFd>,
    init: InitProcess,
    /// The number of the run that is going on, or of the next one.
    generation: u32,
    stop: Arc<Stop>,
    state: State,
    /// When the last reset began, and how long it took.
    reset: Option<(Instant, Duration)>,
}

impl Sandbox {
    /// Makes a sandbox in a free seat.
    ///
    /// # Errors
    /// The step that failed, in words, or why there is no seat.
    pub fn create(runtime: &Runtime, template: &Arc<Template>) -> Result<Sandbox, SandboxError> {
        let mut sandbox = Sandbox::begin(runtime, template)?;
        match sandbox.finish_reset() {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                // The first error is the one that counts; what is left is found by the next start.
                let _ = sandbox.destroy(runtime);
                Err(error)
            }
        }
    }

    /// Starts to make a sandbox in a free seat. While its init works, the caller can stage the inputs; then
    /// [`Sandbox::finish_reset`] waits for it, or tells which step failed.
    ///
    /// # Errors
    /// As [`Sandbox::create`].
    pub fn begin(runtime: &Runtime, template: &Arc<Template>) -> Result<Sandbox, SandboxError> {
        loop {
            let Taken { seat, was_spare } = runtime.seats.take()?;
            match Sandbox::begin_in(seat, template, 0) {
                Ok(sandbox) => return Ok(sandbox),
                Err((error, seat)) => {
                    let dead = matches!(error, SandboxError::Zygote(ZygoteError::Gone { .. }));
                    // The first error is the one that counts; what is left is found by the next start.
                    let _ =
                        if dead { runtime.seats.discard_dead(*seat) } else { runtime.seats.give_back(*seat) };
                    // A spare seat's zygote may have been killed for memory; a new seat's is not expected to be.
                    if !(dead && was_spare) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes a sandbox in this seat; step `fail_at` fails (0: none).
    ///
    /// # Errors
    /// The step that failed, with the seat.
    pub fn create_in(
        seat: Seat,
        template: &Arc<Template>,
        fail_at: u32,
    ) -> Result<Sandbox, (SandboxError, Box<Seat>)> {
        let mut sandbox = Sandbox::begin_in(seat, template, fail_at)?;
        match sandbox.finish_reset() {
            Ok(()) => Ok(sandbox),
            Err(error) => Err((error, Box::new(sandbox.tear_down()))),
        }
    }

    fn begin_in(
        seat: Seat,
        template: &Arc<Template>,
        fail_at: u32,
    ) -> Result<Sandbox, (SandboxError, Box<Seat>)> {
        match hatch(&seat, template, fail_at) {
            Err(error) => Err((error, Box::new(seat))),
            Ok((control, pid, pidfd)) => Ok(Sandbox {
                template: template.clone(),
                seat,
                control: Arc::new(control),
                init: InitProcess { pid, pidfd },
                generation: 1,
                stop: Arc::default(),
                state: State::Resetting,
                reset: None,
            }),
        }
    }

    pub(crate) fn control(&self) -> &Arc<OwnedFd> {
        &self.control
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// What it was made from.
    #[must_use]
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// The pid of its init on the host; for tests and status.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init.pid
    }

    /// The id outside that owns what its actions write.
    #[must_use]
    pub fn action_id(&self) -> u32 {
        self.seat.action_id()
    }

    /// A handle that kills the next run.
    #[must_use]
    pub fn killer(&self) -> Killer {
        let Sandbox { control, generation, stop, .. } = self;
        Killer { control: control.clone(), generation: *generation, stop: stop.clone() }
    }

    /// Whether it can be reset and used again.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.state != State::Broken
    }

    /// Whether [`Sandbox::finish_reset`] would return at once.
    #[must_use]
    pub fn is_reset_done(&self) -> bool {
        let mut events = [PollFd::new(&*self.control, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.state != State::Resetting || poll(&mut events, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Runs an action and returns when all is quiet.
    pub fn run(&mut self, action: &Action<'_>) -> Outcome {
        let called = Instant::now();
        if let Err(refused) = self.start(action, None) {
            return *refused;
        }
        let terms = Terms::of(action);
        let waited = self.wait(&terms, terms.timeout.map(|timeout| Instant::now() + timeout));
        let outcome = self.conclude(&waited, &terms, called);
        self.settle(&outcome);
        self.distrust(&waited);
        outcome
    }

    /// What a run gave, from how the wait for it ended and what the kernel counted.
    pub(crate) fn conclude(&self, waited: &Waited, terms: &Terms<'_>, called: Instant) -> Outcome {
        let facts = Facts {
            counted: self.counted().unwrap_or_default(),
            quiet: self.is_quiet(),
            canceled: self.stop.is_canceled(),
            killed: self.stop.is_killed(),
        };
        let mut outcome = verdict::conclude(waited, &facts, terms, &self.template.plan);
        if let Waited::Exited { report, .. } = waited {
            outcome.times = verdict::times(report, called);
        }
        outcome
    }

    /// The run is over: only a sandbox that is quiet can be reset. From here on, killers of the run do nothing.
    pub(crate) fn settle(&mut self, outcome: &Outcome) {
        self.next_generation();
        if outcome.quiet && !matches!(outcome.end, End::Lost { .. }) {
            self.state = State::Used;
        }
    }

    /// An init that could not start an action may have half of it: such a sandbox is not used again.
    pub(crate) fn distrust(&mut self, waited: &Waited) {
        if matches!(waited, Waited::Failed { .. }) {
            self.state = State::Broken;
        }
    }

    fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if std::mem::take(&mut self.stop).end() {
            self.seat.is_killed();
        }
    }

    /// Starts an action, as a worker that stays if there is a socket for answers; else gives the outcome that there is.
    pub(crate) fn start(
        &mut self,
        action: &Action<'_>,
        answers: Option<BorrowedFd<'_>>,
    ) -> Result<(), Box<Outcome>> {
        if self.state != State::Ready {
            let why = format!("cannot run an action: the sandbox is {:?}, not ready", self.state);
            return Err(Box::new(Outcome::lost(why)));
        }
        if self.stop.is_canceled() {
            self.next_generation();
            return Err(Box::new(Outcome { end: End::Canceled, quiet: true, ..Outcome::lost("") }));
        }
        self.send_run(action, answers).map_err(|error| match error {
            NotBegun::Refused { why, hint } => {
                Box::new(Outcome { end: End::Refused { why, hint }, quiet: true, ..Outcome::lost("") })
            }
            NotBegun::Failed(error) => {
                self.state = State::Broken;
                Box::new(Outcome::lost(error.to_string()))
            }
        })
    }

    fn send_run(&mut self, action: &Action<'_>, answers: Option<BorrowedFd<'_>>) -> Result<(), NotBegun> {
        let request =
            request::encode(&candidates(action), action.arguments, action.variables, action.directory)
                .map_err(|errno| NotBegun::Refused {
                    why: format!("cannot pass the command and its environment: {errno}"),
                    hint: None,
                })?;
        self.set_limits(action.limits)?;
        self.state = State::Broken;
        let request = sealed("fulgurite-request", &request).map_err(SandboxError::system("make a memfd"))?;
        let mut descriptors = vec![request.as_fd(), action.stdin, action.stdout, action.stderr];
        let flags = [
            (RUN_WITH_WORK, action.work.is_some()),
            (RUN_WITH_TERMINAL, action.terminal),
            (RUN_HOSTED, answers.is_some()),
        ];
        let flags = flags.iter().filter(|(_, is_set)| *is_set).fold(0, |all, (flag, _)| all | flag);
        descriptors.extend(action.work.iter().chain(&answers));
        let run = ToInit::Run { flags, fail_at: action.fail_at, generation: self.generation };
        run.send(self.control.as_fd(), &descriptors).map_err(|errno| match errno {
            Errno::PIPE | Errno::CONNRESET => SandboxError::Ended { what: "start the action" },
            errno => SandboxError::System { what: "start the action".to_owned(), errno },
        })?;
        // Who has canceled before is in init's hands: its message comes after the request, or was kept for it.
        self.stop.arm(self.seat.cgroup.as_ref().ok().and_then(cgroup::Slot::group_kill));
        Ok(())
    }

    /// A limit that cannot be had is the request's fault, and the sandbox stays as it is.
    fn set_limits(&mut self, limits: &Limits) -> Result<(), NotBegun> {
        let cgroup = match &mut self.seat.cgroup {
            Ok(cgroup) => cgroup,
            Err(_) if *limits == Limits::default() => return Ok(()),
            Err(why) => {
                return Err(NotBegun::Refused {
                    why: format!("cannot apply limits without a cgroup: {why}"),
                    hint: Some(
                        "run as root, or under: systemd-run --user --scope -p Delegate=yes".to_owned(),
                    ),
                });
            }
        };
        cgroup.set_limits(limits).map_err(|error| match error {
            CgroupError::InvalidLimit { .. } | CgroupError::LimitUnavailable { .. } => {
                NotBegun::Refused { why: error.to_string(), hint: None }
            }
            error => NotBegun::Failed(error.into()),
        })
    }

    /// Waits for the report; kills when the time is over, and gives up when killing does not help.
    pub(crate) fn wait(&mut self, terms: &Terms<'_>, mut deadline: Option<Instant>) -> Waited {
        let mut stage = Stage::Running;
        loop {
            match receive_until(self.control.as_fd(), deadline) {
                Ok(Some(FromInit::Exited(report))) => {
                    return Waited::Exited { report, timed_out: stage != Stage::Running };
                }
                Ok(Some(FromInit::Failed { step, errno })) => return Waited::Failed { step, errno },
                Ok(Some(_)) => {}
                Ok(None) => return Waited::Gone,
                Err(Errno::TIMEDOUT) => match stage {
                    Stage::Running if !terms.kill_delay.is_zero() => {
                        self.killer().signal(Signal::TERM.as_raw());
                        stage = Stage::Asked;
                        deadline = Some(Instant::now() + terms.kill_delay);
                    }
                    Stage::Running | Stage::Asked => {
                        self.killer().kill_silently();
                        stage = Stage::Killed;
                        deadline = Some(Instant::now() + QUIET_PATIENCE);
                    }
                    Stage::Killed => {
                        // Nothing can be cloned into a cgroup that was killed once (Linux 6.14), so this seat is done.
                        self.seat.wear_out();
                        stage = Stage::GroupKilled;
                        deadline = Some(Instant::now() + QUIET_PATIENCE);
                    }
                    Stage::GroupKilled => return Waited::Unkillable,
                },
                Err(_) => return Waited::Gone,
            }
        }
    }

    fn counted(&self) -> Option<cgroup::Usage> {
        self.seat.cgroup.as_ref().ok()?.usage().ok()
    }

    /// The last part of the barrier: the cgroup agrees that nobody is left.
    fn is_quiet(&self) -> bool {
        match self.seat.cgroup.as_ref() {
            Ok(cgroup) if cgroup.populated() == Some(true) => {
                cgroup.wait_quiet(QUIET_PATIENCE).unwrap_or(false)
            }
            _ => true,
        }
    }

    /// Makes the sandbox ready for another action in the same surroundings: what the last one wrote stays. For a look
    /// inside after a failure, never for another tenant's action.
    ///
    /// # Errors
    /// As [`Sandbox::finish_reset`].
    pub fn rearm(&mut self) -> Result<(), SandboxError> {
        if self.state != State::Used || self.seat.is_worn_out() {
            return Err(SandboxError::Ended { what: "use the sandbox again" });
        }
        self.state = State::Broken;
        ToInit::Rearm
            .send(self.control.as_fd(), &[])
            .map_err(|_| SandboxError::Ended { what: "use the sandbox again" })?;
        self.state = State::Resetting;
        self.finish_reset()
    }

    /// Starts to make the sandbox like new. Returns at once; [`Sandbox::finish_reset`] waits for the end.
    ///
    /// # Errors
    /// When the sandbox has ended; it can only be destroyed then.
    pub fn begin_reset(&mut self) -> Result<(), SandboxError> {
        self.begin_reset_failing_at(0)
    }

    /// As [`Sandbox::begin_reset`]; step `fail_at` fails. Fault injection for tests.
    ///
    /// # Errors
    /// As [`Sandbox::begin_reset`].
    pub fn begin_reset_failing_at(&mut self, fail_at: u32) -> Result<(), SandboxError> {
        if self.state == State::Broken {
            return Err(SandboxError::Ended { what: "reset the sandbox" });
        }
        // While nothing has run, the next action's process waits in the leaf, and there is no peak to start over.
        let is_used = self.state == State::Used;
        self.state = State::Broken;
        let mut renewed: Vec<BorrowedFd<'_>> = Vec::new();
        if is_used {
            renewed.extend(self.seat.renew()?);
        }
        ToInit::Reset { fail_at }
            .send(self.control.as_fd(), &renewed)
            .map_err(|_| SandboxError::Ended { what: "reset the sandbox" })?;
        self.state = State::Resetting;
        self.reset = Some((Instant::now(), Duration::ZERO));
        Ok(())
    }

    /// When the last reset began and how long it took, once; for traces.
    pub fn take_reset(&mut self) -> Option<(Instant, Duration)> {
        self.reset.take()
    }

    /// Waits until the sandbox is like new.
    ///
    /// # Errors
    /// The step that failed; the sandbox can only be destroyed then.
    pub fn finish_reset(&mut self) -> Result<(), SandboxError> {
        if self.state == State::Ready {
            return Ok(());
        }
        if self.state != State::Resetting {
            return Err(SandboxError::Ended { what: "wait for the sandbox" });
        }
        self.state = State::Broken;
        match receive_until(self.control.as_fd(), Some(Instant::now() + READY_PATIENCE)) {
            // It may have said so before somebody killed it.
            Ok(Some(FromInit::Ready { .. })) if self.init.has_ended() => {
                Err(SandboxError::Ended { what: "wait for the sandbox" })
            }
            Ok(Some(FromInit::Ready { took_us })) => {
                self.reset = self.reset.map(|(began, _)| (began, Duration::from_micros(took_us)));
                if let Ok(cgroup) = self.seat.cgroup.as_mut() {
                    cgroup.rebase()?;
                }
                self.state = State::Ready;
                Ok(())
            }
            Ok(Some(FromInit::Failed { step, errno })) => {
                Err(self.template.plan.failure(step, Errno::from_raw_os_error(errno)).into())
            }
            Ok(Some(_) | None) => Err(SandboxError::Ended { what: "wait for the sandbox" }),
            Err(errno) => Err(SandboxError::System { what: "wait for the sandbox".to_owned(), errno }),
        }
    }

    /// Ends the sandbox and gives its seat back to the runtime.
    ///
    /// # Errors
    /// [`SandboxError::Cgroup`] with directories that cannot be removed yet.
    pub fn destroy(self, runtime: &Runtime) -> Result<(), SandboxError> {
        runtime.seats.give_back(self.tear_down())
    }

    /// Ends the sandbox; the seat can take another one at once.
    #[must_use]
    pub fn into_seat(self) -> Seat {
        self.tear_down()
    }

    /// Kills init, and with it everything in its pid namespace, and waits until it is gone.
    fn tear_down(self) -> Seat {
        let Sandbox { seat, init, .. } = self;
        init.end();
        seat
    }
}

/// Why a run did not begin.
enum NotBegun {
    /// The request cannot be honored; the sandbox is as it was.
    Refused { why: String, hint: Option<String> },
    /// The sandbox failed.
    Failed(SandboxError),
}

impl From<SandboxError> for NotBegun {
    fn from(error: SandboxError) -> Self {
        NotBegun::Failed(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Asked,
    Killed,
    GroupKilled,
}
