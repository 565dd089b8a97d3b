//! Workers: processes that stay in a leased sandbox, and see another /work for each request.
//!
//! ```text
//! Lease ─ host ─► Hosted ─ swap(view), attach(slot, view), … ─► Hosted ─ stop ─► (Outcome, Lease) ─► reset, as ever
//!            └─► Outcome: it could not be executed                 └ dropped: the sandbox is destroyed
//! ```
//! [`Hosted::swap`] puts another mount at /work *under* the live process: whoever stands at /work (or at the directory
//! below it that the worker was started in) stands in the new mount afterwards; see [`crate::init::hosted`] for how,
//! and for what is not moved. All methods may be called from any thread; changes of the view are made one after the
//! other.
//!
//! What is on the wire: requests go over the control socket of the sandbox's init, answers come back over a socket of
//! their own, so that whatever comes on [`Hosted::control`] says that the worker is over. The worker's own streams are
//! the caller's.
//!
//! Invariants: a change that failed either left the view as it was, or the worker is being killed; the end is told once
//! and stays; a worker never outlives its [`Hosted`], nor the daemon.
//!
//! Limits: the working directory must be a plain path; landlock is refused, since its rules name the directory that was
//! mounted when they were made ([`Hosted::spec`] leaves it out where it is optional).
use crate::action::{Action, Killer};
use crate::cgroup::CgroupError;
use crate::footprint;
use crate::harden::Level;
use crate::hatch::{READY_PATIENCE, receive_until};
use crate::init::wire::{self, FromInit, ToInit, Viewed};
use crate::outcome::{End, Outcome};
use crate::plan::Op;
use crate::pool::Lease;
use crate::sandbox::Sandbox;
use crate::spec::SandboxSpec;
use crate::sys::{Errno, message, mount};
use crate::verdict::{Terms, Waited};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::time::Timespec;
use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a program may take to be executed, unless the action says so: it may lie on a slow filesystem.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Why a worker's view or state was not changed.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// The worker is over; [`Hosted::ended`] says how, at the latest when [`Hosted::control`] is readable.
    #[error("cannot {what}: the worker has ended")]
    Ended {
        /// What was tried.
        what: &'static str,
    },
    /// It did not work, and the worker has the view that it had.
    #[error("cannot {what}: {errno}; the worker's view is as it was")]
    Kept {
        /// What was tried.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// It failed half way, and the worker is being killed.
    #[error("cannot {what}: {errno}; the worker is killed, since nobody knows what it sees")]
    Broken {
        /// What was tried.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// Its cgroup did not obey.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hosted {
    lease: Lease,
    killer: Killer,
    terms: Terms<'static>,
    started: Instant,
    talk: Mutex<Talk>,
    reading: Mutex<()>,
    ended: OnceLock<Outcome>,
    /// Nobody knows what is mounted in the sandbox any more, so that it is not used again.
    broken: AtomicBool,
}

/// The socket on which answers come, and the number of the last question.
#[derive(Debug)]
struct Talk {
    answers: OwnedFd,
    ticket: u32,
}

impl Lease {
    /// Starts a worker that stays, and returns once its program has been executed. The action's time limit is that of
    /// the start; its view, if any, is what the worker sees until the first [`Hosted::swap`].
    ///
    /// # Errors
    /// The outcome of a worker that could not be executed; the sandbox resets itself then, as after every run.
    #[allow(clippy::result_large_err, reason = "what a worker gives is as large, and nobody passes this on")]
    pub fn host(mut self, action: &Action<'_>) -> Result<Hosted, Outcome> {
        let sandbox = self.sandbox_mut().ok_or_else(|| Outcome::lost("the lease is over"))?;
        let directory = check(action, sandbox).map_err(|end| refused(*end))?;
        let action = Action { directory: &directory, ..*action };
        let failed = |what: &str| {
            let what = format!("cannot {what}");
            move |errno: Errno| Outcome::lost(format!("{what}: {errno}"))
        };
        if let Some(work) = action.work {
            mount::make_private_recursive(work).map_err(failed("make the worker's view private"))?;
        }
        let (answers, theirs) = message::pair().map_err(failed("make a socket for answers"))?;
        let (killer, started) = (sandbox.killer(), Instant::now());
        sandbox.start(&action, Some(theirs.as_fd())).map_err(|outcome| *outcome)?;
        drop(theirs);
        let deadline = started + action.timeout.unwrap_or(START_PATIENCE);
        let terms = Terms::of(&action);
        if !is_executed(&answers, sandbox, deadline) {
            let waited = sandbox.wait(&terms, Some(deadline));
            let outcome = sandbox.conclude(&waited, &terms, started);
            sandbox.settle(&outcome);
            sandbox.distrust(&waited);
            return Err(outcome);
        }
        let terms = Terms {
            directory: Cow::Owned(directory.clone()),
            memory_bytes_max: terms.memory_bytes_max,
            timeout: None,
            kill_delay: Duration::ZERO,
        };
        Ok(Hosted {
            lease: self,
            killer,
            terms,
            started,
            talk: Mutex::new(Talk { answers, ticket: 0 }),
            reading: Mutex::new(()),
            ended: OnceLock::new(),
            broken: AtomicBool::new(false),
        })
    }
}

fn refused(end: End) -> Outcome {
    Outcome { end, quiet: true, ..Outcome::lost("") }
}

/// What a worker needs beyond an action: a directory that can be followed, and no wall that cannot. Gives the
/// directory.
fn check(action: &Action<'_>, sandbox: &Sandbox) -> Result<CString, Box<End>> {
    let refuse = |why: &str, hint: Option<&str>| {
        Box::new(End::Refused { why: why.to_owned(), hint: hint.map(str::to_owned) })
    };
    if sandbox.template().plan.number_of(|op| matches!(op, Op::LandlockRestrict)).is_some() {
        let why = "cannot host a worker under landlock: its rules do not follow a view that is replaced";
        return Err(refuse(why, Some("set landlock to off for workers")));
    }
    let why = "the working directory of a worker must be a plain absolute path, without ..";
    plain(action.directory).ok_or_else(|| refuse(why, None))
}

/// A path without `.`, `..` and needless slashes.
fn plain(directory: &CStr) -> Option<CString> {
    let mut path = Vec::new();
    let mut components = Path::new(OsStr::from_bytes(directory.to_bytes())).components();
    if components.next() != Some(Component::RootDir) {
        return None;
    }
    for component in components {
        let Component::Normal(name) = component else { return None };
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    if path.is_empty() {
        path.push(b'/');
    }
    CString::new(path).ok()
}

/// Waits until init says that the program was executed; `false` when there is something else to be heard, or the time
/// is over.
fn is_executed(answers: &OwnedFd, sandbox: &Sandbox, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut events =
            [PollFd::new(answers, PollFlags::IN), PollFd::new(&**sandbox.control(), PollFlags::IN)];
        match poll(&mut events, Some(&timeout)) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            // A worker that ends at once was executed nevertheless.
            Ok(_) => {
                return matches!(FromInit::receive(answers.as_fd(), false), Ok(Some(FromInit::Executed)));
            }
        }
    }
}

