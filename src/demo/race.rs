//! The demo's end: the race, with both sides on this machine.
//!
//! ```text
//!   plain build ─► what every object must be
//!   here alone, there alone, racing twice: through a daemon with half of the processors, against one with the others
//! ```
//! The second racing build knows from the first how long things take on either side. Every object of every build is
//! compared by digest, those of the last build byte by byte; one that differs fails the demo.
//!
//! Limits: the network between the sides is a loopback that is delayed by a millisecond; `fulgurite bench race` has
//! others.
use super::error::DemoError;
use crate::bench::BenchError;
use crate::bench::race::site::{Built, Halves, Machine, Way};
use crate::bench::race::units::{Units, Wanted, numbered};
use crate::bench::race::{Condition, Policy};
use crate::bench::scratch::Scratch;
use crate::bench::statistics::thousandths;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// C files that are raced for: the smallest ones, so that the demo ends soon.
const UNITS: usize = 24;
/// Builds, the plain one among them.
pub const STEPS: usize = 5;

/// How the race went.
#[derive(Clone, Debug, Serialize)]
pub struct RaceReport {
    /// C files of each build.
    pub files: usize,
    /// Who has which processors.
    pub sides: String,
    /// The builds.
    pub builds: Vec<RaceRow>,
    /// Whether the objects of all builds are those of the plain one; a demo in which they are not has failed.
    pub identical: bool,
}

/// One build.
#[derive(Clone, Debug, Serialize)]
pub struct RaceRow {
    /// Where actions ran.
    pub name: &'static str,
    /// From the first call to the last answer.
    pub wall_s: f64,
    /// Actions whose result came from the racing side itself.
    pub local_wins: u64,
    /// Actions whose result came from the other one.
    pub remote_wins: u64,
    /// Actions that both began.
    pub raced: u64,
    /// By how much winners were faster, all together, where the loser came to a result as well. One that was stopped
    /// would have taken longer, nobody knows how long.
    pub margin_s: f64,
    /// CPU time of both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// What of it is more than the cheaper of the sides alone took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excess_s: Option<f64>,
}

/// Builds by each side alone, and by both.
///
/// # Errors
/// A daemon that is lost, an action that fails, an object that differs.
pub fn race(scratch: &Scratch, sources: &Path, show: &dyn Fn(&str)) -> Result<RaceReport, DemoError> {
    let (root, objects) = (scratch.directory("race-sources")?, scratch.directory("race-objects")?);
    let states = scratch.directory("race")?;
    show("plain build");
    let units = Units::take(Wanted::Zstd(sources), UNITS, &root)?;
    let plain = units.plain(&root, &objects)?;
    let halves = Halves::of_this_machine();
    let remote = Machine::start(&states.join("remote"), &halves.remote, &[])?;
    let builds = [
        ("here alone", Policy::LocalOnly),
        ("there alone", Policy::RemoteOnly),
        ("racing", Policy::Fulgurite),
        ("racing again", Policy::Fulgurite),
    ];
    let mut built = Vec::new();
    for ((name, policy), number) in builds.into_iter().zip(1..) {
        show(name);
        let way = Way {
            remote: &remote,
            shape: Condition::FastRemote.shape(),
            halves: &halves,
            state: &states.join(policy.name()),
            arguments: policy.arguments(),
            jobs: 2 * (halves.local.len() + halves.remote.len()),
            cut_after: None,
            fetch: true,
        };
        let one = way.build(&units.build(number, &plain)?)?;
        compare(name, &one, &plain, number)?;
        built.push((name, one));
    }
    remote.stop()?;
    let cheapest = built.iter().take(2).filter_map(|(_, one)| one.cpu_us).min();
    Ok(RaceReport {
        files: units.count(),
        sides: halves.described(),
        builds: built.iter().map(|(name, one)| row(name, one, cheapest)).collect(),
        identical: true,
    })
}

/// All objects must be those of the plain build, with the number of this one.
fn compare(name: &'static str, one: &Built, plain: &[Vec<u8>], number: u64) -> Result<(), DemoError> {
    if let Some(why) = &one.error {
        let why = format!("the build `{name}` failed: {why}");
        return Err(DemoError::Bench(BenchError::Server { why }));
    }
    let wanted = plain.iter().map(|object| numbered(object, number));
    let is_same = one.objects.len() == plain.len() && one.objects.iter().zip(wanted).all(|(a, b)| *a == b);
    match is_same {
        true => Ok(()),
        false => {
            let why = format!("an object of the build `{name}` is not that of the plain build");
            Err(DemoError::Bench(BenchError::Server { why }))
        }
    }
}

fn row(name: &'static str, built: &Built, cheapest: Option<u64>) -> RaceRow {
    let counted = |name: &str| built.counters.get(name).copied().unwrap_or(0);
    let seconds = |micros: u64| thousandths(micros as f64 / 1e6);
    RaceRow {
        name,
        wall_s: thousandths(built.wall.as_secs_f64()),
        local_wins: counted("local_wins"),
        remote_wins: counted("remote_wins"),
        raced: counted("raced"),
        margin_s: seconds(counted("margin_us")),
        cpu_s: built.cpu_us.map(seconds),
        excess_s: built.cpu_us.zip(cheapest).map(|(used, least)| seconds(used.saturating_sub(least))),
    }
}

impl fmt::Display for RaceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The race: {} of these files, two daemons on this machine, {}\n",
            self.files, self.sides
        )?;
        writeln!(
            f,
            "{:<14} {:>8} {:>10} {:>10} {:>8} {:>10} {:>8} {:>9}",
            "build", "wall s", "here won", "there won", "raced", "margin s", "CPU s", "excess s"
        )?;
        for row in &self.builds {
            let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
            writeln!(
                f,
                "{:<14} {:>8.2} {:>10} {:>10} {:>8} {:>10.2} {:>8} {:>9}",
                row.name,
                row.wall_s,
                row.local_wins,
                row.remote_wins,
                row.raced,
                row.margin_s,
                seconds(row.cpu_s),
                seconds(row.excess_s)
            )?;
        }
        let same = if self.identical { "the plain build's, byte by byte" } else { "DIFFERENT" };
        writeln!(f, "\nObjects of all these builds: {same}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn an_object_that_differs_is_an_error() {
        let plain = vec![b"fulgurite-race-0000000000000000".to_vec()];
        let objects = vec![b"fulgurite-race-0000000000000009".to_vec()];
        let one = Built { objects, ..Built::default() };
        assert!(compare("racing", &one, &plain, 9).is_ok());
        assert!(compare("racing", &one, &plain, 8).is_err());
        assert!(compare("racing", &Built::default(), &plain, 9).is_err());
        let failed = Built { error: Some("gone".to_owned()), ..one };
        assert!(compare("racing", &failed, &plain, 9).unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn the_table_tells_who_won() {
        let counters = [("local_wins", 14), ("remote_wins", 10), ("raced", 5), ("margin_us", 1_500_000)];
        let counters: BTreeMap<String, u64> =
            counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let built =
            Built { wall: Duration::from_secs(2), cpu_us: Some(5_000_000), counters, ..Built::default() };
        let report = RaceReport {
            files: 24,
            sides: "1 processors here, 1 there".to_owned(),
            builds: vec![row("racing", &built, Some(4_750_000))],
            identical: true,
        };
        let text = report.to_string();
        for part in ["racing", "14", "10", "1.50", "0.25", "byte by byte"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
