//! Where the demo's actions run: one action, by any of the strategies.
//!
//! ```text
//! <scratch>/zstd      the sources, for all strategies; what sandboxed actions see of it is what they declare
//! <scratch>/bare …    where each strategy's outputs go
//! <scratch>/layers    private layers of sandboxed actions
//! ```
//! A sandboxed action goes the way of a real one: declared inputs staged, an overlay with a private layer, limits, the
//! run, outputs collected, sealed, and published by rename. Bare runs and bubblewrap get the whole tree to look at and
//! write where they are told: that is all that they have to do.
use super::error::DemoError;
use crate::action::{ExecPath, InputSpec, OutputSpec, Outputs};
use crate::bench::command::{Bare, Streams};
use crate::bench::cpu::TreeCpu;
use crate::bench::peers;
use crate::bench::sandboxed::{limits, variables_inside};
use crate::bench::scratch::{Scratch, open_directory};
use crate::commit::{Durability, Journal, PublishError, PublishOptions, publish_unopposed};
use crate::exec::Strategy as ViewStrategy;
use crate::exec::view::{self, ViewSpec};
use crate::output::{CollectOptions, collect};
use crate::stage::limits::TreeLimits;
use crate::stage::{Layer, Owner, Places};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::Outcome;
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::runtime::{Runtime, SandboxError, Template};
use fulgurite_sandbox::sandbox::{Action, Sandbox};
use fulgurite_sandbox::spec::SandboxSpec;
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No action of the demo takes this long.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How an action is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    /// A child of this process.
    Bare,
    /// A sandbox that is made for it.
    Cold,
    /// A sandbox of the pool.
    Warm,
    /// bubblewrap.
    Bubblewrap,
}

impl Strategy {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Bare => "bare",
            Strategy::Cold => "cold",
            Strategy::Warm => "warm",
            Strategy::Bubblewrap => "bwrap",
        }
    }
}

/// One action: a command that reads files and writes one.
#[derive(Clone, Debug)]
pub struct Task {
    /// For messages.
    pub title: String,
    /// The command; the word [`Task::OUTPUT`] stands for where it writes to.
    pub arguments: Vec<OsString>,
    /// What it reads.
    pub inputs: Vec<InputSpec>,
    /// What it writes, if anything.
    pub output: Option<ExecPath>,
}

impl Task {
    /// Stands for the path of the output in a command line.
    pub const OUTPUT: &str = "{output}";

    /// The command line that writes below `prefix`.
    fn command(&self, prefix: &Path) -> Vec<OsString> {
        let output = self.output.as_ref().map(|output| prefix.join(output.as_path()).into_os_string());
        let word = |word: &OsString| match &output {
            Some(output) if word == Task::OUTPUT => output.clone(),
            _ => word.clone(),
        };
        self.arguments.iter().map(word).collect()
    }
}

/// How long a task took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// From the call until its output was where it belongs.
    pub latency: Duration,
    /// The part in which the command did not run; where somebody says so.
    pub around: Option<Duration>,
}

/// Where inputs come from and outputs go to.
#[derive(Debug)]
pub struct Site {
    /// What inputs are relative to.
    pub root: PathBuf,
    /// What outputs are relative to.
    pub destination: PathBuf,
}

/// What one job works with.
#[derive(Clone, Copy, Debug)]
pub struct Desk<'a> {
    /// Where inputs come from and outputs go to.
    pub site: &'a Site,
    /// Where a task writes what it says.
    pub streams: &'a Streams,
    /// Counts CPU time.
    pub cpu: &'a TreeCpu,
}

/// See the module's documentation.
pub struct Workshop {
    /// The runtime.
    pub runtime: Arc<Runtime>,
    template: Arc<Template>,
    spec: SandboxSpec,
    pool: Pool,
    places: Places,
    variables: Vec<CString>,
    bubblewrap: Option<PathBuf>,
    /// Actions at a time.
    pub jobs: usize,
    /// The limits of sandboxed actions.
    pub limits: Limits,
    /// The scratch place.
    pub scratch: Scratch,
}

