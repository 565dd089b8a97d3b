//! One way to run a workload, and what running it once gave.
use super::command::{Bare, Orphans, Streams};
use super::cpu::{Reading, TreeCpu};
use fulgurite_sandbox::runtime::{Runtime, SandboxError};
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What one run gave.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the call until the caller knows how it ended and nobody can write any more.
    pub latency: Duration,
    /// What everything together used, clearing up included.
    pub cpu: Reading,
    /// Parts of the latency, and what lies outside of it.
    pub phases: Vec<(&'static str, Duration)>,
}

/// One way to run one workload.
pub trait Case {
    /// Runs it once.
    ///
    /// # Errors
    /// What went wrong, in one line.
    fn run(&mut self) -> Result<Sample, String>;

    /// The limits that hold for the action, in words.
    fn limits(&self) -> Option<String> {
        None
    }

    /// Gives back what it holds.
    ///
    /// # Errors
    /// When a sandbox could not be taken apart.
    fn finish(self: Box<Self>, _runtime: &Runtime) -> Result<(), SandboxError> {
        Ok(())
    }
}

/// A child of this process: the floor itself, or a peer.
#[derive(Debug)]
pub struct BareCase {
    /// The command.
    pub bare: Bare,
    /// What the command writes.
    pub output: Option<PathBuf>,
    /// Where it writes what it says.
    pub streams: Streams,
    /// Counts CPU time.
    pub cpu: Rc<TreeCpu>,
    /// Takes over what a peer leaves behind; the floor leaves nothing.
    pub orphans: Option<Rc<Orphans>>,
}

impl Case for BareCase {
    fn run(&mut self) -> Result<Sample, String> {
        let begun = self.cpu.begin();
        let started = Instant::now();
        let status = self.bare.run(&self.streams);
        let latency = started.elapsed();
        let cpu = self.cpu.end(&begun, || {
            if let Some(orphans) = &self.orphans {
                orphans.reap();
            }
        });
        let status = status.map_err(|error| format!("cannot be started: {error}"))?;
        if !status.success() {
            return Err(format!("{status}: {}", self.streams.last_words()));
        }
        if let Some(output) = &self.output {
            fs::remove_file(output).map_err(|error| format!("has not written its output: {error}"))?;
        }
        Ok(Sample { latency, cpu, phases: Vec::new() })
    }
}
