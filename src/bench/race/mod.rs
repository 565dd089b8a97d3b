//! `bench race`: a real build through the racing daemon, against a second daemon behind a shaped network.
//!
//! ```text
//!   condition: fast remote, slow remote, all hits, remote dies, loaded here
//!     round 1:  local-only  always  fulgurite  remote-only  bazel      in an order that differs from round to round
//!     round 2:  …
//!       wall of each ÷ the better of local-only and remote-only in the same round, then the median
//!       CPU of both sides beyond the cheaper of these two: what it costs to have two sides at all
//!       CPU of losers: what ran in sandboxes and is in no answer, against always racing
//!   abort: from a remote claim to the quiet of a loser of 50 processes, waiting or computing
//! ```
//! | file | what it is |
//! |---|---|
//! | [`units`] | what is built: zstd's C files, generated ones, or Java files |
//! | [`java`] | Java files, and their workers |
//! | [`site`] | two machines on one: half of the processors each; one build |
//! | [`shape`] | the network between them: a proxy of ours with delay, jitter, loss and an end |
//! | [`abort`] | the end of losers |
//! | `table` | for people |
//!
//! Invariants: every object of every build is the plain build's, byte by byte but for the build's number, or the row
//! is a failure; all policies of a round meet the same network, the same remote and the same load.
//!
//! Limits: both machines are this one: they share memory, caches and the clock rate, and the client with its network
//! runs beside them. A build whose remote has died can't be finished by remote-only; its row says so. What was learned
//! of the remote in one build before is known to ours when the first round begins, and to nobody else: no other policy
//! remembers anything.
pub mod abort;
pub mod java;
pub mod limits;
pub mod shape;
pub mod site;
pub mod table;
pub mod units;

pub use table::table;

use super::error::BenchError;
use super::progress;
use super::report::{CaseReport, HostReport, Report};
use super::scratch::Scratch;
use super::statistics::{median, paired_ratio, shuffled, thousandths};
use abort::Doing;
use fulgurite_sandbox::runtime::Runtime;
use indicatif::ProgressBar;
use shape::Shape;
use site::{Built, Halves, Load, Machine, Way, fill};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use units::{Units, Wanted};

/// Busy threads for each processor of the racing daemon, when it is loaded.
const LOAD_EACH: usize = 3;

/// Where actions run, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Here.
    LocalOnly,
    /// There.
    RemoteOnly,
    /// On both, as Bazel does if nothing is said: local after 1 s, once there was a hit.
    Bazel,
    /// On both, by what was measured.
    Fulgurite,
    /// On both at once, as many at a time as are asked for.
    Always,
}

impl Policy {
    /// All, in the order of reports.
    pub const ALL: [Policy; 5] =
        [Policy::LocalOnly, Policy::RemoteOnly, Policy::Bazel, Policy::Fulgurite, Policy::Always];

    /// Its name in reports and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::LocalOnly => "local-only",
            Policy::RemoteOnly => "remote-only",
            Policy::Bazel => "bazel",
            Policy::Fulgurite => "fulgurite",
            Policy::Always => "always",
        }
    }

    /// What the racing daemon is told.
    #[must_use]
    pub fn arguments(self) -> Vec<OsString> {
        let words: &[&str] = match self {
            // Who has no remote fills none.
            Policy::LocalOnly => &["--exec-strategy=local", "--set=remote.upload_local_results=false"],
            Policy::RemoteOnly => &["--exec-strategy=remote"],
            Policy::Fulgurite => &["--exec-strategy=racing"],
            Policy::Bazel => {
                &["--exec-strategy=racing", "--dynamic_local_execution_delay=1000", "--race=low_pass=false"]
            }
            Policy::Always => {
                &["--exec-strategy=racing", "--dynamic_local_execution_delay=0", "--race=low_pass=false"]
            }
        };
        words.iter().map(OsString::from).collect()
    }
}

/// What a build meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// 2 ms to and fro, 1 Gbit/s.
    FastRemote,
    /// 100 ms to and fro and up to 40 more, 1 packet of 100 lost, 20 Mbit/s.
    SlowRemote,
    /// As a fast remote, whose cache has all results.
    AllHits,
    /// As a fast remote, until half of the build is done.
    RemoteDies,
    /// As a fast remote, and three busy threads for each processor here.
    LoadedHere,
}

