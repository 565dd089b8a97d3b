//! What a measurement found: as JSON, and as a table.
use super::case::Sample;
use super::statistics::{median, paired_ratio, percentile, tenths, thousandths};
use fulgurite_sandbox::cgroup::Layout;
use fulgurite_sandbox::runtime::Runtime;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The result of one benchmark. Keys and names are stable: DESIGN section 16.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which benchmark.
    pub bench: &'static str,
    /// Where it ran.
    pub host: HostReport,
    /// What it measured; the floor first.
    pub cases: Vec<CaseReport>,
}

/// Where a benchmark ran.
#[derive(Clone, Debug, Serialize)]
pub struct HostReport {
    /// `uname -r`.
    pub kernel: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Which cgroup versions are in use.
    pub cgroup: &'static str,
    /// Where layers and other files were written.
    pub filesystem: String,
    /// Runnable processes in the last minute before it began (the first number of /proc/loadavg).
    pub load: f64,
}

impl HostReport {
    /// Describes this host.
    #[must_use]
    pub fn now(runtime: &Runtime, filesystem: String) -> Self {
        let features = runtime.features();
        let mut report = HostReport::of(runtime.cgroup_host().layout, filesystem);
        if !features.cgroup_v2 && !features.shares_memory_cgroup {
            report.cgroup = "none";
        }
        report
    }

    /// Describes this host, where the sandboxes are another process's.
    #[must_use]
    pub fn of(layout: Layout, filesystem: String) -> Self {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        let cgroup = match layout {
            Layout::V2 => "v2",
            Layout::Hybrid => "hybrid",
            Layout::V1 => "v1",
            Layout::None => "none",
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        HostReport { kernel: kernel_release(), cores, cgroup, filesystem, load }
    }
}

/// `uname -r`.
fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// What one case gave.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// What was run; cases with the same parameters are compared.
    pub params: BTreeMap<&'static str, String>,
    /// Measured runs.
    pub n: usize,
    /// Median latency, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// 95 of 100 runs took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_us: Option<f64>,
    /// 99 of 100 runs took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    /// Median CPU time of the whole tree, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// Latency as a multiple of the floor's, paired within a round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_p50: Option<f64>,
    /// CPU time as a multiple of the floor's, paired within a round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_cpu: Option<f64>,
    /// The limits that held for the action; only where a sandbox of ours ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<String>,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Medians of phases (`PHASE_p50_us`) and of who used the CPU time (`cpu_WHO_us`).
    #[serde(flatten)]
    pub parts: BTreeMap<String, f64>,
}

/// The samples of one case; those of the same round stand at the same place as the floor's.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// One for each round; `None` where it failed.
    pub samples: Vec<Option<Sample>>,
    /// The first failure.
    pub error: Option<String>,
    /// The limits that held.
    pub limits: Option<String>,
}

impl Series {
    fn column(&self, value: impl Fn(&Sample) -> f64) -> Vec<Option<f64>> {
        self.samples.iter().map(|sample| sample.as_ref().map(&value)).collect()
    }

    /// Sums it up against the floor of the same parameters.
    #[must_use]
    pub fn report(&self, name: &str, params: BTreeMap<&'static str, String>, floor: &Series) -> CaseReport {
        let latency = |sample: &Sample| sample.latency.as_nanos() as f64 / 1000.0;
        let cpu = |sample: &Sample| sample.cpu.total_ns() as f64 / 1000.0;
        let (latencies, cpus) = (self.column(latency), self.column(cpu));
        let measured: Vec<f64> = latencies.iter().flatten().copied().collect();
        let used: Vec<f64> = cpus.iter().flatten().copied().collect();
        let name = name.to_owned();
        if measured.is_empty() || self.error.is_some() {
            let error = self.error.clone().or_else(|| Some("no round was measured".to_owned()));
            return CaseReport { name, params, error, ..CaseReport::default() };
        }
        CaseReport {
            name,
            params,
            n: measured.len(),
            p50_us: Some(tenths(median(&measured))),
            p95_us: Some(tenths(percentile(&measured, 95))),
            p99_us: Some(tenths(percentile(&measured, 99))),
            cpu_us: Some(tenths(median(&used))),
            ratio_p50: paired_ratio(&latencies, &floor.column(latency)).map(thousandths),
            ratio_cpu: paired_ratio(&cpus, &floor.column(cpu)).map(thousandths),
            limits: self.limits.clone(),
            error: None,
            parts: self.parts(),
        }
    }

    fn parts(&self) -> BTreeMap<String, f64> {
        let mut columns: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for sample in self.samples.iter().flatten() {
            if sample.phases.is_empty() {
                continue;
            }
            for (phase, duration) in &sample.phases {
                let micros = duration.as_nanos() as f64 / 1000.0;
                columns.entry(format!("{phase}_p50_us")).or_default().push(micros);
            }
            let cpu = &sample.cpu;
            for (who, nanos) in
                [("daemon", cpu.daemon_ns), ("zygote", cpu.zygote_ns), ("sandbox", cpu.sandbox_ns)]
            {
                columns.entry(format!("cpu_{who}_us")).or_default().push(nanos as f64 / 1000.0);
            }
        }
        columns.into_iter().map(|(name, values)| (name, tenths(median(&values)))).collect()
    }
}

