//! What to run in a sandbox, and how to stop it.
use crate::cgroup::{GroupKill, Limits};
use crate::init::wire::ToInit;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What to run, in which surroundings.
#[derive(Debug)]
pub struct Action<'a> {
    /// The command and its arguments. A command without a slash is looked for in the PATH of `variables`.
    pub arguments: &'a [CString],
    /// The whole environment, as `NAME=value`.
    pub variables: &'a [CString],
    /// Where it starts, as seen inside.
    pub directory: &'a std::ffi::CStr,
    /// Standard input.
    pub stdin: BorrowedFd<'a>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// A detached mount to attach at /work.
    pub work: Option<BorrowedFd<'a>>,
    /// Limits of this action.
    pub limits: &'a Limits,
    /// When to kill it.
    pub timeout: Option<Duration>,
    /// How long it may go on after SIGTERM before it is killed; zero: it is killed at once.
    pub kill_delay: Duration,
    /// Standard input is a terminal that shall be the action's controlling one.
    pub terminal: bool,
    /// Fault injection: the step of the plan that shall fail; 0 for none.
    pub fail_at: u32,
}

/// Kills one run of a sandbox, from any thread: the next one if none is running. Once that run is over it does nothing.
#[derive(Clone, Debug)]
pub struct Killer {
    pub(crate) control: Arc<OwnedFd>,
    pub(crate) generation: u32,
    pub(crate) stop: Arc<Stop>,
}

/// How one run is stopped before its init has heard of it.
///
/// ```text
///   Idle ── the request is sent ──► Armed(cgroup.kill) ── kill ──► Killed: the leaf takes no other process
///     └────────────────── the run is over ──┴────────────────────────► Over: nothing is killed any more
/// ```
/// Init shares the processors with what it is to kill; whoever cancels a run usually has one. So the kernel is told
/// directly, and init reaps.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    canceled: AtomicBool,
    group: Mutex<Group>,
}

#[derive(Debug, Default)]
enum Group {
    #[default]
    Idle,
    Armed(Arc<GroupKill>),
    Killed,
    Over,
}

impl Stop {
    /// Whether somebody wants the run to end.
    pub fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Acquire)
    }

    /// Whether the cgroup of the run was killed.
    pub fn is_killed(&self) -> bool {
        matches!(*self.group.lock().unwrap_or_else(PoisonError::into_inner), Group::Killed)
    }

    /// From now on a kill goes by this.
    pub fn arm(&self, kill: Option<Arc<GroupKill>>) {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Group::Idle, Some(kill)) = (&*group, kill) {
            *group = Group::Armed(kill);
        }
    }

    /// The run is over. Whether its cgroup was killed, so that nothing can start in it any more.
    pub fn end(&self) -> bool {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(std::mem::replace(&mut *group, Group::Over), Group::Killed)
    }

    fn kill(&self) {
        self.canceled.store(true, Ordering::Release);
        // Held over the write, so that none comes after the end of the run.
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Group::Armed(kill) = &*group {
            // What fails here, init does.
            let _ = kill.kill();
            *group = Group::Killed;
        }
    }
}

impl Killer {
    /// Kills everything of the run; it then ends as [`crate::outcome::End::Canceled`].
    pub fn kill(&self) {
        self.stop.kill();
        self.kill_silently();
    }

    pub(crate) fn kill_silently(&self) {
        // A sandbox that has ended has nothing to kill.
        let _ = ToInit::Kill { generation: self.generation }.send(self.control.as_fd(), &[]);
    }

    /// Sends a signal to the leader of the run.
    pub fn signal(&self, number: i32) {
        let _ = ToInit::Signal { generation: self.generation, number }.send(self.control.as_fd(), &[]);
    }
}

/// The paths to try for the command, as execvp(3) does.
pub(crate) fn candidates(action: &Action<'_>) -> Vec<CString> {
    let Some(command) = action.arguments.first() else { return Vec::new() };
    if command.to_bytes().contains(&b'/') || command.is_empty() {
        return vec![command.clone()];
    }
    let path = action
        .variables
        .iter()
        .find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let join = |directory: &[u8]| {
        let mut path = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
        path.push(b'/');
        path.extend_from_slice(command.to_bytes());
        CString::new(path).ok()
    };
    path.split(|byte| *byte == b':').filter_map(join).collect()
}
