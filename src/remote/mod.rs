//! The REAPI client: blobs and actions of any cluster that speaks REAPI v2.
//!
//! ```text
//!   run ─► Cluster ─ action_result ─ upload ─ execute ─ fetch ─► result, all of it in our store
//!            └ call: breaker, deadline, retries within a budget
//!   Remote: a plain connection, for benchmarks        daemon: the client of a local API
//! ```
//! Invariants: what is downloaded has been hashed before it is handed on; messages larger than [`limits`] allow are
//! never asked for; an outage is noticed once, not once per action. Limits: one HTTP/2 connection.

mod branch;
mod breaker;
mod cluster;
pub mod daemon;
mod daemon_outcome;
mod decode;
mod download;
mod elsewhere;
mod encode;
mod endpoint;
mod error;
mod execution;
mod fetch;
pub mod limits;
pub mod news;
mod retry;
mod sink;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod tree;
mod upload;

pub use branch::{RemoteEnd, RemoteJob, RemoteWatch, run};
pub use breaker::{Admission, Breaker, BreakerOptions};
pub use cluster::{Capabilities, Cluster, ClusterError};
pub use decode::{Executed, Inline, RemoteResult};
pub use elsewhere::Elsewhere;
pub use encode::Remote;
pub use endpoint::ClusterOptions;
pub use error::RemoteError;
pub use execution::{Ended, Stage};
pub use fetch::{Fetched, blobs_of};
pub use retry::{Budget, RetryOptions, is_transient};
