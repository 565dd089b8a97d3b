//! Hardening of an action's process: what is taken away from it, in which order, and what was really enforced.
pub mod seccomp;
