//! Java files compiled one by one: each way is a sandbox, or a worker in one.
//!
//! | way | an operation is |
//! |---|---|
//! | `javac-oneshot` | the floor: `javac @args` in a sandbox of its own |
//! | `java-oneshot` | `java -jar java_worker.jar @args` in one, with the worker's flags |
//! | `javac-worker-shared` | a request to a worker that keeps one directory, which is changed for each request |
//! | `javac-worker-view` | a request to a worker that sees of each request its own inputs |
//! | `javac-worker-multiplex` | requests to one worker, as many at a time as there are cores, a directory each |
//!
//! Invariants: all ways compile the same bytes by the same arguments in the same sandboxes; every generation of the
//! files differs from all others, so that every input root is new; of each file all ways give the same classes, byte by
//! byte, or the measurement has failed.
use super::case::Sample;
use super::error::BenchError;
use super::worker_ground::{Input, WorkerGround};
use crate::action::{Command, CommandOutput, Digest, ExecPath, OutputDirectoryFormat, OutputKind};
use crate::demo::java_units::{JavaUnit, java_units};
use crate::demo::java_worker::{JAVA_FLAGS, Jdk};
use crate::exec::executor::Job;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The name of the worker's archive in input roots.
const WORKER: &str = "java_worker.jar";
/// Where classes go.
const OUT: &str = "out";

/// A way to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// `javac`.
    Javac,
    /// The worker's program, once.
    Java,
    /// A worker with one directory.
    Shared,
    /// A worker with a view for each request.
    View,
    /// A worker with several requests at a time.
    Multiplex,
}

impl Way {
    /// All of them, the floor first.
    pub const ALL: [Way; 5] = [Way::Javac, Way::Java, Way::Shared, Way::View, Way::Multiplex];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Way::Javac => "javac-oneshot",
            Way::Java => "java-oneshot",
            Way::Shared => "javac-worker-shared",
            Way::View => "javac-worker-view",
            Way::Multiplex => "javac-worker-multiplex",
        }
    }

    /// Whether each action has a process of its own.
    #[must_use]
    pub fn is_one_shot(self) -> bool {
        matches!(self, Way::Javac | Way::Java)
    }

    fn platform(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Way::Javac | Way::Java => &[],
            Way::Shared => &[("supports-workers", "1"), ("fulgurite-worker-view", "shared")],
            Way::View => &[("supports-workers", "1"), ("fulgurite-worker-view", "own")],
            Way::Multiplex => &[("supports-multiplex-workers", "1"), ("supports-multiplex-sandboxing", "1")],
        }
    }
}

/// The files, and what came of them.
pub struct JavaShop<'a> {
    ground: &'a WorkerGround,
    jdk: Jdk,
    units: Vec<JavaUnit>,
    /// The worker's archive, outside.
    pub archive: PathBuf,
    worker: Vec<u8>,
    /// The classes of each file of each generation, by the first way that compiled it.
    classes: Mutex<BTreeMap<(usize, usize), Digest>>,
    compared: AtomicUsize,
}

/// Files of one generation, ready to be compiled.
pub struct Generation {
    number: usize,
    roots: Vec<(Digest, String)>,
}

impl<'a> JavaShop<'a> {
    /// Generates `count` files, and builds the worker.
    ///
    /// # Errors
    /// [`BenchError`]: no JDK, or what could not be built.
    pub fn open(ground: &'a WorkerGround, count: usize) -> Result<Self, BenchError> {
        let jdk = Jdk::find()?;
        let failed = |why: &dyn std::fmt::Display| BenchError::Worker { why: why.to_string() };
        let archive = jdk.build_worker(&ground.directory("java")?).map_err(|error| failed(&error))?;
        let worker = std::fs::read(&archive).map_err(BenchError::file("read the Java worker"))?;
        let (classes, compared) = (Mutex::default(), AtomicUsize::new(0));
        Ok(JavaShop { ground, jdk, units: java_units(count), archive, worker, classes, compared })
    }

