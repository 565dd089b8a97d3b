//! What a run gave: always an outcome, never only an error, since a failed run has facts to tell as well.
use crate::plan::StepFailure;
use std::fmt;
use std::time::Duration;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The command ended by itself with this exit code.
    Exited(i32),
    /// A signal ended the command.
    Signaled(i32),
    /// The time that the action was given ran out, and it was killed.
    TimedOut {
        /// The time it was given.
        limit: Duration,
    },
    /// The kernel killed a process of the action because the memory limit was reached.
    OutOfMemory {
        /// The most that was in use, if the kernel counts it.
        peak_bytes: Option<u64>,
        /// The limit, if the action had one of its own.
        limit_bytes: Option<u64>,
    },
    /// The owner asked for it to be killed.
    Canceled,
    /// What was asked for cannot be had here, or not at all; nothing was run.
    Refused {
        /// Why.
        why: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// The command could not be started: not found, not executable, no such directory.
    NotStarted {
        /// What failed, in words.
        failure: StepFailure,
        /// Whether it is the command itself that could not be executed, as opposed to the sandbox's own steps.
        is_command: bool,
    },
    /// The sandbox failed; the action may have run in part.
    Lost {
        /// What happened.
        why: String,
    },
}

impl End {
    /// Whether the command ended with exit code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == End::Exited(0)
    }

    /// Whether the action itself failed, as opposed to what runs it.
    #[must_use]
    pub fn is_infrastructure(&self) -> bool {
        matches!(self, End::Lost { .. } | End::NotStarted { is_command: false, .. })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(code) => write!(f, "exited with code {code}"),
            End::Signaled(signal) => write!(f, "ended by signal {signal} ({})", signal_name(*signal)),
            End::TimedOut { limit } => write!(f, "timed out after {} s", limit.as_secs_f64()),
            End::OutOfMemory { peak_bytes, limit_bytes } => {
                f.write_str("ran out of memory")?;
                match (peak_bytes, limit_bytes) {
                    (Some(peak), Some(limit)) => write!(f, " (peak {peak} bytes, limit {limit} bytes)"),
                    (Some(peak), None) => write!(f, " (peak {peak} bytes)"),
                    (None, Some(limit)) => write!(f, " (limit {limit} bytes)"),
                    (None, None) => Ok(()),
                }
            }
            End::Canceled => f.write_str("canceled"),
            End::Refused { why, .. } => f.write_str(why),
            End::NotStarted { failure, .. } => write!(f, "not started: {failure}"),
            End::Lost { why } => write!(f, "lost: {why}"),
        }
    }
}

/// The name of a signal, as in signal(7).
#[must_use]
pub fn signal_name(signal: i32) -> &'static str {
    const NAMES: [&str; 32] = [
        "0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    usize::try_from(signal).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("a real-time signal")
}

/// What a run used. `None`: this host does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User CPU time in microseconds.
    pub cpu_user_us: u64,
    /// System CPU time in microseconds.
    pub cpu_system_us: u64,
    /// Whether CPU time is the cgroup's, and not only that of the processes that were waited for.
    pub cpu_from_cgroup: bool,
    /// The most memory in use at once, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Whether the peak is the cgroup's, and not the largest resident set of one process.
    pub memory_from_cgroup: bool,
    /// Processes that the kernel killed for memory.
    pub oom_kills: Option<u64>,
    /// Forks that the limit of processes refused.
    pub pids_denied: Option<u64>,
}

/// Where the time of a run went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From the call until init let the command go: limits, the message, the mount at /work.
    pub start_us: u64,
    /// From there until the command's leader had ended.
    pub run_us: u64,
    /// From there until nobody was left.
    pub quiet_us: u64,
    /// From there until the caller has everything: events, usage.
    pub collect_us: u64,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What it used.
    pub usage: Usage,
    /// Where the time went.
    pub times: Times,
    /// Processes that the command had left behind and that were killed.
    pub stragglers: u32,
    /// Whether all is quiet: nobody can change the layer any more.
    pub quiet: bool,
}

impl Outcome {
    /// An outcome for a run that never got to the kernel.
    #[must_use]
    pub fn lost(why: impl Into<String>) -> Self {
        Outcome {
            end: End::Lost { why: why.into() },
            usage: Usage::default(),
            times: Times::default(),
            stragglers: 0,
            quiet: false,
        }
    }
}
