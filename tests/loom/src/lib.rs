//! Models of the claim: loom runs each under every schedule, and with every value that a weak memory may show.
//!
//! The subject is included from the crate itself, with loom's atomics in place of the standard ones. `scripts/loom`
//! runs this; without `--cfg loom` it is empty.
#![cfg(loom)]
#![cfg(test)]

#[path = "../../../src/commit/claim.rs"]
#[allow(dead_code)]
mod claim;

mod hand_over;
mod race;
