//! `bench sandbox`: the smallest action and a small compile, bare, in our sandboxes, and in the peers'.
//!
//! | case | one operation is |
//! |---|---|
//! | `spawn` | the floor: posix_spawn, wait |
//! | `cold` | a sandbox made, used and destroyed |
//! | `warm` | a sandbox used and reset |
//! | `bwrap`, `unshare`, `crun`, `linux-sandbox` | the peer as a child that runs the command |
//!
//! All have standard input from /dev/null, output and error into files, and work in a directory on the same filesystem.
use super::case::{BareCase, Case, Sample};
use super::command::{Bare, Orphans, Streams};
use super::cpu::TreeCpu;
use super::error::BenchError;
use super::peers::{PEERS, wrap};
use super::progress;
use super::report::{CaseReport, HostReport, Report, Series};
use super::sandboxed::{Cold, Surroundings, Warm};
use super::scratch::Scratch;
use super::statistics::shuffled;
use super::workload::Workload;
use fulgurite_sandbox::runtime::Runtime;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Cases of our own, the floor first.
const OWN: [&str; 3] = ["spawn", "cold", "warm"];
/// Rounds before those that count: caches fill, sandboxes' seats are made, broken peers show.
const ROUNDS_BEFORE: usize = 3;

/// What to measure.
#[derive(Clone, Debug)]
pub struct SandboxBench {
    /// Rounds of `/bin/true`; 0 leaves it out.
    pub rounds: usize,
    /// Rounds of the compile; 0 leaves it out.
    pub compile_rounds: usize,
    /// Only these cases, and the floor; empty: all.
    pub cases: Vec<String>,
    /// Where layers and other files lie; by default on a tmpfs.
    pub layers: Option<PathBuf>,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

impl Default for SandboxBench {
    fn default() -> Self {
        SandboxBench { rounds: 200, compile_rounds: 40, cases: Vec::new(), layers: None, progress: true }
    }
}

/// The names of all cases.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    OWN.into_iter().chain(PEERS)
}

/// Measures.
///
/// # Errors
/// [`BenchError`]: no compiler, no place for files, a sandbox that cannot be made, or a floor that fails. A peer that
/// fails is part of the report.
pub fn run(runtime: &Arc<Runtime>, bench: &SandboxBench) -> Result<Report, BenchError> {
    let wanted = wanted(&bench.cases)?;
    let scratch = Scratch::new(bench.layers.as_deref(), &[])?;
    let host = HostReport::now(runtime, scratch.filesystem());
    let mut plan = vec![(Workload::True, bench.rounds), (Workload::Compile, bench.compile_rounds)];
    plan.retain(|(_, rounds)| *rounds > 0);
    let steps = plan.iter().map(|(_, rounds)| (rounds + ROUNDS_BEFORE) * wanted.len()).sum();
    let bar = progress::bar(steps, bench.progress);
    let mut cases = Vec::new();
    for (workload, rounds) in plan {
        bar.set_message(workload.name());
        let mut bout = Bout::new(runtime, workload, &scratch, &wanted)?;
        let rounds = bout.rounds(rounds, &bar);
        bout.finish(runtime)?;
        rounds?;
        cases.extend(bout.reports(&scratch.filesystem()));
    }
    bar.finish_and_clear();
    Ok(Report { bench: "sandbox", host, cases })
}

/// The cases to measure, in the order of reports; always with the floor.
fn wanted(filter: &[String]) -> Result<Vec<&'static str>, BenchError> {
    let known = || case_names().collect::<Vec<_>>().join(", ");
    if let Some(name) = filter.iter().find(|name| !case_names().any(|case| case == name.as_str())) {
        return Err(BenchError::NoCase { name: name.clone(), known: known() });
    }
    let keep =
        |name: &&str| *name == "spawn" || filter.is_empty() || filter.iter().any(|wanted| wanted == name);
    Ok(case_names().filter(keep).collect())
}

/// One case with what it gave so far.
struct Contender {
    name: &'static str,
    /// `None` as soon as it has failed.
    case: Option<Box<dyn Case>>,
    series: Series,
}

/// All cases of one workload.
struct Bout {
    workload: Workload,
    contenders: Vec<Contender>,
}

