//! The daemon's side of the zygote: a handle that sends one request at a time.
//!
//! ```text
//! daemon ── View, Spawn, Fork, UserNamespace ──► zygote ── clone3 ──► init (pid 1 of a sandbox)
//! ```
//! Invariants: the zygote is forked while the daemon has one thread ([`Zygote::start`] checks it); it is the only
//! process that clones sandboxes; it ends when this handle is dropped, and everything it cloned ends with it.
pub mod wire;

use crate::init::nursery;
use crate::plan::{Plan, StepFailure};
use crate::sys::{Errno, message};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::Pid;
use rustix::time::Timespec;
use std::sync::{Mutex, PoisonError};
use wire::{FromZygote, ToZygote};

/// Why the zygote could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// The process already has other threads.
    #[error("cannot fork the zygote: this process already has {threads} threads")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// The zygote could not be forked, or could not leave the host's mounts.
    #[error("cannot start the zygote: {errno}")]
    Start {
        /// Why.
        errno: Errno,
    },
    /// A step of the plan failed.
    #[error(transparent)]
    Step(#[from] StepFailure),
    /// The zygote has ended.
    #[error("cannot {what}: the zygote has ended")]
    Gone {
        /// What was asked.
        what: &'static str,
    },
    /// The request could not be made or carried out.
    #[error("cannot {what}: {errno}")]
    Request {
        /// What was asked.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
}

/// A running zygote.
#[derive(Debug)]
pub struct Zygote {
    socket: Mutex<OwnedFd>,
    pid: u32,
    /// A descriptor of it, if another zygote is its parent; else it is ours to be reaped.
    pidfd: Option<OwnedFd>,
}

/// User and group ids of a sandbox outside, the same number for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterIds {
    /// Of init.
    pub init: u32,
    /// Of its actions; the same as of init where only one id can be mapped.
    pub action: u32,
}

/// A sandbox's init to be cloned.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The steps.
    pub plan: &'a Plan,
    /// The same, in a sealed memfd.
    pub encoded: BorrowedFd<'a>,
    /// The mount namespace of its view.
    pub view: BorrowedFd<'a>,
    /// Init's end of the control socket.
    pub control: BorrowedFd<'a>,
    /// The cgroup directories for init and for its actions (v2).
    pub cgroups: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// The trees that it attaches for itself, in the plan's order.
    pub trees: &'a [BorrowedFd<'a>],
    /// Its ids outside.
    pub ids: OuterIds,
    /// Fault injection: the step that shall fail; 0 for none.
    pub fail_at: u32,
}

/// A sandbox's init, just cloned.
#[derive(Debug)]
pub struct Hatched {
    /// Its pid outside.
    pub pid: u32,
    /// A descriptor of the process.
    pub pidfd: OwnedFd,
}

