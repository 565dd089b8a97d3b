//! `bench worker`: requests to persistent workers, beside bare pipes and beside compilers that start for each file.
//!
//! ```text
//! echo   rounds:    pipe-floor, echo-shared, echo-view, …: a block of requests each, in an order that changes
//! Java   pass 0     javac-oneshot, java-oneshot, workers: a portion of the files each, in an order that changes   cold
//!        pass 1 …   the same workers, the same files with other contents                                          warm
//! Bazel             the same files by its own sandboxed workers, where it is installed
//! Haskell           the same with GHC, where it is installed
//! ```
//! A round's sample is a median (echo) or a mean (Java: the wall time of a portion by its files). `cold` is the whole
//! first pass of new workers, their start included; one-shot ways compile some files of each portion only. What the
//! ways do is in [`super::worker_echo`],
//! [`super::worker_java`] and [`super::worker_haskell`].
use super::error::BenchError;
use super::progress;
use super::report::{CaseReport, HostReport, Report, Series};
use super::statistics::{median, paired_ratio, shuffled, tenths, thousandths};
use super::worker_echo::{self, CASES, Echo};
use super::worker_ground::WorkerGround;
use super::worker_haskell;
use super::worker_java::{JavaShop, Way, mean};
use super::worker_peer::{self, BazelFigures};
use fulgurite_sandbox::runtime::Runtime;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What to measure.
#[derive(Clone, Debug)]
pub struct WorkerBench {
    /// Echo requests of a block; 0 leaves echo out.
    pub requests: usize,
    /// Blocks of each case.
    pub rounds: usize,
    /// Java files; 0 leaves Java out.
    pub files: usize,
    /// Files of a portion.
    pub portion: usize,
    /// Files of each portion that are compiled one-shot.
    pub one_shots: usize,
    /// Haskell modules; 0 leaves Haskell out.
    pub modules: usize,
    /// Passes over the files when the workers are warm.
    pub passes: usize,
    /// The script that measures Bazel.
    pub bazel_peer: PathBuf,
    /// Where the image of the filesystem lies.
    pub images: PathBuf,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Measures. What is not installed is left out, and said so on standard error.
///
/// # Errors
/// [`BenchError`]: no place for files, or a floor that fails.
pub fn run(runtime: &Arc<Runtime>, bench: &WorkerBench) -> Result<Report, BenchError> {
    let ground = WorkerGround::new(runtime, &bench.images)?;
    let host = HostReport::now(runtime, ground.filesystem());
    let portions = bench.files.div_ceil(bench.portion.max(1));
    let steps = (bench.rounds + 1) * CASES.len() + portions * (bench.passes + 1) * Way::ALL.len();
    let bar = progress::bar(steps, bench.progress);
    let measured = echo(&ground, bench, &bar).and_then(|mut cases| {
        cases.extend(java(&ground, bench, &bar)?);
        cases.extend(haskell(&ground, bench, &bar)?);
        Ok(cases)
    });
    bar.finish_and_clear();
    let closed = ground.close();
    let cases = measured?;
    closed?;
    Ok(Report { bench: "worker", host, cases })
}

/// Says aloud that something is left out.
fn skip(bar: &ProgressBar, what: &str, why: &str) {
    bar.suspend(|| eprintln!("SKIP bench worker: {what}: {why}"));
}

/// One case with what it gave so far.
struct Contender<T> {
    name: &'static str,
    /// `None` as soon as it has failed.
    case: Option<T>,
    series: Series,
}

impl<T> Contender<T> {
    fn new(name: &'static str, case: T) -> Self {
        Contender { name, case: Some(case), series: Series::default() }
    }

