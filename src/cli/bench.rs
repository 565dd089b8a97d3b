//! `fulgurite bench` and `fulgurite demo`: measuring, and showing.
use crate::bench::handoff::{HandoffBench, run as bench_handoff, table};
use crate::bench::sandbox::{SandboxBench, run as bench_sandbox};
use crate::demo::{DemoOptions, run as run_demo};
use crate::failure::{Failure, put};
use clap::{Args, Subcommand, ValueHint};
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};
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
    /// Outputs of 1 KiB to 1 GiB: renamed, reflinked, linked, copied, on filesystems made for it
    Handoff(HandoffBenchArgs),
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
    /// Directory for the images of filesystems; a tmpfs by default
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub layer_dir: Option<PathBuf>,
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
    let runtime = start()?;
    let (measured, json) = match &args.what {
        BenchWhat::Sandbox(args) => {
            let wanted = SandboxBench {
                rounds: args.rounds,
                compile_rounds: args.compile_rounds,
                cases: args.cases.clone(),
                layers: args.layer_dir.clone(),
                progress: !args.json,
            };
            (bench_sandbox(&runtime, &wanted).map(|report| (report.to_string(), report)), args.json)
        }
        BenchWhat::Handoff(args) => {
            let wanted = HandoffBench {
                bytes_max: args.bytes_max,
                directory: args.layer_dir.clone(),
                progress: !args.json,
            };
            (bench_handoff(&runtime, &wanted).map(|report| (table(&report), report)), args.json)
        }
    };
    let stopped = stop(runtime);
    let (text, report) = measured.map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
    if json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::new(error.to_string()))?;
        put(&format!("{text}\n"))?;
    } else {
        put(&text)?;
    }
    stopped.map(|()| 0)
}

/// Runs `fulgurite demo`.
///
/// # Errors
/// No compiler, no sources, or what failed.
pub fn demo(args: &DemoArgs) -> Result<u8, Failure> {
    let mut options = DemoOptions::new(args.sources.clone(), args.out.clone());
    options.jobs = args.jobs.unwrap_or(options.jobs);
    let runtime = start()?;
    let report = run_demo(&runtime, &options).map_err(|error| Failure::new(error.to_string()));
    let stopped = stop(runtime);
    put(&report?.to_string())?;
    stopped.map(|()| 0)
}
