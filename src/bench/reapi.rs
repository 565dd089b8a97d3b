//! `bench reapi`: tiny actions through the daemon's door, beside the same command bare.
//!
//! | case | one operation is |
//! |---|---|
//! | `spawn` | the floor: posix_spawn of `/bin/sh -c 'cat in > out'`, wait |
//! | `sandboxed` | the same in a pool's sandbox, without daemon, wire, store and hash: [`super::reapi_sandboxed`] |
//! | `execute` | upload of a new input, its directory, command and action; Execute, sandboxed; the answer |
//! | `cache-hit` | Execute of an action whose result is cached |
//! | `crowded` | `execute` of one client, beside others whose actions have large new input roots |
//! | `steady` | `execute` at concurrency 8, so many thousand times, with the daemon's memory after each ten thousand |
//!
//! Blocks of each case alternate, so that both sides of a ratio met the same machine. The client runs on the machine's
//! cores too, in this process; CPU time of `execute` is that of the daemon with its sandboxes and actions, without the
//! client. Every answer is checked: the digest of the output is that of the input.
//!
//! Where the floor of `execute` is: at concurrency 8 both cores are busy, so that its share of the bare rate is that of
//! CPU time. `sandboxed` shows the share that sandboxes alone leave, in the same run. Where the bare command takes
//! 1.75 ms an action takes 3.0 ms, and the client 0.3 ms on the same cores: 0.53. Of the 1.25 ms above the bare command
//! two thirds are the kernel's: a process with namespaces of its own, its filter and rules, two cgroups' counters,
//! files and names in the store; with an overlay it was 1.55 ms. What an action costs above its command does not depend
//! on the command: with `--turns` the command costs more, and the share is another. Where it took 1.6 ms bare, the
//! shares of `sandboxed` and `execute` were 0.71 and 0.54, and 0.85 and 0.70 with `--turns 2500`, which made it 3.5 ms.
use super::command::{Bare, Streams, find_program};
use super::crowd::Crowd;
use super::error::BenchError;
use super::filesystem::{Filesystem, FilesystemKind};
use super::prepared::{FUNCTION, Others, Prepared, RootState, script};
use super::progress;
use super::reapi_sandboxed::Sandboxes;
use super::report::{CaseReport, HostReport, Report};
use super::scratch::Scratch;
use super::server::Server;
use super::statistics::{median, paired_ratio, percentile, tenths, thousandths};
use crate::action::Digest;
use crate::remote::{Remote, RemoteError};
use fulgurite_sandbox::cgroup::CgroupHost;
use fulgurite_sandbox::runtime::Runtime;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime as Tokio;
use tokio::task::JoinSet;

/// The longest that one answer may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Actions between two looks at the daemon's memory, and how many are on their way at a time.
const STEADY_ACTIONS: usize = 10_000;
const STEADY_CONCURRENCY: usize = 8;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ReapiBench {
    /// Actions in a block, per concurrency.
    pub actions: usize,
    /// Cache hits in a block.
    pub hits: usize,
    /// Blocks of each case.
    pub rounds: usize,
    /// How many requests are on their way at a time.
    pub concurrency: Vec<usize>,
    /// Input files of an action, one of which it reads.
    pub input_files: Vec<usize>,
    /// Turns of a loop that the shell of each action makes first.
    pub turns: u32,
    /// Whether each action has an input root of its own (`new`), or all have the same one (`known`).
    pub states: Vec<RootState>,
    /// Clients with large new input roots, beside which one with tiny actions is measured; 0: none.
    pub crowd: usize,
    /// Files of their input roots.
    pub crowd_files: usize,
    /// Actions over which the daemon's memory is watched; 0: none.
    pub steady: usize,
    /// Where the daemon's state and the floor's files lie.
    pub place: Place,
    /// Come through a Unix socket instead of TCP.
    pub unix: bool,
    /// More arguments of the daemon.
    pub serve: Vec<OsString>,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Where files lie.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a directory that is there.
    Directory(PathBuf),
    /// On a new filesystem, so that what was deleted elsewhere costs nothing here.
    New {
        /// Which.
        kind: FilesystemKind,
        /// Where its sparse file lies.
        images: PathBuf,
    },
}

/// What one block of operations gave.
#[derive(Debug, Default)]
pub struct Block {
    /// Of each.
    pub latencies_us: Vec<f64>,
    /// Of all, from beginning to end.
    pub wall: Duration,
    /// Of all, where it is counted.
    pub cpu_us: Option<f64>,
}

impl Block {
    fn p50(&self) -> f64 {
        median(&self.latencies_us)
    }