impl Condition {
    /// All, in the order of reports.
    pub const ALL: [Condition; 5] = [
        Condition::FastRemote,
        Condition::SlowRemote,
        Condition::AllHits,
        Condition::RemoteDies,
        Condition::LoadedHere,
    ];

    /// Its name in reports and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Condition::FastRemote => "fast-remote",
            Condition::SlowRemote => "slow-remote",
            Condition::AllHits => "all-hits",
            Condition::RemoteDies => "remote-dies",
            Condition::LoadedHere => "loaded-here",
        }
    }

    /// The network.
    #[must_use]
    pub fn shape(self) -> Shape {
        match self {
            Condition::SlowRemote => Shape {
                delay: Duration::from_millis(50),
                jitter: Duration::from_millis(20),
                loss: 0.01,
                retransmission: Duration::from_millis(200),
                bytes_per_second: 2_500_000,
            },
            _ => Shape {
                delay: Duration::from_millis(1),
                jitter: Duration::from_micros(200),
                loss: 0.0,
                retransmission: Duration::from_millis(200),
                bytes_per_second: 125_000_000,
            },
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct RaceBench {
    /// Where zstd's sources are; without them C files are generated.
    pub sources: Option<PathBuf>,
    /// Java files instead, by workers on either side.
    pub java: bool,
    /// Files of a build.
    pub units: usize,
    /// Builds of each policy in each condition.
    pub rounds: usize,
    /// Actions that the client asks for at a time; 0: two for each processor.
    pub jobs: usize,
    /// What builds meet.
    pub conditions: Vec<Condition>,
    /// Losers that are ended.
    pub aborts: usize,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Measures.
///
/// # Errors
/// [`BenchError`]: no compiler, no sandbox, a daemon that is lost. A build that fails is told in its row.
pub fn run(runtime: &Arc<Runtime>, wanted: &RaceBench) -> Result<Report, BenchError> {
    let needed: Vec<&std::path::Path> = wanted.sources.iter().map(PathBuf::as_path).collect();
    let scratch = Scratch::new(None, &needed)?;
    let host = HostReport::now(runtime, scratch.filesystem());
    let (root, objects) = (scratch.directory("sources")?, scratch.directory("objects")?);
    let what = match (&wanted.sources, wanted.java) {
        (_, true) => Wanted::Java,
        (Some(sources), false) => Wanted::Zstd(sources),
        (None, false) => Wanted::C,
    };
    let units = Units::take(what, wanted.units, &root)?;
    let plain = units.plain(&root, &objects)?;
    let halves = Halves::of_this_machine();
    let steps = wanted.conditions.len() * (1 + wanted.rounds * Policy::ALL.len());
    let bar = progress::bar(steps, wanted.progress);
    let mut cases = Vec::new();
    let mut site = Site { wanted, scratch: &scratch, halves, units, plain, bar: bar.clone(), number: 0 };
    for condition in &wanted.conditions {
        cases.extend(site.measure(*condition)?);
    }
    if wanted.aborts > 0 {
        bar.set_message("abort");
        for doing in [Doing::Waiting, Doing::Computing] {
            cases.push(abort::measure(runtime, scratch.path(), wanted.aborts, doing)?);
        }
    }
    bar.finish_and_clear();
    Ok(Report { bench: "race", host, cases })
}

struct Site<'a> {
    wanted: &'a RaceBench,
    scratch: &'a Scratch,
    halves: Halves,
    units: Units,
    plain: Vec<Vec<u8>>,
    bar: ProgressBar,
    /// The last build's.
    number: u64,
}

impl Site<'_> {
    fn measure(&mut self, condition: Condition) -> Result<Vec<CaseReport>, BenchError> {
        let directory = self.scratch.directory(condition.name())?;
        let remote = Machine::start(&directory.join("remote"), &self.halves.remote, &[])?;
        let load = match condition {
            Condition::LoadedHere => {
                Some(Load::start(&self.halves.local, LOAD_EACH * self.halves.local.len())?)
            }
            _ => None,
        };
        let mut rounds: Vec<Vec<Built>> = Policy::ALL.iter().map(|_| Vec::new()).collect();
        // Unmeasured: the remote gets the sources, and ours learns what the remote is like.
        let first = self.next(condition, &remote)?;
        self.one(condition, Policy::Fulgurite, &remote, &directory, first)?;
        for round in 0..self.wanted.rounds {
            let shared = self.next(condition, &remote)?;
            for index in shuffled(Policy::ALL.len(), round) {
                let (Some(policy), Some(builds)) = (Policy::ALL.get(index), rounds.get_mut(index)) else {
                    continue;
                };
                let number = match condition {
                    Condition::AllHits => shared,
                    _ => self.next(condition, &remote)?,
                };
                builds.push(self.one(condition, *policy, &remote, &directory, number)?);
            }
        }
        drop(load);
        remote.stop()?;
        // The next condition begins with nothing; what can't be removed goes with the scratch place.
        let _ = std::fs::remove_dir_all(&directory);
        Ok(self.reports(condition, &rounds))
    }

    /// The number of a build that nobody has made, or that only the remote has.
    fn next(&mut self, condition: Condition, remote: &Machine) -> Result<u64, BenchError> {
        self.number += 1;
        if condition == Condition::AllHits {
            self.bar.set_message("filling the cache");
            fill(remote, &self.units.build(self.number, &self.plain)?, self.jobs())?;
        }
        Ok(self.number)
    }

    fn jobs(&self) -> usize {
        match self.wanted.jobs {
            0 => 2 * (self.halves.local.len() + self.halves.remote.len()),
            jobs => jobs,
        }
    }

    fn one(
        &self,
        condition: Condition,
        policy: Policy,
        remote: &Machine,
        directory: &std::path::Path,
        number: u64,
    ) -> Result<Built, BenchError> {
        self.bar.set_message(format!("{}: {}", condition.name(), policy.name()));
        let half = self.units.count().div_ceil(2);
        let way = Way {
            remote,
            shape: condition.shape(),
            halves: &self.halves,
            state: &directory.join(policy.name()),
            arguments: policy.arguments(),
            jobs: self.jobs(),
            cut_after: (condition == Condition::RemoteDies).then_some(half),
            fetch: false,
        };
        let built = way.build(&self.units.build(number, &self.plain)?);
        self.bar.inc(1);
        built
    }

    fn reports(&self, condition: Condition, rounds: &[Vec<Built>]) -> Vec<CaseReport> {
        let params: BTreeMap<&'static str, String> = [
            ("condition", condition.name().to_owned()),
            ("files", self.units.described.clone()),
            ("jobs", self.jobs().to_string()),
            ("sides", self.halves.described()),
        ]
        .into();
        reports(&params, rounds)
    }
}

