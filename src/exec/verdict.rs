//! What an outcome means to a client of REAPI. Pure.
//!
//! | outcome | verdict | exit code |
//! |---|---|---|
//! | exited | Exited | its own |
//! | signal | Exited | 128 + the signal's number |
//! | command not found, not executable | Exited | 127, 126, as env(1) |
//! | timed out, canceled, out of memory | of that name | 128 + SIGKILL |
//! | working directory not there, limit not to be had | Invalid, FailedPrecondition | |
//! | sandbox lost | Unavailable | |

use super::executor::Verdict;
use super::platform::PlatformError;
use crate::action::{ActionResult, Usage};
use crate::cas::CasError;
use crate::output::HandoffError;
use crate::stage::StageError;
use crate::stage::root::StageRootError;
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::harden::Enforcement;
use fulgurite_sandbox::outcome::{End, Outcome, signal_name};
use fulgurite_sandbox::runtime::SandboxError;
use std::time::Duration;

/// Writes down what a run used, and what was enforced.
pub fn account(outcome: &Outcome, enforcement: Option<&Enforcement>, limits: &Limits, usage: &mut Usage) {
    usage.user = Duration::from_micros(outcome.usage.cpu_user_us);
    usage.system = Duration::from_micros(outcome.usage.cpu_system_us);
    usage.peak_bytes = outcome.usage.memory_peak_bytes.unwrap_or(0);
    usage.stragglers = outcome.stragglers;
    if let End::Signaled(signal) = outcome.end {
        usage.termination_signal = Some(signal_name(signal).trim_start_matches("SIG").to_owned());
    }
    let mut enforced = |name: &str, value: String| usage.enforced.push((name.to_owned(), value));
    if let Some(enforcement) = enforcement {
        enforced("hardening", enforcement.to_string());
    }
    let numbers = [
        ("memory_bytes_max", limits.memory_bytes_max),
        ("cpu_milli_max", limits.cpu_milli_max.map(u64::from)),
        ("pids_max", limits.pids_max.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            enforced(name, number.to_string());
        }
    }
}

/// The verdict on a run; sets the exit code. `kept` is what went wrong with its outputs and with what it printed.
pub fn of(outcome: &Outcome, result: &mut ActionResult, kept: Result<(), Verdict>) -> Verdict {
    /// 128 + SIGKILL, as shells say it.
    const KILLED: i32 = 137;
    let mut ended = |code: i32, verdict: Verdict| {
        result.exit_code = code;
        verdict
    };
    match &outcome.end {
        End::TimedOut { limit } => ended(KILLED, Verdict::TimedOut { limit: *limit }),
        End::OutOfMemory { peak_bytes, limit_bytes } => {
            let (peak_bytes, limit_bytes) = (peak_bytes.unwrap_or(0), *limit_bytes);
            ended(KILLED, Verdict::OutOfMemory { peak_bytes, limit_bytes })
        }
        End::Canceled => ended(KILLED, Verdict::Canceled),
        End::Refused { why, hint } => Verdict::FailedPrecondition(match hint {
            Some(hint) => format!("{why} (hint: {hint})"),
            None => why.clone(),
        }),
        End::NotStarted { failure, is_command: true } => {
            let code = if failure.errno == rustix::io::Errno::NOENT { 127 } else { 126 };
            ended(code, Verdict::Exited)
        }
        End::NotStarted { failure, is_command: false } => Verdict::Invalid(failure.to_string()),
        End::Lost { why } => Verdict::Unavailable(why.clone()),
        _ if !outcome.quiet => Verdict::Unavailable("the action's processes cannot be killed".to_owned()),
        End::Exited(code) => ended(*code, kept.err().unwrap_or(Verdict::Exited)),
        End::Signaled(signal) => ended(128 + signal, kept.err().unwrap_or(Verdict::Exited)),
    }
}

impl From<PlatformError> for Verdict {
    fn from(error: PlatformError) -> Self {
        Verdict::FailedPrecondition(error.to_string())
    }
}

impl From<StageRootError> for Verdict {
    fn from(error: StageRootError) -> Self {
        match error {
            StageRootError::Missing(digests) => Verdict::Missing(digests),
            StageRootError::Cas(error) => error.into(),
            StageRootError::Malformed { .. } | StageRootError::TooLarge { .. } => {
                Verdict::Invalid(error.to_string())
            }
            _ => Verdict::Unavailable(error.to_string()),
        }
    }
}

impl From<StageError> for Verdict {
    fn from(error: StageError) -> Self {
        match error {
            StageError::OutputParent { .. } => Verdict::FailedPrecondition(error.to_string()),
            _ => Verdict::Unavailable(error.to_string()),
        }
    }
}

impl From<SandboxError> for Verdict {
    fn from(error: SandboxError) -> Self {
        Verdict::Unavailable(error.to_string())
    }
}

impl From<HandoffError> for Verdict {
    fn from(error: HandoffError) -> Self {
        match error {
            HandoffError::Cas(error) => error.into(),
            error if error.is_the_actions() => Verdict::FailedPrecondition(error.to_string()),
            error => Verdict::Internal(error.to_string()),
        }
    }
}

impl From<CasError> for Verdict {
    fn from(error: CasError) -> Self {
        match error {
            CasError::Missing(digest) => Verdict::Missing(vec![digest]),
            CasError::Full { .. } => Verdict::Unavailable(error.to_string()),
            error => Verdict::Internal(error.to_string()),
        }
    }
}
