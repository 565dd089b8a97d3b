//! Who is where, under one lock; and the machine's effects, none of which blocks.

use super::Inner;
use super::process::{Order, Process};
use super::ticket::{Note, Ticket};
use super::{seen, start};
use crate::exec::executor::WorkerStart;
use crate::observe;
use crate::worker::machine::{Effect, Event, Machine, PoolLimits, RequestEnd, RequestId, WorkerId};
use crate::worker::wire::{WorkRequest, WorkResponse};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Stack of a worker's own thread: it holds plans of sandboxes, no recursion.
const STACK_BYTES: usize = 512 << 10;

/// Starts of workers that are remembered for whoever asks.
const STARTS_MAX: usize = 64;

/// A request in a worker.
#[derive(Clone, Copy, Debug)]
struct Flight {
    request: RequestId,
    slot: u32,
    answered: bool,
}

#[derive(Debug)]
pub(super) struct Board {
    pub machine: Machine,
    pub processes: HashMap<WorkerId, Arc<Process>>,
    pub tickets: HashMap<RequestId, Arc<Ticket>>,
    flights: HashMap<(WorkerId, i32), Flight>,
    /// Workers that have not answered anything yet, and when they were begun.
    begun: HashMap<WorkerId, Instant>,
    /// Those that have, since somebody asked.
    starts: Vec<WorkerStart>,
    /// Of workers that live; each ends by itself when its worker is gone.
    pub threads: BTreeMap<WorkerId, JoinHandle<()>>,
    /// When the timer will wake.
    pub planned: Option<Duration>,
    pub ended: bool,
}

impl Board {
    pub fn new(limits: PoolLimits) -> Self {
        Board {
            machine: Machine::new(limits),
            processes: HashMap::new(),
            tickets: HashMap::new(),
            flights: HashMap::new(),
            begun: HashMap::new(),
            starts: Vec::new(),
            threads: BTreeMap::new(),
            planned: None,
            ended: false,
        }
    }

    /// Starts that are over since the last call, and those that are under way.
    pub fn take_starts(&mut self) -> Vec<WorkerStart> {
        let mut starts = std::mem::take(&mut self.starts);
        for (id, begun) in &self.begun {
            let launch = self.processes.get(id).map(|process| &process.launch);
            starts.extend(launch.map(|launch| WorkerStart {
                kind: launch.mnemonic.clone(),
                took: begun.elapsed(),
                is_over: false,
            }));
        }
        starts
    }

    /// Whether a worker of this mnemonic has answered before.
    pub fn is_warm(&self, mnemonic: &str) -> bool {
        let mut all = self.processes.iter();
        all.any(|(id, process)| process.launch.mnemonic == mnemonic && !self.begun.contains_key(id))
    }

    /// Tells those who wait for anything in this worker that they will get another.
    fn lose(&mut self, id: WorkerId) {
        let tickets = &self.tickets;
        self.flights.retain(|(worker, _), flight| {
            if *worker == id
                && let Some(ticket) = tickets.get(&flight.request).filter(|_| !flight.answered)
            {
                ticket.put(Note::Lost);
            }
            *worker != id
        });
    }

    fn order(&self, id: WorkerId, order: Order) {
        if let Some(process) = self.processes.get(&id) {
            process.order(order);
        }
    }
}