    fn per_second(&self) -> f64 {
        self.latencies_us.len() as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    fn cpu_each_us(&self) -> Option<f64> {
        self.cpu_us.map(|cpu| cpu / self.latencies_us.len().max(1) as f64)
    }
}

/// Measures.
///
/// # Errors
/// [`BenchError`].
pub fn run(runtime: &Arc<Runtime>, bench: &ReapiBench) -> Result<Report, BenchError> {
    let filesystem = match &bench.place {
        Place::Directory(_) => None,
        Place::New { kind, images } => Some(Filesystem::make(*kind, images)?),
    };
    let directory = match (&filesystem, &bench.place) {
        (Some(filesystem), _) => filesystem.path(),
        (None, Place::Directory(directory)) => directory,
        (None, Place::New { images, .. }) => images,
    };
    let scratch = Scratch::new(Some(directory), &[])?;
    let host = HostReport::of(
        CgroupHost::probe().layout,
        filesystem
            .as_ref()
            .map_or_else(|| scratch.filesystem(), |filesystem| filesystem.description().to_owned()),
    );
    let state = scratch.directory("state")?;
    let socket = format!("unix:{}", scratch.path().join("socket").display());
    let listen = if bench.unix { socket.as_str() } else { "127.0.0.1:0" };
    let server = Server::start(&state, listen, &bench.serve)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::file("start the client"))?;
    let remote = tokio.block_on(Remote::connect(server.address(), "", FUNCTION))?;
    let sets = bench.concurrency.len() * bench.input_files.len() * bench.states.len();
    let steps = sets * bench.rounds * 4;
    let sandboxes = Sandboxes::new(runtime, &scratch, &script(bench.turns))?;
    let bar = progress::bar(steps, bench.progress);
    let mut load = Load { bench, server: &server, tokio: &tokio, remote, next: 0, lanes: 0 };
    let mut cases = Vec::new();
    for (files, state) in
        bench.input_files.iter().flat_map(|files| bench.states.iter().map(move |state| (files, state)))
    {
        for concurrency in &bench.concurrency {
            let mut bout = Bout::default();
            for _ in 0..bench.rounds {
                bout.spawn.push(load.bare(&scratch, *concurrency)?);
                bar.inc(1);
                bout.sandboxed.push(sandboxes.block(bench.actions, *concurrency)?);
                bar.inc(1);
                let (block, last) = load.execute(*files, *state, *concurrency)?;
                bout.execute.push(block);
                bar.inc(1);
                bout.hits.push(load.hits(last, *concurrency)?);
                bar.inc(1);
            }
            cases.extend(bout.reports(*concurrency, *files, *state, &server));
        }
    }
    if bench.crowd > 0 {
        cases.extend(load.crowded()?);
    }
    for number in 0..bench.steady.div_ceil(STEADY_ACTIONS) {
        cases.push(load.steady(number)?);
    }
    bar.finish_and_clear();
    drop(load);
    // A connection ends when its runtime does; the daemon waits for those that are open.
    drop(tokio);
    server.stop()?;
    Ok(Report { bench: "reapi", host, cases })
}

/// The blocks of one set of parameters.
#[derive(Debug, Default)]
struct Bout {
    spawn: Vec<Block>,
    sandboxed: Vec<Block>,
    execute: Vec<Block>,
    hits: Vec<Block>,
}

impl Bout {
    fn reports(
        &self,
        concurrency: usize,
        files: usize,
        state: RootState,
        server: &Server,
    ) -> Vec<CaseReport> {
        let params: BTreeMap<&'static str, String> = [
            ("concurrency", concurrency.to_string()),
            ("input_files", files.to_string()),
            ("state", state.name().to_owned()),
        ]
        .into();
        let blocks = [
            ("spawn", &self.spawn),
            ("sandboxed", &self.sandboxed),
            ("execute", &self.execute),
            ("cache-hit", &self.hits),
        ];
        blocks.map(|(name, blocks)| report(name, &params, blocks, &self.spawn, server)).into()
    }
}

