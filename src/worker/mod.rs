//! Persistent workers: compilers that stay alive between actions, in sandboxes, and see of each request its own inputs.
//!
//! ```text
//!   action ─► arguments (split, expanded) ─► key ─► pool: an idle worker, or a new one ─► view attached ─► request
//!   result ◄── outputs handed off ◄── view sealed and detached ◄── response ◄──────────────────────────────┘
//! ```

pub mod arguments;
pub mod bazel_json;
pub mod bazel_proto;
pub mod buck2;
pub mod driver;
pub mod ground;
pub mod job;
pub mod junk;
pub mod key;
pub mod limits;
pub mod log;
pub mod machine;
mod shared;
pub mod wanted;
pub mod wire;

pub use driver::{Stay, Used, WorkerDone, WorkerEnd, Workers, WorkersOptions};
pub use ground::Ground;
pub use job::{Manner, NoWorker, WorkerJob};
pub use machine::{Counts, WorkerPhase, WorkerState};
