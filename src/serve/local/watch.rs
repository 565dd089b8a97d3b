//! The stream of events: what happens to the actions of the caller's tenant, and to the daemon.
//!
//! The task belongs to the stream: when the caller leaves, it is dropped. A caller that reads slowly fills the few
//! places here, and then misses events, which it is told; nobody else notices.

use crate::observe::events::{ActionEnd, ActionName, Event, RaceTold, Seen, Watcher, What, WorkerTold};
use crate::observe::{self, Family, Outcome, RaceEnd, Reading, StartWhy, Strategy};
use fulgurite_proto::v1;
use fulgurite_proto::v1::action_outcome::End;
use fulgurite_proto::v1::event::Event as Told;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::Status;

/// Events that are on their way to the caller; all others are in the ring.
const EVENTS_MAX: usize = 16;

/// The caller's end.
#[derive(Debug)]
pub(in crate::serve) struct WatchStream {
    /// Ended when the stream is dropped.
    _task: JoinSet<()>,
    events: mpsc::Receiver<Result<v1::Event, Status>>,
}

/// Tells a tenant what happens from now on, until the server is `over`.
pub(super) fn serve(watcher: Watcher, tenant: String, over: watch::Receiver<bool>) -> WatchStream {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let mut task = JoinSet::new();
    task.spawn(tell(watcher, tenant, over, sender));
    WatchStream { _task: task, events }
}

