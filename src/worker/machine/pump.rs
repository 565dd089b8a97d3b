//! Gives waiting requests to workers, and starts workers for those that are left.
//!
//! In the order of submission; within a key strictly so: while one waits that needs a worker for itself, no later one
//! keeps the workers of its key busy.

use super::types::{Effect, RequestId, StopReason, WorkerId};
use super::{Flight, Life, Machine, Phase, Request, Worker};
use crate::worker::key::WorkerKey;
use std::collections::HashMap;
use std::time::Duration;

impl Machine {
    pub(super) fn pump(&mut self, now: Duration) {
        // What starting workers will take, by key; a key in here has somebody who waits.
        let mut promised: HashMap<WorkerKey, u32> = HashMap::new();
        let waiting: Vec<RequestId> = self.waiting.iter().copied().collect();
        for id in waiting {
            let Some(request) = self.requests.get(&id) else { continue };
            let key = request.submission.key;
            if !promised.contains_key(&key)
                && let Some(worker) = self.pick(request)
            {
                self.assign(id, worker, now);
                continue;
            }
            let left = promised.entry(key).or_insert_with(|| self.starting_slots(key));
            if *left > 0 {
                *left -= 1;
            } else if let Some(slots) = self.start(id, now) {
                promised.insert(key, slots.saturating_sub(1));
            }
        }
    }

    /// The worker that was used last, of those that can take it now.
    fn pick(&self, request: &Request) -> Option<WorkerId> {
        let fits = |id: &WorkerId, worker: &Worker| {
            let room = if request.is_suspect() || !worker.multiplex { 1 } else { self.limits.slots as usize };
            worker.key == request.submission.key
                && worker.life == Life::Ready
                && worker.doomed.is_none()
                && id.0 >= request.fresh_from
                && worker.flights.len() < room
                && !worker.flights.iter().any(|flight| flight.alone)
        };
        let found = self.workers.iter().filter(|(id, worker)| fits(id, worker));
        found.max_by_key(|(id, worker)| (worker.used, **id)).map(|(id, _)| *id)
    }

    fn assign(&mut self, request: RequestId, id: WorkerId, now: Duration) {
        self.uses += 1;
        let (Some(entry), Some(worker)) = (self.requests.get_mut(&request), self.workers.get_mut(&id)) else {
            return;
        };
        self.waiting.remove(&request);
        entry.at = Some(id);
        if std::mem::take(&mut worker.frozen) {
            self.effects.push(Effect::Thaw(id));
        }
        let taken = |slot: &u32| worker.flights.iter().any(|flight| flight.slot == *slot);
        let slot = (0..self.limits.slots.max(1)).find(|slot| !taken(slot)).unwrap_or(0);
        let wire_id = if worker.multiplex {
            worker.wire_id += 1;
            worker.wire_id
        } else {
            0
        };
        worker.used = self.uses;
        let phase = Phase::Running(now.saturating_add(entry.submission.timeout));
        let alone = entry.is_suspect();
        worker.flights.push(Flight { request, wire_id, slot, alone, phase });
        if worker.wire_id >= super::limits::WIRE_ID_MAX {
            worker.doomed.get_or_insert(StopReason::WornOut);
        }
        self.effects.push(Effect::Assign { request, worker: id, wire_id, slot });
    }

    /// Requests that workers of a key will take that are on their way.
    fn starting_slots(&self, key: WorkerKey) -> u32 {
        let starting = self
            .workers
            .values()
            .filter(|worker| worker.key == key && worker.life == Life::Starting && worker.doomed.is_none());
        starting.map(|worker| if worker.multiplex { self.limits.slots } else { 1 }).sum()
    }

    /// Starts a worker for a request, if there may be one more now; says how many requests it will take. Where an idle
    /// worker that cannot serve it has the place, that one makes room.
    fn start(&mut self, request: RequestId, now: Duration) -> Option<u32> {
        let entry = self.requests.get(&request)?;
        let submission = entry.submission.clone();
        let is_suspect = entry.is_suspect();
        if self.crashes.get(&submission.key).is_some_and(|crashes| now < crashes.not_before) {
            return None;
        }
        let is_starting = |worker: &&Worker| worker.life == Life::Starting && !worker.executed;
        let starting = self.workers.values().filter(is_starting).count();
        if starting >= self.limits.starting_max.max(1) || self.is_memory_full() {
            return None;
        }
        let per_key =
            if submission.multiplex { self.limits.multiplex_per_key_max } else { self.limits.per_key_max };
        let (key, mnemonic) = (submission.key, submission.mnemonic.as_str());
        let has_room = self.has_room(per_key, |worker| worker.key == key)
            && self.has_room(self.limits.per_mnemonic_max, |worker| worker.mnemonic == mnemonic)
            && self.has_room(self.limits.workers_max, |_| true);
        if !has_room {
            return None;
        }
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let slots = if submission.multiplex && !is_suspect { self.limits.slots } else { 1 };
        let worker = Worker {
            key,
            tools: submission.tools,
            mnemonic: submission.mnemonic,
            build: submission.build,
            multiplex: submission.multiplex,
            cancels: submission.cancels,
            life: Life::Starting,
            executed: false,
            flights: Vec::new(),
            wire_id: 0,
            bytes: 0,
            frozen: false,
            idle_since: now,
            used: 0,
            doomed: None,
            heard: now,
            silence_max: None,
        };
        self.counts.started += 1;
        self.workers.insert(id, worker);
        self.effects.push(Effect::Start(id, request));
        Some(slots)
    }

    /// Whether there may be one more of a kind. If not, the idle one that was used longest ago goes, unless one of
    /// them is on its way out already.
    fn has_room(&mut self, max: usize, is_of_kind: impl Fn(&Worker) -> bool) -> bool {
        let kind: Vec<(&WorkerId, &Worker)> =
            self.workers.iter().filter(|(_, worker)| is_of_kind(worker)).collect();
        if kind.len() < max.max(1) {
            return true;
        }
        let is_leaving = kind.iter().any(|(_, worker)| worker.life == Life::Dying);
        let idle = kind.iter().filter(|(_, worker)| worker.is_idle());
        let oldest = idle.min_by_key(|(_, worker)| worker.used).map(|(id, _)| **id);
        if let Some(oldest) = oldest.filter(|_| !is_leaving) {
            self.doom(oldest, StopReason::MakeRoom);
        }
        false
    }
}
