//! Integration tests of the sandbox: one binary, one runtime.
//!
//! ```text
//! main ─► probe?  what an action runs inside          (it probe …)
//!      ├► victim? a process that is to be killed        (it victim …)
//!      └► Runtime::start, while there is one thread ─► the tests ─► Runtime::stop ─► census
//! ```
//! An ordinary user's runtime lives in a user namespace; the tests that start runtimes in processes of their
//! own then run in a second process first, with a summary of its own.
//!
//! Tests run one after the other unless `--test-threads` says otherwise; those that count things for
//! themselves are alone even then, and the census after them must be what it was before. So must the last one.
mod crashes;
mod faults;
mod fixture;
mod growth;
mod hosted;
mod isolation;
mod killing;
mod limits;
mod network;
mod overlay;
mod pools;
mod probe;
mod racing;
mod registry;
mod running;
mod snapshots;
mod staging;
mod starting;
mod victim;
mod views;
mod work;
mod workers;

use fixture::Fixture;
use fulgurite_sandbox::host;
use registry::{Part, Test};
use std::process::ExitCode;

/// Set in the process of an ordinary user that has no runtime of its own.
const OUTSIDE: &str = "FULGURITE_IT_OUTSIDE";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("probe") => return probe::main(&arguments.collect::<Vec<_>>()),
        Some("victim") => return victim::main(&arguments.collect::<Vec<_>>()),
        _ => {}
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    if arguments.list {
        return run(&arguments, Part::Listing);
    }
    if host::is_administrator() {
        return run(&arguments, Part::All);
    }
    // An ordinary user's runtime takes its process into a user namespace, in which no other runtime can
    // start.
    if std::env::var_os(OUTSIDE).is_some() {
        return run(&arguments, Part::Outside);
    }
    let outside = starting::another(OUTSIDE);
    let inside = run(&arguments, Part::Inside);
    if outside { inside } else { ExitCode::FAILURE }
}

fn run(arguments: &libtest_mimic::Arguments, part: Part) -> ExitCode {
    let before = fixture::census_of_everything();
    let has_runtime = matches!(part, Part::All | Part::Inside);
    let fixture = if has_runtime { Fixture::start() } else { Fixture::absent() };
    let trials = all_tests().filter_map(|test| test.into_trial(&fixture, part)).collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    match fixture::stop(fixture, &before) {
        Ok(()) => conclusion.exit_code(),
        Err(left) => {
            eprintln!("LEAK after the last test:\n{left}");
            ExitCode::FAILURE
        }
    }
}

fn all_tests() -> impl Iterator<Item = Test> {
    let tests = [
        running::tests(),
        killing::tests(),
        limits::tests(),
        isolation::tests(),
        views::tests(),
        network::tests(),
        overlay::tests(),
        faults::tests(),
        pools::tests(),
        hosted::tests(),
        racing::tests(),
        workers::tests(),
        crashes::tests(),
        starting::tests(),
        snapshots::tests(),
        growth::tests(),
    ];
    tests.into_iter().flatten()
}
