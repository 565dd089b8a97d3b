//! The remote branch: the cluster's cache, and then the cluster.

use super::Stash;
use crate::action::ActionResult;
use crate::cas::Cas;
use crate::exec::executor::{Execution, Verdict};
use crate::race::branch::{BranchEnd, Cancel, Desk, Ended, RemoteBranch};
use crate::race::step::CacheAnswer;
use crate::remote::{Cluster, ClusterError, Elsewhere, RemoteEnd, RemoteJob, RemoteWatch, Stage};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

pub(super) struct Branch {
    pub(super) cluster: Cluster,
    pub(super) store: Cas,
    pub(super) runtime: Arc<Runtime>,
    pub(super) job: RemoteJob,
    pub(super) stash: Stash,
    pub(super) elsewhere: Option<Elsewhere>,
}

struct Reports<'a> {
    desk: &'a dyn Desk,
}

impl RemoteWatch for Reports<'_> {
    async fn answered(&self, hit: bool) -> bool {
        // This thread is the branch's own, so that nobody else waits with it.
        self.desk.answer(if hit { CacheAnswer::Hit } else { CacheAnswer::Miss })
    }

    fn stage(&self, stage: Stage) {
        if stage == Stage::Executing {
            self.desk.executing();
        }
    }
}

impl RemoteBranch<Execution> for Branch {
    fn run(self: Box<Self>, cancel: &Cancel, desk: &dyn Desk) -> Ended<Execution> {
        let Branch { cluster, store, runtime, job, stash, elsewhere } = *self;
        let given_up = Arc::new(Notify::new());
        let notify = given_up.clone();
        // A permit is kept for who waits later.
        cancel.arm(move || notify.notify_one());
        let reports = Reports { desk };
        let ended = runtime.block_on(async {
            tokio::select! {
                biased;
                () = given_up.notified() => None,
                ended = async {
                    let ended = crate::remote::run(&cluster, &job, &store, &reports).await?;
                    noted(&cluster, &store, elsewhere.as_ref(), ended).await
                } => Some(ended),
            }
        });
        cancel.disarm();
        let (end, cpu) = match ended {
            None => (BranchEnd::Canceled, Duration::ZERO),
            Some(ended) => {
                let cpu = match &ended {
                    Ok(RemoteEnd::Result { result, .. }) => result.usage.user + result.usage.system,
                    _ => Duration::ZERO,
                };
                (end(ended, job.action.timeout.unwrap_or_default(), &stash), cpu)
            }
        };
        Ended { end, cpu }
    }
}

/// What stays at the cluster is noted, or comes after all.
async fn noted(
    cluster: &Cluster,
    store: &Cas,
    elsewhere: Option<&Elsewhere>,
    mut ended: RemoteEnd,
) -> Result<RemoteEnd, ClusterError> {
    let RemoteEnd::Result { result, later, .. } = &mut ended else { return Ok(ended) };
    if later.is_empty() {
        return Ok(ended);
    }
    if elsewhere.is_some_and(|elsewhere| elsewhere.note(later)) {
        // Our cache has only results whose blobs are here; the cluster's has this one.
        result.usage.is_uncacheable = true;
    } else {
        cluster.download(store, later).await?;
    }
    Ok(ended)
}

fn end(ended: Result<RemoteEnd, ClusterError>, limit: Duration, stash: &Stash) -> BranchEnd<Execution> {
    let without_result = |verdict| Execution { verdict, result: ActionResult::default() };
    match ended {
        Ok(RemoteEnd::Result { result, .. }) => {
            let is_good = result.exit_code == 0;
            let execution = Execution { verdict: Verdict::Exited, result: *result };
            if is_good { BranchEnd::Ready(execution) } else { BranchEnd::Failed(execution) }
        }
        Ok(RemoteEnd::Action { timed_out: true, .. }) => {
            BranchEnd::Failed(without_result(Verdict::TimedOut { limit }))
        }
        // What one machine does not allow or have, the other may: its word counts if there is no better one.
        Ok(RemoteEnd::Action { timed_out: false, message }) => {
            stash.put_if_none(without_result(Verdict::FailedPrecondition(message.clone())));
            BranchEnd::Infra(message)
        }
        Ok(RemoteEnd::Miss) => BranchEnd::Miss,
        Err(error) => BranchEnd::Infra(error.to_string()),
    }
}
