//! From what init reported to what the run gave. Pure but for the clock that [`times`] reads.
use crate::action::Action;
use crate::cgroup;
use crate::init::wire::Exited;
use crate::outcome::{End, Outcome, Times, Usage};
use crate::plan::{Op, Plan};
use crate::sys::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::borrow::Cow;
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// How the wait for a run ended.
pub(crate) enum Waited {
    /// All is quiet.
    Exited { report: Exited, timed_out: bool },
    /// A step failed before the command was started.
    Failed { step: u32, errno: i32 },
    /// Init has ended.
    Gone,
    /// Killing did not help.
    Unkillable,
}

/// What the owner knows beside init's report.
pub(crate) struct Facts {
    /// What the cgroup counted.
    pub counted: cgroup::Usage,
    /// Whether the cgroup agrees that nobody is left.
    pub quiet: bool,
    /// Whether somebody asked for the run to be killed.
    pub canceled: bool,
    /// Whether it was killed by its cgroup, all of it at once.
    pub killed: bool,
}

/// What an action was promised.
#[derive(Clone, Debug)]
pub(crate) struct Terms<'a> {
    pub directory: Cow<'a, CStr>,
    pub memory_bytes_max: Option<u64>,
    pub timeout: Option<Duration>,
    pub kill_delay: Duration,
}

impl<'a> Terms<'a> {
    /// Those of an action.
    pub fn of(action: &Action<'a>) -> Self {
        Terms {
            directory: Cow::Borrowed(action.directory),
            memory_bytes_max: action.limits.memory_bytes_max,
            timeout: action.timeout,
            kill_delay: action.kill_delay,
        }
    }
}

/// Puts the outcome together; the times are the caller's to add.
pub(crate) fn conclude(waited: &Waited, facts: &Facts, action: &Terms<'_>, plan: &Plan) -> Outcome {
    let mut outcome = Outcome::lost("");
    outcome.usage = usage(waited, &facts.counted);
    let ran_out = outcome.usage.oom_kills.is_some_and(|kills| kills > 0);
    let out_of_memory = End::OutOfMemory {
        peak_bytes: outcome.usage.memory_peak_bytes,
        limit_bytes: action.memory_bytes_max,
    };
    let lost = |why: &str| End::Lost { why: why.to_owned() };
    outcome.end = match waited {
        Waited::Gone | Waited::Exited { .. } if ran_out => out_of_memory,
        Waited::Gone => lost("the sandbox's init has ended"),
        // It was killed before init could start it.
        Waited::Failed { .. } if facts.killed && facts.quiet => End::Canceled,
        Waited::Unkillable => lost("the action cannot be killed; it is left to the kernel"),
        Waited::Failed { step, errno } => {
            lost(&plan.failure(*step, Errno::from_raw_os_error(*errno)).to_string())
        }
        Waited::Exited { .. } if facts.canceled => End::Canceled,
        Waited::Exited { report, timed_out } => end_of(report, *timed_out, action, plan),
    };
    if let Waited::Exited { report, .. } = waited {
        outcome.stragglers = report.stragglers;
    }
    outcome.quiet = facts.quiet && (facts.killed || matches!(waited, Waited::Exited { .. }));
    outcome
}

fn end_of(report: &Exited, timed_out: bool, action: &Terms<'_>, plan: &Plan) -> End {
    if report.failed_step != 0 {
        let mut failure = plan.failure(report.failed_step, Errno::from_raw_os_error(report.failed_errno));
        let step = plan.steps.get(report.failed_step as usize - 1).map(|step| &step.op);
        if let Some(Op::ChangeDirectory) = step {
            failure.what = format!("change to the working directory {}", action.directory.to_string_lossy());
        }
        return End::NotStarted { failure, is_command: matches!(step, Some(Op::Exec)) };
    }
    let (exited, signal) = (report.status & 0x7f == 0, report.status & 0x7f);
    match (timed_out, action.timeout) {
        // A command that makes use of its grace ends as it likes.
        (true, Some(limit)) if !exited || action.kill_delay.is_zero() => End::TimedOut { limit },
        _ if exited => End::Exited((report.status >> 8) & 0xff),
        _ => End::Signaled(signal),
    }
}

