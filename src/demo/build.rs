//! All tasks by all strategies: in portions, in parallel, measured.
use super::error::DemoError;
use super::workshop::{Desk, Site, Strategy, Task, Took, Workshop};
use crate::bench::command::{Orphans, Streams};
use crate::bench::cpu::{Reading, TreeCpu};

use indicatif::ProgressBar;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tasks of one portion for each job: enough to keep all jobs busy, few enough that strategies take turns often.
const TASKS_PER_JOB: usize = 2;

/// What one strategy has built, and what that cost.
#[derive(Debug)]
pub struct Built {
    /// How.
    pub strategy: Strategy,
    /// Where from, and where to.
    pub site: Site,
    /// Time from the beginning to the end of each portion, added up.
    pub wall: Duration,
    /// CPU time of everything.
    pub cpu: Reading,
    /// How long each task took, in their order.
    pub took: Vec<Option<Took>>,
    /// Why a peer could not go on.
    pub error: Option<String>,
    counter: TreeCpu,
    streams: Vec<Streams>,
}

/// Runs all tasks by all strategies.
///
/// # Errors
/// The first failure of a strategy that must work; bubblewrap may fail, and is then left out.
pub fn all(
    workshop: &Workshop,
    root: &Path,
    tasks: &[Task],
    bar: &ProgressBar,
) -> Result<Vec<Built>, DemoError> {
    let mut orphans = Orphans::adopt();
    let mut all = Vec::new();
    for strategy in workshop.strategies() {
        all.push(Built::new(workshop, root, strategy, tasks.len())?);
    }
    // The smallest file once by everyone, unmeasured: caches fill, seats are made, a broken peer shows.
    let last = tasks.len().saturating_sub(1);
    for built in &mut all {
        built.portion(workshop, tasks, last..tasks.len(), &mut orphans)?;
        (built.wall, built.cpu) = (Duration::ZERO, Reading::default());
    }
    orphans.know();
    let portion = workshop.jobs * TASKS_PER_JOB;
    for (number, start) in (0..tasks.len()).step_by(portion).enumerate() {
        let range = start..tasks.len().min(start + portion);
        for turn in 0..all.len() {
            let index = (turn + number) % all.len();
            let Some(built) = all.get_mut(index) else { continue };
            bar.set_message(built.strategy.name());
            built.portion(workshop, tasks, range.clone(), &mut orphans)?;
            bar.inc(range.len() as u64);
        }
    }
    Ok(all)
}

impl Built {
    fn new(workshop: &Workshop, root: &Path, strategy: Strategy, tasks: usize) -> Result<Self, DemoError> {
        let destination = workshop.scratch.directory(strategy.name())?;
        let objects = destination.join("objects");
        fs::create_dir(&objects).map_err(DemoError::file(format!("make {}", objects.display())))?;
        let streams: Result<Vec<_>, _> =
            (0..workshop.jobs).map(|job| Streams::new(&destination, &format!("job-{job}"))).collect();
        Ok(Built {
            strategy,
            site: Site { root: root.to_path_buf(), destination },
            wall: Duration::ZERO,
            cpu: Reading::default(),
            took: vec![None; tasks],
            error: None,
            counter: TreeCpu::carrying(&workshop.runtime),
            streams: streams?,
        })
    }

    fn portion(
        &mut self,
        workshop: &Workshop,
        tasks: &[Task],
        range: std::ops::Range<usize>,
        orphans: &mut Orphans,
    ) -> Result<(), DemoError> {
        if self.error.is_some() {
            return Ok(());
        }
        orphans.know();
        let begun = self.counter.begin();
        let started = Instant::now();
        let done = self.parallel(workshop, tasks, range);
        self.wall += started.elapsed();
        let used = self.counter.end(&begun, || orphans.reap());
        self.cpu = self.cpu.plus(&used);
        match done {
            Ok(all) => {
                for (index, took) in all {
                    if let Some(slot) = self.took.get_mut(index) {
                        *slot = Some(took);
                    }
                }
                Ok(())
            }
            Err(error) if self.strategy == Strategy::Bubblewrap => {
                self.error = Some(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// One thread a job; each takes the next task that nobody has.
    fn parallel(
        &self,
        workshop: &Workshop,
        tasks: &[Task],
        range: std::ops::Range<usize>,
    ) -> Result<Vec<(usize, Took)>, DemoError> {
        let next = AtomicUsize::new(range.start);
        let done: Mutex<Vec<(usize, Took)>> = Mutex::default();
        let failed: Mutex<Option<DemoError>> = Mutex::default();
        let job = |streams: &Streams| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(index).filter(|_| index < range.end) else { return };
                let desk = Desk { site: &self.site, streams, cpu: &self.counter };
                match workshop.run(self.strategy, task, desk) {
                    Ok(took) => {
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((index, took));
                    }
                    Err(error) => {
                        // Nobody begins another task; the first error is the one that counts.
                        next.store(range.end, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for streams in &self.streams {
                scope.spawn(|| job(streams));
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Compares all objects with those of the first strategy.
///
/// # Errors
/// [`DemoError::Differs`] with the first that is not the same, or the file that can't be read.
pub fn compare(all: &[Built], tasks: &[Task]) -> Result<(), DemoError> {
    let Some((first, others)) = all.split_first() else { return Ok(()) };
    let read = |built: &Built, object: &Path| {
        let path = built.site.destination.join(object);
        fs::read(&path).map_err(DemoError::file(format!("read {}", path.display())))
    };
    for object in tasks.iter().filter_map(|task| task.output.as_ref()) {
        let wanted = read(first, object.as_path())?;
        for built in others.iter().filter(|built| built.error.is_none()) {
            if read(built, object.as_path())? != wanted {
                let object = object.as_path().to_path_buf();
                return Err(DemoError::Differs { object, strategy: built.strategy.name() });
            }
        }
    }
    Ok(())
}
