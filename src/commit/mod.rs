//! Commit: sealed outputs into a user's tree, of one branch of a race only, and all or none of them.
//!
//! ```text
//!   prepare   for every output: open or create its parent; may what is there be replaced?
//!             another filesystem: copy to .fulgurite-tmp-<tag>-<n> beside the destination
//!             write the record of what goes where to a slot of the journal
//!      │      any failure, or the race is lost: copies and created directories go again, nothing has been visible
//!   claim     one compare-exchange on the race's cell: only its winner goes on            `claim`, tests/loom
//!      │
//!   publish   mark the record as intent; from here on whoever comes finishes it           `journal`, `recover`
//!      │      for every output: one renameat2
//!      │      nothing there          NOREPLACE
//!      │      something there        EXCHANGE: the old one goes with the layer
//!      │      a rename fails: those before it are taken back
//!      │      mark the record as done
//!   tidy      what was exchanged out of the destination's filesystem stays in the layer, and goes with it
//! ```
//!
//! The declared output replaces what is there, of whatever kind, as it does in Bazel: a file replaces a
//! directory and a directory a file. Only what no action can have left is refused: a FIFO, a socket, a device
//! or a mount point at the output's path. A symlink there is replaced and never followed; a symlink on the
//! way to it is refused.
//!
//! Invariants: only `publish` and `recover` rename into a user's tree, the former with a [`Claim`]; an output is
//! visible either old or new, never in part; after a failure to prepare the tree is as before; after a death at any
//! instruction and a recovery all outputs are old, or all are new.
//!
//! A command that runs straight in the tree is written down as well (`in_place`), and what it leaves is removed when it
//! has lost, or when its process has died (`standalone`, `recover`).
//!
//! Limits: each output appears atomically, and several do not appear together: a reader may see some old and some new
//! ones for the time of the renames, or between a death and its recovery. Where a filesystem has no EXCHANGE, a failed
//! rename leaves files that were replaced before it, and says so. Permission is that of this process: a daemon that
//! publishes for another user must check that user's first.

mod claim;
mod destination;
mod error;
mod in_place;
mod journal;
pub mod limits;
mod prepare;
mod publish;
mod record;
mod recover;
mod renames;
mod standalone;
#[cfg(test)]
mod tests;

pub use claim::{Claim, ClaimCell, Claims, Lost, Side, State};
pub use error::PublishError;
pub use in_place::{Announced, announce};
pub use journal::{Durability, Journal};
pub use prepare::{Prepared, prepare};
pub use publish::{Handoff, PublishOptions, Published, publish, publish_cleared, publish_unopposed};
pub use recover::{Recovered, recover, recover_all};
pub use standalone::{Cleared, clear};
