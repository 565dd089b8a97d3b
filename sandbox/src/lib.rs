//! Namespaced, cgroup-limited sandboxes that are ready before the action arrives.
pub mod action;
pub mod cgroup;
pub mod harden;
pub mod host;
pub mod init;
pub mod layer;
pub mod outcome;
pub mod plan;
pub mod pool;
mod probe;
pub mod runtime;
pub mod sandbox;
pub mod seat;
pub mod spec;
pub mod sys;
pub mod testing;
mod verdict;
pub mod zygote;
