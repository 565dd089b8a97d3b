//! `fulgurite serve` from outside: the daemon is a child process, its clients speak REAPI over its socket, its actions
//! are real.
//!
//! Cases that only need *a* daemon share one, each with actions of its own; the others start theirs. After each daemon
//! the census of processes, mounts, cgroups, layers and spools must be zero. Names begin with the case of the threat
//! catalog that they show, where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod action;
mod client;
mod daemon;
mod deaths;
mod disk;
mod draining;
mod endings;
mod evictions;
mod local;
mod local_workers;
mod many;
mod merging;
mod observing;
mod outputs;
mod planting;
mod poisoning;
mod racing;
mod refusals;
mod remote;
mod starting;
mod workers;
mod workers_buck2;
mod workers_many;

use client::Client;
use daemon::{Daemon, Home};
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// A test with the shared daemon.
type Shared = (&'static str, fn(&Client, &Home));
/// A test that starts its own.
type Alone = (&'static str, fn());

/// What the shared daemon is started with.
const SHARED: &[&str] = &["--slots", "4", "--set", "execution.stdout_bytes_max=64KiB"];

/// The shared daemon, once somebody needed it.
#[derive(Default)]
struct Hall(Mutex<Option<(Home, Daemon)>>);

impl Hall {
    fn enter(&self) -> (Client, Home) {
        let mut hall = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (home, daemon) = hall.get_or_insert_with(|| {
            let home = Home::new();
            let daemon = home.start(SHARED);
            (home, daemon)
        });
        (daemon.client(), home.clone())
    }

    fn close(&self) {
        if let Some((home, daemon)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            daemon.end(&home);
            assert!(home.check_blobs() > 0);
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP serve: without root there are neither memory limits nor composefs");
        return ExitCode::SUCCESS;
    }
    // Most of them wait for disks and for ends.
    arguments.test_threads.get_or_insert(4);
    let hall = Arc::new(Hall::default());
    let shared = [
        poisoning::SHARED,
        refusals::SHARED,
        endings::SHARED,
        planting::SHARED,
        outputs::SHARED,
        merging::SHARED,
        remote::SHARED,
    ];
    let alone = [
        draining::ALONE,
        starting::ALONE,
        evictions::ALONE,
        disk::ALONE,
        local::ALONE,
        many::ALONE,
        local_workers::ALONE,
        workers::ALONE,
        workers_buck2::ALONE,
        workers_many::ALONE,
        deaths(),
    ];
    let mut trials = Vec::new();
    for (name, test) in alone.iter().chain(racing::ALONE).chain(observing::ALONE).copied().flatten() {
        let test = *test;
        trials.push(Trial::test(*name, move || {
            test();
            Ok(())
        }));
    }
    for (name, test) in shared.into_iter().flatten() {
        let (test, hall) = (*test, hall.clone());
        trials.push(Trial::test(*name, move || {
            let (client, home) = hall.enter();
            test(&client, &home);
            Ok(())
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    hall.close();
    conclusion.exit_code()
}

/// Only a build with failpoints can be made to die at them.
fn deaths() -> &'static [Alone] {
    if cfg!(feature = "test-fakes") {
        return deaths::ALONE;
    }
    &[("deaths", || skip("deaths", "built without --features test-fakes"))]
}

/// Says that a test, or a part of it, does not run here.
pub fn skip(name: &str, why: &str) {
    eprintln!("SKIP serve::{name}: {why}");
}
