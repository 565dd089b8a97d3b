//! The Java part: generated files, each an action, by a compiler that starts for each and by workers that stay.
//!
//! ```text
//! pass 1: javac for one file of each portion, a worker for all of them, a multiplex worker for all      workers start
//! pass 2:                                     the same workers, the same files with other contents   workers are warm
//! ```
//! Every action is sandboxed, and sees its own file and nothing of another; the classes of all ways are the same, byte
//! by byte, or the demo fails. What one-shot runs would take for all files is extrapolated from those that were
//! measured, and the table says so.
use super::error::DemoError;
use crate::bench::BenchError;
use crate::bench::case::Sample;
use crate::bench::progress;
use crate::bench::sandboxed::limits_in_words;
use crate::bench::worker_ground::WorkerGround;
use crate::bench::worker_java::{JavaShop, Way, cores};
use fulgurite_sandbox::runtime::Runtime;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Files that one way compiles before it is another's turn; one of them one-shot.
const PORTION: usize = 10;
/// The ways that the demo shows.
const WAYS: [Way; 3] = [Way::Javac, Way::View, Way::Multiplex];

/// What the Java part found.
#[derive(Clone, Debug)]
pub struct JavaReport {
    /// Files.
    pub files: usize,
    /// What the files of the actions lie on.
    pub filesystem: String,
    /// The limits of each action and each worker.
    pub limits: String,
    /// How often the classes of two ways were compared.
    pub compared: usize,
    /// The ways, the one-shot first.
    pub rows: Vec<JavaRow>,
}

/// What one way needed in one pass.
#[derive(Clone, Debug)]
pub struct JavaRow {
    /// Its name.
    pub name: &'static str,
    /// Whether the worker was warm, or had to start.
    pub state: &'static str,
    /// Files that were measured.
    pub measured: usize,
    /// Actions at a time.
    pub at_a_time: usize,
    /// Time from beginning to end for the measured files.
    pub wall: Duration,
    /// CPU time for them.
    pub cpu: Duration,
}

impl JavaRow {
    fn new(way: Way, state: &'static str) -> Self {
        let at_a_time = if way == Way::Multiplex { cores() } else { 1 };
        let (wall, cpu) = (Duration::ZERO, Duration::ZERO);
        JavaRow { name: way.name(), state, measured: 0, at_a_time, wall, cpu }
    }

    fn add(&mut self, sample: &Sample, files: usize) {
        let count = u32::try_from(files).unwrap_or(u32::MAX);
        self.measured += files;
        self.wall += sample.latency * count;
        self.cpu += Duration::from_nanos(sample.cpu.total_ns()) * count;
    }

    fn each(&self) -> Duration {
        self.wall / u32::try_from(self.measured.max(1)).unwrap_or(u32::MAX)
    }
}

/// Compiles.
///
/// # Errors
/// [`BenchError::NoProgram`] without a JDK; what failed.
pub fn run(runtime: &Arc<Runtime>, files: usize, is_shown: bool) -> Result<JavaReport, DemoError> {
    let ground = WorkerGround::new(runtime, Path::new("/dev/shm"))?;
    let report = compile(&ground, files, is_shown);
    let closed = ground.close();
    let report = report?;
    closed?;
    Ok(report)
}

fn compile(ground: &WorkerGround, files: usize, is_shown: bool) -> Result<JavaReport, DemoError> {
    let shop = JavaShop::open(ground, files)?;
    let bar = progress::bar(files * 4, is_shown);
    let mut rows = Vec::new();
    for (number, state) in ["new", "warm"].into_iter().enumerate() {
        let generation = shop.generation(number)?;
        // One-shot runs know no second pass.
        let ways = &WAYS[number..];
        let mut pass: Vec<JavaRow> = ways.iter().map(|way| JavaRow::new(*way, state)).collect();
        for (turn, start) in (0..files).step_by(PORTION).enumerate() {
            let end = files.min(start + PORTION);
            for at in 0..ways.len() {
                let index = (at + turn) % ways.len();
                let (Some(way), Some(row)) = (ways.get(index), pass.get_mut(index)) else { continue };
                bar.set_message(row.name);
                let range = start..if way.is_one_shot() { end.min(start + 1) } else { end };
                let sample = shop.compile(*way, &generation, range.clone());
                let sample = sample.map_err(|why| {
                    DemoError::Bench(BenchError::Worker { why: format!("{}: {why}", row.name) })
                })?;
                row.add(&sample, range.len());
                bar.inc(if way.is_one_shot() { 0 } else { range.len() as u64 });
            }
        }
        rows.extend(pass);
    }
    bar.finish_and_clear();
    let (filesystem, limits) = (ground.filesystem(), limits_in_words(&ground.limits));
    Ok(JavaReport { files, filesystem, limits, compared: shop.compared(), rows })
}

impl fmt::Display for JavaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JavaReport { files, filesystem, limits, compared, rows } = self;
        writeln!(
            f,
            "\n{files} generated Java files, each a sandboxed action, files on {filesystem}; limits: {limits}\n"
        )?;
        let (way, state, time) = ("way", "worker", "at a time");
        writeln!(
            f,
            "{way:<24} {state:<6} {time:>9} {:>9} {:>9} {:>9} {:>8}",
            "files", "wall s", "file ms", "x javac"
        )?;
        let floor = rows.first().map(JavaRow::each);
        for row in rows {
            let each = row.each();
            let times = floor.map_or(0.0, |floor| floor.as_secs_f64() / each.as_secs_f64().max(1e-9));
            let state = if row.name == Way::Javac.name() { "-" } else { row.state };
            write!(
                f,
                "{:<24} {state:<6} {:>9} {:>9} {:>9.2} {:>9.1} {times:>8.1}",
                row.name,
                row.at_a_time,
                row.measured,
                row.wall.as_secs_f64(),
                each.as_secs_f64() * 1000.0,
            )?;
            if row.measured < *files {
                let all = each.as_secs_f64() * *files as f64;
                write!(f, "  {} of {files} measured: {all:.0} s for all, extrapolated", row.measured)?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\nClasses of all ways: the same, byte by byte ({compared} comparisons).")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_extrapolated() {
        let row = |way: Way, state, measured, millis| JavaRow {
            measured,
            wall: Duration::from_millis(millis) * u32::try_from(measured).unwrap(),
            ..JavaRow::new(way, state)
        };
        let report = JavaReport {
            files: 200,
            filesystem: "ext4".to_owned(),
            limits: "pids 512".to_owned(),
            compared: 420,
            rows: vec![row(Way::Javac, "new", 20, 600), row(Way::View, "warm", 200, 20)],
        };
        let text = report.to_string();
        for part in ["20 of 200 measured: 120 s for all, extrapolated", "30.0\n", "420 comparisons"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert_eq!(text.matches("extrapolated").count(), 1);
    }
}
