//! `bench ipc`: echo requests to 1 to 1,000 workers, over io_uring and epoll, beside bare pipes.
//!
//! ```text
//! pipe-floor   this thread writes, the worker (cat) answers, this thread reads: two blocking calls
//! uring        Channel::send ─► worker ─► ipc thread, by io_uring ─► listener wakes this thread
//! epoll        the same thread by epoll
//! ```
//! Each case has workers of its own, all of them there all the time. A round of a case is a block of requests, one
//! at a time, to one worker after the other, whose median counts, so that `p95_us` and `p99_us` are those of blocks;
//! then one request to all workers at once, for `per_second`. CPU time is that of this process and of the workers, for
//! a request. Last, questions with a descriptor: see `ipc_descriptors`.
use super::case::Sample;
use super::command::find_program;
use super::cpu::{Reading, process_clock};
use super::error::BenchError;
use super::progress;
use super::report::{CaseReport, HostReport, Report, Series};
use super::statistics::{median, paired_ratio, shuffled, tenths, thousandths};
use crate::uring::{Channel, Choice, Event, Framing, FramingError, Ipc, Listener};
use fulgurite_sandbox::runtime::Runtime;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

const FLOOR: &str = "pipe-floor";
/// The cases, the floor first.
const CASES: [(&str, Option<Choice>); 3] =
    [(FLOOR, None), ("uring", Some(Choice::Uring)), ("epoll", Some(Choice::Epoll))];
/// Bytes of a request and of its answer: what a small one has.
const MESSAGE_BYTES: usize = 128;
/// A worker that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Debug)]
pub struct IpcBench {
    /// How many workers.
    pub workers: Vec<usize>,
    /// Requests of a block.
    pub requests: usize,
    /// Blocks of each case.
    pub rounds: usize,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Measures.
///
/// # Errors
/// [`BenchError`]: workers that cannot be had, or a floor that fails.
pub fn run(runtime: &Runtime, bench: &IpcBench) -> Result<Report, BenchError> {
    let host = HostReport::now(runtime, "none".to_owned());
    let bar = progress::bar(bench.workers.len() * (bench.rounds + 1) * CASES.len(), bench.progress);
    let mut cases = Vec::new();
    for count in bench.workers.iter().copied() {
        bar.set_message(format!("{count} workers"));
        let mut contenders = Vec::new();
        for (name, choice) in CASES {
            contenders.push(Contender::new(name, choice, count.max(1))?);
        }
        for round in 0..=bench.rounds {
            for index in shuffled(contenders.len(), round) {
                if let Some(contender) = contenders.get_mut(index) {
                    contender.round(bench.requests.max(1), round > 0)?;
                }
                bar.inc(1);
            }
        }
        cases.extend(reports(&contenders, count));
    }
    bar.finish_and_clear();
    cases.extend(super::ipc_descriptors::reports(bench.rounds, bench.requests)?);
    Ok(Report { bench: "ipc", host, cases })
}

/// The table, and what each case costs above the floor.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = report.to_string();
    for case in &report.cases {
        if let (Some(over), Some(workers)) = (case.parts.get("over_floor_us"), case.params.get("workers")) {
            text.push_str(&format!(
                "\n{} with {workers} workers: {over:+.1} us to the floor of the same round",
                case.name
            ));
        }
    }
    text.push('\n');
    text
}

/// One case with its workers.
struct Contender {
    name: &'static str,
    /// `None` as soon as it has failed.
    wire: Option<Wire>,
    workers: Workers,
    series: Series,
    /// Answers in a second, of each round.
    rates: Vec<Option<f64>>,
}

/// How a case talks.
enum Wire {
    Bare(Vec<(File, File)>),
    Ours { channels: Vec<Channel>, arrivals: Arc<Arrivals>, _ipc: Ipc },
}

