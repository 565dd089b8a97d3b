//! Bazel's worker protocol as JSON.
//!
//! ```text
//!   {"arguments":["-a"],"inputs":[{"path":"A.java","digest":"…"}],"requestId":1}\n ─► stdin of the worker
//!   {"exitCode":0,"output":"…","requestId":1} ◄─ its stdout, objects one after the other
//! ```
//! Out: one object a line, as the printer of protocol buffers writes it: camel case, defaults left out, `digest` as
//! base64 of the hexadecimal digits. In: the reference writer of Java ends no line and others print prettily, so that
//! objects are told apart by their braces. Unknown fields are ignored, a known one that comes twice is an error, a
//! missing one has its default.
//!
//! Invariants: as for [`bazel_proto`](super::bazel_proto); what can't be JSON is noticed at the byte where it can't.
//! `wasCancelled` is read, though Bazel's own reader ignores it: our cancellation has to know.

mod decode;
mod encode;
mod framing;
mod grammar;

pub use decode::decode;
pub use encode::encode;
pub use framing::JsonFraming;

#[cfg(test)]
mod tests;
