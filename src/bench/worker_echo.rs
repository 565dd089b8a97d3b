//! Requests that ask for nothing: what the way to a worker and back costs.
//!
//! | case | an operation is |
//! |---|---|
//! | `pipe-floor` | this thread writes the same request to the same program, bare, and reads the answer |
//! | `echo-shared` | an action, as the daemon gets it from its queue, by a worker that keeps one directory |
//! | `echo-view` | the same by a worker that sees of each request its own inputs; its input root is known |
//! | `echo-view-new` | the same with an input root of its own for each action |
//!
//! The worker is a C program that is compiled for this.
use super::case::Sample;
use super::command::find_program;
use super::cpu::Reading;
use super::cpu::process_clock;
use super::error::BenchError;
use super::statistics::median;
use super::worker_ground::{Input, WorkerGround};
use crate::action::{Command as Work, Digest, OutputDirectoryFormat};
use crate::exec::executor::Job;
use crate::uring::Framing;
use crate::worker::bazel_proto::{self, ProtoFraming};
use crate::worker::wire::{WorkInput, WorkRequest};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The worker.
const SOURCE: &str = include_str!("echo.c");
/// Its name in input roots.
const PROGRAM: &str = "echo_worker";
/// What is echoed.
const TEXT: &str = "what is asked is answered";
/// Other files of an input root.
const FILES: usize = 3;
/// Requests to each worker before those that count.
const BEFORE: usize = 20;

/// The cases, the floor first.
pub const CASES: [&str; 4] = ["pipe-floor", "echo-shared", "echo-view", "echo-view-new"];

/// One way to ask.
pub enum Echo<'a> {
    /// The floor.
    Bare(Bare),
    /// An action.
    Action {
        /// Where it runs.
        ground: &'a WorkerGround,
        /// The worker's program.
        program: &'a [u8],
        /// What the worker is asked for by.
        platform: &'static [(&'static str, &'static str)],
        /// Whether each has an input root of its own.
        is_new: bool,
        /// The number of the next input root.
        next: usize,
    },
}

/// The worker as a child, and its pipes.
pub struct Bare {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
    message: Vec<u8>,
}

/// Compiles the worker in `directory`.
///
/// # Errors
/// [`BenchError::NoProgram`] without a C compiler.
pub fn compile(directory: &Path) -> Result<Vec<u8>, BenchError> {
    let compiler = find_program("cc", "install a C compiler: apt-get install gcc libc6-dev")?;
    let (source, program) = (directory.join("echo.c"), directory.join(PROGRAM));
    std::fs::write(&source, SOURCE).map_err(BenchError::file("write the echo worker"))?;
    let status = Command::new(compiler).args(["-O2", "-o"]).args([&program, &source]).status();
    let status = status.map_err(BenchError::file("compile the echo worker"))?;
    if !status.success() {
        return Err(BenchError::Worker { why: format!("the echo worker does not compile: {status}") });
    }
    std::fs::read(&program).map_err(BenchError::file("read the echo worker"))
}

impl<'a> Echo<'a> {
    /// The case of this name.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn new(
        name: &str,
        ground: &'a WorkerGround,
        program: &'a [u8],
        directory: &Path,
    ) -> Result<Self, BenchError> {
        let platform: &[_] = match name {
            "pipe-floor" => return Bare::start(&directory.join(PROGRAM)).map(Echo::Bare),
            "echo-shared" => &[("supports-workers", "1"), ("fulgurite-worker-view", "shared")],
            _ => &[("supports-workers", "1"), ("fulgurite-worker-view", "own")],
        };
        Ok(Echo::Action { ground, program, platform, is_new: name == "echo-view-new", next: 0 })
    }

    /// One request after the other; the median counts.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub fn block(&mut self, requests: usize) -> Result<Sample, String> {
        match self {
            Echo::Bare(bare) => bare.block(requests),
            Echo::Action { ground, program, platform, is_new, next } => {
                let mut jobs = Vec::new();
                for _ in 0..requests {
                    *next += usize::from(*is_new);
                    let root = root(ground, program, *next).map_err(|error| error.to_string())?;
                    jobs.push(job(root, platform));
                }
                let begun = ground.cpu.begin();
                let times = ask(ground, &jobs)?;
                let used = ground.cpu.end(&begun, || {});
                Ok(sample(&times, used.each(requests as u64)))
            }
        }
    }

    /// Starts its worker.
    ///
    /// # Errors
    /// As [`Echo::block`].
    pub fn warm_up(&mut self) -> Result<(), String> {
        self.block(BEFORE).map(drop)
    }
}

