//! Tests of the hardening data: the filter against its specification, against a golden file, and against the
//! kernel.

// Helpers of tests are tests: a panic is their way to fail.
#![allow(clippy::unwrap_used)]

mod golden;
mod interpreter;
mod kernel;
mod property;
mod wall;
