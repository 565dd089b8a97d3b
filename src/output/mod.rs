//! Outputs: what the action left at its declared paths, checked and sealed, still in its layer.
//!
//! ```text
//!   quiet ──> locate ──> any missing? all of them in one error
//!               │
//!               └──> seal in place, in the upper layer:
//!                      file       no set-id bits, no extended attributes, one link (else copied), owner, u+r
//!                      symlink    as it is; never followed
//!                      directory  the merged view: whiteouts go, what only the inputs have is brought in
//!                      other      refused by name
//!               ──> Collected { upper, outputs }: complete trees that a rename can publish
//! ```
//!
//! Call it only after *quiet*: no process of the action lives, and nobody looks through the overlay again.
//! The kill barrier guarantees that for a tree; for the store a read lease (`F_SETLEASE`) proves it per file.
//!
//! Two ways lead on from a layer: [`collect`] seals outputs in place, for a rename into a user's tree; [`hand_off`]
//! takes them into the store, and [`place`] from there into trees. What actions print goes through [`Spools`].
//!
//! Invariants:
//! - every step is one name relative to a descriptor (`openat2` with BENEATH, NO_SYMLINKS, NO_MAGICLINKS,
//!   NO_XDEV); a symlink on the way to an output is an error, never a path;
//! - no special file is ever opened; nothing here can block;
//! - overlay marks are read only from the namespace that the mount used ([`Marks`]), where the kernel lets no
//!   action write; redirects and metacopy marks are never followed;
//! - the lower layer is only read.
//!
//! Limits: permissions are the action's own, except that files keep u+r and directories u+rwx, so that their
//! owner can use and remove them. Extended attributes and access control lists are not kept.

mod collect;
mod error;
mod handoff;
pub mod limits;
pub mod lookout;
mod marks;
mod merged;
mod place;
mod seal;
mod spool;
#[cfg(test)]
mod tests;
mod undeclared;

pub use collect::{CollectOptions, Collected, CollectedOutput, OutputKind, collect};
pub use error::OutputError;
pub use handoff::{HandedOff, HandoffError, HandoffRequest, Inputs, NoInputs, hand_off};
pub use lookout::Lookout;
pub use marks::Marks;
pub use place::{HandoffWay, Placed, place};
pub use spool::{Printing, Spool, Spooled, Spools};
pub use undeclared::{Undeclared, undeclared};
