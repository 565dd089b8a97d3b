//! Why a worker gave no answer.

use crate::worker::junk::escaped;
use crate::worker::limits::BUCK2_MESSAGE_CHARACTERS_MAX;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a command has no answer, or a worker no connection. Texts of workers are cut and escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Buck2Error {
    /// It ended before it served its socket.
    #[error("Worker exited before connecting: {how}")]
    ExitedBeforeConnecting {
        /// How it ended.
        how: String,
    },
    /// It did not serve its socket in time.
    #[error("Worker failed to connect within `{}` seconds: {why}", .within.as_secs())]
    NotConnected {
        /// How long was waited.
        within: Duration,
        /// What the last try gave.
        why: String,
    },
    /// It does not know the call: the command was not begun.
    #[error("the worker does not implement {call}")]
    NotImplemented {
        /// The call.
        call: &'static str,
    },
    /// The connection is gone. Whether the command was begun is not known.
    #[error("{call}: the worker is gone: {why}")]
    Gone {
        /// The call.
        call: &'static str,
        /// What the connection says.
        why: String,
    },
    /// The worker, or the connection, refused.
    #[error("{call} failed: {code}: {why}")]
    Failed {
        /// The call.
        call: &'static str,
        /// The name of gRPC's code.
        code: String,
        /// What the worker said.
        why: String,
    },
    /// The worker broke the protocol: it has to be killed.
    #[error("{call}: {why}")]
    Malformed {
        /// The call.
        call: &'static str,
        /// How.
        why: String,
    },
    /// So many commands of the stream are not answered that no more are sent.
    #[error("{in_flight} commands are not answered yet, and no more are sent")]
    Full {
        /// How many.
        in_flight: usize,
    },
}

impl Buck2Error {
    pub(super) fn from_status(call: &'static str, status: &Status) -> Self {
        let why = shown(status.message());
        match status.code() {
            Code::Unimplemented => Buck2Error::NotImplemented { call },
            // The compiler worker of GHC says it in words.
            _ if status.message() == "Streaming not implemented" => Buck2Error::NotImplemented { call },
            Code::Unavailable => Buck2Error::Gone { call, why },
            // Of the client's own making, when the connection ends under a call.
            Code::Unknown | Code::Internal | Code::Cancelled if has_lost_connection(status) => {
                Buck2Error::Gone { call, why }
            }
            code => Buck2Error::Failed { call, code: format!("{code:?}"), why },
        }
    }
}

/// Whether a status comes from the transport and not from the worker: only then it has a cause.
fn has_lost_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// A text of a worker in an error.
pub(super) fn shown(text: &str) -> String {
    let text: String = text.chars().take(BUCK2_MESSAGE_CHARACTERS_MAX).collect();
    escaped(&text)
}
