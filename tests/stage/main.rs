//! Staging of input roots by digest, by every way that this host has: one process, one runtime.
//!
//! The runtime must be started while there is one thread, so that this binary has a `main` of its own. What only an
//! administrator can do is skipped loudly for others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hostile;
mod scene;
mod views;
mod warm;

use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// A test, by name.
pub type Test = (&'static str, fn(&Runtime));

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let runtime = match Runtime::start(&RuntimeOptions::default()) {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("SKIP stage: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let all = views::TESTS.iter().chain(hostile::TESTS).chain(warm::TESTS);
    let trial = |(name, test): &Test| {
        let (test, runtime) = (*test, runtime.clone());
        Trial::test(*name, move || {
            test(&runtime);
            Ok(())
        })
    };
    let conclusion = libtest_mimic::run(&arguments, all.map(trial).collect());
    let stopped = Arc::into_inner(runtime).map(Runtime::stop);
    match stopped {
        Some(Ok(())) => conclusion.exit_code(),
        Some(Err(error)) => {
            eprintln!("LEAK: {error}");
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    }
}
