//! The local branch: any executor of this machine.

use crate::action::{ActionResult, Timeline};
use crate::commit::Side;
use crate::exec::executor::{Execution, Executor, Job, Verdict, Watch};
use crate::race::branch::{BranchEnd, Cancel, Ended, LocalBranch, Product};
use crate::remote::Elsewhere;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// What a branch said when it had no result that counts. That of the local one is the likelier to be understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Stash(Arc<Mutex<Option<Execution>>>);

impl Stash {
    fn put(&self, execution: Execution) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(execution);
    }

    pub(super) fn put_if_none(&self, execution: Execution) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(execution);
    }

    pub(super) fn take(&self) -> Option<Execution> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Product for Execution {
    fn discard(self, _: Side) {
        // What it put into the store has no name that anybody knows.
    }
}

pub(super) struct Sandbox {
    pub(super) local: Arc<dyn Executor>,
    pub(super) job: Job,
    pub(super) stash: Stash,
    /// Where inputs may be that an earlier action made.
    pub(super) inputs: Option<(Elsewhere, Arc<Runtime>)>,
}

/// The race has told of its start already.
struct Unwatched;

impl Watch for Unwatched {
    fn started(&self, _: &Timeline) {}
}

impl Sandbox {
    fn execute(&self, cancel: &Cancel) -> Execution {
        let execution = self.local.execute(&self.job, cancel, &Unwatched);
        let (Verdict::Missing(missing), Some((elsewhere, runtime))) = (&execution.verdict, &self.inputs)
        else {
            return execution;
        };
        // All that is missing is known at once, so that a second time is enough.
        match runtime.block_on(elsewhere.bring(missing)) {
            Ok(()) if !cancel.is_canceled() => self.local.execute(&self.job, cancel, &Unwatched),
            _ => execution,
        }
    }
}

impl LocalBranch<Execution> for Sandbox {
    fn run(self: Box<Self>, cancel: &Cancel) -> Ended<Execution> {
        let execution = self.execute(cancel);
        let cpu = execution.result.usage.user + execution.result.usage.system;
        let infrastructure = |why: String| {
            self.stash.put(execution.clone());
            BranchEnd::Infra(why)
        };
        let end = match &execution.verdict {
            Verdict::Exited => match signal(&execution.result) {
                Some(signal) => BranchEnd::Signal(signal, execution),
                None if execution.result.exit_code == 0 => BranchEnd::Ready(execution),
                None => BranchEnd::Failed(execution),
            },
            Verdict::TimedOut { .. } | Verdict::Invalid(_) => BranchEnd::Failed(execution),
            Verdict::Canceled => {
                self.stash.put(execution);
                BranchEnd::Canceled
            }
            Verdict::OutOfMemory { peak_bytes, .. } => {
                infrastructure(format!("it ran out of memory at {peak_bytes} bytes"))
            }
            Verdict::Missing(digests) => infrastructure(format!("{} inputs are missing", digests.len())),
            Verdict::FailedPrecondition(why) | Verdict::Unavailable(why) | Verdict::Internal(why) => {
                infrastructure(why.clone())
            }
        };
        Ended { end, cpu }
    }
}

/// The signal that ended a command.
fn signal(result: &ActionResult) -> Option<i32> {
    result.usage.termination_signal.as_ref()?;
    (result.exit_code > 128).then(|| result.exit_code - 128)
}