fn report(
    name: &str,
    params: &BTreeMap<&'static str, String>,
    blocks: &[Block],
    floor: &[Block],
    server: &Server,
) -> CaseReport {
    let all: Vec<f64> = blocks.iter().flat_map(|block| block.latencies_us.iter().copied()).collect();
    let column = |blocks: &[Block], value: &dyn Fn(&Block) -> Option<f64>| -> Vec<Option<f64>> {
        blocks.iter().map(value).collect()
    };
    let ratio = |value: &dyn Fn(&Block) -> Option<f64>| {
        paired_ratio(&column(blocks, value), &column(floor, value)).map(thousandths)
    };
    let rates: Vec<f64> = blocks.iter().map(Block::per_second).collect();
    let cpus: Vec<f64> = blocks.iter().filter_map(Block::cpu_each_us).collect();
    let mut parts = BTreeMap::from([("per_second".to_owned(), tenths(median(&rates)))]);
    if let Some(ratio) = ratio(&|block| Some(block.per_second())) {
        parts.insert("ratio_per_second".to_owned(), ratio);
    }
    if let (Some(bytes), true) = (server.private_bytes(), !matches!(name, "spawn" | "sandboxed")) {
        parts.insert("server_private_bytes".to_owned(), bytes as f64);
    }
    CaseReport {
        name: name.to_owned(),
        params: params.clone(),
        n: all.len(),
        p50_us: Some(tenths(median(&all))),
        p95_us: Some(tenths(percentile(&all, 95))),
        p99_us: Some(tenths(percentile(&all, 99))),
        cpu_us: (!cpus.is_empty()).then(|| tenths(median(&cpus))),
        ratio_p50: ratio(&|block| Some(block.p50())),
        ratio_cpu: ratio(&Block::cpu_each_us),
        parts,
        ..CaseReport::default()
    }
}

/// Makes the load.
struct Load<'a> {
    bench: &'a ReapiBench,
    server: &'a Server,
    tokio: &'a Tokio,
    remote: Remote,
    /// The number of the next action: all are distinct.
    next: u64,
    /// Directories of bare commands so far.
    lanes: usize,
}

impl Load<'_> {
    /// The floor: as many threads as there are requests on their way.
    fn bare(&mut self, scratch: &Scratch, concurrency: usize) -> Result<Block, BenchError> {
        let (shell, script) = (find_program("sh", "install a shell")?, script(self.bench.turns));
        let mut lanes = Vec::new();
        for lane in 0..concurrency {
            self.lanes += 1;
            let directory = scratch.directory(&format!("bare-{}", self.lanes))?;
            std::fs::write(directory.join("in"), b"0123456789")
                .map_err(BenchError::file("write an input"))?;
            let streams = Streams::new(scratch.path(), &format!("streams-{lane}"))?;
            let arguments = [shell.as_os_str(), "-c".as_ref(), script.as_ref()].map(OsString::from).to_vec();
            lanes.push((Bare { arguments, temporary: directory.clone(), directory }, streams));
        }
        let each = self.bench.actions.div_ceil(concurrency);
        let used = children_cpu_us();
        let begun = Instant::now();
        let results: Vec<Result<Vec<f64>, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = lanes
                .iter()
                .map(|(bare, streams)| scope.spawn(move || (0..each).map(|_| once(bare, streams)).collect()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
                .collect()
        });
        let wall = begun.elapsed();
        let cpu_us = Some(children_cpu_us() - used);
        let mut latencies_us = Vec::new();
        for result in results {
            latencies_us.extend(result.map_err(|why| BenchError::Floor { workload: "cat", why })?);
        }
        Ok(Block { latencies_us, wall, cpu_us })
    }

    /// Distinct actions; also gives the last one, whose result is cached from now on.
    fn execute(
        &mut self,
        files: usize,
        state: RootState,
        concurrency: usize,
    ) -> Result<(Block, Digest), BenchError> {
        self.execute_many(self.bench.actions, files, state, concurrency)
    }

    fn execute_many(
        &mut self,
        actions: usize,
        files: usize,
        state: RootState,
        concurrency: usize,
    ) -> Result<(Block, Digest), BenchError> {
        let first = self.next;
        self.next += actions as u64;
        let others = Others::new(files, &script(self.bench.turns));
        let jobs: Vec<Prepared> =
            (first..self.next).map(|number| Prepared::among(number, &others, state)).collect();
        let last = jobs.last().map_or_else(|| Digest::empty(FUNCTION), |job| job.action);
        let shared = jobs.first().map(|job| job.shared.clone()).unwrap_or_default();
        self.tokio.block_on(self.remote.upload(shared))?;
        let remote = self.remote.clone();
        let block = self.drive(jobs, concurrency, move |job| {
            let remote = remote.clone();
            async move {
                remote.upload(job.blobs).await?;
                check(remote.execute(&job.action, true).await?, Some(&job.output))
            }
        })?;
        Ok((block, last))
    }

    /// Another so many thousand actions, and the daemon's memory after them.
    fn steady(&mut self, number: usize) -> Result<CaseReport, BenchError> {
        let actions = STEADY_ACTIONS.min(self.bench.steady - number * STEADY_ACTIONS);
        let (block, _) = self.execute_many(actions, 1, RootState::New, STEADY_CONCURRENCY)?;
        let done = number * STEADY_ACTIONS + actions;
        let report = report("steady", &[("after", done.to_string())].into(), &[block], &[], self.server);
        if self.bench.progress {
            let bytes = report.parts.get("server_private_bytes").copied().unwrap_or(0.0);
            eprintln!("after {done} actions: {:.1} MiB of private memory", bytes / f64::from(1 << 20));
        }
        Ok(report)
    }

    /// Tiny actions of one client: alone, and beside a crowd.
    fn crowded(&mut self) -> Result<Vec<CaseReport>, BenchError> {
        let (clients, files) = (self.bench.crowd, self.bench.crowd_files);
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..self.bench.rounds {
            alone.push(self.execute(1, RootState::New, 1)?.0);
            let crowd = Crowd::start(self.server.address(), clients, files, self.next)?;
            self.next = crowd.next_number();
            let block = self.execute(1, RootState::New, 1);
            crowd.stop()?;
            beside.push(block?.0);
        }
        let params: BTreeMap<&'static str, String> =
            [("crowd", clients.to_string()), ("crowd_files", files.to_string())].into();
        let blocks = [("execute", &alone), ("crowded", &beside)];
        Ok(blocks.map(|(name, blocks)| report(name, &params, blocks, &alone, self.server)).into())
    }

    fn hits(&self, action: Digest, concurrency: usize) -> Result<Block, BenchError> {
        let remote = self.remote.clone();
        self.drive(vec![(); self.bench.hits], concurrency, move |()| {
            let remote = remote.clone();
            async move { check(remote.execute(&action, false).await?, None) }
        })
    }

    /// Keeps `concurrency` operations on their way until all are done.
    fn drive<T, F>(
        &self,
        jobs: Vec<T>,
        concurrency: usize,
        operation: impl Fn(T) -> F,
    ) -> Result<Block, BenchError>
    where
        F: Future<Output = Result<(), BenchError>> + Send + 'static,
    {
        let used = self.server.cpu_us();
        let begun = Instant::now();
        let latencies_us = self.tokio.block_on(async {
            let mut running = JoinSet::new();
            let mut latencies_us = Vec::with_capacity(jobs.len());
            for job in jobs {
                if running.len() >= concurrency {
                    latencies_us.extend(joined(running.join_next().await)?);
                }
                let operation = operation(job);
                running.spawn(async move {
                    let begun = Instant::now();
                    match tokio::time::timeout(PATIENCE, operation).await {
                        Ok(result) => result.map(|()| begun.elapsed().as_nanos() as f64 / 1000.0),
                        Err(_) => Err(BenchError::Server { why: "an answer did not come".to_owned() }),
                    }
                });
            }
            while let Some(ended) = running.join_next().await {
                latencies_us.extend(joined(Some(ended))?);
            }
            Ok::<_, BenchError>(latencies_us)
        })?;
        let cpu_us = self.server.cpu_us().zip(used).map(|(now, before)| (now - before) as f64);
        Ok(Block { latencies_us, wall: begun.elapsed(), cpu_us })
    }
}