impl Zygote {
    /// Forks the zygote. Must be called while the process has one thread, early in `main`. `once`: one sandbox at most
    /// will be made, so that nothing is made ahead.
    ///
    /// # Errors
    /// [`ZygoteError::Threads`] if there are more; [`ZygoteError::Start`] where the process may not make a mount
    /// namespace (see [`crate::host`]).
    pub fn start(once: bool) -> Result<Zygote, ZygoteError> {
        let start = |errno| ZygoteError::Start { errno };
        let threads = nursery::thread_count();
        if threads > 1 {
            return Err(ZygoteError::Threads { threads });
        }
        let (socket, pid) = nursery::fork(once).map_err(start)?;
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let zygote = Zygote { socket: Mutex::new(socket), pid, pidfd: None };
        match zygote.receive("start the zygote")? {
            (FromZygote::Done { .. }, _) => Ok(zygote),
            (FromZygote::Failed { errno, .. }, _) => Err(start(Errno::from_raw_os_error(errno))),
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Another zygote with the same views, to be put into a cgroup of its own.
    ///
    /// # Errors
    /// [`ZygoteError`], when it cannot be cloned.
    pub fn fork(&self) -> Result<Zygote, ZygoteError> {
        const WHAT: &str = "fork a zygote";
        let (ours, theirs) = message::pair().map_err(|errno| ZygoteError::Request { what: WHAT, errno })?;
        let (pid, pidfd) = self.ask(WHAT, &ToZygote::Fork, &[theirs.as_fd()], None)?;
        drop(theirs);
        let zygote = Zygote { socket: Mutex::new(ours), pid, pidfd };
        zygote.receive(WHAT)?;
        Ok(zygote)
    }

    /// Builds the view of a plan. Gives the mount namespace that sandboxes start from. `trees` are detached mounts in
    /// the plan's order.
    ///
    /// # Errors
    /// The step that failed, in the plan's words.
    pub fn build_view(
        &self,
        plan: &Plan,
        encoded: BorrowedFd<'_>,
        trees: &[BorrowedFd<'_>],
        fail_at: u32,
    ) -> Result<OwnedFd, ZygoteError> {
        const WHAT: &str = "build the view";
        let mut descriptors = vec![encoded];
        descriptors.extend_from_slice(trees);
        match self.ask(WHAT, &ToZygote::View { fail_at }, &descriptors, Some(plan))? {
            (_, Some(view)) => Ok(view),
            (_, None) => Err(ZygoteError::Request { what: WHAT, errno: Errno::BADF }),
        }
    }

    /// Clones the init of a sandbox.
    ///
    /// # Errors
    /// The step that failed, in the plan's words.
    pub fn spawn(&self, wanted: &Wanted<'_>) -> Result<Hatched, ZygoteError> {
        let Wanted { plan, encoded, view, control, cgroups, trees, ids, fail_at } = *wanted;
        const WHAT: &str = "clone a sandbox";
        let mut descriptors = vec![encoded, view, control];
        if let Some((init, action)) = cgroups {
            descriptors.extend([init, action]);
        }
        descriptors.extend_from_slice(trees);
        let OuterIds { init: init_id, action: action_id } = ids;
        let request = ToZygote::Spawn { fail_at, in_cgroup: cgroups.is_some(), init_id, action_id };
        match self.ask(WHAT, &request, &descriptors, Some(plan))? {
            (pid, Some(pidfd)) => Ok(Hatched { pid, pidfd }),
            (_, None) => Err(ZygoteError::Request { what: WHAT, errno: Errno::BADF }),
        }
    }

    /// A user namespace with this map for users and groups alike, for idmapped mounts.
    ///
    /// # Errors
    /// [`ZygoteError::Request`], for instance without CAP_SETUID.
    pub fn user_namespace(&self, map: &str) -> Result<OwnedFd, ZygoteError> {
        const WHAT: &str = "make a user namespace for an id map";
        let invalid = ZygoteError::Request { what: WHAT, errno: Errno::MSGSIZE };
        let mut bytes = [0; wire::MAP_BYTES_MAX];
        bytes.get_mut(..map.len()).ok_or(invalid)?.copy_from_slice(map.as_bytes());
        let request = ToZygote::UserNamespace { map: bytes, length: map.len() };
        match self.ask(WHAT, &request, &[], None)? {
            (_, Some(namespace)) => Ok(namespace),
            (_, None) => Err(ZygoteError::Request { what: WHAT, errno: Errno::BADF }),
        }
    }

    fn ask(
        &self,
        what: &'static str,
        request: &ToZygote,
        descriptors: &[BorrowedFd<'_>],
        plan: Option<&Plan>,
    ) -> Result<(u32, Option<OwnedFd>), ZygoteError> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match request.send(socket.as_fd(), descriptors) {
            Ok(()) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ZygoteError::Gone { what }),
            Err(errno) => return Err(ZygoteError::Request { what, errno }),
        }
        let answer =
            FromZygote::receive(socket.as_fd()).map_err(|errno| ZygoteError::Request { what, errno })?;
        match (answer, plan) {
            (None, _) => Err(ZygoteError::Gone { what }),
            (Some((FromZygote::Done { pid }, fd)), _) => Ok((pid, fd)),
            (Some((FromZygote::Failed { step, errno }, _)), Some(plan)) => {
                Err(plan.failure(step, Errno::from_raw_os_error(errno)).into())
            }
            (Some((FromZygote::Failed { errno, .. }, _)), _) => {
                Err(ZygoteError::Request { what, errno: Errno::from_raw_os_error(errno) })
            }
        }
    }

    fn receive(&self, what: &'static str) -> Result<(FromZygote, Option<OwnedFd>), ZygoteError> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        FromZygote::receive(socket.as_fd())
            .map_err(|errno| ZygoteError::Request { what, errno })?
            .ok_or(ZygoteError::Gone { what })
    }

    /// Ends the zygote and everything it cloned, and waits for it.
    pub fn stop(self) {
        let Zygote { socket, pid, pidfd } = self;
        // Closing our end is the signal to end.
        drop(socket);
        match (pidfd, Pid::from_raw(pid.cast_signed())) {
            (Some(pidfd), _) => {
                let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
                let mut events = [PollFd::new(&pidfd, PollFlags::IN)];
                while let Err(Errno::INTR) = poll(&mut events, Some(&patience)) {}
            }
            (None, Some(pid)) => {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
            (None, None) => {}
        }
    }
}
