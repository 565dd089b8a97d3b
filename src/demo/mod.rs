//! `fulgurite demo`: zstd's C files, each compiled as one sandboxed action, and what that costs; then Java ([`java`]).
//!
//! ```text
//! units ─ in portions ─►  bare   cold   warm   bwrap      each strategy compiles the whole portion, in parallel;
//!                         bwrap  bare   cold   warm       who begins changes from portion to portion
//!                           ⋮
//! compare objects ─► archive ─► link ─► run               sandboxed as well
//! the race ([`race`])                                     two daemons: here alone, there alone, both
//! ```
//! Invariants: every strategy runs the same command lines over the same files on the same filesystem; all give the same
//! objects, byte by byte, or the demo fails. Wall time is the sum over the portions, so that a slow minute of the
//! machine falls on all strategies alike; the overhead of an action is paired with the bare run of the same file.
//!
//! Everything but the results lies in a scratch place that goes with the process, however that ends.
pub mod build;
pub mod error;
pub mod java;
pub mod java_units;
pub mod java_worker;
pub mod race;
pub mod report;
pub mod units;
pub mod workshop;

pub use build::Built;
pub use error::DemoError;
pub use race::{RaceReport, RaceRow};
pub use report::{DemoReport, StrategyReport};

use crate::action::{ExecPath, InputSpec, Source};
use crate::bench::command::{Streams, find_program};
use crate::bench::cpu::TreeCpu;
use crate::bench::progress;
use crate::bench::report::HostReport;
use fulgurite_sandbox::runtime::Runtime;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use units::{INCLUDE_DIRECTORIES, Sources, Unit};
use workshop::{Desk, Site, Strategy, Task, Workshop};

/// The program that is linked with the library.
const CHECK: &str = include_str!("check.c");

/// What the demo shall do.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The directory that holds `lib/zstd.h`.
    pub sources: PathBuf,
    /// Actions at a time.
    pub jobs: usize,
    /// Where the library and the program go.
    pub out: PathBuf,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

impl DemoOptions {
    /// As many jobs as there are cores, with progress.
    #[must_use]
    pub fn new(sources: PathBuf, out: PathBuf) -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        DemoOptions { sources, jobs, out, progress: true }
    }
}

/// Compiles, compares, links and runs.
///
/// # Errors
/// [`DemoError`]: no compiler, no sources, or an action that fails where it should not.
pub fn run(runtime: &Arc<Runtime>, options: &DemoOptions) -> Result<DemoReport, DemoError> {
    let compiler = find_program("cc", "install a C compiler: apt-get install gcc libc6-dev")?;
    let archiver = find_program("ar", "install binutils: apt-get install binutils")?;
    let sources = Sources::read(&options.sources)?;
    let jobs = options.jobs.max(1);
    let workshop = Workshop::open(runtime, jobs, &[&options.sources, &options.out])?;
    check_out(&options.out)?;
    let demo = Demo { workshop: &workshop, compiler, archiver };
    let report = demo.run(&sources, options);
    let closed = workshop.close();
    let report = report?;
    closed?;
    Ok(report)
}

struct Demo<'a> {
    workshop: &'a Workshop,
    compiler: PathBuf,
    archiver: PathBuf,
}

