//! How a run of the local API ended, from what the engine says and what the result's metadata tells.

use crate::serve::reply::Done;
use fulgurite_proto::buildbarn::resourceusage::PosixResourceUsage;
use fulgurite_proto::{reapi, v1};
use prost::Message;
use tonic::Code;

/// How the type of what Fulgurite says of an execution ends.
const DETAILS: &str = "/fulgurite.v1.ExecutionDetails";
/// How the type of what it used ends.
const POSIX: &str = "/buildbarn.resourceusage.POSIXResourceUsage";

fn micros(time: Option<&prost_types::Duration>) -> Option<u64> {
    let time = time?;
    let seconds = u64::try_from(time.seconds).ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(u64::try_from(time.nanos).ok()? / 1000)
}

/// How the run ended, and what it used.
pub(super) fn outcome(done: &Done, result: Option<&reapi::ActionResult>) -> v1::ActionOutcome {
    use v1::action_outcome::End;
    let code = Code::from_i32(done.status.code);
    let end = match (code, result) {
        (Code::Ok, Some(result)) => End::ExitCode(result.exit_code),
        (Code::DeadlineExceeded, _) => End::TimedOut(v1::TimedOut::default()),
        (Code::Cancelled, _) => End::Cancelled(v1::Cancelled {}),
        (Code::ResourceExhausted, Some(_)) => End::OutOfMemory(v1::OutOfMemory::default()),
        _ => {
            let kind = match code {
                Code::InvalidArgument | Code::FailedPrecondition => v1::FailureKind::User,
                Code::Internal => v1::FailureKind::Bug,
                _ => v1::FailureKind::Host,
            };
            let hints = Vec::new();
            End::Failure(v1::Failure { kind: kind as i32, message: done.status.message.clone(), hints })
        }
    };
    let metadata = result.and_then(|result| result.execution_metadata.as_ref());
    let told = |of: &str| {
        let more = metadata.into_iter().flat_map(|metadata| &metadata.auxiliary_metadata);
        more.into_iter().find(|any| any.type_url.ends_with(of)).map(|any| any.value.as_slice())
    };
    // Another server's may be anything.
    let details =
        told(DETAILS).and_then(|bytes| v1::ExecutionDetails::decode(bytes).ok()).unwrap_or_default();
    let posix = told(POSIX).and_then(|bytes| PosixResourceUsage::decode(bytes).ok());
    v1::ActionOutcome {
        end: Some(end),
        usage: Some(v1::Usage {
            cpu_user_us: posix.as_ref().and_then(|posix| micros(posix.user_time.as_ref())),
            cpu_system_us: posix.as_ref().and_then(|posix| micros(posix.system_time.as_ref())),
            memory_peak_bytes: Some(details.memory_peak_bytes).filter(|bytes| *bytes > 0),
            ..v1::Usage::default()
        }),
        enforced: details.enforced.into_iter().collect(),
        persistent_worker: details.persistent_worker,
        one_shot_because: details.one_shot_because,
        cached: done.cached,
        worker: metadata.map(|metadata| metadata.worker.clone()).unwrap_or_default(),
        message: done.message.clone(),
        ..v1::ActionOutcome::default()
    }
}
