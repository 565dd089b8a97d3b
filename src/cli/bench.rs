//! `fulgurite bench` and `fulgurite demo`: measuring, and showing.
use crate::bench::filesystem::FilesystemKind;
use crate::bench::handoff::{HandoffBench, run as bench_handoff, table};
use crate::bench::ipc::{IpcBench, run as bench_ipc, table as ipc_table};
use crate::bench::prepared::RootState;
use crate::bench::race;
use crate::bench::reapi::{Place, ReapiBench, run as bench_reapi};
use crate::bench::sandbox::{SandboxBench, run as bench_sandbox};
use crate::bench::simulate;
use crate::bench::stage::{SIZES, StageBench, run as bench_stage};
use crate::bench::worker::{WorkerBench, run as bench_worker, table as worker_table};
use crate::bench::{BenchError, Report};
use crate::cli::race_args::RaceArgs;
use crate::cli::simulate_args::SimulateArgs;
use crate::demo::java::run as run_java;
use crate::demo::java_units::JAVA_UNITS;
use crate::demo::{DemoError, DemoOptions, run as run_demo};
use crate::failure::{Failure, put, tell};
use clap::{Args, Subcommand, ValueHint};
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// What `bench` takes.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Sandboxes against the bare command and the peers that are installed, interleaved in one run
    Sandbox(SandboxBenchArgs),
    /// Tiny actions through the door of a daemon, against the bare command
    Reapi(ReapiBenchArgs),
    /// Input roots of 10 to 100,000 files: every way to stage them, against farms of links, on new filesystems
    Stage(StageBenchArgs),
    /// Outputs of 1 KiB to 1 GiB: renamed, reflinked, linked, copied, on filesystems made for it
    Handoff(HandoffBenchArgs),
    /// A build, generated or recorded, replayed in virtual time under the policies of several build tools
    Simulate(SimulateArgs),
    /// A real build that races this machine against a second daemon behind a shaped network, beside other policies
    Race(RaceArgs),
    /// Echo requests to 1 to 1,000 workers over io_uring and epoll, beside bare pipes
    Ipc(IpcBenchArgs),
    /// Persistent workers: echo requests beside a bare pipe, Java and Haskell files beside one-shot compilers
    Worker(WorkerBenchArgs),
}

/// What `bench worker` takes.
#[derive(Args, Debug)]
pub struct WorkerBenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Echo requests of a block; 0 leaves echo out
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub requests: usize,
    /// Blocks of each echo case
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub rounds: usize,
    /// Java files; 0 leaves Java out
    #[arg(long, value_name = "COUNT", default_value_t = JAVA_UNITS)]
    pub files: usize,
    /// Files that one way compiles before it is another's turn
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub portion: usize,
    /// Files of each portion that are compiled one-shot
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub one_shots: usize,
    /// Haskell modules; 0 leaves Haskell out
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub modules: usize,
    /// Passes over the files when the workers are warm
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub passes: usize,
    /// The script that measures Bazel's own workers
    #[arg(long, value_name = "FILE", default_value = "tests/workers/bazel-peer.sh", value_hint = ValueHint::FilePath)]
    pub bazel_peer: PathBuf,
    /// Directory for the sparse file that a filesystem is made in
    #[arg(long, value_name = "DIR", default_value = "/dev/shm", value_hint = ValueHint::DirPath)]
    pub image_dir: PathBuf,
}

fn worker(args: &WorkerBenchArgs) -> WorkerBench {
    WorkerBench {
        requests: args.requests,
        rounds: args.rounds,
        files: args.files,
        modules: args.modules,
        portion: args.portion,
        one_shots: args.one_shots,
        passes: args.passes,
        bazel_peer: args.bazel_peer.clone(),
        images: args.image_dir.clone(),
        progress: !args.json,
    }
}

/// What `bench ipc` takes.
#[derive(Args, Debug)]
pub struct IpcBenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Workers that are connected
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    pub workers: Vec<usize>,
    /// Requests of a block
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub requests: usize,
    /// Blocks of each case
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub rounds: usize,
}

