//! How a sandbox comes into being, and how its init ends: the two ends of one process.
use crate::init::wire::FromInit;
use crate::runtime::{SandboxError, Template};
use crate::seat::Seat;
use crate::sys::{Errno, message, process};
use crate::zygote::Wanted;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;
use std::time::{Duration, Instant};

/// How long a sandbox may take to be made, reset or ended; the kernel frees its mounts then, a full /tmp among them.
pub(crate) const READY_PATIENCE: Duration = Duration::from_secs(30);

/// The sandbox's init as a process; killed at the latest when it is dropped.
#[derive(Debug)]
pub(crate) struct InitProcess {
    pub pid: u32,
    pub pidfd: OwnedFd,
}

impl InitProcess {
    /// Kills it, and everything in its pid namespace with it, and waits until it is gone.
    pub fn end(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let mut events = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let patience = Timespec { tv_sec: READY_PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        while let Err(Errno::INTR) = poll(&mut events, Some(&patience)) {}
    }

    /// Whether it is gone, or about to be waited for by its zygote.
    pub fn has_ended(&self) -> bool {
        let mut events = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut events, Some(&now)).is_ok_and(|count| count > 0)
    }
}

impl Drop for InitProcess {
    fn drop(&mut self) {
        // The last net: closing the control socket ends init as well.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// Has the seat's zygote clone an init. Gives our end of its control socket, its pid and a descriptor of it.
///
/// # Errors
/// The step that failed.
pub(crate) fn hatch(
    seat: &Seat,
    template: &Template,
    fail_at: u32,
) -> Result<(OwnedFd, u32, OwnedFd), SandboxError> {
    let (ours, theirs) = message::pair().map_err(SandboxError::system("make a control socket"))?;
    let cgroups =
        seat.cgroup.as_ref().ok().and_then(|cgroup| cgroup.init_leaf_fd().zip(cgroup.action_leaf_fd()));
    let trees = template.trees.for_sandbox(&template.plan, seat.ids.action)?;
    let borrowed: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
    let hatched = seat.zygote.spawn(&Wanted {
        plan: &template.plan,
        encoded: template.encoded.as_fd(),
        view: template.view.as_fd(),
        control: theirs.as_fd(),
        cgroups,
        trees: &borrowed,
        ids: seat.ids,
        fail_at,
    })?;
    if let Some(pid) = Pid::from_raw(hatched.pid.cast_signed()) {
        // It shares the processors with what it has to kill and reap, which may be hundreds of processes that compute.
        // An ordinary user may not, and waits longer for its losers.
        let _ = process::put_first(pid);
    }
    Ok((ours, hatched.pid, hatched.pidfd))
}

/// Waits for a message of an init, until then at most: `ETIMEDOUT`.
pub(crate) fn receive_until(
    socket: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<Option<FromInit>, Errno> {
    if let Some(deadline) = deadline {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut events = [PollFd::new(&socket, PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Ok(0) => return Err(Errno::TIMEDOUT),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    FromInit::receive(socket, true)
}
