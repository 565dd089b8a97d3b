//! A part of `bench ipc`: questions with a descriptor, as a worker's view goes to its sandbox's init, short answers.
//!
//! ```text
//! descriptor-direct   this thread sends, polls and receives: as `sandbox::hosted` does it
//! descriptor-uring    Packets::send ─► peer ─► ipc thread, RecvMsg on io_uring ─► listener wakes this thread
//! descriptor-epoll    the same thread by epoll
//! ```
//! The peer is a thread that blocks in recvmsg, as an init does. Rounds are interleaved; the direct case is the floor.

use super::case::Sample;
use super::cpu::{Reading, process_clock};
use super::error::BenchError;
use super::report::{CaseReport, Series};
use super::statistics::{median, shuffled};
use crate::uring::{Choice, Ipc, Packet, PacketListener, Packets};
use fulgurite_sandbox::sys::message;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

const DIRECT: &str = "descriptor-direct";
/// The cases, the floor first.
const CASES: [(&str, Option<Choice>); 3] =
    [(DIRECT, None), ("descriptor-uring", Some(Choice::Uring)), ("descriptor-epoll", Some(Choice::Epoll))];
/// What init is told of a view is about as long.
const QUESTION: &[u8] = &[7; 32];
const PATIENCE: Duration = Duration::from_secs(30);

/// How a case asks.
enum Way {
    Direct(OwnedFd),
    Ours { packets: Packets, answers: Receiver<()>, _ipc: Ipc },
}

struct Contender {
    name: &'static str,
    way: Option<Way>,
    series: Series,
}

/// Measures so many rounds of so many questions.
///
/// # Errors
/// When the direct case fails.
pub(super) fn reports(rounds: usize, questions: usize) -> Result<Vec<CaseReport>, BenchError> {
    let view = File::open("/dev/null").map_err(BenchError::file("open /dev/null"))?;
    let mut contenders: Vec<Contender> =
        CASES.iter().map(|(name, choice)| Contender::new(name, *choice)).collect();
    for round in 0..=rounds {
        for index in shuffled(contenders.len(), round) {
            if let Some(contender) = contenders.get_mut(index) {
                contender.round(&view, questions.max(1), round > 0)?;
            }
        }
    }
    let params = || BTreeMap::from([("workers", "1".to_owned())]);
    let floor = contenders.first().map(|contender| &contender.series);
    let report =
        |contender: &Contender| floor.map(|floor| contender.series.report(contender.name, params(), floor));
    Ok(contenders.iter().filter_map(report).collect())
}

impl Contender {
    fn new(name: &'static str, choice: Option<Choice>) -> Self {
        let mut series = Series::default();
        let way = Way::new(choice).map_err(|why| series.error = Some(why)).ok();
        Contender { name, way, series }
    }

    fn round(&mut self, view: &File, questions: usize, counts: bool) -> Result<(), BenchError> {
        let Some(way) = &self.way else {
            self.series.samples.push(None);
            return Ok(());
        };
        match way.block(view, questions) {
            Ok(sample) if counts => self.series.samples.push(Some(sample)),
            Ok(_) => {}
            Err(why) if self.name == DIRECT => {
                return Err(BenchError::Floor { workload: DIRECT, why: why.to_string() });
            }
            Err(why) => {
                self.series.error = Some(why.to_string());
                self.way = None;
            }
        }
        Ok(())
    }
}

/// Tells whoever waits.
struct Tell(SyncSender<()>);

impl PacketListener for Tell {
    fn packet(&self, _: Packet) {
        // Full: nobody waits for more than one.
        let _ = self.0.try_send(());
    }

    fn ended(&self, _: io::Result<()>) {}
}

impl Way {
    fn new(choice: Option<Choice>) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let (ours, theirs) = message::pair().map_err(|errno| told(&errno))?;
        std::thread::Builder::new()
            .name("bench-init".to_owned())
            .spawn(move || answer(&theirs))
            .map_err(|error| told(&error))?;
        let Some(choice) = choice else { return Ok(Way::Direct(ours)) };
        let ipc = Ipc::start(choice).map_err(|error| told(&error))?;
        let (tell, answers) = sync_channel(1);
        let packets = ipc.packets(ours, Arc::new(Tell(tell))).map_err(|error| told(&error))?;
        Ok(Way::Ours { packets, answers, _ipc: ipc })
    }

    fn ask(&self, view: &File) -> io::Result<()> {
        match self {
            Way::Direct(socket) => {
                message::send(socket.as_fd(), QUESTION, &[view.as_fd()])?;
                poll(&mut [PollFd::new(socket, PollFlags::IN)], None)?;
                let (mut bytes, mut none) = ([0; message::BYTES_MAX], message::no_descriptors());
                let length = message::receive(socket.as_fd(), &mut bytes, &mut none, false)?;
                length.map(drop).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Way::Ours { packets, answers, .. } => {
                // What goes over to the other thread must be owned by it.
                let descriptors = vec![view.as_fd().try_clone_to_owned()?];
                packets.send(Packet { bytes: QUESTION.to_vec(), descriptors }).map_err(io::Error::other)?;
                answers.recv_timeout(PATIENCE).map_err(io::Error::other)
            }
        }
    }

    fn block(&self, view: &File, questions: usize) -> io::Result<Sample> {
        let mut times = Vec::with_capacity(questions);
        let clock = || process_clock(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or(0);
        let before = clock();
        for _ in 0..questions {
            let started = Instant::now();
            self.ask(view)?;
            times.push(started.elapsed().as_nanos() as f64);
        }
        let daemon_ns = clock().saturating_sub(before) / questions as u64;
        let cpu = Reading { daemon_ns, ..Reading::default() };
        Ok(Sample { latency: Duration::from_nanos(median(&times) as u64), cpu, phases: Vec::new() })
    }
}

/// The peer: takes a descriptor, closes it, and answers, until the other end is closed.
fn answer(socket: &OwnedFd) {
    let (mut bytes, mut descriptors) = ([0; message::BYTES_MAX], message::no_descriptors());
    while let Ok(Some(_)) = message::receive(socket.as_fd(), &mut bytes, &mut descriptors, true) {
        if message::send(socket.as_fd(), b"done", &[]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_answers() {
        let reports = reports(1, 5).unwrap();
        assert_eq!(
            reports.iter().map(|report| report.name.as_str()).collect::<Vec<_>>(),
            CASES.map(|case| case.0)
        );
        assert!(reports[0].error.is_none() && reports[2].error.is_none());
        assert!(reports[0].p50_us.is_some_and(|us| us > 0.0));
    }
}
