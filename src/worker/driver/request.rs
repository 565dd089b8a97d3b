//! One request, on its caller's thread.

use super::process::{Order, Process, Used};
use super::ticket::{Note, Ticket};
use super::{Inner, NoWorker, Prepared, WorkerJob};
use crate::exec::Verdict;
use crate::exec::executor::Cancel;
use crate::output::limits::HandoffLimits;
use crate::output::{HandedOff, HandoffError, HandoffRequest, Inputs, NoInputs, hand_off};
use crate::stage::prepare_parents;
use crate::worker::ground::{Mounted, StagedInputs};
use crate::worker::job::sandbox_dir;
use crate::worker::key::{KeyQuality, WorkerKey};
use crate::worker::limits::BUCK2_TIMEOUT_GRACE;
use crate::worker::machine::{Event, RequestEnd, RequestId, WorkerId};
use crate::worker::wire::{Protocol, WorkRequest, WorkResponse};
use fulgurite_sandbox::hosted::HostedError;
use fulgurite_sandbox::outcome::End;
use rustix::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// What a worker has done.
#[derive(Debug)]
pub struct WorkerDone {
    /// Its answer.
    pub response: WorkResponse,
    /// The outputs.
    pub outputs: Result<HandedOff, HandoffError>,
    /// Which worker it was.
    pub worker: WorkerId,
    /// Its key.
    pub key: WorkerKey,
    /// What stands for its tools.
    pub quality: KeyQuality,
    /// Which of its requests this was, from one.
    pub served: u64,
    /// Whether nobody could write to the outputs any more when they were taken; else each file was looked at.
    pub sealed: bool,
    /// What the worker used between question and answer, and at most until then; `None` where it has several requests
    /// at a time, or nobody counts.
    pub used: Option<Used>,
    /// The worker gave up at the end of this time.
    pub timed_out: Option<Duration>,
}

/// How a request ended.
#[derive(Debug)]
pub enum WorkerEnd {
    /// With an answer.
    Done(Box<WorkerDone>),
    /// There is no worker for it: it can run by itself.
    NoWorker(NoWorker),
    /// The caller canceled it.
    Canceled,
    /// It had this time; the log of the worker.
    TimedOut(Duration, String),
    /// The worker went down with it, and it was retried as far as that is allowed: why, with the log.
    Crashed(String),
    /// The same, because of its memory.
    OutOfMemory {
        /// The most that it used.
        peak_bytes: Option<u64>,
        /// What it was allowed.
        limit_bytes: Option<u64>,
        /// In words, with the log.
        why: String,
    },
    /// Its view could not be made, or something else of ours failed.
    Failed(Verdict),
}

/// A request in its worker.
struct Seat {
    process: Arc<Process>,
    wire_id: i32,
    slot: u32,
    /// None where the worker has one view for all.
    mounted: Option<Mounted>,
    served: u64,
    /// What the worker had used when it was asked.
    before: Option<Used>,
}

/// A request that was sent: its view, its number, and what the worker had used before it.
struct Sent {
    mounted: Option<Mounted>,
    served: u64,
    before: Option<Used>,
}

/// Why a request was not sent.
enum NotSent {
    /// Something has happened to it meanwhile.
    Told(Option<Mounted>),
    /// It is not the worker's fault, and the worker does not see the view.
    Fault(Verdict, Option<Mounted>),
    /// It is: it must go.
    Broken(String, Option<Mounted>),
}

impl Inner {
    pub(super) fn execute(
        self: &Arc<Self>,
        work: &WorkerJob<'_>,
        mut prepared: Prepared,
        cancel: &Cancel,
    ) -> WorkerEnd {
        let grace = match work.wanted.protocol {
            Protocol::Buck2 => BUCK2_TIMEOUT_GRACE,
            Protocol::Proto | Protocol::Json => Duration::ZERO,
        };
        let (request, ticket) = self.submit(&prepared.launch, work.timeout.saturating_add(grace));
        let inner = self.clone();
        cancel.arm(move || inner.event(Event::Cancel(request)));
        let end = self.follow(work, &mut prepared.request, request, &ticket);
        cancel.disarm();
        match end {
            WorkerEnd::TimedOut(_, log) => WorkerEnd::TimedOut(work.timeout, log),
            end => end,
        }
    }

