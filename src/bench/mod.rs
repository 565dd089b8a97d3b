//! Measuring: the same work under every strategy and every peer that this machine has, in one run.
//!
//! ```text
//! round 1:  warm  bwrap  spawn  cold        each case once, in an order that differs from round to round
//! round 2:  spawn  warm  cold  bwrap
//!   ⋮                                        ratios are taken within a round, then their median
//! ```
//! Invariants: a case does in a round what its floor does, with files on the same filesystem; a peer that is not
//! installed is left out, one that fails is reported with its error; nothing is left behind, whatever ends the process
//! ([`scratch`]). Which CPU time counts is said in [`cpu`].
pub mod case;
pub mod command;
pub mod cpu;
pub mod crowd;
pub mod error;
pub mod filesystem;
pub mod handoff;
pub mod ipc;
mod ipc_descriptors;
pub mod peers;
pub mod prepared;
pub mod progress;
pub mod race;
pub mod reapi;
pub mod reapi_sandboxed;
pub mod report;
pub mod sandbox;
pub mod sandboxed;
pub mod scratch;
pub mod server;
pub mod simulate;
pub mod stage;
pub mod staged;
pub mod statistics;
pub mod worker;
pub mod worker_echo;
pub mod worker_ground;
pub mod worker_haskell;
pub mod worker_java;
pub mod worker_peer;
pub mod workload;

pub use error::BenchError;
pub use report::{CaseReport, HostReport, Report};
