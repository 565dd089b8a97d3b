//! Our own cases: *cold* makes a sandbox for each run and destroys it, *warm* has one and resets it.
//!
//! ```text
//! cold   │ create │ layer, overlay │ run │            destroy, remove layer     latency: the first three
//! warm            │        overlay │ run │  reset, fresh layer                   latency: the first two
//!        └────────────────── CPU time: all of it ───────────────┘
//! ```
//! Each run has all namespaces, a cgroup, the seccomp filter, an overlay of a fresh layer over the directory with the
//! source, and its standard output and error in two files. What a sandbox keeps ready includes an empty layer, as it
//! belongs to the action's id and not to the action.
use super::case::{Case, Sample};
use super::command::{PATH, Streams};
use super::cpu::TreeCpu;
use super::scratch::{LayerDirectory, open_directory};
use super::workload::{Workload, c_strings};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::layer::{self, Layers};
use fulgurite_sandbox::outcome::{Outcome, Times};
use fulgurite_sandbox::runtime::{Runtime, SandboxError, Template};
use fulgurite_sandbox::sandbox::{Action, Sandbox};
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that an action may use.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Processes that an action may have.
const PIDS_MAX: u32 = 64;
/// No run of these workloads takes this long.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What both cases need.
pub struct Surroundings {
    runtime: Arc<Runtime>,
    template: Arc<Template>,
    cpu: Rc<TreeCpu>,
    streams: Streams,
    arguments: Vec<CString>,
    variables: Vec<CString>,
    output: Option<&'static str>,
    limits: Limits,
    lower: OwnedFd,
    layers: PathBuf,
    next_layer: u64,
}

impl Surroundings {
    /// For a workload whose source lies in `source`; layers go to `layers`.
    ///
    /// # Errors
    /// [`super::BenchError`].
    pub fn new(
        runtime: &Arc<Runtime>,
        cpu: &Rc<TreeCpu>,
        workload: Workload,
        source: &Path,
        layers: PathBuf,
    ) -> Result<Self, super::BenchError> {
        let spec = fulgurite_sandbox::spec::SandboxSpec::default();
        let lower = open_directory(source)
            .map_err(super::BenchError::file(format!("open the directory {}", source.display())))?;
        Ok(Surroundings {
            runtime: runtime.clone(),
            template: runtime.template(&spec)?,
            cpu: cpu.clone(),
            streams: Streams::new(&layers, "said")?,
            arguments: c_strings(&workload.arguments()?),
            variables: variables_inside(),
            output: workload.output(),
            limits: limits(runtime),
            lower,
            layers,
            next_layer: 0,
        })
    }

    fn layer(&mut self, action_id: u32) -> Result<LayerDirectory, String> {
        self.next_layer += 1;
        let path = self.layers.join(format!("layer-{}", self.next_layer));
        LayerDirectory::make(path, &self.runtime, action_id)
            .map_err(|error| format!("cannot make a layer: {error}"))
    }

    fn overlay(&self, layer: &LayerDirectory) -> Result<OwnedFd, String> {
        let layers =
            Layers { lower: self.lower.as_fd(), upper: layer.upper.as_fd(), work: layer.work.as_fd() };
        layer::overlay(&layers, self.runtime.features())
            .map_err(|errno| format!("cannot mount an overlay: {errno}"))
    }

    fn run(&self, sandbox: &mut Sandbox, work: &OwnedFd) -> Result<Outcome, String> {
        let (out, err) = self.streams.open().map_err(|error| format!("cannot make a file: {error}"))?;
        Ok(sandbox.run(&Action {
            arguments: &self.arguments,
            variables: &self.variables,
            directory: c"/work",
            stdin: self.streams.null().as_fd(),
            stdout: out.as_fd(),
            stderr: err.as_fd(),
            work: Some(work.as_fd()),
            limits: &self.limits,
            timeout: Some(TIMEOUT),
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: 0,
        }))
    }

    /// Whether it did what the floor does.
    fn check(&self, outcome: &Outcome, layer: &LayerDirectory) -> Result<(), String> {
        if !outcome.end.is_success() {
            return Err(format!("{}: {}", outcome.end, self.streams.last_words())
                .trim_end_matches(": ")
                .to_owned());
        }
        match self.output {
            Some(name) if !layer.holds(name) => Err(format!("has not written {name}")),
            _ => Ok(()),
        }
    }
}

/// The environment inside: /tmp is the sandbox's own.
#[must_use]
pub fn variables_inside() -> Vec<CString> {
    let path = CString::new(format!("PATH={PATH}")).unwrap_or_default();
    vec![path, c"LC_ALL=C".to_owned(), c"TMPDIR=/tmp".to_owned()]
}