    fn take(
        &mut self,
        floor: &'static str,
        measured: Result<super::case::Sample, String>,
        counts: bool,
    ) -> Result<(), BenchError> {
        let sample = match measured {
            Ok(sample) => Some(sample),
            Err(why) if self.name == floor => return Err(BenchError::Floor { workload: floor, why }),
            Err(why) => {
                self.series.error = Some(why);
                self.case = None;
                None
            }
        };
        if counts {
            self.series.samples.push(sample);
        }
        Ok(())
    }
}

fn echo(
    ground: &WorkerGround,
    bench: &WorkerBench,
    bar: &ProgressBar,
) -> Result<Vec<CaseReport>, BenchError> {
    if bench.requests == 0 || bench.rounds == 0 {
        return Ok(Vec::new());
    }
    let floor = CASES[0];
    let directory = ground.directory("echo")?;
    let program = match worker_echo::compile(&directory) {
        Ok(program) => program,
        Err(error @ BenchError::NoProgram { .. }) => {
            skip(bar, "echo", &error.to_string());
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut contenders = Vec::new();
    for name in CASES {
        contenders.push(Contender::new(name, Echo::new(name, ground, &program, &directory)?));
    }
    for round in 0..=bench.rounds {
        for index in shuffled(contenders.len(), round) {
            bar.inc(1);
            let Some(contender) = contenders.get_mut(index) else { continue };
            let Some(case) = &mut contender.case else { continue };
            let measured = if round == 0 {
                case.warm_up().map(|()| Default::default())
            } else {
                case.block(bench.requests)
            };
            contender.take(floor, measured, round > 0)?;
        }
    }
    let params = BTreeMap::from([("workload", "echo".to_owned())]);
    let Some(first) = contenders.first() else { return Ok(Vec::new()) };
    let report = |contender: &Contender<_>| {
        let mut report = contender.series.report(contender.name, params.clone(), &first.series);
        let over: Vec<f64> =
            pairs(&contender.series, &first.series).map(|(own, floor)| own - floor).collect();
        if contender.name != floor && !over.is_empty() {
            report.parts.insert("over_floor_us".to_owned(), tenths(median(&over)));
        }
        report
    };
    Ok(contenders.iter().map(report).collect())
}

/// Latencies of the same rounds, in microseconds.
fn pairs<'a>(own: &'a Series, floor: &'a Series) -> impl Iterator<Item = (f64, f64)> + 'a {
    let both = micros(own).into_iter().zip(micros(floor));
    both.filter_map(|(own, floor)| own.zip(floor))
}

fn micros(series: &Series) -> Vec<Option<f64>> {
    let micros = |sample: &super::case::Sample| sample.latency.as_nanos() as f64 / 1000.0;
    series.samples.iter().map(|sample| sample.as_ref().map(micros)).collect()
}

fn java(
    ground: &WorkerGround,
    bench: &WorkerBench,
    bar: &ProgressBar,
) -> Result<Vec<CaseReport>, BenchError> {
    if bench.files == 0 {
        return Ok(Vec::new());
    }
    let shop = match JavaShop::open(ground, bench.files) {
        Ok(shop) => shop,
        Err(error @ BenchError::NoProgram { .. }) => {
            skip(bar, "Java", &error.to_string());
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut cold: Vec<_> = Way::ALL.map(|way| Contender::new(way.name(), way)).into();
    pass(&shop, bench, &mut cold, 0, bar)?;
    let mut warm: Vec<_> = cold
        .iter()
        .map(|cold| Contender { case: cold.case, ..Contender::new(cold.name, Way::Javac) })
        .collect();
    for number in 1..=bench.passes {
        pass(&shop, bench, &mut warm, number, bar)?;
    }
    let bazel = match worker_peer::bazel(&bench.bazel_peer, &shop) {
        Ok(figures) => Some(figures),
        Err(why) => {
            skip(bar, "Bazel's own workers", &why);
            None
        }
    };
    let mut cases = reports(&cold, bench, "cold", bazel.as_ref());
    cases.extend(reports(&warm, bench, "warm", bazel.as_ref()));
    Ok(cases)
}

fn haskell(
    ground: &WorkerGround,
    bench: &WorkerBench,
    bar: &ProgressBar,
) -> Result<Vec<CaseReport>, BenchError> {
    if bench.modules == 0 {
        return Ok(Vec::new());
    }
    bar.set_message("Haskell");
    let amount = worker_haskell::Amount {
        files: bench.modules,
        portion: bench.portion,
        one_shots: bench.one_shots,
        passes: bench.passes,
    };
    match worker_haskell::measure(ground, amount) {
        // No GHC, or one whose library is another than the worker's sources know.
        Err(error @ (BenchError::NoProgram { .. } | BenchError::Worker { .. })) => {
            skip(bar, "Haskell", &error.to_string());
            Ok(Vec::new())
        }
        measured => measured,
    }
}

/// One pass over all files by all ways, a portion each in turn.
fn pass(
    shop: &JavaShop<'_>,
    bench: &WorkerBench,
    contenders: &mut [Contender<Way>],
    number: usize,
    bar: &ProgressBar,
) -> Result<(), BenchError> {
    let generation = shop.generation(number)?;
    let portion = bench.portion.max(1);
    for (turn, start) in (0..shop.count()).step_by(portion).enumerate() {
        let end = shop.count().min(start + portion);
        for index in shuffled(contenders.len(), turn) {
            bar.inc(1);
            let Some(contender) = contenders.get_mut(index) else { continue };
            let Some(way) = contender.case else {
                contender.series.samples.push(None);
                continue;
            };
            bar.set_message(contender.name);
            let last = if way.is_one_shot() { end.min(start + bench.one_shots.max(1)) } else { end };
            let measured = shop.compile(way, &generation, start..last);
            contender.take(Way::Javac.name(), measured, true)?;
        }
    }
    Ok(())
}

fn reports(
    contenders: &[Contender<Way>],
    bench: &WorkerBench,
    state: &str,
    bazel: Option<&BazelFigures>,
) -> Vec<CaseReport> {
    let params = BTreeMap::from([
        ("workload", "java".to_owned()),
        ("files", bench.files.to_string()),
        ("state", state.to_owned()),
    ]);
    let find = |way: Way| contenders.iter().find(|contender| contender.name == way.name());
    let (Some(floor), Some(shared)) = (find(Way::Javac), find(Way::Shared)) else { return Vec::new() };
    let floor_mean = mean(&floor.series.samples);
    let bazel_ms =
        bazel.map(|bazel| if state == "cold" { bazel.worker_cold_ms } else { bazel.worker_warm_ms });
    let report = |contender: &Contender<Way>| {
        let mut report = contender.series.report(contender.name, params.clone(), &floor.series);
        let Some(mean) = mean(&contender.series.samples).filter(|_| report.error.is_none()) else {
            return report;
        };
        let mut part = |name: &str, value: f64| report.parts.insert(name.to_owned(), thousandths(value));
        part("mean_us", mean.as_secs_f64() * 1e6);
        part("per_second", 1.0 / mean.as_secs_f64());
        if let Some(floor) = floor_mean.filter(|_| contender.name != floor.name) {
            part("times_javac_oneshot", floor.as_secs_f64() / mean.as_secs_f64());
        }
        if let (Some(bazel), false) =
            (bazel_ms, Way::ALL.iter().any(|way| way.is_one_shot() && way.name() == contender.name))
        {
            part("times_bazel_worker", bazel / 1000.0 / mean.as_secs_f64());
        }
        if contender.name == Way::View.name()
            && shared.series.error.is_none()
            && let Some(ratio) = paired_ratio(&micros(&contender.series), &micros(&shared.series))
        {
            part("ratio_to_shared", ratio);
        }
        report
    };
    let mut cases: Vec<CaseReport> = contenders.iter().map(report).collect();
    if let (Some(bazel), Some(worker_ms)) = (bazel, bazel_ms) {
        let floor_us = floor_mean.map(|mean| mean.as_secs_f64() * 1e6);
        for (name, millis) in [("bazel-oneshot", bazel.oneshot_ms_per_compile), ("bazel-worker", worker_ms)] {
            cases.push(peer(name, millis * 1000.0, &params, floor_us));
        }
    }
    cases
}

/// A peer's figure: not paired, as it came after all else.
fn peer(
    name: &str,
    micros: f64,
    params: &BTreeMap<&'static str, String>,
    floor_us: Option<f64>,
) -> CaseReport {
    let mut parts = BTreeMap::from([
        ("mean_us".to_owned(), tenths(micros)),
        ("per_second".to_owned(), thousandths(1e6 / micros)),
    ]);
    if let Some(floor) = floor_us {
        parts.insert("times_javac_oneshot".to_owned(), thousandths(floor / micros));
    }
    CaseReport {
        name: name.to_owned(),
        params: params.clone(),
        n: 1,
        p50_us: Some(tenths(micros)),
        parts,
        ..CaseReport::default()
    }
}

/// The table.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = format!("{}\n", report.host);
    let mut shown = None;
    for case in &report.cases {
        if shown != Some(&case.params) {
            shown = Some(&case.params);
            let params: Vec<String> =
                case.params.iter().map(|(key, value)| format!("{key} {value}")).collect();
            text.push_str(&format!("\n{}; times in microseconds\n", params.join(", ")));
            let head = ["n", "p50", "p95", "mean", "CPU"];
            text.push_str(&format!("{:<24}", "case"));
            head.iter().for_each(|name| text.push_str(&format!(" {name:>10}")));
            text.push('\n');
        }
        text.push_str(&row(case));
    }
    text
}

fn row(case: &CaseReport) -> String {
    if let Some(error) = &case.error {
        return format!("{:<24} failed: {error}\n", case.name);
    }
    let part = |name: &str| case.parts.get(name).copied();
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let values = [case.p50_us, case.p95_us, part("mean_us"), case.cpu_us].map(cell);
    let mut line = format!("{:<24} {:>10}", case.name, case.n);
    values.iter().for_each(|value| line.push_str(&format!(" {value:>10}")));
    let remarks = [
        part("over_floor_us").map(|over| format!("{over:+.1} us to the floor")),
        part("times_javac_oneshot").map(|times| format!("{times:.1} x javac one-shot")),
        part("times_ghc_oneshot").map(|times| format!("{times:.1} x ghc one-shot")),
        part("ratio_to_shared").map(|ratio| format!("{ratio:.3} of shared")),
        part("times_bazel_worker").map(|times| format!("{times:.2} x Bazel's worker")),
    ];
    let remarks: Vec<String> = remarks.into_iter().flatten().collect();
    format!("{line}  {}\n", remarks.join(", ")).replace("  \n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::Sample;
    use std::time::Duration;

    fn contender(way: Way, millis: &[u64]) -> Contender<Way> {
        let mut contender = Contender::new(way.name(), way);
        let sample =
            |millis: &u64| Some(Sample { latency: Duration::from_millis(*millis), ..Sample::default() });
        contender.series.samples = millis.iter().map(sample).collect();
        contender
    }

    #[test]
    fn figures_are_compared_within_their_state() {
        let bench = WorkerBench {
            requests: 0,
            rounds: 0,
            files: 40,
            modules: 0,
            portion: 20,
            one_shots: 1,
            passes: 1,
            bazel_peer: PathBuf::new(),
            images: PathBuf::new(),
            progress: false,
        };
        let bazel =
            BazelFigures { oneshot_ms_per_compile: 600.0, worker_cold_ms: 50.0, worker_warm_ms: 25.0 };
        let all = [
            contender(Way::Javac, &[500, 700]),
            contender(Way::Shared, &[20, 20]),
            contender(Way::View, &[22, 18]),
        ];
        let reports = reports(&all, &bench, "warm", Some(&bazel));
        let part = |at: usize, name: &str| reports[at].parts.get(name).copied();
        assert_eq!(part(1, "times_javac_oneshot"), Some(30.0));
        assert_eq!(part(2, "ratio_to_shared"), Some(1.0));
        assert_eq!(part(2, "times_bazel_worker"), Some(1.25));
        assert_eq!(part(0, "times_bazel_worker"), None);
        assert_eq!((reports.len(), reports[4].name.as_str()), (5, "bazel-worker"));
        let host = HostReport {
            kernel: "6.18".to_owned(),
            cores: 2,
            cgroup: "v2",
            filesystem: "ext4".to_owned(),
            load: 0.0,
        };
        let text = table(&Report { bench: "worker", host, cases: reports });
        for wanted in ["30.0 x javac one-shot", "1.000 of shared", "1.25 x Bazel's worker", "state warm"] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
    }

    #[test]
    fn a_floor_that_fails_ends_it_and_others_are_left_out() {
        let mut floor = contender(Way::Javac, &[]);
        assert!(floor.take(Way::Javac.name(), Err("no".to_owned()), true).is_err());
        let mut other = contender(Way::View, &[]);
        other.take(Way::Javac.name(), Err("no".to_owned()), true).unwrap();
        assert_eq!((other.case, other.series.samples.len()), (None, 1));
    }
}
