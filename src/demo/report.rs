//! What the demo found.
use super::Finished;
use super::build::Built;
use super::race::RaceReport;
use super::workshop::Workshop;
use crate::bench::report::HostReport;
use crate::bench::sandboxed::limits_in_words;
use crate::bench::statistics::{median, paired_ratio, tenths, thousandths};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// The result of the demo.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Where it ran.
    pub host: HostReport,
    /// C files that were compiled by each strategy.
    pub files: usize,
    /// Declared inputs of all of them.
    pub inputs: usize,
    /// Actions at a time.
    pub jobs: usize,
    /// The limits of each sandboxed action.
    pub limits: String,
    /// Whether all objects are the same, byte by byte; a demo in which they are not has failed.
    pub identical: bool,
    /// What each strategy cost; the bare one first.
    pub strategies: Vec<StrategyReport>,
    /// The library, and the program that was linked with it.
    pub results: Vec<PathBuf>,
    /// The size of the library.
    pub library_bytes: u64,
    /// What the program said.
    pub said: String,
    /// How the race went.
    pub race: RaceReport,
}

/// What one strategy cost.
#[derive(Clone, Debug, Serialize)]
pub struct StrategyReport {
    /// `bare`, `cold`, `warm` or `bwrap`.
    pub name: &'static str,
    /// Time from beginning to end.
    pub wall_s: f64,
    /// CPU time of everything.
    pub cpu_s: f64,
    /// Median latency of an action.
    pub action_p50_ms: f64,
    /// Median of what an action took longer than the bare run of the same file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead_ms: Option<f64>,
    /// The same as a share of the bare run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead_percent: Option<f64>,
    /// Median time of an action in which its command did not run: staging, mounting, waiting for a sandbox, collecting,
    /// publishing. The one number here that a busy machine hardly disturbs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub around_p50_ms: Option<f64>,
    /// CPU time of an action beyond that of a bare one, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead_cpu_ms: Option<f64>,
    /// Why it could not be measured to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl DemoReport {
    pub(super) fn new(
        host: HostReport,
        workshop: &Workshop,
        inputs: usize,
        built: &[Built],
        finished: Finished,
        race: RaceReport,
    ) -> Self {
        let floor = built.first();
        DemoReport {
            host,
            files: floor.map_or(0, |built| built.took.len()),
            inputs,
            jobs: workshop.jobs,
            limits: limits_in_words(&workshop.limits),
            identical: true,
            strategies: built.iter().map(|built| strategy(built, floor)).collect(),
            results: finished.files,
            library_bytes: finished.library_bytes,
            said: finished.said,
            race,
        }
    }
}

fn millis(built: &Built) -> Vec<Option<f64>> {
    built.took.iter().map(|took| took.map(|took| took.latency.as_secs_f64() * 1000.0)).collect()
}

fn strategy(built: &Built, floor: Option<&Built>) -> StrategyReport {
    let own = millis(built);
    let measured: Vec<f64> = own.iter().flatten().copied().collect();
    let around = built.took.iter().flatten().filter_map(|took| Some(took.around?.as_secs_f64() * 1000.0));
    let around: Vec<f64> = around.collect();
    let cpu_s = |built: &Built| built.cpu.total_ns() as f64 / 1e9;
    let mut report = StrategyReport {
        name: built.strategy.name(),
        wall_s: thousandths(built.wall.as_secs_f64()),
        cpu_s: thousandths(cpu_s(built)),
        action_p50_ms: tenths(median(&measured)),
        overhead_ms: None,
        overhead_percent: None,
        around_p50_ms: (!around.is_empty()).then(|| thousandths(median(&around))),
        overhead_cpu_ms: None,
        error: built.error.clone(),
    };
    if let Some(floor) = floor.filter(|floor| floor.strategy != built.strategy && built.error.is_none()) {
        let floors = millis(floor);
        let pairs = own.iter().zip(&floors).filter_map(|(own, floor)| own.zip(*floor));
        let longer: Vec<f64> = pairs.map(|(own, floor)| own - floor).collect();
        let count = measured.len().max(1) as f64;
        report.overhead_ms = Some(thousandths(median(&longer)));
        report.overhead_percent = paired_ratio(&own, &floors).map(|ratio| tenths((ratio - 1.0) * 100.0));
        report.overhead_cpu_ms = Some(thousandths((cpu_s(built) - cpu_s(floor)) * 1000.0 / count));
    }
    report
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.host)?;
        writeln!(
            f,
            "{} C files of zstd, {} declared inputs, {} at a time; limits of each action: {}\n",
            self.files, self.inputs, self.jobs, self.limits
        )?;
        writeln!(
            f,
            "{:<10} {:>8} {:>8} {:>11}   {:>22} {:>12} {:>17}",
            "strategy", "wall s", "CPU s", "action ms", "overhead per action", "CPU", "around the command"
        )?;
        for strategy in &self.strategies {
            strategy.write_row(f)?;
        }
        let same = if self.identical { "the same, byte by byte" } else { "DIFFERENT" };
        writeln!(f, "\nObjects of all strategies: {same}.")?;
        writeln!(f, "{}", self.said)?;
        let results: Vec<String> = self.results.iter().map(|path| path.display().to_string()).collect();
        writeln!(f, "Built: {} ({} KiB)\n", results.join(", "), self.library_bytes / 1024)?;
        self.race.fmt(f)
    }
}

impl StrategyReport {
    fn write_row(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return writeln!(f, "{:<10} failed: {error}", self.name);
        }
        write!(
            f,
            "{:<10} {:>8.2} {:>8.2} {:>11.1}   ",
            self.name, self.wall_s, self.cpu_s, self.action_p50_ms
        )?;
        match (self.overhead_ms, self.overhead_percent, self.overhead_cpu_ms) {
            (Some(ms), Some(percent), Some(cpu)) => {
                write!(f, "{ms:>+10.2} ms {percent:>+6.1} % {cpu:>+9.2} ms")?
            }
            _ => write!(f, "{:>22} {:>12}", "-", "-")?,
        }
        match self.around_p50_ms {
            Some(ms) => writeln!(f, " {ms:>15.2} ms"),
            None => writeln!(f, " {:>18}", "-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_costs_and_failures() {
        let row = |name, overhead: Option<f64>, error: Option<&str>| StrategyReport {
            name,
            wall_s: 1.5,
            cpu_s: 2.5,
            action_p50_ms: 40.0,
            overhead_ms: overhead,
            overhead_percent: overhead,
            overhead_cpu_ms: overhead,
            around_p50_ms: overhead,
            error: error.map(str::to_owned),
        };
        let host = HostReport {
            kernel: "6.18".to_owned(),
            cores: 2,
            cgroup: "v2",
            filesystem: "tmpfs".to_owned(),
            load: 0.0,
        };
        let report = DemoReport {
            host,
            files: 40,
            inputs: 400,
            jobs: 2,
            limits: "pids 64".to_owned(),
            identical: true,
            strategies: vec![
                row("bare", None, None),
                row("warm", Some(1.25), None),
                row("bwrap", None, Some("no namespaces")),
            ],
            results: vec!["out/libzstd.a".into()],
            library_bytes: 2048,
            said: "zstd 1.5.7".to_owned(),
            race: RaceReport { files: 24, sides: String::new(), builds: Vec::new(), identical: true },
        };
        let text = report.to_string();
        for part in ["+1.25 ms", "+1.2 %", "failed: no namespaces", "the same, byte by byte", "(2 KiB)"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["strategies"][1]["overhead_ms"], 1.25);
        assert!(value["strategies"][0].get("overhead_ms").is_none());
    }
}