async fn tell(
    mut watcher: Watcher,
    tenant: String,
    mut over: watch::Receiver<bool>,
    sender: mpsc::Sender<Result<v1::Event, Status>>,
) {
    let mut sequence = 0;
    loop {
        let seen = tokio::select! {
            seen = watcher.next() => seen,
            () = is_over(&mut over) => return,
        };
        let event = match seen {
            Seen::Missed(events) => {
                // So that who looks at the numbers alone sees the gap as well.
                sequence += events;
                let time_us = observe::now_us();
                v1::Event {
                    time_us,
                    event: Some(Told::Lagged(v1::Lagged { events })),
                    ..v1::Event::default()
                }
            }
            Seen::Event(event) if event.tenant.as_ref().is_none_or(|of| *of == tenant) => encode(&event),
            Seen::Event(_) => continue,
        };
        sequence += 1;
        let sent = tokio::select! {
            sent = sender.send(Ok(v1::Event { sequence, ..event })) => sent,
            () = is_over(&mut over) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn is_over(over: &mut watch::Receiver<bool>) {
    // An error is the end as well.
    let _ = over.wait_for(|over| *over).await;
}

impl Stream for WatchStream {
    type Item = Result<v1::Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

fn encode(event: &Event) -> v1::Event {
    let (name, told) = match &event.what {
        What::Queued(name) => {
            (Some(name), Told::Queued(v1::ActionQueued { mnemonic: name.mnemonic.clone() }))
        }
        What::Started(name) => {
            let action_id = name.operation.clone();
            (Some(name), Told::Started(v1::Started { action_id, sandbox: String::new() }))
        }
        What::Ended(name, end) => (Some(name), Told::Outcome(outcome(end))),
        What::Left(name, why) => {
            let end = Some(End::Cancelled(v1::Cancelled {}));
            let outcome = v1::ActionOutcome { end, message: why.clone(), ..v1::ActionOutcome::default() };
            (Some(name), Told::Outcome(outcome))
        }
        What::Raced(name, told) => (Some(name), Told::Race(race(told))),
        What::WorkerStarted(told) => (None, Told::WorkerStarted(worker(told))),
        What::Worker(told) => (None, Told::Worker(worker(told))),
        What::WorkerEnded(told, why, message) => {
            let (why, message) = (why.word().to_owned(), message.clone());
            (None, Told::WorkerEnded(v1::WorkerEnded { worker: Some(worker(told)), why, message }))
        }
        What::Pressure(resource, permille) => {
            let (resource, stalled_permille) = (resource.word().to_owned(), clamped(*permille));
            (None, Told::Pressure(v1::Pressure { resource, stalled_permille }))
        }
        What::Store { evicted, bytes_evicted, quarantined, errors } => {
            let (blobs_evicted, bytes_evicted) = (*evicted, *bytes_evicted);
            let (blobs_quarantined, errors) = (*quarantined, *errors);
            let told = v1::StoreChanged { blobs_evicted, bytes_evicted, blobs_quarantined, errors };
            (None, Told::Store(told))
        }
        What::Cluster { gone } => (None, Told::Cluster(v1::ClusterChanged { gone: *gone })),
    };
    let ActionName { operation, digest, mnemonic } = name.cloned().unwrap_or_default();
    let (action_id, action_digest) = (operation, digest);
    v1::Event { sequence: 0, time_us: event.time_us, action_id, action_digest, mnemonic, event: Some(told) }
}

fn clamped(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn outcome(end: &ActionEnd) -> v1::ActionOutcome {
    let failure = |kind: v1::FailureKind| {
        End::Failure(v1::Failure { kind: kind as i32, message: end.message.clone(), hints: Vec::new() })
    };
    let how = match end.outcome {
        Outcome::Succeeded | Outcome::Failed => End::ExitCode(end.exit_code),
        Outcome::TimedOut => End::TimedOut(v1::TimedOut { timeout_ms: end.wall_us / 1000 }),
        Outcome::Canceled => End::Cancelled(v1::Cancelled {}),
        Outcome::OutOfMemory => End::OutOfMemory(v1::OutOfMemory {
            memory_peak_bytes: end.memory_peak_bytes,
            memory_bytes_max: 0,
        }),
        Outcome::Missing | Outcome::Invalid | Outcome::Unmet => failure(v1::FailureKind::User),
        Outcome::Unavailable => failure(v1::FailureKind::Host),
        Outcome::Internal => failure(v1::FailureKind::Bug),
    };
    let cached = end.strategy == Strategy::Cached;
    let usage = v1::Usage {
        wall_us: end.wall_us,
        cpu_user_us: Some(end.cpu_user_us).filter(|_| !cached),
        cpu_system_us: Some(end.cpu_system_us).filter(|_| !cached),
        memory_peak_bytes: Some(end.memory_peak_bytes).filter(|bytes| *bytes > 0),
        ..v1::Usage::default()
    };
    v1::ActionOutcome {
        end: Some(how),
        usage: Some(usage),
        cached,
        worker: end.worker.clone(),
        message: end.message.clone(),
        strategy: end.strategy.word().to_owned(),
        ..v1::ActionOutcome::default()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn race(told: &RaceTold) -> v1::RaceDecided {
    let why = |side: Option<(StartWhy, Duration)>| {
        side.map_or((String::new(), None), |(why, at)| (why.word().to_owned(), Some(micros(at))))
    };
    let ((local_why, local_started_us), (remote_why, remote_started_us)) =
        (why(told.local), why(told.remote));
    let winner = match told.end {
        RaceEnd::Local | RaceEnd::Remote => told.end.word().to_owned(),
        _ => String::new(),
    };
    let summary = v1::RaceSummary {
        winner,
        remote_hit: told.remote_hit,
        local_why,
        local_started_us,
        remote_why,
        remote_started_us,
        margin_us: told.margin.map(micros),
        wasted_wall_us: micros(told.wasted_wall),
        wasted_cpu_us: micros(told.wasted_cpu),
    };
    v1::RaceDecided { outcome: told.end.word().to_owned(), summary: Some(summary) }
}

/// A worker, as messages have it.
fn worker(told: &WorkerTold) -> v1::LiveWorker {
    let WorkerTold { number, mnemonic, key, requests, memory_kib, cpu_ms } = told.clone();
    v1::LiveWorker { number, mnemonic, key, requests, memory_kib, cpu_ms }
}

/// All numbers, as a status has them.
pub(super) fn status(reading: &Reading, counters: BTreeMap<String, u64>) -> v1::Status {
    let sandboxes = |state: &str| {
        let all = reading.all(Family::Sandboxes).filter(|(labels, _)| labels.get(1) == Some(&state));
        clamped(all.map(|(_, count)| count).sum())
    };
    let pressure = reading.all(Family::Pressure).map(|(labels, permille)| v1::Pressure {
        resource: labels.concat(),
        stalled_permille: clamped(permille),
    });
    v1::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandboxes_ready: sandboxes("ready"),
        sandboxes_leased: sandboxes("leased"),
        counters: counters.into_iter().collect(),
        workers: observe::workers(reading).iter().map(worker).collect(),
        pressure: pressure.collect(),
        slots: clamped(reading.get(Family::Slots, &[]).unwrap_or(0)),
        ..v1::Status::default()
    }
}