/// What `bench reapi` takes.
#[derive(Args, Debug)]
pub struct ReapiBenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Actions in each block
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub actions: usize,
    /// Cache hits in each block
    #[arg(long, value_name = "COUNT", default_value_t = 2000)]
    pub hits: usize,
    /// Blocks of each case
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub rounds: usize,
    /// Requests on their way at a time
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 64])]
    pub concurrency: Vec<usize>,
    /// Input files of an action
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1])]
    pub input_files: Vec<usize>,
    /// Turns of a loop that the shell of each action makes first: what the command itself costs
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub turns: u32,
    /// Also measure one client beside so many others with large input roots
    #[arg(long, value_name = "CLIENTS", default_value_t = 0)]
    pub crowd: usize,
    /// Files of their input roots
    #[arg(long, value_name = "COUNT", default_value_t = 5000)]
    pub crowd_files: usize,
    /// Also run so many actions and show the daemon's memory after each ten thousand
    #[arg(long, value_name = "ACTIONS", default_value_t = 0)]
    pub steady: usize,
    /// Input roots: `new` for each action, or `known`
    #[arg(long = "state", value_name = "LIST", value_delimiter = ',', default_value = "new", value_parser = state)]
    pub states: Vec<RootState>,
    /// Directory for the daemon's state and the floor's files; by default a new filesystem
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
    /// Which new filesystem: ext4, xfs or tmpfs, in a sparse file
    #[arg(long, value_name = "KIND", default_value = "ext4", value_parser = filesystem)]
    pub filesystem: FilesystemKind,
    /// Directory for its sparse file
    #[arg(long, value_name = "DIR", default_value = "/dev/shm", value_hint = ValueHint::DirPath)]
    pub image_dir: PathBuf,
    /// Come through a Unix socket instead of TCP
    #[arg(long)]
    pub unix: bool,
    /// More arguments of `fulgurite serve`
    #[arg(last = true, value_name = "ARGUMENT")]
    pub serve: Vec<OsString>,
}

/// What `bench handoff` takes.
#[derive(Args, Debug)]
pub struct HandoffBenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Leave out larger files
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    pub bytes_max: u64,
    /// Directory for the sparse files of the filesystems
    #[arg(long, value_name = "DIR", default_value = "/dev/shm", value_hint = ValueHint::DirPath)]
    pub image_dir: PathBuf,
}

/// What `bench sandbox` takes.
#[derive(Args, Debug)]
pub struct SandboxBenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Rounds of /bin/true
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub rounds: usize,
    /// Rounds of the small compile
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    pub compile_rounds: usize,
    /// Measure only this case, beside the floor
    #[arg(long = "case", value_name = "NAME")]
    pub cases: Vec<String>,
    /// Directory for layers; a tmpfs by default
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub layer_dir: Option<PathBuf>,
}

/// What `bench stage` takes.
#[derive(Args, Debug)]
pub struct StageBenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Files of a root
    #[arg(long = "files", value_name = "LIST", value_delimiter = ',', default_values_t = SIZES)]
    pub sizes: Vec<usize>,
    /// Rounds of each size; fewer for larger ones by default
    #[arg(long, value_name = "COUNT")]
    pub rounds: Option<usize>,
    /// Filesystems to make and to measure on: ext4, xfs, tmpfs
    #[arg(
        long = "filesystem", value_name = "LIST", value_delimiter = ',',
        default_value = "ext4", value_parser = filesystem
    )]
    pub filesystems: Vec<FilesystemKind>,
    /// Measure only this case, beside the floor
    #[arg(long = "case", value_name = "NAME")]
    pub cases: Vec<String>,
    /// Directory for the sparse files that the filesystems are made in
    #[arg(long, value_name = "DIR", default_value = "/dev/shm", value_hint = ValueHint::DirPath)]
    pub image_dir: PathBuf,
}

fn filesystem(name: &str) -> Result<FilesystemKind, String> {
    let found = FilesystemKind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| "there are ext4, xfs and tmpfs".to_owned())
}

/// What `demo` takes.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Directory of zstd's sources, as the crate zstd-sys ships them; `make demo` finds it
    #[arg(value_hint = ValueHint::DirPath)]
    pub sources: PathBuf,
    /// Actions at a time; as many as cores by default
    #[arg(long, value_name = "COUNT")]
    pub jobs: Option<usize>,
    /// Where the library and the program go
    #[arg(long, value_name = "DIR", default_value = "demo-out", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Java files that are compiled too; 0 leaves Java out
    #[arg(long, value_name = "COUNT", default_value_t = JAVA_UNITS)]
    pub java_files: usize,
}

fn start() -> Result<Arc<Runtime>, Failure> {
    Ok(Arc::new(Runtime::start(&RuntimeOptions::default())?))
}

fn stop(runtime: Arc<Runtime>) -> Result<(), Failure> {
    match Arc::into_inner(runtime) {
        Some(runtime) => Ok(runtime.stop()?),
        None => Ok(()),
    }
}

