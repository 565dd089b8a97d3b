//! What the server tells of its actions: one call for each turn of their fate.

use super::engine::Task;
use super::reply::Done;
use crate::action::{ActionResult, Timestamp};
use crate::exec::executor::{Execution, Job, Verdict};
use crate::observe::events::{ActionEnd, ActionName, What, tell};
use crate::observe::{self, ActionSeen, Outcome, Phase, PhaseSeen, Strategy, now_us, stamp_us};
use crate::sched::OperationId;
use std::time::Duration;

/// An action that has just had its turn.
pub(super) struct Turn<'a> {
    job: &'a Job,
    began_us: u64,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(job: &'a Job) -> Self {
        Turn { job, began_us: now_us() }
    }

    /// It was in the action cache meanwhile.
    pub(super) fn cached(&self) -> ActionEnd {
        self.tell(Outcome::Succeeded, Strategy::Cached, &ActionResult::default())
    }

    /// It ran.
    pub(super) fn ran(&self, execution: &Execution) -> ActionEnd {
        let result = &execution.result;
        let race = result.usage.race.as_ref();
        let strategy = match race {
            Some(race) if race.winner == "remote" => Strategy::Remote,
            _ if result.usage.persistent.is_some() => Strategy::Worker,
            _ => Strategy::Sandboxed,
        };
        self.tell(outcome(execution), strategy, result)
    }

    fn tell(&self, outcome: Outcome, strategy: Strategy, result: &ActionResult) -> ActionEnd {
        let Turn { job, began_us } = *self;
        let ended_us = now_us();
        let usage = &result.usage;
        let cpu = usage.user + usage.system;
        // What a cluster says of its clock is nothing for a row of ours.
        let is_ours = matches!(strategy, Strategy::Sandboxed | Strategy::Worker);
        let remote_from = usage.race.as_ref().and_then(|race| race.remote_started);
        let whole_us = ended_us.saturating_sub(began_us);
        observe::action(&ActionSeen {
            digest: job.action_digest.to_string(),
            mnemonic: job.mnemonic.clone(),
            outcome,
            strategy,
            queued_us: stamp_us(job.queued),
            began_us,
            ended_us,
            phases: if is_ours { phases(result) } else { Vec::new() },
            work_us: match (is_ours, remote_from) {
                (true, _) => between(result.timeline.worker_start, result.timeline.worker_completed)
                    .map_or(whole_us, |(from, until)| until.saturating_sub(from)),
                (false, Some(from)) => whole_us.saturating_sub(micros(from)),
                (false, None) => whole_us,
            },
            worker: usage.persistent.as_ref().map(|worker| (worker.number, worker.request)),
            cpu,
            exit_code: result.exit_code,
        });
        ActionEnd {
            outcome,
            strategy,
            exit_code: result.exit_code,
            wall_us: whole_us,
            cpu_user_us: micros(usage.user),
            cpu_system_us: micros(usage.system),
            memory_peak_bytes: usage.peak_bytes,
            worker: result.worker.clone(),
            message: String::new(),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn between(from: Option<Timestamp>, until: Option<Timestamp>) -> Option<(u64, u64)> {
    Some((stamp_us(from?), stamp_us(until?)))
}

fn phases(result: &ActionResult) -> Vec<PhaseSeen> {
    let line = &result.timeline;
    let known = [
        (Phase::Stage, between(line.input_fetch_start, line.input_fetch_completed)),
        (Phase::Run, between(line.execution_start, line.execution_completed)),
        (Phase::Collect, between(line.output_upload_start, line.output_upload_completed)),
    ];
    known.into_iter().filter_map(|(phase, span)| span.map(|(from, until)| (phase, from, until))).collect()
}

fn outcome(execution: &Execution) -> Outcome {
    match &execution.verdict {
        Verdict::Exited if execution.result.exit_code == 0 => Outcome::Succeeded,
        Verdict::Exited => Outcome::Failed,
        Verdict::TimedOut { .. } => Outcome::TimedOut,
        Verdict::Canceled => Outcome::Canceled,
        Verdict::OutOfMemory { .. } => Outcome::OutOfMemory,
        Verdict::Missing(_) => Outcome::Missing,
        Verdict::Invalid(_) => Outcome::Invalid,
        Verdict::FailedPrecondition(_) => Outcome::Unmet,
        Verdict::Unavailable(_) => Outcome::Unavailable,
        Verdict::Internal(_) => Outcome::Internal,
    }
}

fn name(operation: OperationId, job: &Job) -> ActionName {
    ActionName {
        operation: format!("{:032x}", operation.0),
        digest: job.action_digest.to_string(),
        mnemonic: job.mnemonic.clone(),
    }
}

/// An operation waits for its turn, or for that of another that wants the same.
pub(super) fn queued(operation: OperationId, task: &Task) {
    tell(Some(&task.job.tenant), || What::Queued(name(operation, &task.job)));
}

/// Its command is about to start.
pub(super) fn started(operation: OperationId, task: &Task) {
    tell(Some(&task.job.tenant), || What::Started(name(operation, &task.job)));
}

/// It is over.
pub(super) fn ended(operation: OperationId, task: &Task, done: &Done) {
    tell(Some(&task.job.tenant), || {
        let name = name(operation, &task.job);
        match &done.end {
            Some(end) => {
                What::Ended(name, Box::new(ActionEnd { message: done.message.clone(), ..end.clone() }))
            }
            None => What::Left(name, done.message.clone()),
        }
    });
}

/// It is over, without its run.
pub(super) fn left(operation: OperationId, tenant: &str, digest: String, why: &str) {
    tell(Some(tenant), || {
        let operation = format!("{:032x}", operation.0);
        What::Left(ActionName { operation, digest, mnemonic: String::new() }, why.to_owned())
    });
}
