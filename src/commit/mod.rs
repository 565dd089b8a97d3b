//! Commit: sealed outputs into a user's tree.
//!
//! ```text
//!   prepare   for every output: open or create its parent; may what is there be replaced?
//!             another filesystem: copy to .fulgurite-tmp-<pid>-<n> beside the destination
//!      │      any failure: copies and created directories go again, nothing has been visible
//!   publish   for every output: one renameat2
//!      │      nothing, a file or a symlink there; no directory comes   plain: replaced atomically
//!      │      a directory there, or one comes over something          EXCHANGE: the old one is dropped later
//!   tidy      what was exchanged out of the destination's filesystem stays in the layer, and goes with it
//! ```
//!
//! The declared output replaces what is there, of whatever kind, as it does in Bazel: a file replaces a
//! directory and a directory a file. Only what no action can have left is refused: a FIFO, a socket, a device
//! or a mount point at the output's path. A symlink there is replaced and never followed; a symlink on the
//! way to it is refused.
//!
//! Invariants: only `publish` renames into a user's tree; a file is visible either old or new, never in part;
//! after a failure to prepare the tree is as before.
//!
//! Limits: each output appears atomically, several do not appear together: a failure *between* renames, which
//! leaves some published, is reported with their names. The journal that makes many outputs all-or-nothing
//! across a crash comes in a later stage, and so does the claim without which nothing may be published.
//! Nothing is synced to disk. Permission is that of this process: a daemon that publishes for another user
//! must check that user's first.

mod claim;
mod destination;
mod error;
pub mod limits;
mod publish;
#[cfg(test)]
mod tests;

pub use claim::{Claim, ClaimCell, Claims, Lost, Side, State};
pub use error::PublishError;
pub use publish::{Handoff, PublishOptions, Published, publish};
