//! Bazel's worker protocol as length-delimited protocol buffers.
//!
//! ```text
//!   varint length │ WorkRequest ─► stdin of the worker
//!   varint length │ WorkResponse ◄─ its stdout
//!                   1 exit_code int32 │ 2 output string │ 3 request_id int32 │ 4 was_cancelled bool
//! ```
//! Invariants: a length is refused before anything is allocated for it; a response is read field by field as its bytes
//! come, so that text on the protocol's stream is noticed when it comes and not when a length that it seemed to claim
//! is full; of a long output the first part is kept. Whether bytes are refused does not depend on the pieces that they
//! come in.

mod decode;
mod encode;
mod framing;

pub use decode::decode;
pub use encode::{encode, encoded_len};
pub use framing::ProtoFraming;

#[cfg(test)]
mod tests;