    fn follow(
        self: &Arc<Self>,
        work: &WorkerJob<'_>,
        message: &mut WorkRequest,
        request: RequestId,
        ticket: &Ticket,
    ) -> WorkerEnd {
        let mut seat: Option<Seat> = None;
        let mut last: Option<Arc<Process>> = None;
        loop {
            match ticket.wait() {
                Note::Assigned { process, wire_id, slot } => {
                    last = Some(process.clone());
                    message.request_id = wire_id;
                    if process.launch.multiplex {
                        message.sandbox_dir = sandbox_dir(&work.job.command, slot);
                    }
                    match self.send(work, message, ticket, &process, slot) {
                        Ok(sent) => {
                            let Sent { mounted, served, before } = sent;
                            seat = Some(Seat { process, wire_id, slot, mounted, served, before });
                        }
                        Err(NotSent::Broken(why, mounted)) => {
                            process.leave(self, request, mounted);
                            process.order(Order::Fail(why));
                        }
                        Err(NotSent::Told(mounted)) => {
                            let taken = process.take_away(slot);
                            self.withdraw(request, &process, wire_id, taken, mounted);
                        }
                        Err(NotSent::Fault(verdict, mounted)) => {
                            self.withdraw(request, &process, wire_id, Ok(()), mounted);
                            return WorkerEnd::Failed(verdict);
                        }
                    }
                }
                Note::Response(response) => {
                    if let Some(seat) = seat.take() {
                        return WorkerEnd::Done(Box::new(self.conclude(work, seat, request, response)));
                    }
                    // It has answered what it was not asked yet.
                    let why = "Worker process answered before it was asked".to_owned();
                    if let Some(process) = &last {
                        process.order(Order::Fail(why.clone()));
                    }
                    return WorkerEnd::Crashed(why);
                }
                Note::Lost => {
                    if let Some(seat) = seat.take() {
                        seat.process.leave(self, request, seat.mounted);
                    }
                }
                Note::End(end) => {
                    if let Some(seat) = seat.take() {
                        seat.process.leave(self, request, seat.mounted);
                    }
                    return ended(end, last.as_deref());
                }
            }
        }
    }

    /// Shows the worker the request's inputs and tells it what to do.
    fn send(
        &self,
        work: &WorkerJob<'_>,
        message: &WorkRequest,
        ticket: &Ticket,
        process: &Process,
        slot: u32,
    ) -> Result<Sent, NotSent> {
        let outputs = work.job.command.outputs.iter().filter_map(|output| output.path.as_ref());
        let mounted = if let Some(mut shared) = process.shared() {
            let shown = shared.show(&self.ground.cas, &work.staged).and_then(|()| {
                Ok(prepare_parents(shared.dir(), Some(shared.dir()), outputs, shared.owner())?)
            });
            shown.map_err(|verdict| NotSent::Fault(verdict, None))?;
            None
        } else {
            let mounted = self.ground.mount(&work.staged, process.action_id, outputs);
            let mounted = mounted.map_err(|verdict| NotSent::Fault(verdict, None))?;
            if let Err(error) = process.show(mounted.view.mount.as_fd(), slot) {
                return Err(match Process::fault(&error) {
                    Ok(verdict) => NotSent::Fault(verdict, Some(mounted)),
                    Err(why) => NotSent::Broken(why, Some(mounted)),
                });
            }
            Some(mounted)
        };
        let is_alone = !process.launch.multiplex;
        if is_alone && let Err(why) = process.is_silent() {
            return Err(NotSent::Broken(why, mounted));
        }
        let before = is_alone.then(|| process.used()).flatten();
        match ticket.unless_told(|| process.send(message)) {
            Some(Ok(())) => Ok(Sent { mounted, served: process.count(), before }),
            Some(Err(error)) => {
                let what =
                    "Worker process quit or closed its stdin stream when we tried to send a WorkRequest";
                Err(NotSent::Broken(format!("{what}: {error}"), mounted))
            }
            None => Err(NotSent::Told(mounted)),
        }
    }

