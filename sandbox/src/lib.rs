//! Namespaced, cgroup-limited sandboxes that are ready before the action arrives.

pub mod cgroup;
