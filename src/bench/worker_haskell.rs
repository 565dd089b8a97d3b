//! Haskell modules compiled one by one: each way is a sandbox, or a worker in one.
//!
//! | way | an operation is |
//! |---|---|
//! | `ghc-oneshot` | the floor: `ghc -c` in a sandbox of its own |
//! | `ghc-worker-shared` | a request to a worker that keeps one directory, which is changed for each request |
//! | `ghc-worker-view` | a request to a worker that sees of each request its own inputs |
//!
//! The worker is `tests/fakes/ghc_worker`, built by the GHC that is installed, on its own library. Invariants: all ways
//! compile the same bytes by the same arguments in the same sandboxes; every pass has files of its own, so that every
//! input root is new; of each module all ways give the same interface, byte by byte, or the measurement has failed.
//! (Objects differ in the names of local symbols, as they do from run to run of GHC.)
use super::case::Sample;
use super::command::{PATH, installed};
use super::error::BenchError;
use super::report::{CaseReport, Series};
use super::statistics::{paired_ratio, shuffled, thousandths};
use super::worker_ground::{Input, WorkerGround};
use super::worker_java::mean;
use crate::action::{Command, CommandOutput, Digest, ExecPath, OutputDirectoryFormat, OutputKind};
use crate::exec::executor::Job;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// How to get what is missing.
const REMEDY: &str = "install GHC 9.0 with its own library: apt-get install ghc";
const SOURCE: &str = include_str!("../../tests/fakes/ghc_worker/Main.hs");
const MODULE: &str = include_str!("worker_haskell.hs");
/// The name of the worker in input roots.
const WORKER: &str = "ghc_worker";
/// Where objects and where interfaces go.
const OUTPUTS: [&str; 2] = ["objects", "interfaces"];

/// A way to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ghc,
    Shared,
    View,
}

const WAYS: [Way; 3] = [Way::Ghc, Way::Shared, Way::View];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Ghc => "ghc-oneshot",
            Way::Shared => "ghc-worker-shared",
            Way::View => "ghc-worker-view",
        }
    }

    fn platform(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Way::Ghc => &[],
            Way::Shared => &[("supports-workers", "1"), ("fulgurite-worker-view", "shared")],
            Way::View => &[("supports-workers", "1"), ("fulgurite-worker-view", "own")],
        }
    }
}

/// How much to compile.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Modules of a pass.
    pub files: usize,
    /// Modules that one way compiles before it is another's turn.
    pub portion: usize,
    /// Modules of each portion that are compiled one-shot.
    pub one_shots: usize,
    /// Passes when the workers are warm.
    pub passes: usize,
}

/// Measures: the cases of a first pass with new workers (`cold`), and of passes after it (`warm`).
///
/// # Errors
/// [`BenchError::NoProgram`] where there is no GHC, [`BenchError::Worker`] if its library is another than the worker's
/// sources know, and whatever the floor fails by.
pub fn measure(ground: &WorkerGround, amount: Amount) -> Result<Vec<CaseReport>, BenchError> {
    let shop = Shop::open(ground)?;
    let mut cases = Vec::new();
    let cold = shop.passes(amount, 0..1)?;
    cases.extend(reports(&cold, amount, "cold"));
    let warm = shop.passes(amount, 1..1 + amount.passes)?;
    cases.extend(reports(&warm, amount, "warm"));
    Ok(cases)
}

struct Shop<'a> {
    ground: &'a WorkerGround,
    ghc: PathBuf,
    worker: Vec<u8>,
}