impl Workshop {
    /// Opens a workshop with a pool of `jobs` sandboxes, all of them ready.
    ///
    /// # Errors
    /// [`DemoError::Bench`] without a place for files, [`DemoError::Sandbox`] without sandboxes.
    pub fn open(runtime: &Arc<Runtime>, jobs: usize, needed: &[&Path]) -> Result<Self, DemoError> {
        let scratch = Scratch::new(None, needed)?;
        let layers = scratch.directory("layers")?;
        let spec = SandboxSpec::default();
        let template = runtime.template(&spec)?;
        let pool = Pool::new(runtime.clone(), PoolOptions { sandboxes_max: jobs, idle_max: jobs })
            .map_err(DemoError::file("start a thread"))?;
        pool.prepare(&spec, jobs)?;
        let uid = rustix::process::geteuid().as_raw();
        Ok(Workshop {
            template,
            spec,
            pool,
            places: Places { explicit: Some(layers), uid, ..Places::default() },
            variables: variables_inside(),
            bubblewrap: crate::bench::command::installed("bwrap"),
            jobs,
            limits: limits(runtime),
            scratch,
            runtime: runtime.clone(),
        })
    }

    /// The strategies that this machine has.
    #[must_use]
    pub fn strategies(&self) -> Vec<Strategy> {
        let mut strategies = vec![Strategy::Bare, Strategy::Cold, Strategy::Warm];
        strategies.extend(self.bubblewrap.as_ref().map(|_| Strategy::Bubblewrap));
        strategies
    }

    /// Runs a task, and says how long it took.
    ///
    /// # Errors
    /// [`DemoError`], naming the task.
    pub fn run(&self, strategy: Strategy, task: &Task, desk: Desk<'_>) -> Result<Took, DemoError> {
        let site = desk.site;
        match strategy {
            Strategy::Bare => self.bare(task.command(&site.destination), strategy, task, desk),
            Strategy::Bubblewrap => {
                let mut line: Vec<OsString> = self.bubblewrap.iter().map(OsString::from).collect();
                line.extend(peers::bubblewrap(&[(&site.root, false), (&site.destination, true)]));
                line.extend(task.command(&site.destination));
                self.bare(line, strategy, task, desk)
            }
            Strategy::Cold => self.cold(task, desk),
            Strategy::Warm => self.warm(task, desk),
        }
    }

    fn bare(
        &self,
        arguments: Vec<OsString>,
        strategy: Strategy,
        task: &Task,
        desk: Desk<'_>,
    ) -> Result<Took, DemoError> {
        let started = Instant::now();
        let temporary = self.scratch.path().to_path_buf();
        let status = Bare { arguments, directory: desk.site.root.clone(), temporary }.run(desk.streams);
        let latency = started.elapsed();
        let why = match status {
            Ok(status) if status.success() => return Ok(Took { latency, around: None }),
            Ok(status) => format!("{status}: {}", desk.streams.last_words()),
            Err(error) => error.to_string(),
        };
        Err(DemoError::Bare { action: task.title.clone(), strategy: strategy.name(), why })
    }

    fn cold(&self, task: &Task, desk: Desk<'_>) -> Result<Took, DemoError> {
        let started = Instant::now();
        let mut sandbox = Sandbox::create(&self.runtime, &self.template)?;
        let action_id = sandbox.action_id();
        let (layer, outcome) =
            self.sandboxed(Strategy::Cold, task, desk, action_id, |action| sandbox.run(action))?;
        let latency = started.elapsed();
        desk.cpu.note(&sandbox);
        desk.cpu.add(&outcome);
        desk.cpu.retire(&sandbox);
        sandbox.destroy(&self.runtime)?;
        remove(layer);
        Ok(took(latency, &outcome))
    }

    fn warm(&self, task: &Task, desk: Desk<'_>) -> Result<Took, DemoError> {
        let started = Instant::now();
        let mut lease = self.pool.lease(&self.spec)?;
        let action_id = lease.action_id();
        let (layer, outcome) =
            self.sandboxed(Strategy::Warm, task, desk, action_id, |action| lease.run(action))?;
        let latency = started.elapsed();
        if let Some(sandbox) = lease.sandbox() {
            desk.cpu.note(sandbox);
        }
        desk.cpu.add(&outcome);
        // The sandbox resets itself, and the layer is removed, while the next action runs elsewhere.
        drop(lease);
        self.pool.cleaner().clean(move || remove(layer));
        Ok(took(latency, &outcome))
    }

