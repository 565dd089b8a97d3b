//! Requests and responses of workers, as the rest of the program knows them; the wires translate.

use std::time::Duration;

/// A file that a request may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkInput {
    /// Relative to the worker's working directory, or absolute.
    pub path: String,
    /// Lower-case hexadecimal digest; empty if unknown.
    pub digest: String,
}

/// One piece of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkRequest {
    /// Arguments, flag files expanded.
    pub arguments: Vec<String>,
    /// All inputs of the action.
    pub inputs: Vec<WorkInput>,
    /// 0: one at a time; above: multiplex. Never both in the life of a process, and never one twice.
    pub request_id: i32,
    /// Cancels the request of this id; the rest does not count.
    pub cancel: bool,
    /// 10 for much.
    pub verbosity: i32,
    /// Prefix of all files of this request, relative to the worker's working directory; multiplex only.
    pub sandbox_dir: String,
    /// The action's whole environment; on Buck2's wire only, the others have no place for it.
    pub environment: Vec<(String, String)>,
    /// What the action may take; on Buck2's wire only.
    pub timeout: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkResponse {
    /// As of a process; does not count if it was canceled.
    pub exit_code: i32,
    /// What a process would have printed; shown as standard error.
    pub output: String,
    /// That of the request.
    pub request_id: i32,
    /// The answer to a cancel.
    pub was_cancelled: bool,
    /// The worker itself gave up at the end of the action's time; Buck2's wire only.
    pub timed_out: bool,
}

/// How a worker is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Bazel's, length-delimited protobuf on standard input and output.
    Proto,
    /// Bazel's, JSON objects on standard input and output.
    Json,
    /// Buck2's, gRPC over the Unix socket `WORKER_SOCKET`.
    Buck2,
}
