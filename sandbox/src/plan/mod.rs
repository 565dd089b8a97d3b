//! A plan: the flat list of numbered steps that makes one kind of sandbox.
//!
//! ```text
//!  spec + features ──compile──► Plan ──encode──► sealed memfd ──► zygote, init, action: interpret
//!                                 │
//!                                 └── Display (what `fulgurite explain` prints), snapshots, fault injection
//! ```
//! Steps are in the order in which they happen and numbered from 1. A phase says who performs a step and how often:
//! the view once for each plan, creation once for each sandbox, the lease at creation and at each reset, the action
//! once for each action. A failure comes back as `(step number, errno)` and [`Plan::failure`] turns it into words.
//!
//! Limits: at most [`STEPS_MAX`] steps, [`TREES_MAX`] attached trees and [`BYTES_MAX`] bytes when encoded.
pub mod compile;
mod text;
pub mod wire;

use crate::sys::Errno;
use std::ffi::CString;

/// The most steps in a plan.
pub const STEPS_MAX: usize = 400;
/// The most host trees that one view attaches: all their descriptors travel in one message.
pub const TREES_MAX: usize = 56;
/// The largest encoded plan.
pub const BYTES_MAX: usize = 1 << 20;

/// Numbers beyond all steps, for what happens between them.
pub mod machinery {
    /// Making the sandbox.
    pub const CREATE: u32 = 10_001;
    /// Cloning the process that waits for the action.
    pub const PARK: u32 = 10_002;
    /// Attaching the inputs at /work, and passing the action on.
    pub const START: u32 = 10_003;
    /// Taking away what the last action could change.
    pub const RESET: u32 = 10_004;
    /// The zygote's own work.
    pub const ZYGOTE: u32 = 10_005;
    /// Mounting what a worker's working directory can be moved from.
    pub const HOST: u32 = 10_006;

    pub(super) fn text(number: u32) -> &'static str {
        match number {
            CREATE => "make the sandbox",
            PARK => "clone the process that waits for the action",
            START => "attach the inputs at /work and start the action",
            RESET => "reset the sandbox",
            ZYGOTE => "have the zygote clone a sandbox",
            HOST => "prepare the working directory of a worker",
            _ => "do an unknown step",
        }
    }
}

/// Who performs a step, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The zygote, once for each plan: the read-only skeleton that all sandboxes of the plan share.
    View = 0,
    /// The zygote and the new init, once for each sandbox.
    Create = 1,
    /// Init, when the sandbox is made and again at every reset: what an action may have changed.
    Lease = 2,
    /// The process that becomes the action, once for each action.
    Action = 3,
}

