//! Fulgurite: a Linux-native executor of build actions.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod action;
pub mod bench;
pub mod cache;
pub mod cas;
pub mod cli;
pub mod commit;
pub mod config;
pub mod demo;
pub mod exec;
pub mod failpoint;
pub mod failure;
pub mod observe;
pub mod output;
pub mod race;
pub mod remote;
pub mod sched;
pub mod serve;
pub mod stage;
pub mod uring;
pub mod worker;