impl Demo<'_> {
    fn run(&self, sources: &Sources, options: &DemoOptions) -> Result<DemoReport, DemoError> {
        let host = HostReport::now(&self.workshop.runtime, self.workshop.scratch.filesystem());
        let root = self.workshop.scratch.directory("zstd")?;
        sources.write(&root)?;
        let units = sources.units()?;
        let tasks: Vec<Task> = units.iter().map(|unit| self.compile(unit)).collect();
        let bar = progress::bar(tasks.len() * self.workshop.strategies().len(), options.progress);
        let built = build::all(self.workshop, &root, &tasks, &bar);
        bar.finish_and_clear();
        let built = built?;
        build::compare(&built, &tasks)?;
        let library = self.library(&root, &tasks, &built)?;
        let finished = Finished::take(library, &options.out)?;
        let bar = progress::bar(race::STEPS, options.progress);
        let show = |what: &str| {
            bar.set_message(what.to_owned());
            bar.inc(1);
        };
        let race = race::race(&self.workshop.scratch, &options.sources, &show);
        bar.finish_and_clear();
        let race = race?;
        let inputs = units.iter().map(|unit| unit.inputs.len()).sum();
        Ok(DemoReport::new(host, self.workshop, inputs, &built, finished, race))
    }

    fn compile(&self, unit: &Unit) -> Task {
        let mut arguments: Vec<OsString> = vec![self.compiler.clone().into()];
        arguments.extend(["-O1", "-DZSTD_DISABLE_ASM=1", "-DZSTD_LEGACY_SUPPORT=1"].map(OsString::from));
        arguments.extend(INCLUDE_DIRECTORIES.map(|directory| OsString::from(format!("-I{directory}"))));
        arguments.extend(["-c", "-o", Task::OUTPUT].map(OsString::from));
        arguments.push(unit.source.as_os_str().to_owned());
        let title = format!("compiling {}", unit.source.as_path().display());
        Task { title, arguments, inputs: unit.inputs.clone(), output: Some(unit.object.clone()) }
    }

    /// Archives the objects of the warm build, links the check program with them, and runs it.
    fn library(&self, root: &Path, tasks: &[Task], built: &[Built]) -> Result<Library, DemoError> {
        let Some(warm) = built.iter().find(|built| built.strategy == Strategy::Warm) else {
            return Err(DemoError::NoSources {
                path: root.to_path_buf(),
                why: "nothing was built".to_owned(),
            });
        };
        let site = Site { root: warm.site.destination.clone(), destination: warm.site.destination.clone() };
        let check = site.root.join("check.c");
        fs::write(&check, CHECK).map_err(DemoError::file(format!("write {}", check.display())))?;
        let streams = Streams::new(self.workshop.scratch.path(), "library")?;
        let cpu = TreeCpu::new(&self.workshop.runtime);
        let desk = Desk { site: &site, streams: &streams, cpu: &cpu };
        let run = |task: &Task| self.workshop.run(Strategy::Warm, task, desk);

        let objects: Vec<ExecPath> = tasks.iter().filter_map(|task| task.output.clone()).collect();
        let archive = exec_path("libzstd.a")?;
        let mut arguments: Vec<OsString> =
            vec![self.archiver.clone().into(), "rcsD".into(), Task::OUTPUT.into()];
        arguments.extend(objects.iter().map(|object| object.as_os_str().to_owned()));
        let inputs = objects.into_iter().map(same_place).collect();
        run(&Task {
            title: "archiving libzstd.a".to_owned(),
            arguments,
            inputs,
            output: Some(archive.clone()),
        })?;

        let program = exec_path("zstd-check")?;
        let words = ["-O2", "-Iinclude", "-o", Task::OUTPUT, "check.c", "libzstd.a"].map(OsString::from);
        let arguments = [self.compiler.clone().into()].into_iter().chain(words).collect();
        let mut inputs = vec![same_place(exec_path("check.c")?), same_place(archive.clone())];
        for header in ["zstd.h", "zstd_errors.h"] {
            let source = Source::Absolute(root.join("lib").join(header));
            inputs.push(InputSpec { source, dest: exec_path(&format!("include/{header}"))? });
        }
        run(&Task {
            title: "linking zstd-check".to_owned(),
            arguments,
            inputs,
            output: Some(program.clone()),
        })?;

        let inputs = vec![same_place(program.clone())];
        let arguments = vec!["./zstd-check".into()];
        run(&Task { title: "running zstd-check".to_owned(), arguments, inputs, output: None })?;
        let files = [archive, program].map(|path| site.root.join(path.as_path()));
        Ok(Library { files, said: streams.last_words() })
    }
}

/// What was linked, still in the scratch place, and what the program said.
struct Library {
    files: [PathBuf; 2],
    said: String,
}

/// The results, where the user wants them.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The library and the program.
    pub files: Vec<PathBuf>,
    /// The size of the library.
    pub library_bytes: u64,
    /// What the program said.
    pub said: String,
}

impl Finished {
    fn take(library: Library, out: &Path) -> Result<Self, DemoError> {
        make_out(out)?;
        let mut finished = Finished { files: Vec::new(), library_bytes: 0, said: library.said };
        for file in &library.files {
            let target = out.join(file.file_name().unwrap_or_default());
            // A new file, never the old inode: the program may be running.
            match fs::remove_file(&target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DemoError::file(format!("replace {}", target.display()))(error));
                }
                _ => {}
            }
            let bytes = fs::copy(file, &target).map_err(DemoError::file(format!(
                "copy {} to {}",
                file.display(),
                target.display()
            )))?;
            if finished.files.is_empty() {
                finished.library_bytes = bytes;
            }
            finished.files.push(target);
        }
        Ok(finished)
    }
}

fn make_out(out: &Path) -> Result<(), DemoError> {
    fs::create_dir_all(out).map_err(DemoError::file(format!("make the directory {}", out.display())))
}

/// Finds out before all the work whether the results can go there, and leaves nothing.
fn check_out(out: &Path) -> Result<(), DemoError> {
    let is_new = !out.exists();
    make_out(out)?;
    if is_new {
        return fs::remove_dir(out)
            .map_err(DemoError::file(format!("remove the directory {}", out.display())));
    }
    let access = rustix::fs::access(out, rustix::fs::Access::WRITE_OK);
    access.map_err(|errno| DemoError::file(format!("write to {}", out.display()))(errno.into()))
}

fn exec_path(path: &str) -> Result<ExecPath, DemoError> {
    ExecPath::new(path).map_err(|why| DemoError::Name { path: path.into(), why })
}

/// An input that the action sees where it is.
fn same_place(path: ExecPath) -> InputSpec {
    InputSpec { source: Source::Beneath(path.clone()), dest: path }
}
