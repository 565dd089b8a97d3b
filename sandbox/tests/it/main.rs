//! Integration tests of the sandbox: one binary, one runtime.
//!
//! ```text
//! main ─► probe?  what an action runs inside          (it probe …)
//!      ├► victim? a process that is to be killed        (it victim …)
//!      └► Runtime::start, while there is one thread ─► the tests, one after the other ─► Runtime::stop ─► census
//! ```
//! Tests run one after the other unless `--test-threads` says otherwise; those that count things for themselves are
//! alone even then. After each test the census must be what it was before.
mod crashes;
mod faults;
mod fixture;
mod growth;
mod isolation;
mod killing;
mod limits;
mod network;
mod overlay;
mod pools;
mod probe;
mod running;
mod snapshots;
mod starting;
mod victim;
mod views;

use fixture::Fixture;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("probe") => return probe::main(&arguments.collect::<Vec<_>>()),
        Some("victim") => return victim::main(&arguments.collect::<Vec<_>>()),
        _ => {}
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let before = fixture::census_of_everything(None);
    let fixture = if arguments.list { Fixture::absent() } else { Fixture::start() };
    let trials = [
        running::tests(),
        killing::tests(),
        limits::tests(),
        isolation::tests(),
        views::tests(),
        network::tests(),
        overlay::tests(),
        faults::tests(),
        pools::tests(),
        crashes::tests(),
        starting::tests(),
        snapshots::tests(),
        growth::tests(),
    ];
    let trials = trials.into_iter().flatten().map(|test| test.into_trial(&fixture)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    match fixture::stop(fixture, &before) {
        Ok(()) => conclusion.exit_code(),
        Err(left) => {
            eprintln!("LEAK after the last test:\n{left}");
            ExitCode::FAILURE
        }
    }
}