impl Bout {
    fn new(
        runtime: &Arc<Runtime>,
        workload: Workload,
        scratch: &Scratch,
        wanted: &[&'static str],
    ) -> Result<Self, BenchError> {
        let mut setting = Setting {
            runtime,
            workload,
            scratch,
            cpu: Rc::new(TreeCpu::new(runtime)),
            orphans: Rc::new(Orphans::adopt()),
        };
        let mut contenders = Vec::new();
        for name in wanted {
            let directory = scratch.directory(&format!("{name}-{}", workload.name()))?;
            workload.prepare(&directory)?;
            let case = match *name {
                "cold" => Some(Box::new(Cold(setting.surroundings(&directory)?)) as Box<dyn Case>),
                "warm" => Some(Box::new(Warm::new(setting.surroundings(&directory)?)?) as Box<dyn Case>),
                name => setting.bare(name, &directory)?,
            };
            if let Some(case) = case {
                let series = Series { limits: case.limits(), ..Series::default() };
                contenders.push(Contender { name, case: Some(case), series });
            }
        }
        Ok(Bout { workload, contenders })
    }

    fn rounds(&mut self, count: usize, bar: &ProgressBar) -> Result<(), BenchError> {
        for round in 0..ROUNDS_BEFORE + count {
            for index in shuffled(self.contenders.len(), round) {
                let Some(contender) = self.contenders.get_mut(index) else { continue };
                let sample = contender.run();
                if let (true, Some(why)) = (contender.name == "spawn", &contender.series.error) {
                    return Err(BenchError::Floor { workload: self.workload.name(), why: why.clone() });
                }
                if round >= ROUNDS_BEFORE {
                    contender.series.samples.push(sample);
                }
                bar.inc(1);
            }
        }
        Ok(())
    }

    fn finish(&mut self, runtime: &Runtime) -> Result<(), BenchError> {
        for contender in &mut self.contenders {
            if let Some(case) = contender.case.take() {
                case.finish(runtime)?;
            }
        }
        Ok(())
    }

    fn reports(&self, filesystem: &str) -> Vec<CaseReport> {
        let params = BTreeMap::from([
            ("workload", self.workload.name().to_owned()),
            ("filesystem", filesystem.to_owned()),
        ]);
        let Some(floor) = self.contenders.first() else { return Vec::new() };
        let report =
            |contender: &Contender| contender.series.report(contender.name, params.clone(), &floor.series);
        self.contenders.iter().map(report).collect()
    }
}

impl Contender {
    fn run(&mut self) -> Option<Sample> {
        match self.case.as_mut()?.run() {
            Ok(sample) => Some(sample),
            Err(why) => {
                self.series.error = Some(why);
                // What failed once is not asked again. A sandbox that broke goes with the runtime.
                self.case = None;
                None
            }
        }
    }
}

/// What cases are made from.
struct Setting<'a> {
    runtime: &'a Arc<Runtime>,
    workload: Workload,
    scratch: &'a Scratch,
    cpu: Rc<TreeCpu>,
    orphans: Rc<Orphans>,
}

impl Setting<'_> {
    fn surroundings(&mut self, source: &Path) -> Result<Surroundings, BenchError> {
        // Each counts its own sandboxes only, so that the end of one is not taken for the beginning of another.
        let cpu = Rc::new(TreeCpu::carrying(self.runtime));
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let layers = self.scratch.directory(&format!("layers-{name}"))?;
        Surroundings::new(self.runtime, &cpu, self.workload, source, layers)
    }

    fn bare(&self, name: &'static str, directory: &Path) -> Result<Option<Box<dyn Case>>, BenchError> {
        let state = self.scratch.directory(&format!("state-{name}-{}", self.workload.name()))?;
        let command = self.workload.arguments()?;
        let (arguments, orphans) = match name {
            "spawn" => (Some(command), None),
            name => (wrap(name, &command, directory, &state)?, Some(self.orphans.clone())),
        };
        let Some(arguments) = arguments else { return Ok(None) };
        let bare = Bare { arguments, directory: directory.to_path_buf(), temporary: state.clone() };
        let streams = Streams::new(&state, "said")?;
        let output = self.workload.output().map(|name| directory.join(name));
        Ok(Some(Box::new(BareCase { bare, output, streams, cpu: self.cpu.clone(), orphans })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_the_floor_and_the_order() {
        let filter = ["warm", "cold"].map(str::to_owned);
        assert_eq!(wanted(&filter).unwrap(), ["spawn", "cold", "warm"]);
        assert_eq!(wanted(&[]).unwrap().len(), 7);
        let error = wanted(&["docker".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("docker") && error.contains("linux-sandbox"), "{error}");
    }
}
