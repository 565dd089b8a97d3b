//! What a gRPC status means for the state of a remote.

use fulgurite_proto::google::rpc;
use prost::Message;
use tonic::{Code, Status};

/// The most of a failure's text that is kept.
const SAID_CHARACTERS_MAX: usize = 300;

/// A code that a remote in good health does not give.
pub(super) fn is_outage(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Unknown)
}

/// A connection that closes takes its calls with it, which the transport calls canceled, and nobody did that.
pub(super) fn of_transport(status: Status) -> Status {
    match std::error::Error::source(&status) {
        Some(cause) if status.code() == Code::Cancelled => Status::unavailable(cause.to_string()),
        _ => status,
    }
}

/// What a status says, down to the last cause, which is the one that helps: `Connection refused`.
pub(super) fn told(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause {
        let said = deeper.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = deeper.source();
    }
    text.chars().take(SAID_CHARACTERS_MAX).collect()
}

/// Whether the time for connecting was over.
pub(super) fn is_unreachable(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause {
        let io = deeper.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        cause = deeper.source();
    }
    false
}

/// The details that travel with a status.
pub(super) fn details(status: &Status) -> Option<rpc::Status> {
    rpc::Status::decode(status.details()).ok()
}