/// One for each policy, of builds that stand at the same place if they were in the same round.
fn reports(params: &BTreeMap<&'static str, String>, rounds: &[Vec<Built>]) -> Vec<CaseReport> {
    let column = |policy: Policy, value: &dyn Fn(&Built) -> Option<f64>| -> Vec<Option<f64>> {
        let builds = Policy::ALL.iter().position(|other| *other == policy).and_then(|at| rounds.get(at));
        let good = |built: &Built| if built.error.is_none() { value(built) } else { None };
        builds.into_iter().flatten().map(good).collect()
    };
    // The better of the two sides alone, of those that came to an end.
    let alone = |value: &dyn Fn(&Built) -> Option<f64>| -> Vec<Option<f64>> {
        let (local, remote) = (column(Policy::LocalOnly, value), column(Policy::RemoteOnly, value));
        let pairs = local.into_iter().zip(remote);
        pairs.map(|(local, remote)| [local, remote].into_iter().flatten().min_by(f64::total_cmp)).collect()
    };
    let wall = |built: &Built| Some(built.wall.as_secs_f64());
    let cpu = |built: &Built| Some(built.cpu_us? as f64 / 1e6);
    let (best, cheapest) = (alone(&wall), alone(&cpu));
    let wasted = |policy: Policy| -> Vec<f64> {
        let used = column(policy, &cpu);
        used.iter()
            .zip(&cheapest)
            .filter_map(|(used, cheapest)| Some(((*used)? - (*cheapest)?).max(0.0)))
            .collect()
    };
    let always = median(&wasted(Policy::Always));
    let lost = |policy: Policy| -> Vec<f64> {
        column(policy, &|built| Some(built.losers_cpu_us? as f64 / 1e6)).into_iter().flatten().collect()
    };
    let always_lost = median(&lost(Policy::Always));
    let mut cases = Vec::new();
    for (policy, builds) in Policy::ALL.into_iter().zip(rounds) {
        let walls = column(policy, &wall);
        let measured: Vec<f64> = walls.iter().flatten().copied().collect();
        let mut case = CaseReport {
            name: policy.name().to_owned(),
            params: params.clone(),
            n: measured.len(),
            error: builds.iter().find_map(|built| built.error.clone()),
            ..CaseReport::default()
        };
        if !measured.is_empty() {
            case.parts.insert("wall_s".to_owned(), thousandths(median(&measured)));
            let ratio = paired_ratio(&walls, &best).map(thousandths);
            case.parts.extend(ratio.map(|ratio| ("ratio_wall".to_owned(), ratio)));
            counted(&mut case, builds);
            let used: Vec<f64> = column(policy, &cpu).into_iter().flatten().collect();
            let waste = wasted(policy);
            if !used.is_empty() && !waste.is_empty() {
                case.parts.insert("cpu_s".to_owned(), thousandths(median(&used)));
                case.parts.insert("excess_cpu_s".to_owned(), thousandths(median(&waste)));
                if always > 0.0 {
                    case.parts.insert("ratio_excess".to_owned(), thousandths(median(&waste) / always));
                }
            }
            let lost = lost(policy);
            if !lost.is_empty() {
                case.parts.insert("losers_cpu_s".to_owned(), thousandths(median(&lost)));
                if always_lost > 0.0 {
                    case.parts.insert("ratio_losers".to_owned(), thousandths(median(&lost) / always_lost));
                }
            }
        }
        cases.push(case);
    }
    cases
}