    /// The way of an action from declared inputs to published outputs.
    fn sandboxed(
        &self,
        strategy: Strategy,
        task: &Task,
        desk: Desk<'_>,
        action_id: u32,
        run: impl FnOnce(&Action<'_>) -> Outcome,
    ) -> Result<(Option<Layer>, Outcome), DemoError> {
        let Desk { site, streams, .. } = desk;
        let (root, destination) = (open(&site.root)?, open(&site.destination)?);
        let outputs = outputs(task);
        let spec = ViewSpec {
            exec_root: root.as_fd(),
            inputs: Some(&task.inputs),
            outputs: &outputs,
            places: &self.places,
            strategy: ViewStrategy::Sandboxed,
        };
        let view = view::view(&self.runtime, &spec, action_id)
            .map_err(|why| DemoError::View { action: task.title.clone(), why })?;
        let (out, err) = streams.open().map_err(DemoError::file("make a file for what an action says"))?;
        let arguments = crate::bench::workload::c_strings(&task.command(Path::new("")));
        let outcome = run(&Action {
            arguments: &arguments,
            variables: &self.variables,
            directory: c"/work",
            stdin: streams.null().as_fd(),
            stdout: out.as_fd(),
            stderr: err.as_fd(),
            work: Some(view.mount.as_fd()),
            limits: &self.limits,
            timeout: Some(TIMEOUT),
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: 0,
        });
        if !outcome.end.is_success() {
            let (action, said) = (task.title.clone(), streams.last_words());
            return Err(DemoError::Action { action, strategy: strategy.name(), end: outcome.end, said });
        }
        let view::View { mount, layer, lower, .. } = view;
        drop(mount);
        if let Some(layer) = &layer {
            self.publish(task, layer, lower.as_ref(), &outputs, &destination)?;
        }
        Ok((layer, outcome))
    }

    fn publish(
        &self,
        task: &Task,
        layer: &Layer,
        lower: Option<&OwnedFd>,
        outputs: &Outputs,
        destination: &OwnedFd,
    ) -> Result<(), DemoError> {
        let owner = self.runtime.features().privileged.then(|| Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        });
        let limits = TreeLimits::default();
        let options = CollectOptions {
            marks: view::marks(&self.runtime),
            owner,
            limits,
            missing_allowed: false,
            lower_is_destination: false,
        };
        let action = || task.title.clone();
        let collected = collect(layer.upper(), lower.map(AsFd::as_fd), outputs, &options)
            .map_err(|why| DemoError::Output { action: action(), why })?;
        let published = PublishOptions { owner, limits, ..PublishOptions::default() };
        let failed = |why| DemoError::Publish { action: action(), why };
        let journal = Journal::open(layer.place(), Durability::Process)
            .map_err(|why| failed(PublishError::Journal { outputs: outputs.iter().count(), why }))?;
        let answer =
            publish_unopposed(collected, destination.as_fd(), &journal, action().as_bytes(), &published);
        journal.close();
        answer.map_err(failed)?;
        Ok(())
    }

    /// Ends all sandboxes.
    ///
    /// # Errors
    /// [`SandboxError`], when something of them is left.
    pub fn close(self) -> Result<(), SandboxError> {
        self.pool.stop()
    }
}

fn took(latency: Duration, outcome: &Outcome) -> Took {
    let ran = Duration::from_micros(outcome.times.run_us);
    Took { latency, around: Some(latency.saturating_sub(ran)) }
}

fn outputs(task: &Task) -> Outputs {
    let specs = task.output.iter().cloned().map(|path| OutputSpec { path, must_be_directory: false });
    // One output cannot be in conflict with another.
    Outputs::new(specs.collect()).unwrap_or_default()
}

fn open(directory: &Path) -> Result<OwnedFd, DemoError> {
    open_directory(directory).map_err(DemoError::file(format!("open {}", directory.display())))
}

/// Removes a layer. What cannot be removed goes with the scratch place.
fn remove(layer: Option<Layer>) {
    if let Some(layer) = layer {
        let _ = layer.destroy();
    }
}
