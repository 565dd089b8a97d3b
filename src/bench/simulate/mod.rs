//! `bench simulate`: a build, replayed over given local slots and a remote of given latencies, under the policies of
//! several build tools.
//!
//! ```text
//!   build: generated from a seed, or a trace (Chrome's format, as Bazel and we write it)
//!     × condition: how fast, how far, how large the remote is, how often its cache has a result
//!     × policy: local-only, remote-only, bazel, reclient, siso, fulgurite
//!   ──► discrete events ──► when each host was done, and whose work nobody used
//! ```
//! Ours runs the code of [`crate::race`]: plan, transitions, gate, forecasts. The others follow what is published.
//!
//! Limits: a model. A core runs one action and is not shared; a loser frees its core at once; the remote hears a
//! cancellation at once, and half the time of an answer passes until its word that it executes is here; uploads cost
//! nothing. A trace names no dependencies: an action is taken to depend on whichever ended last before it began.
//! Numbers compare policies with each other, and say nothing about a clock on a wall.

mod build;
mod policy;
mod table;
mod trace;
mod world;

pub use policy::Policy;
pub use table::table;

use super::error::BenchError;
use super::report::{CaseReport, HostReport, Report};
use super::statistics::{tenths, thousandths};
use build::Build;
use fulgurite_sandbox::cgroup::Layout;
use std::collections::BTreeMap;
use std::path::PathBuf;
use world::{Found, World};

/// A remote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Its name in reports.
    pub name: &'static str,
    /// Median time to the cache's answer, in milliseconds.
    pub answer_ms: f64,
    /// Median time to fetch what an action made, in milliseconds.
    pub fetch_ms: f64,
    /// Time that an execution takes there, beyond the command's, in milliseconds.
    pub overhead_ms: f64,
    /// The command's time there, as a multiple of its time here.
    pub slowness: f64,
    /// How much all of these vary: the deviation of their logarithms.
    pub spread: f64,
    /// The share of actions whose result the cache has.
    pub hit_rate: f64,
    /// Executions at a time for each host; 0 for any number.
    pub slots_per_host: usize,
}

/// The conditions that are simulated unless others are asked for.
pub const CONDITIONS: [Condition; 5] = [
    condition("fast-remote", [10.0, 20.0, 50.0], 1.0, 0.0, 0),
    condition("slow-remote", [150.0, 400.0, 1500.0], 2.5, 0.0, 0),
    condition("all-hits", [20.0, 80.0, 100.0], 1.0, 1.0, 0),
    condition("half-hits", [20.0, 80.0, 100.0], 1.0, 0.5, 0),
    condition("small-remote", [20.0, 80.0, 100.0], 1.0, 0.1, 6),
];

const fn condition(
    name: &'static str,
    [answer_ms, fetch_ms, overhead_ms]: [f64; 3],
    slowness: f64,
    hit_rate: f64,
    slots_per_host: usize,
) -> Condition {
    Condition { name, answer_ms, fetch_ms, overhead_ms, slowness, spread: 0.5, hit_rate, slots_per_host }
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimulateBench {
    /// A trace to replay; without one a build is generated.
    pub trace: Option<PathBuf>,
    /// Actions of each host's build, if it is generated.
    pub actions: usize,
    /// Hosts that build at the same time, with one remote.
    pub hosts: usize,
    /// Local slots of a host.
    pub local_slots: usize,
    /// Actions of a host at a time.
    pub jobs: usize,
    /// What all chance comes from.
    pub seed: u64,
    /// The remotes.
    pub conditions: Vec<Condition>,
    /// The policies.
    pub policies: Vec<Policy>,
}

/// More would not fit the numbers that name actions; and not the memory.
pub const ACTIONS_MAX: usize = 4_000_000;

/// Simulates all conditions under all policies.
///
/// # Errors
/// The trace cannot be read; there is too much or nothing to do.
pub fn run(wanted: &SimulateBench) -> Result<Report, BenchError> {
    let build = match &wanted.trace {
        Some(path) => trace::read(path)?,
        None => Build::generated(wanted.actions, wanted.seed),
    };
    let total = build.len().saturating_mul(wanted.hosts);
    if total == 0 || total > ACTIONS_MAX {
        let why = format!("{total} actions in all: there may be 1 to {ACTIONS_MAX}");
        return Err(BenchError::Simulation { why });
    }
    let mut cases = Vec::new();
    for condition in &wanted.conditions {
        let found: Vec<Found> = wanted
            .policies
            .iter()
            .map(|policy| World::new(&build, wanted, condition, *policy).run())
            .collect();
        let alone =
            |policy| wanted.policies.iter().position(|other| *other == policy).map(|at| found[at].wall_s);
        let better =
            [alone(Policy::LocalOnly), alone(Policy::RemoteOnly)].into_iter().flatten().reduce(f64::min);
        for (policy, found) in wanted.policies.iter().zip(&found) {
            cases.push(case(*policy, found, better, params(wanted, condition, &build)));
        }
    }
    Ok(Report { bench: "simulate", host: HostReport::of(Layout::None, "nothing".to_owned()), cases })
}

fn params(wanted: &SimulateBench, condition: &Condition, build: &Build) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("condition", condition.name.to_owned()),
        ("build", build.name.clone()),
        ("hosts", wanted.hosts.to_string()),
        ("local_slots", wanted.local_slots.to_string()),
        ("jobs", wanted.jobs.to_string()),
        ("seed", wanted.seed.to_string()),
    ])
}

fn case(
    policy: Policy,
    found: &Found,
    better: Option<f64>,
    params: BTreeMap<&'static str, String>,
) -> CaseReport {
    let mut parts = BTreeMap::from([
        ("wall_s".to_owned(), tenths(found.wall_s)),
        ("wall_max_s".to_owned(), tenths(found.wall_max_s)),
        ("wasted_cpu_s".to_owned(), tenths(found.wasted_local_s + found.wasted_remote_s)),
        ("wasted_local_s".to_owned(), tenths(found.wasted_local_s)),
        ("wasted_remote_s".to_owned(), tenths(found.wasted_remote_s)),
        ("local_wins".to_owned(), found.local_wins as f64),
        ("remote_wins".to_owned(), found.remote_wins as f64),
        ("raced".to_owned(), found.raced as f64),
    ]);
    if let Some(better) = better {
        parts.insert("ratio_wall".to_owned(), thousandths(found.wall_s / better));
    }
    CaseReport { name: policy.name().to_owned(), params, n: found.actions, parts, ..CaseReport::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a model: by its seed it is the same on every machine.
    #[test]
    fn a_race_costs_no_time_beside_the_better_side_alone() {
        for seed in [1, 2, 3] {
            let wanted = SimulateBench {
                trace: None,
                actions: 1000,
                hosts: 1,
                local_slots: 8,
                jobs: 200,
                seed,
                conditions: CONDITIONS.to_vec(),
                policies: vec![Policy::LocalOnly, Policy::RemoteOnly, Policy::Fulgurite],
            };
            let report = run(&wanted).unwrap();
            let ours = report.cases.iter().filter(|case| case.name == Policy::Fulgurite.name());
            let slow: Vec<_> = ours.filter(|case| case.parts["ratio_wall"] > 1.05).collect();
            assert!(slow.is_empty(), "seed {seed}: {slow:#?}");
        }
    }
}
