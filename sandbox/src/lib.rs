//! Namespaced, cgroup-limited sandboxes that are ready before the action arrives.
pub mod harden;
pub mod host;
pub mod init;
pub mod plan;
pub mod spec;
pub mod sys;
pub mod zygote;