impl<'a> Shop<'a> {
    fn open(ground: &'a WorkerGround) -> Result<Self, BenchError> {
        let missing = || BenchError::NoProgram { name: "ghc".to_owned(), remedy: REMEDY };
        let ghc = installed("ghc").ok_or_else(missing)?;
        let directory = ground.directory("ghc")?;
        let source = directory.join("Main.hs");
        std::fs::write(&source, SOURCE).map_err(BenchError::file("write the Haskell worker"))?;
        let library = call(std::process::Command::new(&ghc).arg("--print-libdir"))?;
        let program = directory.join(WORKER);
        let mut compile = std::process::Command::new(&ghc);
        compile.args(["-v0", "-O1", "-dynamic", "-cpp", "-package", "ghc", "-package", "directory"]);
        compile.args(["-package", "unix", &format!("-DGHC_LIBDIR=\"{}\"", library.trim()), "-outputdir"]);
        call(compile.arg(directory.join("parts")).arg("-o").arg(&program).arg(&source))?;
        let worker = std::fs::read(&program).map_err(BenchError::file("read the Haskell worker"))?;
        Ok(Shop { ground, ghc, worker })
    }

    fn passes(&self, amount: Amount, passes: std::ops::Range<usize>) -> Result<[Series; 3], BenchError> {
        let mut all = [Series::default(), Series::default(), Series::default()];
        let portion = amount.portion.max(1);
        for pass in passes {
            for (turn, start) in (0..amount.files).step_by(portion).enumerate() {
                self.portion(&mut all, amount, (pass, turn), start..amount.files.min(start + portion))?;
            }
        }
        Ok(all)
    }

    /// One portion by all ways, in an order that changes.
    fn portion(
        &self,
        all: &mut [Series; 3],
        amount: Amount,
        (pass, turn): (usize, usize),
        files: std::ops::Range<usize>,
    ) -> Result<(), BenchError> {
        let roots: Vec<(String, Digest)> =
            files.map(|file| self.root(pass, file)).collect::<Result<_, BenchError>>()?;
        let mut interfaces: BTreeMap<&str, Digest> = BTreeMap::new();
        for index in shuffled(WAYS.len(), turn) {
            let (Some(way), Some(series)) = (WAYS.get(index), all.get_mut(index)) else { continue };
            let count = if *way == Way::Ghc { amount.one_shots.clamp(1, roots.len()) } else { roots.len() };
            let measured = if series.error.is_some() {
                Err(String::new())
            } else {
                self.compile(*way, roots.get(..count).unwrap_or(&roots), &mut interfaces)
            };
            match measured {
                Ok(sample) => series.samples.push(Some(sample)),
                Err(why) if *way == Way::Ghc => {
                    return Err(BenchError::Floor { workload: Way::Ghc.name(), why });
                }
                Err(why) => {
                    series.error.get_or_insert(why);
                    series.samples.push(None);
                }
            }
        }
        Ok(())
    }

    /// Puts a module of this pass into the store, with the worker: its name, and the digest of the input root.
    fn root(&self, pass: usize, file: usize) -> Result<(String, Digest), BenchError> {
        let name = format!("Unit{file}");
        let text = MODULE.replace("UnitN", &name).replace("NUMBER", &format!("{}", pass * 1000 + file));
        let arguments = words(&name).join("\n");
        let path = format!("{name}.hs");
        let file = |name, bytes, is_tool| Input { name, bytes, executable: is_tool, is_tool };
        let inputs = [
            file(WORKER, &self.worker, true),
            file("args", arguments.as_bytes(), false),
            file(&path, text.as_bytes(), false),
        ];
        Ok((name, self.ground.root(&inputs)?))
    }

    fn job(&self, way: Way, name: &str, root: Digest) -> Job {
        let arguments = if way == Way::Ghc {
            let ghc = self.ghc.display().to_string();
            std::iter::once(ghc).chain(words(name)).collect()
        } else {
            vec![format!("./{WORKER}"), "@args".to_owned()]
        };
        let output = |path: &str| CommandOutput {
            declared: path.to_owned(),
            path: ExecPath::new(path).ok(),
            kind: OutputKind::Any,
        };
        let command = Command {
            arguments,
            environment: vec![("LC_ALL".to_owned(), "C".to_owned()), ("PATH".to_owned(), PATH.to_owned())],
            outputs: OUTPUTS.iter().map(|path| output(path)).collect(),
            outputs_are_typed: false,
            working_directory: None,
            platform: Vec::new(),
            output_properties: Vec::new(),
            output_directory_format: OutputDirectoryFormat::TreeOnly,
        };
        WorkerGround::job(command, root, way.platform())
    }

