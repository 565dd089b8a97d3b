//! The JSON that `--stats` writes: one object, stable names, units last. `null` means that this host does not count it.
use crate::commit::{Handoff, Published};
use crate::exec::Executed;
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::harden::Enforcement;
use fulgurite_sandbox::outcome::End;
use serde::Serialize;

/// Hardening that was really enforced.
#[derive(Debug, Serialize)]
pub struct EnforcedStats {
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// All capability sets are empty.
    pub capabilities_dropped: bool,
    /// Instructions of the seccomp filter.
    pub seccomp_instructions: Option<usize>,
    /// The landlock ABI in force.
    pub landlock_abi: Option<u32>,
    /// Resource limits are set.
    pub rlimits: bool,
    /// Limits of the cgroup that were asked for and are in force.
    pub limits: LimitStats,
    /// What is missing, by name and reason.
    pub missing: Vec<String>,
}

/// Limits in force.
#[derive(Debug, Serialize)]
pub struct LimitStats {
    /// Memory, swap included.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// Time by phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhaseStats {
    /// Namespaces, zygote, probes.
    pub runtime_us: u64,
    /// The view and the sandbox.
    pub sandbox_us: u64,
    /// Inputs, layer and overlay.
    pub stage_us: u64,
    /// From the request to the start of the command.
    pub start_us: u64,
    /// The command itself.
    pub run_us: u64,
    /// From its end until nobody was left.
    pub quiet_us: u64,
    /// Walking and sealing the outputs.
    pub collect_us: u64,
    /// Publishing them.
    pub publish_us: u64,
}

/// What happened to the outputs.
#[derive(Debug, Default, Serialize)]
pub struct OutputStats {
    /// Outputs that are in the exec root now.
    pub published: u64,
    /// `rename`, `reflink` or `copy`: the costliest way used.
    pub handoff: Option<&'static str>,
    /// Bytes that Fulgurite copied for them.
    pub bytes_copied: u64,
    /// Written and not declared, if that was asked for.
    pub undeclared: Option<Vec<String>>,
}

/// The whole object.
#[derive(Debug, Serialize)]
pub struct Stats {
    /// `exited`, `signaled`, `timed_out`, `out_of_memory`, `canceled`, `refused`, `not_started` or `lost`.
    pub outcome: &'static str,
    /// What happened, in words.
    pub message: String,
    /// The command's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed for memory.
    pub oom: bool,
    /// From the start of `fulgurite run` until the outputs were published.
    pub wall_us: u64,
    /// User CPU.
    pub cpu_user_us: u64,
    /// System CPU.
    pub cpu_system_us: u64,
    /// `cgroup` or `rusage`.
    pub cpu_source: &'static str,
    /// The most memory in use at once.
    pub memory_peak_bytes: Option<u64>,
    /// `cgroup` (all processes) or `rusage` (the largest one).
    pub memory_source: &'static str,
    /// Processes that the kernel killed for memory.
    pub oom_kills: Option<u64>,
    /// Forks that the limit refused.
    pub pids_denied: Option<u64>,
    /// Processes left behind and killed.
    pub stragglers: u32,
    /// What was enforced.
    pub enforced: EnforcedStats,
    /// Time by phase.
    pub phases: PhaseStats,
    /// The outputs.
    pub outputs: OutputStats,
}

fn name_of(end: &End) -> &'static str {
    match end {
        End::Exited(_) => "exited",
        End::Signaled(_) => "signaled",
        End::TimedOut { .. } => "timed_out",
        End::OutOfMemory { .. } => "out_of_memory",
        End::Canceled => "canceled",
        End::Refused { .. } => "refused",
        End::NotStarted { .. } => "not_started",
        End::Lost { .. } => "lost",
    }
}

fn source_of(from_cgroup: bool) -> &'static str {
    if from_cgroup { "cgroup" } else { "rusage" }
}

/// Puts the object together.
#[must_use]
pub fn stats(
    executed: &Executed,
    enforcement: &Enforcement,
    limits: &Limits,
    published: Option<&Published>,
    phases: PhaseStats,
    wall_us: u64,
) -> Stats {
    let outcome = &executed.outcome;
    let usage = &outcome.usage;
    let handoff =
        published.filter(|published| published.renamed + published.copied > 0).map(
            |published| match published.handoff {
                Handoff::Rename => "rename",
                Handoff::Reflink => "reflink",
                Handoff::Copy => "copy",
            },
        );
    let mut missing = enforcement.missing.clone();
    if !usage.cpu_from_cgroup {
        missing.push("cgroup (no accounting or limits: this user can make none)".to_owned());
    }
    Stats {
        outcome: name_of(&outcome.end),
        message: outcome.end.to_string(),
        exit_code: if let End::Exited(code) = outcome.end { Some(code) } else { None },
        signal: if let End::Signaled(signal) = outcome.end { Some(signal) } else { None },
        oom: matches!(outcome.end, End::OutOfMemory { .. }),
        wall_us,
        cpu_user_us: usage.cpu_user_us,
        cpu_system_us: usage.cpu_system_us,
        cpu_source: source_of(usage.cpu_from_cgroup),
        memory_peak_bytes: usage.memory_peak_bytes,
        memory_source: source_of(usage.memory_from_cgroup),
        oom_kills: usage.oom_kills,
        pids_denied: usage.pids_denied,
        stragglers: outcome.stragglers,
        enforced: EnforcedStats {
            no_new_privs: enforcement.no_new_privs,
            capabilities_dropped: enforcement.capabilities,
            seccomp_instructions: enforcement.seccomp,
            landlock_abi: enforcement.landlock_abi,
            rlimits: enforcement.rlimits,
            limits: LimitStats {
                memory_bytes: limits.memory_bytes_max,
                cpu_milli: limits.cpu_milli_max,
                pids: limits.pids_max,
            },
            missing,
        },
        phases: PhaseStats {
            stage_us: executed.phases.stage_us,
            start_us: outcome.times.start_us,
            run_us: outcome.times.run_us,
            quiet_us: outcome.times.quiet_us,
            collect_us: executed.phases.collect_us,
            ..phases
        },
        outputs: OutputStats {
            published: published.map_or(0, |published| published.renamed + published.copied),
            handoff,
            bytes_copied: published.map_or(0, |published| published.bytes_copied),
            undeclared: executed
                .undeclared
                .as_ref()
                .map(|listed| listed.written.iter().map(|path| path.display().to_string()).collect()),
        },
    }
}
