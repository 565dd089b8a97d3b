//! Staging: what an action will see, and the private place it writes to, made before it starts.
//!
//! ```text
//!   <place>/layer-<pid>-<start>-<n>/     0700, one per action            Layer
//!       tree/                            only the declared inputs         InputTree      overlay lower
//!       upper/                           what the action writes           Layer::upper   overlay upper
//!       work/                            the kernel's own                                overlay work
//! ```
//!
//! Invariants:
//! - everything is reached through descriptors; no path that an action could have shaped is ever resolved;
//! - an input is a hard link, a reflink or a copy; the overlay copies up on write, so that none is written
//!   through;
//! - what a killed process left is found by name and lock, and removed by the next one ([`sweep_stale`]).
//!
//! Inputs are paths under an exec root ([`InputTree`]), or an input root that is named by its digest ([`root`]).
//!
//! Limits: an input below an exec root that a user rewrites in place while the action runs changes under it, as it
//! would without a sandbox.

pub mod beneath;
pub mod contents;
pub mod descent;
pub mod erofs;
mod error;
mod fault;
mod layer;
pub mod limits;
pub mod merkle;
mod parents;
mod place;
mod remove;
pub mod replicate;
pub mod root;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

pub use beneath::Owner;
pub use error::StageError;
pub use fault::{Fault, Shown, TreeError};
pub use layer::{
    Layer, LayerHome, Swept, existing_places, process_start, sweep_all, sweep_all_but, sweep_stale,
};
pub use parents::{prepare_output_parents, prepare_parents};
pub use place::Places;
pub use remove::{Removed, remove_tree};
pub use replicate::Replicated;
pub use tree::InputTree;
