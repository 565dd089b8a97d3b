//! From what an executor says to what a client is told. Pure.
//!
//! A command that ended by itself is a success of the server's, whatever its exit code. What was printed is part of
//! every answer, since that is what people look for when something failed.

use super::limits::RETRY_AFTER;
use super::reply::Done;
use super::status;
use crate::action::{ActionResult, encode};
use crate::exec::executor::{Execution, Verdict};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use prost::Message;
use std::collections::HashMap;
use tonic::Code;

/// What is told, and whether it may be kept in the action cache.
pub(super) fn done(execution: &Execution, typed_outputs: bool, do_not_cache: bool) -> (Done, bool) {
    let (status, message) = told(execution);
    let ran = execution.result != ActionResult::default();
    let is_success = execution.verdict == Verdict::Exited && execution.result.exit_code == 0;
    let result = (ran || execution.verdict == Verdict::Exited)
        .then(|| encode::action_result(&execution.result, typed_outputs).encode_to_vec().into());
    let server_logs =
        if execution.verdict == Verdict::Exited { HashMap::new() } else { logs(&execution.result) };
    let done = Done { status, result, cached: false, message, server_logs, end: None };
    (done, is_success && !do_not_cache)
}

fn logs(result: &ActionResult) -> HashMap<String, reapi::LogFile> {
    [("stdout", result.stdout), ("stderr", result.stderr)]
        .into_iter()
        .filter_map(|(name, digest)| {
            let digest = Some(encode::digest(&digest?));
            Some((name.to_owned(), reapi::LogFile { digest, human_readable: true }))
        })
        .collect()
}

fn told(execution: &Execution) -> (rpc::Status, String) {
    let same = |code: Code, message: String| (status::plain(code, message.clone()), message);
    match &execution.verdict {
        Verdict::Exited => {
            let signal = execution.result.usage.termination_signal.as_ref();
            let message = signal.map(|signal| format!("the command was ended by SIG{signal}"));
            (rpc::Status::default(), message.unwrap_or_default())
        }
        Verdict::TimedOut { limit } => {
            same(Code::DeadlineExceeded, format!("the command was killed after its timeout of {limit:?}"))
        }
        Verdict::Canceled => same(Code::Cancelled, "the action was canceled".to_owned()),
        Verdict::OutOfMemory { peak_bytes, limit_bytes: Some(limit) } => same(
            Code::ResourceExhausted,
            format!("the command was killed: it used {peak_bytes} bytes of memory, its limit is {limit}"),
        ),
        Verdict::OutOfMemory { peak_bytes, limit_bytes: None } => {
            let message = format!(
                "the command was killed because the machine ran out of memory: it used {peak_bytes} bytes"
            );
            (status::retry(Code::Unavailable, message.clone(), RETRY_AFTER), message)
        }
        Verdict::Missing(digests) => {
            let status = status::missing(digests);
            let message = status.message.clone();
            (status, message)
        }
        Verdict::Invalid(why) => same(Code::InvalidArgument, why.clone()),
        Verdict::FailedPrecondition(why) => same(Code::FailedPrecondition, why.clone()),
        Verdict::Unavailable(why) => {
            (status::retry(Code::Unavailable, why.clone(), RETRY_AFTER), why.clone())
        }
        Verdict::Internal(why) => same(Code::Internal, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Digest, DigestFunction};
    use std::time::Duration;

    fn check(verdict: Verdict, exit_code: i32, code: Code, kept: bool) -> Done {
        let result = ActionResult {
            exit_code,
            worker: "here".to_owned(),
            stdout: Some(Digest::of(DigestFunction::Sha256, b"so far")),
            ..ActionResult::default()
        };
        let execution = Execution { verdict, result };
        let (done, may_keep) = done(&execution, false, false);
        assert_eq!((done.status.code, may_keep), (code as i32, kept), "{execution:?}");
        let result = reapi::ActionResult::decode(done.result.clone().unwrap()).unwrap();
        assert!(result.stdout_digest.is_some(), "what was printed is lost: {execution:?}");
        done
    }

    #[test]
    fn every_verdict_has_its_code() {
        check(Verdict::Exited, 0, Code::Ok, true);
        check(Verdict::Exited, 1, Code::Ok, false);
        let timeout =
            check(Verdict::TimedOut { limit: Duration::from_secs(3) }, 137, Code::DeadlineExceeded, false);
        assert!(timeout.message.contains("3s"), "{}", timeout.message);
        assert!(timeout.server_logs.contains_key("stdout"));
        check(Verdict::Canceled, 137, Code::Cancelled, false);
        let memory = Verdict::OutOfMemory { peak_bytes: 7, limit_bytes: Some(8) };
        let memory = check(memory, 137, Code::ResourceExhausted, false);
        assert!(memory.message.contains("7 bytes") && memory.message.contains("limit is 8"));
        let machine = Verdict::OutOfMemory { peak_bytes: 7, limit_bytes: None };
        assert_eq!(check(machine, 137, Code::Unavailable, false).status.details.len(), 1);
        check(Verdict::Invalid("x".to_owned()), 0, Code::InvalidArgument, false);
        check(Verdict::FailedPrecondition("x".to_owned()), 0, Code::FailedPrecondition, false);
        check(Verdict::Unavailable("x".to_owned()), 0, Code::Unavailable, false);
        check(Verdict::Internal("x".to_owned()), 0, Code::Internal, false);
    }

    #[test]
    fn a_signal_is_named() {
        let mut result = ActionResult { exit_code: 139, ..ActionResult::default() };
        result.usage.termination_signal = Some("SEGV".to_owned());
        let (done, kept) = done(&Execution { verdict: Verdict::Exited, result }, false, false);
        assert_eq!((done.message.as_str(), kept), ("the command was ended by SIGSEGV", false));
    }

    #[test]
    fn what_must_not_be_cached_is_not() {
        let result = ActionResult { worker: "here".to_owned(), ..ActionResult::default() };
        assert!(!done(&Execution { verdict: Verdict::Exited, result }, false, true).1);
    }

    #[test]
    fn all_missing_blobs_are_named_and_nothing_else() {
        let missing =
            vec![Digest::of(DigestFunction::Sha256, b"a"), Digest::of(DigestFunction::Blake3, b"b")];
        let execution =
            Execution { verdict: Verdict::Missing(missing.clone()), result: ActionResult::default() };
        let (done, _) = done(&execution, false, false);
        assert!(done.result.is_none());
        let [detail] = done.status.details.as_slice() else { panic!("{:?}", done.status.details) };
        assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = rpc::PreconditionFailure::decode(detail.value.as_slice()).unwrap();
        let subjects: Vec<_> = failure
            .violations
            .iter()
            .map(|violation| (violation.r#type.as_str(), violation.subject.clone()))
            .collect();
        assert_eq!(
            subjects,
            [
                ("MISSING", format!("blobs/{}/1", missing[0].hex())),
                ("MISSING", format!("blobs/blake3/{}/1", missing[1].hex())),
            ]
        );
    }
}
