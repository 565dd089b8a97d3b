//! Local against remote: pure transitions and policy, and the driver that performs them.
//!
//! ```text
//!   facts, knobs, forecast ──► policy ──► Plan: when does each branch start
//!                                           │
//!        events ──► step(state, event, now) ──► (state, effects) ──► drive: threads, claim, publish, reaper
//! ```
//! | file | what it is |
//! |---|---|
//! | [`step`] | one race as a machine of events and effects; pure |
//! | [`policy`] | may a side run, and when does it start; pure |
//! | [`knobs`] | Bazel's options under their names, and ours; pure |
//! | [`gate`], [`admission`] | which waiting local branch enters next; pure, and its shell |
//! | [`sketch`], [`forecast`] | measured durations by mnemonic and family; pure |
//! | [`cold`] | whether a worker that has to be started is worth it; pure |
//! | [`history`] | keeps them across restarts |
//! | [`drive`], [`branch`], [`mailbox`], [`reaper`] | threads, the claim, who outlives a race for a while |
//! | [`executor`] | the whole as an executor: this machine against a cluster |
//! | [`report`] | what happened, and totals |
//!
//! Invariants (a seeded simulation checks them over the pure core, tests over the driver):
//! - one branch publishes, or none, and only with the claim, which is taken when all that can fail lies behind;
//! - a branch that lost is told so once; what it shares with other actions is not cancelled with it;
//! - a run returns when both branches have ended, or were handed to a bounded reaper;
//! - the first failure of the action fails it; a failure of the infrastructure is not the action's.

pub mod admission;
pub mod branch;
pub mod cold;
pub mod drive;
pub mod executor;
pub mod forecast;
pub mod gate;
pub mod history;
pub mod knobs;
pub mod limits;
pub mod mailbox;
pub mod policy;
pub mod reaper;
pub mod report;
pub mod sketch;
pub mod step;

#[cfg(test)]
mod tests;
