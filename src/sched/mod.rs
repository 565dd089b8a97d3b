//! Which action runs next, and who waits for it: decisions only, no I/O, no clock.
//!
//! ```text
//!   submit ──► joins a run on its way, or
//!              Queued ──► Started ──► Executing ──► Publishing ──► finished
//!                │ last operation canceled: dropped    │ last operation canceled: killed
//! ```
//! An *operation* is one client's request; a *run* is what is done for one or more of them. [`Scheduler`] takes events
//! and gives [`Effect`]s; whoever drives it performs them. [`FairQueue`] orders what waits: tenants by what they have
//! used, within a tenant by priority, then invocations by what they have used, then age.
//!
//! Invariants:
//! - at most `slots` runs are started and not finished, and one more that is light, beside heavy ones;
//! - canceling an operation touches a run only if no other operation waits for it;
//! - an operation that demands a fresh result never gets one that was visible before it was submitted;
//! - an operation ends once; afterwards it stays resolvable for a bounded time and within bounds of count and size.

mod fair;
mod limits;
mod machine;
mod types;

pub use fair::FairQueue;
pub use limits::SchedulerLimits;
pub use machine::Scheduler;
pub use types::{Accepted, Cost, Effect, Ending, Leaving, OperationId, Refusal, RunId, Submission};

#[cfg(test)]
mod tests;
