//! What is told of a race that returned.

use crate::commit::Side;
use crate::exec::executor::Job;
use crate::observe::{self, BranchSeen, RaceEnd, RaceSeen, StartWhy};
use crate::race::report::{BranchReport, Report};
use crate::race::step::{CacheAnswer, Outcome, Why};

/// Tells it; `began_us` is when it began, in microseconds since 1970.
pub(super) fn tell(job: &Job, began_us: u64, report: &Report) {
    let (wasted_wall, wasted_cpu) = report.wasted();
    observe::race(&RaceSeen {
        tenant: job.tenant.clone(),
        digest: job.action_digest.to_string(),
        mnemonic: job.mnemonic.clone(),
        began_us,
        end: match report.outcome {
            Outcome::Won(Side::Local) => RaceEnd::Local,
            Outcome::Won(Side::Remote) => RaceEnd::Remote,
            Outcome::Failed(_) => RaceEnd::Failed,
            Outcome::NoResult | Outcome::Bug(_) => RaceEnd::NoResult,
            Outcome::Canceled | Outcome::Deadline => RaceEnd::Stopped,
            Outcome::Broken(_) => RaceEnd::Broken,
        },
        answer: report.answer.map(|(answer, at)| (answer == CacheAnswer::Hit, at)),
        executing_at: report.execution.begun_at,
        local: branch(&report.local),
        remote: branch(&report.remote),
        published_at: report.published_at,
        returned_at: report.returned_at,
        margin: report.margin(),
        quiet: report.time_to_quiet(),
        wasted_wall,
        wasted_cpu,
    });
}

fn branch(report: &BranchReport) -> BranchSeen {
    BranchSeen {
        why: report.why.map(|why| match why {
            Why::AtOnce => StartWhy::AtOnce,
            Why::DelayOver => StartWhy::DelayOver,
            Why::Miss => StartWhy::Miss,
            Why::SlowDownload => StartWhy::SlowDownload,
            Why::Silence => StartWhy::Silence,
            Why::OtherCannot => StartWhy::OtherCannot,
        }),
        wanted_at: report.wanted_at,
        started_at: report.started_at,
        ended_at: report.ended_at,
        aborted_at: report.aborted_at,
        end: report.end.map(|end| format!("{end:?}")),
        cpu: report.cpu,
    }
}
