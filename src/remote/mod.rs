//! The REAPI client: blobs and actions of any cluster that speaks REAPI v2.
//!
//! ```text
//!   connect ─► Remote ─ missing, upload, download ─► CAS of the peer
//!                     └ execute ─► Executed (the stream is followed to its end)
//! ```
//! Invariants: what is downloaded has been hashed before it is handed on; messages larger than [`limits`] allow are
//! never asked for. Limits: one channel; who wants more throughput than a connection gives opens several.

pub mod daemon;
mod decode;
mod encode;
mod error;
pub mod limits;

pub use decode::Executed;
pub use encode::Remote;
pub use error::RemoteError;
