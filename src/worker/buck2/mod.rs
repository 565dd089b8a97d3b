//! Buck2's worker protocol: gRPC over the Unix socket that the worker serves.
//!
//! ```text
//!   connect (50 -> 500 ms between tries) ─► Client ─ execute ──────────────► Answer
//!                                             ├─ exec, perhaps a cancel ─► Answer, or "can't be canceled"
//!                                             └─ stream ─► CommandStream ─ execute ─► Answer, in any order
//! ```
//! Invariants: only a socket that stands in the given directory itself is connected to, never one that a link leads to;
//! a call ends when the worker's connection does; no call is made twice; answers are bounded, and their texts are cut
//! and say so. Nothing here waits for ever but a worker that says nothing: deadlines and kills are for the caller, who
//! may drop any future at any time. There is no heartbeat: an idle worker that is frozen would not answer it.

mod client;
mod connect;
mod decode;
mod encode;
mod error;
mod stream;

pub use client::Client;
pub use connect::Socket;
pub use encode::{encoded_len, of_request};
pub use error::Buck2Error;
pub use stream::CommandStream;

/// One command, in bytes of the operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The action's own arguments, without the worker's executable.
    pub arguments: Vec<Vec<u8>>,
    /// The whole environment of the action.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whole seconds that the worker gives it. The worker is not relied upon for it.
    pub timeout_s: Option<u64>,
}

/// How a command ended. The protocol has no standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// As of a process.
    pub exit_code: i32,
    /// What a process would have written to standard error.
    pub stderr: String,
    /// Present if the worker gave up, after so many seconds.
    pub timed_out_after_s: Option<u64>,
}

#[cfg(test)]
mod tests;