impl Inner {
    pub(super) fn perform(self: &Arc<Self>, board: &mut Board, effects: Vec<Effect>, gone: Option<WorkerId>) {
        // Callers are free before anything else is done, and before a worker hears of a cancel.
        for effect in &effects {
            if let Effect::End(request, end) = effect
                && let Some(ticket) = board.tickets.remove(request)
            {
                // The response itself is the end of those.
                if *end != RequestEnd::Answered {
                    ticket.put(Note::End(end.clone()));
                }
            }
        }
        if let Some(gone) = gone {
            board.lose(gone);
            board.processes.remove(&gone);
            board.begun.remove(&gone);
        }
        for effect in effects {
            match effect {
                Effect::End(..) => {}
                Effect::Start(id, request) => self.begin(board, id, request),
                Effect::Assign { request, worker, wire_id, slot } => {
                    let flight = Flight { request, slot, answered: false };
                    board.flights.insert((worker, wire_id), flight);
                    let process = board.processes.get(&worker).cloned();
                    if let (Some(process), Some(ticket)) = (process, board.tickets.get(&request)) {
                        ticket.put(Note::Assigned { process, wire_id, slot });
                    }
                }
                Effect::SendCancel(worker, request_id) => {
                    let cancel = WorkRequest { request_id, cancel: true, ..WorkRequest::default() };
                    if let Some(process) = board.processes.get(&worker) {
                        // One that cannot be told is killed when its grace is over.
                        let _ = process.send(&cancel);
                    }
                }
                Effect::Freeze(worker) => {
                    if let Some(process) = board.processes.get(&worker) {
                        process.freeze();
                    }
                }
                Effect::Thaw(worker) => {
                    if let Some(process) = board.processes.get(&worker) {
                        process.thaw();
                    }
                }
                Effect::Stop(worker, why) => {
                    tracing::info!(%worker, "a worker is stopped: {why}");
                    observe::worker_stops(worker.0, seen::word(&why));
                    board.lose(worker);
                    board.order(worker, Order::Stop);
                }
                Effect::Kill(worker, why) => {
                    tracing::info!(%worker, "a worker is killed: {why}");
                    observe::worker_stops(worker.0, seen::word(&why));
                    board.lose(worker);
                    if let Some(process) = board.processes.get(&worker) {
                        process.kill();
                    }
                    board.order(worker, Order::Kill);
                }
            }
        }
    }

    /// Starts the thread of a worker, which starts the worker.
    fn begin(self: &Arc<Self>, board: &mut Board, id: WorkerId, request: RequestId) {
        board.threads.retain(|_, thread| !thread.is_finished());
        // The machine names requests that wait, and those have tickets.
        let Some(launch) = board.tickets.get(&request).map(|ticket| ticket.launch.clone()) else { return };
        let inner = self.clone();
        let started = std::thread::Builder::new()
            .name(format!("worker-{id}"))
            .stack_size(STACK_BYTES)
            .spawn(move || start::live(&inner, id, &launch));
        match started {
            Ok(thread) => {
                board.threads.insert(id, thread);
                board.begun.insert(id, Instant::now());
            }
            Err(error) => {
                let why = format!("cannot start a thread: {error}");
                self.event_on(board, Event::StartFailed(id, why));
            }
        }
    }

    /// A worker has answered; on the ipc thread.
    pub(super) fn response(self: &Arc<Self>, id: WorkerId, response: WorkResponse) -> Result<(), String> {
        let mut board = self.lock();
        let wire_id = response.request_id;
        let Some(flight) = board.flights.get_mut(&(id, wire_id)).filter(|flight| !flight.answered) else {
            return Err(format!("Worker process answered request {wire_id}, which it does not have"));
        };
        let (request, slot) = (flight.request, flight.slot);
        flight.answered = true;
        if let Some(begun) = board.begun.remove(&id)
            && let Some(process) = board.processes.get(&id)
        {
            let kind = process.launch.mnemonic.clone();
            // The newest say most of what is here.
            let from = (board.starts.len() + 1).saturating_sub(STARTS_MAX);
            board.starts.drain(..from);
            board.starts.push(WorkerStart { kind, took: begun.elapsed(), is_over: true });
        }
        match board.tickets.get(&request) {
            Some(_) if response.was_cancelled => {
                return Err(format!("Received cancel response for {wire_id} without having cancelled"));
            }
            Some(ticket) => ticket.put(Note::Response(response)),
            None => board.order(id, Order::Orphan { request, wire_id, slot }),
        }
        self.event_on(&mut board, Event::Answered(id, wire_id));
        Ok(())
    }

    /// A request that was never sent, or whose view is gone, leaves its worker.
    pub(super) fn released(self: &Arc<Self>, id: WorkerId, wire_id: i32) {
        let mut board = self.lock();
        board.flights.remove(&(id, wire_id));
        self.event_on(&mut board, Event::Released(id, wire_id));
    }

    /// A worker is ready.
    pub(super) fn ready(self: &Arc<Self>, process: Arc<Process>) {
        let mut board = self.lock();
        let id = process.id;
        board.processes.insert(id, process);
        self.event_on(&mut board, Event::Started(id));
    }
}
