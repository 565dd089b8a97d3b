//! The workers to test with, on their own: that they work, and that each fault is the fault that it claims to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bazel;
mod buck2;
mod driver;
mod real;