/// The order in which phases happen, for people.
const PHASES: [&str; 13] = [
    "create",
    "mount",
    "start",
    "run",
    "quiet",
    "collect",
    "reset",
    "destroy",
    "stage",
    "stage_cpu",
    "open",
    "reopen",
    "remove",
];

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostReport { kernel, cores, cgroup, filesystem, load } = self;
        write!(f, "Linux {kernel}, {cores} cores, cgroup {cgroup}, files on {filesystem}, load {load}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.host)?;
        let mut shown = None;
        for case in &self.cases {
            if shown != Some(&case.params) {
                shown = Some(&case.params);
                let params: Vec<String> =
                    case.params.iter().map(|(key, value)| format!("{key} {value}")).collect();
                writeln!(
                    f,
                    "\n{}; times in microseconds, × the bare run of the same round",
                    params.join(", ")
                )?;
                writeln!(
                    f,
                    "{:<14} {:>5} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7}",
                    "case", "n", "p50", "p95", "p99", "×", "CPU", "×"
                )?;
            }
            case.write_row(f)?;
        }
        self.write_parts(f)
    }
}

impl Report {
    fn write_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_phases = |case: &&CaseReport| {
            case.parts.keys().any(|name| name.ends_with("_p50_us") || name.starts_with("cpu_"))
        };
        for case in self.cases.iter().filter(has_phases) {
            let part = |name: &str| case.parts.get(name).map(|value| format!("{value:.0}"));
            let phases: Vec<String> = PHASES
                .iter()
                .filter_map(|phase| Some(format!("{phase} {}", part(&format!("{phase}_p50_us"))?)))
                .collect();
            let cpu: Vec<String> = ["daemon", "zygote", "sandbox"]
                .iter()
                .filter_map(|who| Some(format!("{who} {}", part(&format!("cpu_{who}_us"))?)))
                .collect();
            let of = ["workload", "files", "state"].iter().filter_map(|key| case.params.get(key));
            let workload = of.map(String::as_str).collect::<Vec<_>>().join(" ");
            let limits = case.limits.as_deref().unwrap_or("none");
            write!(f, "\n{} {workload}: {}", case.name, phases.join(", "))?;
            write!(f, "\n  CPU: {}; limits: {limits}", cpu.join(", "))?;
        }
        if self.cases.iter().any(|case| has_phases(&case)) { writeln!(f) } else { Ok(()) }
    }
}

impl CaseReport {
    fn write_row(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return writeln!(f, "{:<14} failed: {error}", self.name);
        }
        let micros = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let rate = self.parts.get("per_second").map(|rate| {
            let of_floor =
                self.parts.get("ratio_per_second").map(|ratio| format!(", {ratio:.2} of the floor"));
            format!("  {rate:.0}/s{}", of_floor.unwrap_or_default())
        });
        writeln!(
            f,
            "{:<14} {:>5} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7}{}",
            self.name,
            self.n,
            micros(self.p50_us),
            micros(self.p95_us),
            micros(self.p99_us),
            ratio(self.ratio_p50),
            micros(self.cpu_us),
            ratio(self.ratio_cpu),
            rate.unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cpu::Reading;
    use std::time::Duration;

    fn series(latencies: &[u64], phases: &[(&'static str, u64)]) -> Series {
        let sample = |micros: &u64| {
            Some(Sample {
                latency: Duration::from_micros(*micros),
                cpu: Reading { children_ns: micros * 2000, ..Reading::default() },
                phases: phases.iter().map(|(name, us)| (*name, Duration::from_micros(*us))).collect(),
            })
        };
        Series { samples: latencies.iter().map(sample).collect(), ..Series::default() }
    }

    fn report() -> Report {
        let params = BTreeMap::from([("workload", "true".to_owned())]);
        let floor = series(&[100, 200, 300], &[]);
        let warm = series(&[120, 240, 360], &[("reset", 50)]);
        let failed = Series { error: Some("no such thing".to_owned()), ..Series::default() };
        let cases = vec![
            floor.report("spawn", params.clone(), &floor),
            warm.report("warm", params.clone(), &floor),
            failed.report("crun", params, &floor),
        ];
        let host = HostReport {
            kernel: "6.18".to_owned(),
            cores: 2,
            cgroup: "v2",
            filesystem: "tmpfs".to_owned(),
            load: 0.5,
        };
        Report { bench: "sandbox", host, cases }
    }

    #[test]
    fn the_json_has_the_agreed_keys() {
        let value = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&value), ["bench", "cases", "host"]);
        assert_eq!(keys(&value["host"]), ["cgroup", "cores", "filesystem", "kernel", "load"]);
        let (spawn, warm, crun) = (&value["cases"][0], &value["cases"][1], &value["cases"][2]);
        let plain = ["cpu_us", "n", "name", "p50_us", "p95_us", "p99_us", "params", "ratio_cpu", "ratio_p50"];
        let mut found = keys(spawn);
        found.sort();
        let mut plain = plain.map(str::to_owned).to_vec();
        plain.sort();
        assert_eq!(found, plain);
        assert_eq!(
            (&spawn["ratio_p50"], &spawn["p50_us"], &spawn["n"]),
            (&1.0.into(), &200.0.into(), &3.into())
        );
        assert_eq!((&warm["ratio_p50"], &warm["reset_p50_us"]), (&1.2.into(), &50.0.into()));
        assert_eq!(warm["params"]["workload"], "true");
        assert_eq!(keys(crun), ["error", "n", "name", "params"]);
    }

    #[test]
    fn the_table_has_a_row_for_each_case() {
        let text = report().to_string();
        for part in ["spawn ", "1.20", "failed: no such thing", "reset 50", "2 cores"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
