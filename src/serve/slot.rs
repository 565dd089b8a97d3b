//! What a thread that runs actions does with one of them.

use super::engine::{Assignment, Engine, Task};
use super::lookup;
use super::reply::{Done, Progress};
use super::seen::Turn;
use super::status;
use super::verdict;
use crate::action::{Timeline, encode};
use crate::exec::executor::{Execution, Job, Verdict, Watch};
use crate::failpoint;
use crate::observe;
use crate::sched::{Cost, RunId};
use rustix::time::{ClockId, clock_gettime};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Code;

/// Runs actions until the engine stops: those of a slot, or what is light beside them.
pub(super) fn work(engine: &Engine, slot: usize, is_beside: bool) {
    observe::enter_slot(slot);
    while let Some(assignment) = engine.next(is_beside) {
        let (began, worked) = (Instant::now(), thread_cpu());
        let run = assignment.run;
        // A slot that is lost by a bug in one action would be missed by all others.
        let performed = catch_unwind(AssertUnwindSafe(|| perform(engine, &assignment)));
        let (done, used) = performed.unwrap_or_else(|_| {
            tracing::error!(action = %assignment.task.job.action_digest, "running an action has panicked");
            let status = status::plain(Code::Internal, "the server failed while it ran the action");
            (Done { message: status.message.clone(), status, ..Done::default() }, Duration::ZERO)
        });
        // A slot is held while inputs are staged and while a command sleeps: that counts as well as CPU time.
        let cost = Cost { held: used.max(began.elapsed()), work: used + thread_cpu().saturating_sub(worked) };
        engine.finished(run, cost, done);
        // Here and below a test can only ask for death.
        let _ = failpoint::hit("serve.answered");
    }
}

/// CPU time of this thread so far.
fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

struct Announce<'a> {
    engine: &'a Engine,
    run: RunId,
}

impl Watch for Announce<'_> {
    fn started(&self, timeline: &Timeline) {
        let partial = encode::metadata("", timeline, None);
        self.engine.executing(self.run, &Progress::Executing(Arc::new(partial)));
    }
}

/// Runs one action. Gives what to tell, and the CPU time that was used.
fn perform(engine: &Engine, assignment: &Assignment) -> (Done, Duration) {
    let Assignment { run, task, may_use_cache } = assignment;
    let turn = Turn::begin(&task.job);
    if *may_use_cache
        && !task.job.action.do_not_cache
        && let Some(hit) = lookup::find(&task.instance, &task.job.action_digest)
        && hit.result.exit_code == 0
    {
        // It came between the request's own look and its turn.
        engine.metrics().cache_hits.count();
        let end = Some(turn.cached());
        return (Done { result: Some(hit.encoded), cached: true, end, ..Done::default() }, Duration::ZERO);
    }
    engine.metrics().runs.count();
    let _ = failpoint::hit("serve.started");
    let watch = Announce { engine, run: *run };
    // Whoever joined the run may demand more than who began it.
    let job = Job { fresh: !may_use_cache, ..task.job.clone() };
    let mut execution = engine.executor().execute(&job, &task.cancel, &watch);
    if execution.verdict == Verdict::Canceled && engine.is_killing() {
        execution.verdict = Verdict::Unavailable("the server is shutting down".to_owned());
    }
    if execution.verdict != Verdict::Exited {
        engine.metrics().runs_failed.count();
    }
    let _ = failpoint::hit("serve.executed");
    let usage = &execution.result.usage;
    // What a cluster used is no burden of this machine.
    let was_here = usage.race.as_ref().is_none_or(|race| race.winner != "remote");
    let used = if was_here { usage.user + usage.system } else { Duration::ZERO };
    let end = Some(turn.ran(&execution));
    (Done { end, ..publish(engine, *run, task, &execution) }, used)
}

/// The result goes into the action cache, if it may, before anybody is told: its blobs are in the store.
fn publish(engine: &Engine, run: RunId, task: &Task, execution: &Execution) -> Done {
    let (done, may_keep) =
        verdict::done(execution, task.job.command.outputs_are_typed, task.job.action.do_not_cache);
    let may_keep = may_keep && !execution.result.usage.is_uncacheable;
    if may_keep && let Some(result) = &done.result {
        engine.publishing(run);
        let kept = task.instance.results.put(&task.instance.name, &task.job.action_digest, result.clone());
        if let Err(error) = kept {
            // The client has its result all the same.
            tracing::warn!(%error, action = %task.job.action_digest, "cannot keep a result");
        }
        let _ = failpoint::hit("serve.kept");
    }
    done
}