    /// Compiles these modules one after the other; the sample is that of one.
    fn compile<'n>(
        &self,
        way: Way,
        roots: &'n [(String, Digest)],
        interfaces: &mut BTreeMap<&'n str, Digest>,
    ) -> Result<Sample, String> {
        let jobs: Vec<(&str, Job)> =
            roots.iter().map(|(name, root)| (name.as_str(), self.job(way, name, *root))).collect();
        let begun = self.ground.cpu.begin();
        let started = Instant::now();
        let mut done = Vec::with_capacity(jobs.len());
        for (name, job) in &jobs {
            done.push((*name, self.ground.run(job, way != Way::Ghc)?));
        }
        let wall = started.elapsed();
        let used = self.ground.cpu.end(&begun, || {});
        for (name, ran) in done {
            let found = ran.result.directories.iter().find(|directory| directory.path == OUTPUTS[1]);
            let tree = found.and_then(|found| found.tree_digest).ok_or(format!("{name} has no interface"))?;
            if *interfaces.entry(name).or_insert(tree) != tree {
                return Err(format!("{name}: its interface differs from that of another way"));
            }
        }
        let count = u32::try_from(jobs.len().max(1)).unwrap_or(u32::MAX);
        Ok(Sample { latency: wall / count, cpu: used.each(u64::from(count)), phases: Vec::new() })
    }
}

fn words(name: &str) -> Vec<String> {
    let [objects, interfaces] = OUTPUTS;
    ["-c", "-odir", objects, "-hidir", interfaces, &format!("{name}.hs")].map(str::to_owned).into()
}

fn call(command: &mut std::process::Command) -> Result<String, BenchError> {
    let failed = |why: String| BenchError::Worker { why: format!("cannot build the Haskell worker: {why}") };
    let output = command.env("LC_ALL", "C").output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.split_whitespace().collect();
    Err(failed(lines.join(" ").chars().take(300).collect()))
}

fn reports(all: &[Series; 3], amount: Amount, state: &str) -> Vec<CaseReport> {
    let params = BTreeMap::from([
        ("workload", "haskell".to_owned()),
        ("files", amount.files.to_string()),
        ("state", state.to_owned()),
    ]);
    let [floor, shared, _] = all;
    let floor_mean = mean(&floor.samples);
    let micros = |series: &Series| -> Vec<Option<f64>> {
        let micros = |sample: &Sample| sample.latency.as_nanos() as f64 / 1000.0;
        series.samples.iter().map(|sample| sample.as_ref().map(micros)).collect()
    };
    let report = |(way, series): (&Way, &Series)| {
        let mut report = series.report(way.name(), params.clone(), floor);
        let Some(mean) = mean(&series.samples).filter(|_| report.error.is_none()) else { return report };
        let mut part = |name: &str, value: f64| report.parts.insert(name.to_owned(), thousandths(value));
        part("mean_us", mean.as_secs_f64() * 1e6);
        part("per_second", 1.0 / mean.as_secs_f64());
        if let Some(floor) = floor_mean.filter(|_| *way != Way::Ghc) {
            part("times_ghc_oneshot", floor.as_secs_f64() / mean.as_secs_f64());
        }
        if *way == Way::View
            && shared.error.is_none()
            && let Some(ratio) = paired_ratio(&micros(series), &micros(shared))
        {
            part("ratio_to_shared", ratio);
        }
        report
    };
    WAYS.iter().zip(all).map(report).collect()
}