/// The limits of a measured action, as far as this host can apply them.
#[must_use]
pub fn limits(runtime: &Runtime) -> Limits {
    let features = runtime.features();
    let has_cgroups = features.cgroup_v2 || features.shares_memory_cgroup;
    let host = runtime.cgroup_host();
    Limits {
        memory_bytes_max: (has_cgroups && host.memory.is_yes()).then_some(MEMORY_BYTES_MAX),
        pids_max: (has_cgroups && host.pids.is_yes()).then_some(PIDS_MAX),
        ..Limits::default()
    }
}

/// Limits in words.
#[must_use]
pub fn limits_in_words(limits: &Limits) -> String {
    let memory = limits.memory_bytes_max.map(|bytes| format!("memory {} MiB", bytes >> 20));
    let pids = limits.pids_max.map(|pids| format!("pids {pids}"));
    let words: Vec<String> = memory.into_iter().chain(pids).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn phases(times: &Times) -> [(&'static str, Duration); 4] {
    [
        ("start", Duration::from_micros(times.start_us)),
        ("run", Duration::from_micros(times.run_us)),
        ("quiet", Duration::from_micros(times.quiet_us)),
        ("collect", Duration::from_micros(times.collect_us)),
    ]
}

/// A new sandbox for each run.
pub struct Cold(pub Surroundings);

impl Case for Cold {
    fn run(&mut self) -> Result<Sample, String> {
        let around = &mut self.0;
        let (runtime, cpu) = (around.runtime.clone(), around.cpu.clone());
        let begun = cpu.begin();
        let started = Instant::now();
        let mut sandbox = Sandbox::begin(&runtime, &around.template).map_err(|error| error.to_string())?;
        let begotten = started.elapsed();
        // As `fulgurite run` does: the inputs are staged while the sandbox's init works.
        let layer = around.layer(sandbox.action_id())?;
        let work = around.overlay(&layer)?;
        let mounted = started.elapsed();
        sandbox.finish_reset().map_err(|error| error.to_string())?;
        let created = started.elapsed();
        let outcome = around.run(&mut sandbox, &work)?;
        let latency = started.elapsed();
        cpu.note(&sandbox);
        cpu.add(&outcome);
        cpu.retire(&sandbox);
        let ending = Instant::now();
        drop(work);
        sandbox.destroy(&runtime).map_err(|error| error.to_string())?;
        let destroyed = ending.elapsed();
        let checked = around.check(&outcome, &layer);
        layer.remove().map_err(|error| format!("cannot remove a layer: {error}"))?;
        let used = cpu.end(&begun, || {});
        checked?;
        let mut parts = vec![("create", created), ("mount", mounted.saturating_sub(begotten))];
        parts.extend(phases(&outcome.times));
        parts.push(("destroy", destroyed));
        Ok(Sample { latency, cpu: used, phases: parts })
    }

    fn limits(&self) -> Option<String> {
        Some(limits_in_words(&self.0.limits))
    }
}

/// One sandbox, reset after each run.
pub struct Warm {
    around: Surroundings,
    sandbox: Sandbox,
    layer: Option<LayerDirectory>,
}

impl Warm {
    /// Makes the sandbox.
    ///
    /// # Errors
    /// As [`Sandbox::create`].
    pub fn new(around: Surroundings) -> Result<Self, SandboxError> {
        let sandbox = Sandbox::create(&around.runtime, &around.template)?;
        around.cpu.note(&sandbox);
        Ok(Warm { around, sandbox, layer: None })
    }
}

impl Case for Warm {
    fn run(&mut self) -> Result<Sample, String> {
        let action_id = self.sandbox.action_id();
        let layer = match self.layer.take() {
            Some(layer) => layer,
            None => self.around.layer(action_id)?,
        };
        let cpu = self.around.cpu.clone();
        let begun = cpu.begin();
        let started = Instant::now();
        let work = self.around.overlay(&layer)?;
        let mounted = started.elapsed();
        let outcome = self.around.run(&mut self.sandbox, &work)?;
        let latency = started.elapsed();
        cpu.add(&outcome);
        let checked = self.around.check(&outcome, &layer);
        let resetting = Instant::now();
        let reset = self.sandbox.begin_reset();
        drop(work);
        reset.and_then(|()| self.sandbox.finish_reset()).map_err(|error| error.to_string())?;
        layer.remove().map_err(|error| format!("cannot remove a layer: {error}"))?;
        self.layer = Some(self.around.layer(action_id)?);
        let reset = resetting.elapsed();
        let used = cpu.end(&begun, || {});
        checked?;
        let mut parts = vec![("mount", mounted)];
        parts.extend(phases(&outcome.times));
        parts.push(("reset", reset));
        Ok(Sample { latency, cpu: used, phases: parts })
    }

    fn limits(&self) -> Option<String> {
        Some(limits_in_words(&self.around.limits))
    }

    fn finish(self: Box<Self>, runtime: &Runtime) -> Result<(), SandboxError> {
        let Warm { sandbox, layer, .. } = *self;
        let ended = sandbox.destroy(runtime);
        // Its directory goes with the scratch place.
        drop(layer);
        ended
    }
}