/// One thing to do. Paths are relative to the root that is being built; strings are ready for the kernel.
#[allow(missing_docs, reason = "the fields are the nouns of the sentence above them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new tmpfs at `at` (the root itself when empty).
    Tmpfs { at: CString, size_bytes: u64, inodes: u64, mode: u32, attributes: u64 },
    /// A directory.
    Directory { at: CString, mode: u32 },
    /// A small file with this content, or an empty one to mount on.
    File { at: CString, content: CString, mode: u32 },
    /// A symlink.
    Symlink { at: CString, target: CString },
    /// A detached tree, prepared by the parent, attached at `at`. `tree` is its place among the descriptors.
    Attach { at: CString, tree: u32, what: CString, read_only: bool },
    /// The root of the view becomes read-only.
    SealView,
    /// Clone the sandbox's init with these namespaces, in its cgroup.
    Clone { namespaces: u64, in_cgroup: bool },
    /// Write the id maps of the new user namespace, from outside: these ids inside (user and group)
    /// are the sandbox's own outside.
    MapIds { init: [u32; 2], action: [u32; 2] },
    /// Init becomes the sandbox's own administrator and dies with the zygote.
    Settle { uid: u32, gid: u32 },
    /// Bring up `lo`.
    LoopbackUp,
    /// Host and domain name.
    HostName { name: CString },
    /// A new proc for the pid namespace, not attached yet.
    OpenProc,
    /// The working directory is the root of the view, in which init was cloned.
    EnterView,
    /// Attach the new proc.
    AttachProc { at: CString },
    /// Hide a file behind the null device, if it exists.
    MaskFile { at: CString },
    /// Hide a directory behind an empty read-only one, if it exists.
    MaskDirectory { at: CString },
    /// Make a part of proc read-only, if it exists.
    ReadOnly { at: CString },
    /// A private devpts.
    Devpts { at: CString, max: CString },
    /// No user namespace can be made inside.
    ForbidUserNamespaces,
    /// Nobody inside can trace init or read its memory.
    NotDumpable,
    /// The private IPC and cgroup namespaces of this lease.
    Namespaces { flags: u64 },
    /// A session of its own.
    NewSession,
    /// One resource limit; lowered only.
    Rlimit { resource: u32, name: &'static str, soft: u64, hard: u64 },
    /// File mode creation mask.
    Umask { mask: u32 },
    /// Empty bounding and ambient sets.
    DropBounding,
    /// Become the unprivileged user.
    SetIds { uid: u32, gid: u32 },
    /// Empty effective, permitted and inheritable sets.
    DropCapabilities,
    /// No program gains privileges by being executed.
    NoNewPrivileges,
    /// A landlock ruleset that denies these accesses where no rule allows them.
    LandlockCreate { handled_fs: u64, handled_net: u64, scoped: u64, size: u32 },
    /// Allow these accesses at and below a path.
    LandlockAllow { at: CString, access: u64 },
    /// Come under the ruleset.
    LandlockRestrict,
    /// The system call filter; `instructions` holds `struct sock_filter` records.
    Seccomp { program: Vec<u8> },
    /// Wait for the action; everything above is done before it arrives.
    Await,
    /// Standard input, output and error of the action; with a terminal, its session's.
    Stdio,
    /// The working directory.
    ChangeDirectory,
    /// Close everything else.
    CloseDescriptors,
    /// Become the action's program.
    Exec,
}

/// A step: what, and in which phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who performs it, and how often.
    pub phase: Phase,
    /// What to do.
    pub op: Op,
}

/// The compiled list of steps.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order; step `n` is `steps[n - 1]`.
    pub steps: Vec<Step>,
    /// Host paths whose trees the view attaches, in the order of [`Op::Attach`]'s `tree` there.
    pub trees: Vec<Tree>,
    /// Host paths whose trees each sandbox attaches for itself, likewise: the ids of their owner are mapped to those of
    /// its actions, so that these can write there.
    pub own_trees: Vec<Tree>,
}

/// A host tree that the parent clones, restricts and hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it is on the host.
    pub source: CString,
    /// Mount attributes for it and all below it.
    pub attributes: u64,
    /// Where it appears, for messages.
    pub at: CString,
}

/// A step that failed, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {what}: {errno}{}", self.place())]
pub struct StepFailure {
    /// What was tried, on what.
    pub what: String,
    /// Why it failed.
    pub errno: Errno,
    /// Which step, from 1.
    pub step: u32,
    /// Of how many.
    pub total: u32,
}

impl StepFailure {
    fn place(&self) -> String {
        if self.step > self.total {
            String::new()
        } else {
            format!(" (step {} of {})", self.step, self.total)
        }
    }
}

impl Plan {
    /// The number of the first step with this operation's shape, for messages about work that the parent does.
    #[must_use]
    pub fn number_of(&self, matches: impl Fn(&Op) -> bool) -> Option<u32> {
        self.steps.iter().position(|step| matches(&step.op)).and_then(|index| u32::try_from(index + 1).ok())
    }

    /// Puts `(step, errno)` into words.
    #[must_use]
    pub fn failure(&self, step: u32, errno: Errno) -> StepFailure {
        let what = (step as usize)
            .checked_sub(1)
            .and_then(|index| self.steps.get(index))
            .map_or_else(|| machinery::text(step).to_owned(), |step| step.op.to_string());
        StepFailure { what, errno, step, total: self.steps.len() as u32 }
    }

    /// Appends a step.
    pub(crate) fn push(&mut self, phase: Phase, op: Op) {
        self.steps.push(Step { phase, op });
    }
}