/// Runs `fulgurite bench`.
///
/// # Errors
/// When a sandbox or the floor cannot be had; a peer that fails is told in the report.
pub fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let (text, report, json) = match &args.what {
        BenchWhat::Sandbox(args) => {
            let wanted = SandboxBench {
                rounds: args.rounds,
                compile_rounds: args.compile_rounds,
                cases: args.cases.clone(),
                layers: args.layer_dir.clone(),
                progress: !args.json,
            };
            shown(in_sandboxes(|runtime| bench_sandbox(runtime, &wanted))?, args.json)
        }
        BenchWhat::Stage(args) => {
            let wanted = StageBench {
                sizes: args.sizes.clone(),
                rounds: args.rounds,
                filesystems: args.filesystems.clone(),
                cases: args.cases.clone(),
                images: args.image_dir.clone(),
                progress: !args.json,
            };
            shown(in_sandboxes(|runtime| bench_stage(runtime, &wanted))?, args.json)
        }
        BenchWhat::Handoff(args) => {
            let wanted = HandoffBench {
                bytes_max: args.bytes_max,
                images: args.image_dir.clone(),
                progress: !args.json,
            };
            let report = in_sandboxes(|runtime| bench_handoff(runtime, &wanted))?;
            (table(&report), report, args.json)
        }
        BenchWhat::Ipc(args) => {
            let wanted = IpcBench {
                workers: args.workers.clone(),
                requests: args.requests,
                rounds: args.rounds,
                progress: !args.json,
            };
            let report = in_sandboxes(|runtime| bench_ipc(runtime, &wanted))?;
            (ipc_table(&report), report, args.json)
        }
        BenchWhat::Worker(args) => {
            let report = in_sandboxes(|runtime| bench_worker(runtime, &worker(args)))?;
            (worker_table(&report), report, args.json)
        }
        BenchWhat::Race(args) => {
            let report = in_sandboxes(|runtime| race::run(runtime, &args.wanted()))?;
            (race::table(&report), report, args.json)
        }
        BenchWhat::Simulate(args) => {
            let report = simulate::run(&args.wanted()).map_err(failed)?;
            (simulate::table(&report), report, args.json)
        }
        // The daemon has sandboxes of its own; what is mounted for it shall be seen by nobody else.
        BenchWhat::Reapi(args) => {
            shown(in_sandboxes(|runtime| bench_reapi(runtime, &reapi(args)))?, args.json)
        }
    };
    if json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::new(error.to_string()))?;
        put(&format!("{text}\n"))?;
    } else {
        put(&text)?;
    }
    Ok(0)
}

fn shown(report: Report, json: bool) -> (String, Report, bool) {
    (report.to_string(), report, json)
}

fn failed(error: BenchError) -> Failure {
    Failure::new(error.to_string()).hint(error.hint())
}

/// For the benchmarks whose sandboxes are this process's own.
fn in_sandboxes(
    measure: impl FnOnce(&Arc<Runtime>) -> Result<Report, BenchError>,
) -> Result<Report, Failure> {
    let runtime = start()?;
    let measured = measure(&runtime).map_err(failed);
    let stopped = stop(runtime);
    let report = measured?;
    stopped.map(|()| report)
}

fn state(word: &str) -> Result<RootState, String> {
    let all = [RootState::New, RootState::Known];
    all.into_iter().find(|state| state.name() == word).ok_or_else(|| "new or known".to_owned())
}

fn reapi(args: &ReapiBenchArgs) -> ReapiBench {
    ReapiBench {
        actions: args.actions,
        hits: args.hits,
        rounds: args.rounds,
        concurrency: args.concurrency.clone(),
        input_files: args.input_files.clone(),
        states: args.states.clone(),
        turns: args.turns,
        crowd: args.crowd,
        crowd_files: args.crowd_files,
        steady: args.steady,
        place: match &args.directory {
            Some(directory) => Place::Directory(directory.clone()),
            None => Place::New { kind: args.filesystem, images: args.image_dir.clone() },
        },
        unix: args.unix,
        serve: args.serve.clone(),
        progress: !args.json,
    }
}

/// Runs `fulgurite demo`.
///
/// # Errors
/// No compiler, no sources, or what failed.
pub fn demo(args: &DemoArgs) -> Result<u8, Failure> {
    let mut options = DemoOptions::new(args.sources.clone(), args.out.clone());
    options.jobs = args.jobs.unwrap_or(options.jobs);
    let runtime = start()?;
    let shown = run_demo(&runtime, &options)
        .map_err(|error| Failure::new(error.to_string()))
        .and_then(|report| put(&report.to_string()))
        .and_then(|()| java(&runtime, args.java_files));
    let stopped = stop(runtime);
    shown?;
    stopped.map(|()| 0)
}

/// The demo's Java part; without a JDK it is left out, loudly.
fn java(runtime: &Arc<Runtime>, files: usize) -> Result<(), Failure> {
    if files == 0 {
        return Ok(());
    }
    match run_java(runtime, files, true) {
        Ok(report) => put(&report.to_string()),
        Err(DemoError::Bench(error @ BenchError::NoProgram { .. })) => {
            let hint = error.hint().unwrap_or_default();
            tell(format!("SKIP the demo's Java part: {error} (hint: {hint})"));
            Ok(())
        }
        Err(error) => Err(Failure::new(error.to_string()).hint(error.hint())),
    }
}