fn joined(
    ended: Option<Result<Result<f64, BenchError>, tokio::task::JoinError>>,
) -> Result<Option<f64>, BenchError> {
    match ended {
        None => Ok(None),
        Some(Ok(result)) => result.map(Some),
        Some(Err(error)) => Err(BenchError::Server { why: error.to_string() }),
    }
}

pub(super) fn check(executed: crate::remote::Executed, output: Option<&Digest>) -> Result<(), BenchError> {
    let bad = |why: String| Err(BenchError::Server { why });
    if executed.code != 0 || executed.exit_code != 0 {
        return bad(format!("code {}, exit {}: {}", executed.code, executed.exit_code, executed.message));
    }
    match (output, executed.files.as_slice()) {
        (None, _) if !executed.cached => bad("a result that must be cached is not".to_owned()),
        (Some(expected), [(_, found)]) if found != expected => bad(format!("{found} instead of {expected}")),
        (_, [_]) => Ok(()),
        (_, files) => bad(format!("{} outputs instead of one", files.len())),
    }
}

fn once(bare: &Bare, streams: &Streams) -> Result<f64, String> {
    let begun = Instant::now();
    let status = bare.run(streams).map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(status.to_string());
    }
    Ok(begun.elapsed().as_nanos() as f64 / 1000.0)
}

fn children_cpu_us() -> f64 {
    let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN) else {
        return 0.0;
    };
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    micros(usage.user_time()) + micros(usage.system_time())
}

impl From<RemoteError> for BenchError {
    fn from(error: RemoteError) -> Self {
        BenchError::Server { why: error.to_string() }
    }
}