impl Hosted {
    /// How many views can be attached beside each other.
    pub const SLOTS_MAX: u32 = wire::SLOTS_MAX;

    /// The directory below /work of a place for a view. Whoever makes the worker's own view makes these directories.
    #[must_use]
    pub fn slot_dir(slot: u32) -> String {
        format!("_w/{slot}")
    }

    /// The spec of a sandbox for workers: without landlock, unless that is required, which no worker can be hosted
    /// under.
    #[must_use]
    pub fn spec(spec: &SandboxSpec) -> SandboxSpec {
        let mut spec = spec.clone();
        if spec.hardening.landlock == Level::BestEffort {
            spec.hardening.landlock = Level::Off;
        }
        spec
    }

    /// Puts the detached mount `view` at /work, in place of what is there, which no path leads to any more. That is
    /// detached with all below it soon after the answer: whoever closes his descriptors of it at once may not be last.
    /// Everyone of the worker's processes that stands at /work, or in the directory that the worker was started in,
    /// stands in the new view then. `view` must have that directory.
    ///
    /// # Errors
    /// [`HostedError`].
    pub fn swap(&self, view: BorrowedFd<'_>) -> Result<(), HostedError> {
        self.swap_failing_at(Some(view), 0)
    }

    /// As [`Hosted::swap`], with an empty, read-only directory: between requests the worker sees none. Not for workers
    /// that were started in a directory below /work.
    ///
    /// # Errors
    /// [`HostedError`].
    pub fn clear(&self) -> Result<(), HostedError> {
        self.swap_failing_at(None, 0)
    }