/// Processes that send back what they get. They end when their inputs are closed.
#[derive(Default)]
struct Workers(Vec<Child>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

impl Contender {
    fn new(name: &'static str, choice: Option<Choice>, count: usize) -> Result<Self, BenchError> {
        // Three cases with two pipes for each worker, of which this process holds one end; and some more.
        allow_descriptors(6 * count as u64 + 200);
        let cat = find_program("cat", "install coreutils")?;
        let mut contender = Contender {
            name,
            wire: None,
            workers: Workers::default(),
            series: Series::default(),
            rates: Vec::new(),
        };
        let mut ends = Vec::new();
        for _ in 0..count {
            let ours = contender.workers.start(&cat).map_err(BenchError::file("start a worker (cat)"))?;
            ends.push(ours);
        }
        match wire(choice, ends) {
            Ok(wire) => contender.wire = Some(wire),
            Err(why) => contender.series.error = Some(why),
        }
        Ok(contender)
    }

    fn round(&mut self, requests: usize, counts: bool) -> Result<(), BenchError> {
        let Some(wire) = &mut self.wire else {
            self.series.samples.push(None);
            self.rates.push(None);
            return Ok(());
        };
        let measured = block(wire, &self.workers, requests).and_then(|sample| Ok((sample, burst(wire)?)));
        match measured {
            Ok((sample, rate)) if counts => {
                self.series.samples.push(Some(sample));
                self.rates.push(Some(rate));
            }
            Ok(_) => {}
            Err(why) if self.name == FLOOR => {
                return Err(BenchError::Floor { workload: FLOOR, why: why.to_string() });
            }
            Err(why) => {
                self.series.error = Some(why.to_string());
                self.wire = None;
            }
        }
        Ok(())
    }
}

impl Workers {
    fn start(&mut self, program: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
        let mut command = Command::new(program);
        let mut child = command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ends = child.stdout.take().zip(child.stdin.take());
        self.0.push(child);
        let (reader, writer) = ends.ok_or(io::ErrorKind::InvalidData)?;
        Ok((reader.into(), writer.into()))
    }

    fn cpu_ns(&self) -> u64 {
        let clock = |worker: &Child| process_clock(worker.id().cast_signed()).unwrap_or(0);
        self.0.iter().map(clock).sum()
    }
}

fn allow_descriptors(count: u64) {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < count) {
        // Where it is refused, the pipes are, and that is reported.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
}

fn wire(choice: Option<Choice>, ends: Vec<(OwnedFd, OwnedFd)>) -> Result<Wire, String> {
    let Some(choice) = choice else {
        return Ok(Wire::Bare(
            ends.into_iter().map(|(reader, writer)| (reader.into(), writer.into())).collect(),
        ));
    };
    let ipc = Ipc::start(choice).map_err(|why| why.to_string())?;
    let arrivals = Arc::new(Arrivals::new());
    let open = |(reader, writer)| ipc.open(reader, writer, Box::<Fixed>::default(), arrivals.clone());
    let channels: Result<Vec<Channel>, _> = ends.into_iter().map(open).collect();
    Ok(Wire::Ours { channels: channels.map_err(|why| why.to_string())?, arrivals, _ipc: ipc })
}

impl Wire {
    fn count(&self) -> usize {
        match self {
            Wire::Bare(pipes) => pipes.len(),
            Wire::Ours { channels, .. } => channels.len(),
        }
    }

    /// Sends one request to each of these workers and waits for all answers.
    fn exchange(&mut self, first: usize, count: usize) -> io::Result<()> {
        match self {
            Wire::Bare(pipes) => {
                let chosen = pipes.get_mut(first..first + count).unwrap_or_default();
                for (_, writer) in chosen.iter_mut() {
                    writer.write_all(&[b'x'; MESSAGE_BYTES])?;
                }
                chosen.iter_mut().try_for_each(|(reader, _)| reader.read_exact(&mut [0; MESSAGE_BYTES]))
            }
            Wire::Ours { channels, arrivals, .. } => {
                arrivals.missing.store(count, Ordering::SeqCst);
                for channel in channels.get(first..first + count).unwrap_or_default() {
                    channel.send(vec![b'x'; MESSAGE_BYTES]).map_err(io::Error::other)?;
                }
                arrivals.wait()
            }
        }
    }
}

/// One request after the other.
fn block(wire: &mut Wire, workers: &Workers, requests: usize) -> io::Result<Sample> {
    let mut times = Vec::with_capacity(requests);
    let count = wire.count();
    let before = (workers.cpu_ns(), process_clock(rustix::process::getpid().as_raw_nonzero().get()));
    for request in 0..requests {
        let started = Instant::now();
        wire.exchange(request % count, 1)?;
        times.push(started.elapsed().as_nanos() as f64);
    }
    let own = process_clock(rustix::process::getpid().as_raw_nonzero().get());
    let each = |from: u64, to: u64| to.saturating_sub(from) / requests as u64;
    let cpu = Reading {
        daemon_ns: each(before.1.unwrap_or(0), own.unwrap_or(0)),
        children_ns: each(before.0, workers.cpu_ns()),
        ..Reading::default()
    };
    Ok(Sample { latency: Duration::from_nanos(median(&times) as u64), cpu, phases: Vec::new() })
}

/// All workers at once; answers in a second.
fn burst(wire: &mut Wire) -> io::Result<f64> {
    let count = wire.count();
    let started = Instant::now();
    wire.exchange(0, count)?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

fn reports(contenders: &[Contender], count: usize) -> Vec<CaseReport> {
    let Some(floor) = contenders.iter().find(|contender| contender.name == FLOOR) else { return Vec::new() };
    let micros = |sample: &Option<Sample>| Some(sample.as_ref()?.latency.as_nanos() as f64 / 1000.0);
    let report = |contender: &Contender| {
        let params = BTreeMap::from([("workers", count.to_string())]);
        let mut report = contender.series.report(contender.name, params, &floor.series);
        if report.error.is_some() {
            return report;
        }
        let rates: Vec<f64> = contender.rates.iter().flatten().copied().collect();
        report.parts.insert("per_second".to_owned(), tenths(median(&rates)));
        if let Some(ratio) = paired_ratio(&contender.rates, &floor.rates) {
            report.parts.insert("ratio_per_second".to_owned(), thousandths(ratio));
        }
        let pairs = contender.series.samples.iter().zip(&floor.series.samples);
        let over: Vec<f64> =
            pairs.filter_map(|(sample, floor)| Some(micros(sample)? - micros(floor)?)).collect();
        if contender.name != FLOOR && !over.is_empty() {
            report.parts.insert("over_floor_us".to_owned(), tenths(median(&over)));
        }
        report
    };
    contenders.iter().map(report).collect()
}

/// Answers that are missing yet, and who waits for them.
struct Arrivals {
    missing: AtomicUsize,
    has_failed: AtomicBool,
    waiter: Thread,
}

impl Arrivals {
    fn new() -> Self {
        let waiter = std::thread::current();
        Arrivals { missing: AtomicUsize::new(0), has_failed: AtomicBool::new(false), waiter }
    }

    fn wait(&self) -> io::Result<()> {
        let started = Instant::now();
        while self.missing.load(Ordering::SeqCst) > 0 {
            if self.has_failed.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if started.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::park_timeout(PATIENCE);
        }
        Ok(())
    }
}

impl Listener for Arrivals {
    fn event(&self, event: Event) {
        let is_last = match event {
            Event::Message(_) => self.missing.fetch_sub(1, Ordering::SeqCst) == 1,
            _ => {
                self.has_failed.store(true, Ordering::SeqCst);
                true
            }
        };
        if is_last {
            self.waiter.unpark();
        }
    }
}

/// Messages of always the same length.
#[derive(Default)]
struct Fixed(Vec<u8>);

impl Framing for Fixed {
    fn feed(&mut self, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), FramingError> {
        self.0.extend_from_slice(bytes);
        while self.0.len() >= MESSAGE_BYTES {
            messages.push(self.0.drain(..MESSAGE_BYTES).collect());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), FramingError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_answers_and_is_compared() {
        let mut contenders: Vec<Contender> =
            CASES.iter().map(|(name, choice)| Contender::new(name, *choice, 3).unwrap()).collect();
        for contender in &mut contenders {
            contender.round(7, false).unwrap();
            contender.round(7, true).unwrap();
        }
        let reports = reports(&contenders, 3);
        assert_eq!(
            reports.iter().map(|report| report.name.as_str()).collect::<Vec<_>>(),
            [FLOOR, "uring", "epoll"]
        );
        for report in reports.iter().filter(|report| report.error.is_none()) {
            assert!(report.n == 1 && report.ratio_p50.is_some() && report.parts.contains_key("per_second"));
            assert_eq!(report.parts.contains_key("over_floor_us"), report.name != FLOOR);
        }
        assert!(reports[2].error.is_none());
    }
}
