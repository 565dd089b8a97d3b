//! Statuses: what a client is told when something is not as it should be.
//!
//! A failure is a `google.rpc.Status` with details, which goes into an answer (`ExecuteResponse.status`) or into the
//! trailers of a call. Those are headers, and headers are small: many violations only fit into an answer.

use super::limits::{RETRY_AFTER, VIOLATIONS_MAX};
use super::name::{NameError, subject};
use crate::action::Digest;
use crate::action::decode::DecodeError;
use crate::cas::CasError;
use fulgurite_proto::google::rpc;
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

/// A status with a code and a message.
pub(super) fn plain(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code as i32, message: message.into(), details: Vec::new() }
}

/// A status that asks the client to come back.
pub(super) fn retry(code: Code, message: impl Into<String>, after: Duration) -> rpc::Status {
    let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(after.subsec_nanos()).unwrap_or(0);
    let info = rpc::RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos }) };
    let mut status = plain(code, message);
    status.details.push(detail("google.rpc.RetryInfo", &info));
    status
}

/// The status for blobs that are not there: what makes a client upload them and ask again.
pub(super) fn missing(digests: &[Digest]) -> rpc::Status {
    let violation = |digest: &Digest| rpc::precondition_failure::Violation {
        r#type: "MISSING".to_owned(),
        subject: subject(digest),
        description: "this blob is not in the store".to_owned(),
    };
    let failure =
        rpc::PreconditionFailure { violations: digests.iter().take(VIOLATIONS_MAX).map(violation).collect() };
    let message = match digests {
        [one] => format!("blob {one} is missing"),
        many => format!("{} blobs are missing", many.len()),
    };
    let mut status = plain(Code::FailedPrecondition, message);
    status.details.push(detail("google.rpc.PreconditionFailure", &failure));
    status
}

fn detail(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// As the end of a call.
pub(super) fn to_call(status: &rpc::Status) -> Status {
    let code = Code::from_i32(status.code);
    if status.details.is_empty() {
        return Status::new(code, status.message.clone());
    }
    Status::with_details(code, status.message.clone(), status.encode_to_vec().into())
}

/// As the end of a call, of one that shall come back.
pub(super) fn exhausted(message: impl Into<String>) -> Status {
    to_call(&retry(Code::ResourceExhausted, message, RETRY_AFTER))
}

/// What the end of a call says, as part of an answer.
pub(super) fn from_call(status: &Status) -> rpc::Status {
    plain(status.code(), status.message())
}

/// For a blob that was not stored or read.
pub(super) fn of_blob(error: &CasError) -> Status {
    let message = error.to_string();
    match error {
        CasError::Missing(_) => Status::not_found(message),
        CasError::Mismatch { .. } | CasError::TooLarge { .. } => Status::invalid_argument(message),
        CasError::Full { .. } => exhausted(message),
        CasError::Io { .. } => Status::internal(message),
    }
}

impl From<NameError> for Status {
    fn from(error: NameError) -> Status {
        Status::invalid_argument(error.to_string())
    }
}

/// For a message that breaks a rule.
pub(super) fn of_message(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}