    /// As [`Hosted::swap`] and [`Hosted::clear`]; part `fail_at` of the exchange fails. Fault injection for tests:
    /// part 8 is what comes after the answer.
    ///
    /// # Errors
    /// [`HostedError`].
    pub fn swap_failing_at(&self, view: Option<BorrowedFd<'_>>, fail_at: u32) -> Result<(), HostedError> {
        self.ask("replace the worker's view", view, |ticket| ToInit::Swap { ticket, fail_at })
    }

    /// Puts the detached mount `view` at `/work/_w/<slot>`. A [`Hosted::swap`] takes it away again.
    ///
    /// # Errors
    /// [`HostedError`]; `EBUSY` if there is one already, `ERANGE` from [`Hosted::SLOTS_MAX`] on.
    pub fn attach(&self, slot: u32, view: BorrowedFd<'_>) -> Result<(), HostedError> {
        self.ask("attach a view for a request", Some(view), |ticket| ToInit::Attach { ticket, slot })
    }

    /// Takes away what is at `/work/_w/<slot>`; it is detached soon after the answer, as with [`Hosted::swap`].
    ///
    /// # Errors
    /// [`HostedError`]; `ENOENT` if nothing is.
    pub fn detach(&self, slot: u32) -> Result<(), HostedError> {
        self.ask("detach the view of a request", None, |ticket| ToInit::Detach { ticket, slot })
    }

    /// Makes the view at /work read-only, with all below it, if nobody can write to it: no file of it is open for
    /// writing or mapped writable and shared, in whatever process. From `true` on nobody can change the view's layer
    /// any more, also not by a descriptor of it that is kept. To be asked while the view is there: not after the next
    /// swap.
    ///
    /// # Errors
    /// [`HostedError`].
    pub fn seal(&self) -> Result<bool, HostedError> {
        self.seal_at(wire::SLOT_NONE)
    }

    /// As [`Hosted::seal`], for the view at `/work/_w/<slot>`.
    ///
    /// # Errors
    /// [`HostedError`]; `ENOENT` if nothing is there.
    pub fn seal_slot(&self, slot: u32) -> Result<bool, HostedError> {
        self.seal_at(slot.min(Self::SLOTS_MAX))
    }