/// Medians of what the racing daemon counted.
fn counted(case: &mut CaseReport, builds: &[Built]) {
    let good: Vec<&Built> = builds.iter().filter(|built| built.error.is_none()).collect();
    for name in ["raced", "local_wins", "remote_wins", "remote_hits", "wasted_cpu_us"] {
        let values: Vec<f64> =
            good.iter().filter_map(|built| built.counters.get(name)).map(|value| *value as f64).collect();
        if !values.is_empty() {
            let (name, value) = match name {
                "wasted_cpu_us" => ("wasted_cpu_s", thousandths(median(&values) / 1e6)),
                name => (name, median(&values)),
            };
            case.parts.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(wall_ms: u64, cpu_ms: u64, error: Option<&str>) -> Built {
        Built {
            wall: Duration::from_millis(wall_ms),
            cpu_us: Some(cpu_ms * 1000),
            losers_cpu_us: Some(cpu_ms * 100),
            counters: BTreeMap::from([("local_wins".to_owned(), 3)]),
            error: error.map(str::to_owned),
            objects: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_to_the_better_side_of_the_same_round() {
        // Local alone, remote alone, Bazel, ours, always.
        let rounds = vec![
            vec![built(1000, 1000, None), built(3000, 1000, None)],
            vec![built(2000, 900, None), built(1500, 1100, None)],
            vec![built(1000, 1500, None), built(1500, 1400, None)],
            vec![built(500, 1100, None), built(750, 1200, None)],
            vec![built(1000, 1900, None), built(1500, 2000, None)],
        ];
        let cases = reports(&BTreeMap::new(), &rounds);
        assert_eq!(cases.len(), 5);
        assert_eq!(cases[3].parts["ratio_wall"], 0.5);
        assert_eq!(cases[3].parts["excess_cpu_s"], 0.2);
        assert_eq!((cases[4].parts["excess_cpu_s"], cases[3].parts["ratio_excess"]), (1.0, 0.2));
        assert_eq!((cases[3].parts["losers_cpu_s"], cases[3].parts["ratio_losers"]), (0.115, 0.59));
        assert_eq!(cases[0].parts["local_wins"], 3.0);
    }

    #[test]
    fn a_side_that_failed_is_no_measure() {
        let mut rounds: Vec<Vec<Built>> = (0..5).map(|_| vec![built(1000, 1000, None)]).collect();
        rounds[1] = vec![built(10, 10, Some("the remote is gone"))];
        let cases = reports(&BTreeMap::new(), &rounds);
        assert_eq!(cases[1].error.as_deref(), Some("the remote is gone"));
        assert_eq!((cases[1].n, cases[3].parts["ratio_wall"]), (0, 1.0));
    }
}
