//! The REAPI v2 server: execution, action cache, blobs, byte streams, capabilities, operations, health, reflection.
//!
//! ```text
//!   socket ─► TLS ─► HTTP/2 ─► gate (who, room, time) ─► service ─► Cas, Results
//!                                                            └─► engine (scheduler) ─► slot threads ─► Executor
//! ```
//! [`Server::bind`] takes [`ServeOptions`] and an [`Executor`](crate::exec::executor::Executor), [`Server::run`] serves
//! until it is told to end.
//!
//! Invariants:
//! - an instance name is a tenant: nothing but a store that instances share on purpose connects them;
//! - a result is told, and kept, only after its blobs are in the store; a kept one is served only if they still are;
//! - `Operation.error` is never set; `done` and stage COMPLETED come together, with a response;
//! - a peer costs memory only in proportion to what it sent, and only within the bounds of `limits`.

mod action_cache;
mod blobs;
mod byte_stream;
mod capabilities;
mod complete;
mod compression;
mod context;
mod drive;
mod engine;
mod execution;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod instance;
mod limits;
mod listen;
mod local;
mod lookup;
mod metrics;
pub mod name;
mod numbers;
mod operations;
mod options;
mod platform;
mod pull;
mod reply;
mod result_paths;
mod results;
mod scrape;
mod seen;
mod server;
mod slot;
mod socket;
mod status;
mod storage;
mod uploads;
mod verdict;
mod walk;
mod watching;

pub use limits::ServeLimits;
pub use listen::ListenError;
pub use local::{LocalOptions, OwnAction, ReadyOutputs};
pub use metrics::{Counter, ServeMetrics};
pub use options::{
    Access, ActionCacheWriters, CertificateGrant, InstanceOptions, Listen, Reach, ServeOptions, TlsOptions,
    Token,
};
pub use platform::{OfferedProperty, OfferedValues, PlatformError, PlatformOffer};
pub use results::{Results, ResultsError, ResultsInMemory};
pub use server::{ServeError, Server};

#[cfg(test)]
mod tests;