    fn seal_at(&self, slot: u32) -> Result<bool, HostedError> {
        match self.ask("seal the worker's view", None, |ticket| ToInit::Seal { ticket, slot }) {
            Ok(()) => Ok(true),
            Err(HostedError::Kept { errno: Errno::BUSY, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &self,
        what: &'static str,
        view: Option<BorrowedFd<'_>>,
        question: impl FnOnce(u32) -> ToInit,
    ) -> Result<(), HostedError> {
        let mut talk = lock(&self.talk);
        if self.ended.get().is_some() {
            return Err(HostedError::Ended { what });
        }
        if let Some(view) = view {
            // A copy of a host mount would share what is mounted on it, and the kernel moves no shared mounts.
            mount::make_private_recursive(view).map_err(|errno| HostedError::Kept { what, errno })?;
        }
        talk.ticket = talk.ticket.wrapping_add(1);
        let views: &[BorrowedFd<'_>] = view.as_slice();
        question(talk.ticket).send(self.control(), views).map_err(|errno| match errno {
            Errno::PIPE | Errno::CONNRESET => HostedError::Ended { what },
            errno => HostedError::Kept { what, errno },
        })?;
        let deadline = Some(Instant::now() + READY_PATIENCE);
        loop {
            match receive_until(talk.answers.as_fd(), deadline) {
                Ok(Some(FromInit::Viewed(answer))) if answer.ticket == talk.ticket => {
                    self.broken.fetch_or(answer.broken, Ordering::AcqRel);
                    return judge(what, answer);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(HostedError::Ended { what }),
                Err(errno) => {
                    self.broken.store(true, Ordering::Release);
                    self.killer.kill_silently();
                    return Err(HostedError::Broken { what, errno });
                }
            }
        }
    }

    /// How the worker ended, if it has; never waits.
    #[must_use]
    pub fn ended(&self) -> Option<&Outcome> {
        if self.ended.get().is_none() {
            let _reading = lock(&self.reading);
            if self.ended.get().is_none()
                && let Some(waited) = self.heard()
                && let Some(sandbox) = self.lease.sandbox()
            {
                let _ = self.ended.set(sandbox.conclude(&waited, &self.terms, self.started));
            }
        }
        self.ended.get()
    }

    /// What init has said about the end.
    fn heard(&self) -> Option<Waited> {
        loop {
            match FromInit::receive(self.control(), false) {
                Ok(Some(FromInit::Exited(report))) => {
                    return Some(Waited::Exited { report, timed_out: false });
                }
                Ok(Some(FromInit::Failed { step, errno })) => return Some(Waited::Failed { step, errno }),
                Ok(Some(_)) => {}
                Err(Errno::AGAIN) => return None,
                Ok(None) | Err(_) => return Some(Waited::Gone),
            }
        }
    }

    /// Readable when [`Hosted::ended`] has an answer; nothing else ever comes here.
    #[must_use]
    pub fn control(&self) -> BorrowedFd<'_> {
        self.killer.control.as_fd()
    }

    /// A handle that kills the worker and all that it started, from any thread, also while its view is being changed.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Sends a signal to the worker's first process.
    pub fn signal(&self, number: i32) {
        self.killer.signal(number);
    }

    /// Stops all of the worker's processes where they are, soon. `false`: there is no freezer here.
    ///
    /// # Errors
    /// [`HostedError::Cgroup`].
    pub fn freeze(&self) -> Result<bool, HostedError> {
        let cgroup = self.lease.sandbox().and_then(|sandbox| sandbox.seat().cgroup.as_ref().ok());
        cgroup.map_or(Ok(false), |cgroup| Ok(cgroup.freeze()?))
    }

    /// Lets them go on. `false`: there is no freezer here.
    ///
    /// # Errors
    /// [`HostedError::Cgroup`].
    pub fn thaw(&self) -> Result<bool, HostedError> {
        let cgroup = self.lease.sandbox().and_then(|sandbox| sandbox.seat().cgroup.as_ref().ok());
        cgroup.map_or(Ok(false), |cgroup| Ok(cgroup.thaw()?))
    }

    /// Whether all of them have stopped; `None` where the kernel does not say.
    #[must_use]
    pub fn is_frozen(&self) -> Option<bool> {
        self.lease.sandbox()?.seat().cgroup.as_ref().ok()?.frozen()
    }

    /// Memory that the worker uses now: what its cgroup counts, page cache included; without that, the sum of what its
    /// processes use. `None` where neither can be had.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        let sandbox = self.lease.sandbox()?;
        let counted = sandbox.seat().cgroup.as_ref().ok().and_then(crate::cgroup::Slot::memory_bytes);
        counted.or_else(|| footprint::of_tree(sandbox.init_pid()))
    }

    /// CPU time and the peak of memory since its start, as its cgroup counts them.
    #[must_use]
    pub fn used(&self) -> Option<crate::cgroup::Usage> {
        self.lease.sandbox()?.seat().cgroup.as_ref().ok()?.glance().ok()
    }

    /// The sandbox that it lives in.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.lease.sandbox()
    }

    /// Ends the worker: SIGTERM, and SIGKILL to all that is left after `grace` (zero: at once). Returns when all is
    /// quiet. Whoever holds the worker's standard input closes it before.
    #[must_use]
    pub fn stop(self, grace: Duration) -> (Outcome, Lease) {
        // What is frozen hears nothing; where there is no freezer, nothing is.
        let _ = self.thaw();
        let _ = self.ended();
        let Hosted { mut lease, terms, started, ended, broken, .. } = self;
        let terms = Terms { kill_delay: grace, ..terms };
        let Some(sandbox) = lease.sandbox_mut() else { return (Outcome::lost("the lease is over"), lease) };
        let outcome = ended.into_inner().unwrap_or_else(|| {
            let waited = sandbox.wait(&terms, Some(Instant::now()));
            sandbox.conclude(&waited, &terms, started)
        });
        if !broken.into_inner() {
            sandbox.settle(&outcome);
        }
        (outcome, lease)
    }
}

fn judge(what: &'static str, answer: Viewed) -> Result<(), HostedError> {
    if answer.errno == 0 {
        return Ok(());
    }
    let errno = Errno::from_raw_os_error(answer.errno);
    Err(if answer.broken { HostedError::Broken { what, errno } } else { HostedError::Kept { what, errno } })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_directories_are_made_plain() {
        assert_eq!(plain(c"/work").as_deref(), Some(c"/work"));
        assert_eq!(plain(c"//work/./a//b/").as_deref(), Some(c"/work/a/b"));
        assert_eq!(plain(c"/").as_deref(), Some(c"/"));
        for refused in [c"", c"work", c"/work/..", c"/work/a/../b"] {
            assert_eq!(plain(refused), None);
        }
    }

    #[test]
    fn a_hosted_worker_is_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Hosted>();
    }
}