    /// A request that was not sent leaves its worker, which sees nothing of it any more if `taken` says so.
    fn withdraw(
        self: &Arc<Self>,
        request: RequestId,
        process: &Process,
        wire_id: i32,
        taken: Result<(), HostedError>,
        mounted: Option<Mounted>,
    ) {
        self.event(Event::Answered(process.id, wire_id));
        match taken {
            Ok(()) => mounted.into_iter().for_each(|mounted| self.ground.clean(mounted)),
            Err(error) => {
                process.leave(self, request, mounted);
                process.order(Order::Fail(error.to_string()));
            }
        }
        self.released(process.id, wire_id);
    }

    /// Takes what the worker has made.
    fn conclude(
        self: &Arc<Self>,
        work: &WorkerJob<'_>,
        seat: Seat,
        request: RequestId,
        response: WorkResponse,
    ) -> WorkerDone {
        let Seat { process, wire_id, slot, mounted, served, before } = seat;
        let used = before.and_then(|before| process.used().map(|now| now.since(before)));
        let hand = |upper, merged, inputs: &dyn Inputs| {
            hand_off(&HandoffRequest {
                upper,
                merged,
                command: &work.job.command,
                inputs,
                marks: self.ground.marks(),
                function: work.job.function,
                cas: &self.ground.cas,
                limits: HandoffLimits::DEFAULT,
            })
        };
        let sealed = process.seal(slot);
        let outputs = match mounted {
            Some(mounted) => {
                let taken = process.take_away(slot);
                if let Err(error) = &taken {
                    process.order(Order::Fail(error.to_string()));
                }
                self.released(process.id, wire_id);
                let merged = Some(mounted.view.mount.as_fd());
                let outputs = hand(mounted.layer.upper(), merged, &StagedInputs(&mounted.staged));
                match taken {
                    Ok(()) => self.ground.clean(mounted),
                    Err(_) => process.leave(self, request, Some(mounted)),
                }
                outputs
            }
            // Before the next request's inputs come there.
            None => {
                let outputs = match process.shared() {
                    Some(shared) => hand(shared.dir(), None, &NoInputs),
                    None => {
                        let why = "the request has no view";
                        Err(HandoffError::Refused { path: ".".into(), why })
                    }
                };
                self.released(process.id, wire_id);
                outputs
            }
        };
        let (worker, key, quality) = (process.id, process.launch.key, process.launch.quality);
        let timed_out = response.timed_out.then_some(work.timeout);
        WorkerDone { response, outputs, worker, key, quality, served, sealed, used, timed_out }
    }
}

/// What an end means to the caller.
fn ended(end: RequestEnd, last: Option<&Process>) -> WorkerEnd {
    let log = || last.map_or_else(String::new, |process| process.log.excerpt());
    let no_worker = |why: String| WorkerEnd::NoWorker(NoWorker::Other(why));
    match end {
        RequestEnd::Canceled => WorkerEnd::Canceled,
        RequestEnd::TimedOut(limit) => WorkerEnd::TimedOut(limit, log()),
        RequestEnd::Crashed(_, why) => {
            let why = format!("{why}\n\n{}", log());
            match last.and_then(|process| process.end.get()) {
                Some(End::OutOfMemory { peak_bytes, limit_bytes }) => {
                    let (peak_bytes, limit_bytes) = (*peak_bytes, *limit_bytes);
                    WorkerEnd::OutOfMemory { peak_bytes, limit_bytes, why }
                }
                _ => WorkerEnd::Crashed(why),
            }
        }
        RequestEnd::StartFailed(why) => no_worker(format!("no worker can be started: {why}")),
        RequestEnd::NoWorker(waited) => no_worker(format!("no worker was free for {} s", waited.as_secs())),
        RequestEnd::QueueFull(waiting) => no_worker(format!("{waiting} requests wait for workers")),
        RequestEnd::Draining => {
            WorkerEnd::Failed(Verdict::Unavailable("the server is shutting down".to_owned()))
        }
        RequestEnd::Answered => WorkerEnd::Failed(Verdict::Internal("an answer was lost".to_owned())),
    }
}