fn usage(waited: &Waited, counted: &cgroup::Usage) -> Usage {
    let report = match waited {
        Waited::Exited { report, .. } => *report,
        _ => Exited::default(),
    };
    Usage {
        cpu_user_us: counted.cpu_user_us.unwrap_or(report.user_us),
        cpu_system_us: counted.cpu_system_us.unwrap_or(report.system_us),
        cpu_from_cgroup: counted.cpu_user_us.is_some(),
        memory_peak_bytes: counted
            .memory_peak_bytes
            .or((report.max_rss_bytes != 0).then_some(report.max_rss_bytes)),
        memory_from_cgroup: counted.memory_peak_bytes.is_some(),
        oom_kills: counted.oom_kills,
        pids_denied: counted.pids_denied,
    }
}

/// Where the time went, up to now.
pub(crate) fn times(report: &Exited, called: Instant) -> Times {
    let span = |from: u64, to: u64| to.saturating_sub(from) / 1000;
    let total = called.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
    let now = clock_gettime(ClockId::Monotonic);
    let now_ns = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000)
        + u64::try_from(now.tv_nsec).unwrap_or(0);
    let run_us = span(report.started_ns, report.ended_ns);
    let quiet_us = span(report.ended_ns, report.quiet_ns);
    let collect_us = span(report.quiet_ns, now_ns);
    Times { start_us: total.saturating_sub(run_us + quiet_us + collect_us), run_us, quiet_us, collect_us }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(waited: &Waited, oom_kills: u64, canceled: bool, kill_delay: Duration, expected: &End) {
        let terms = Terms {
            directory: Cow::Borrowed(c"/"),
            memory_bytes_max: Some(7),
            timeout: Some(Duration::from_secs(3)),
            kill_delay,
        };
        let counted = cgroup::Usage {
            oom_kills: Some(oom_kills),
            memory_peak_bytes: Some(6),
            ..cgroup::Usage::default()
        };
        let facts = Facts { counted, quiet: true, canceled, killed: canceled };
        assert_eq!(conclude(waited, &facts, &terms, &Plan::default()).end, *expected);
    }

    #[test]
    fn ends_are_told_apart() {
        let exited =
            |status, timed_out| Waited::Exited { report: Exited { status, ..Exited::default() }, timed_out };
        let none = Duration::ZERO;
        let out_of_memory = End::OutOfMemory { peak_bytes: Some(6), limit_bytes: Some(7) };
        let timed_out = End::TimedOut { limit: Duration::from_secs(3) };
        check(&exited(0, false), 0, false, none, &End::Exited(0));
        check(&exited(17 << 8, false), 0, false, none, &End::Exited(17));
        check(&exited(9, false), 0, false, none, &End::Signaled(9));
        check(&exited(9, false), 1, false, none, &out_of_memory);
        check(&exited(0, false), 2, false, none, &out_of_memory);
        check(&exited(9, false), 0, true, none, &End::Canceled);
        check(&Waited::Failed { step: 1, errno: 32 }, 0, true, none, &End::Canceled);
        check(&exited(9, true), 0, false, none, &timed_out);
        check(&exited(17 << 8, true), 0, false, none, &timed_out);
        // A command that uses its grace to clean up ends as it likes.
        check(&exited(17 << 8, true), 0, false, Duration::from_secs(1), &End::Exited(17));
        check(&exited(15, true), 0, false, Duration::from_secs(1), &timed_out);
        check(&Waited::Gone, 1, false, none, &out_of_memory);
        check(&Waited::Gone, 0, false, none, &End::Lost { why: "the sandbox's init has ended".to_owned() });
    }
}