    /// How many files there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.units.len()
    }

    /// How often a result was compared with that of another way.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.compared.load(Ordering::Relaxed)
    }

    /// Writes the files into a new directory, for a peer.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn write_units(&self) -> Result<PathBuf, BenchError> {
        let directory = self.ground.directory("units")?;
        for unit in &self.units {
            unit.write(&directory).map_err(|error| BenchError::Worker { why: error.to_string() })?;
        }
        Ok(directory)
    }

    /// Puts a generation of all files into the store: what a client uploads before it asks.
    ///
    /// # Errors
    /// [`BenchError::Cas`].
    pub fn generation(&self, number: usize) -> Result<Generation, BenchError> {
        let mut roots = Vec::new();
        for unit in &self.units {
            let name = unit.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = format!("{}// Generation {number}.\n", unit.text);
            let arguments = format!("-encoding\nUTF-8\n-d\n{OUT}\n{name}\n");
            let file = |name, bytes, is_tool| Input { name, bytes, executable: false, is_tool };
            let root = self.ground.root(&[
                file(WORKER, &self.worker, true),
                file("args", arguments.as_bytes(), false),
                file(&name, text.as_bytes(), false),
            ])?;
            roots.push((root, name));
        }
        Ok(Generation { number, roots })
    }

    fn job(&self, way: Way, root: Digest) -> Job {
        let mut arguments = match way {
            Way::Javac => vec![self.jdk.javac.display().to_string()],
            _ => vec![self.jdk.java.display().to_string()],
        };
        if way != Way::Javac {
            arguments.extend(JAVA_FLAGS.iter().chain(&["-jar", WORKER]).map(|word| (*word).to_owned()));
        }
        arguments.push("@args".to_owned());
        let command = Command {
            arguments,
            environment: vec![
                ("LC_ALL".to_owned(), "C".to_owned()),
                ("PATH".to_owned(), super::command::PATH.to_owned()),
            ],
            outputs: vec![CommandOutput {
                declared: OUT.to_owned(),
                path: ExecPath::new(OUT).ok(),
                kind: OutputKind::Any,
            }],
            outputs_are_typed: false,
            working_directory: None,
            platform: Vec::new(),
            output_properties: Vec::new(),
            output_directory_format: OutputDirectoryFormat::TreeOnly,
        };
        WorkerGround::job(command, root, way.platform())
    }

    /// Compiles these files, one after the other; the multiplex way as many at a time as there are cores. The sample is
    /// that of one file: the time from beginning to end, and the CPU time, divided by the number of files.
    ///
    /// # Errors
    /// What the first that failed said, or that its classes differ.
    pub fn compile(
        &self,
        way: Way,
        generation: &Generation,
        files: std::ops::Range<usize>,
    ) -> Result<Sample, String> {
        let jobs: Vec<(usize, Job)> =
            files.filter_map(|index| Some((index, self.job(way, generation.roots.get(index)?.0)))).collect();
        let lanes = if way == Way::Multiplex { cores() } else { 1 };
        let begun = self.ground.cpu.begin();
        let started = Instant::now();
        let done = self.lanes(way, &jobs, lanes);
        let wall = started.elapsed();
        let used = self.ground.cpu.end(&begun, || {});
        for (index, classes) in done? {
            let name = generation.roots.get(index).map_or("", |(_, name)| name.as_str());
            self.check((generation.number, index), classes).map_err(|why| format!("{name}: {why}"))?;
        }
        let count = u32::try_from(jobs.len().max(1)).unwrap_or(u32::MAX);
        Ok(Sample { latency: wall / count, cpu: used.each(u64::from(count)), phases: Vec::new() })
    }

    fn lanes(&self, way: Way, jobs: &[(usize, Job)], lanes: usize) -> Result<Vec<(usize, Digest)>, String> {
        let next = AtomicUsize::new(0);
        let lane = || -> Result<Vec<(usize, Digest)>, String> {
            let mut done = Vec::new();
            while let Some((index, job)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let ran = self.ground.run(job, !way.is_one_shot()).inspect_err(|_| {
                    next.store(jobs.len(), Ordering::Relaxed);
                })?;
                let tree = ran.result.directories.first().and_then(|directory| directory.tree_digest);
                done.push((*index, tree.ok_or("there are no classes")?));
            }
            Ok(done)
        };
        if lanes == 1 {
            return lane();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))?);
            }
            Ok(all)
        })
    }

    fn check(&self, file: (usize, usize), classes: Digest) -> Result<(), String> {
        let mut known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        match known.insert(file, classes) {
            None => Ok(()),
            Some(first) if first == classes => {
                self.compared.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Some(_) => Err("its classes differ from those that another way gave".to_owned()),
        }
    }
}

/// Requests that the multiplex worker has at a time.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

/// The mean of what was measured: of a whole pass over the files, the start of a worker included.
#[must_use]
pub fn mean(samples: &[Option<Sample>]) -> Option<Duration> {
    let measured: Vec<Duration> = samples.iter().flatten().map(|sample| sample.latency).collect();
    let count = u32::try_from(measured.len()).ok().filter(|count| *count > 0)?;
    Some(measured.iter().sum::<Duration>() / count)
}