fn root(ground: &WorkerGround, program: &[u8], number: usize) -> Result<Digest, BenchError> {
    let names: Vec<String> = (0..FILES).map(|index| format!("input-{index}")).collect();
    let content = format!("root {number}\n");
    let file = |name, bytes| Input { name, bytes, executable: false, is_tool: false };
    let mut inputs = vec![
        Input { name: PROGRAM, bytes: program, executable: true, is_tool: true },
        file("args", TEXT.as_bytes()),
    ];
    inputs.extend(names.iter().map(|name| file(name, content.as_bytes())));
    ground.root(&inputs)
}

fn job(root: Digest, platform: &[(&str, &str)]) -> Job {
    let command = Work {
        arguments: vec![format!("./{PROGRAM}"), "@args".to_owned()],
        environment: vec![("PATH".to_owned(), super::command::PATH.to_owned())],
        outputs: Vec::new(),
        outputs_are_typed: false,
        working_directory: None,
        platform: Vec::new(),
        output_properties: Vec::new(),
        output_directory_format: OutputDirectoryFormat::TreeOnly,
    };
    WorkerGround::job(command, root, platform)
}

fn ask(ground: &WorkerGround, jobs: &[Job]) -> Result<Vec<f64>, String> {
    let mut times = Vec::with_capacity(jobs.len());
    for job in jobs {
        let ran = ground.run(job, true)?;
        times.push(ran.latency.as_nanos() as f64);
        let said = ran.result.stderr.map(|digest| ground.text(&digest)).unwrap_or_default();
        if said != TEXT {
            return Err(format!("the worker answered {said:?}"));
        }
    }
    Ok(times)
}

fn sample(times: &[f64], cpu: Reading) -> Sample {
    Sample { latency: Duration::from_nanos(median(times) as u64), cpu, phases: Vec::new() }
}

impl Bare {
    fn start(program: &Path) -> Result<Self, BenchError> {
        let mut command = Command::new(program);
        let started = command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(BenchError::file("start the echo worker"))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(BenchError::Worker { why: "the echo worker has no pipes".to_owned() });
        };
        // What our workers get.
        let input = |name: String| WorkInput { path: name, digest: "0".repeat(64) };
        let names = (0..FILES).map(|index| format!("input-{index}"));
        let request = WorkRequest {
            arguments: vec![TEXT.to_owned()],
            inputs: names.chain(["args", PROGRAM].map(str::to_owned)).map(input).collect(),
            ..WorkRequest::default()
        };
        Ok(Bare { child, requests, answers, message: bazel_proto::encode(&request) })
    }

    fn block(&mut self, requests: usize) -> Result<Sample, String> {
        let clocks = |child: u32| {
            let own = process_clock(std::process::id().cast_signed()).unwrap_or(0);
            (own, process_clock(child.cast_signed()).unwrap_or(0))
        };
        let before = clocks(self.child.id());
        let mut times = Vec::with_capacity(requests);
        for _ in 0..requests {
            let started = Instant::now();
            self.exchange().map_err(|error| error.to_string())?;
            times.push(started.elapsed().as_nanos() as f64);
        }
        let after = clocks(self.child.id());
        let used = Reading {
            daemon_ns: after.0.saturating_sub(before.0),
            children_ns: after.1.saturating_sub(before.1),
            ..Reading::default()
        };
        Ok(sample(&times, used.each(requests as u64)))
    }

    fn exchange(&mut self) -> std::io::Result<()> {
        self.requests.write_all(&self.message)?;
        let (mut framing, mut messages) = (ProtoFraming::new(), Vec::new());
        let mut buffer = [0; 4096];
        while messages.is_empty() {
            let length = self.answers.read(&mut buffer)?;
            let bytes = buffer.get(..length).unwrap_or_default();
            if bytes.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            framing.feed(bytes, &mut messages).map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
