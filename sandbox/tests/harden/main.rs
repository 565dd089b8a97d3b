//! Tests of the hardening data: the filter against its specification, against a golden file, and against the kernel.

mod golden;
mod interpreter;
mod kernel;
mod property;
