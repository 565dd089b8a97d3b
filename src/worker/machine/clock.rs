//! What time and memory do to workers and requests.

use super::types::{Effect, RequestEnd, RequestId, StopReason, WorkerId};
use super::{Life, Machine, Phase};
use std::cmp::Reverse;
use std::time::Duration;

impl Machine {
    /// When there is something to do if nothing happens until then.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let idle = |worker: &super::Worker| {
            let after = if worker.frozen { self.limits.idle_max } else { self.limits.freeze_after };
            worker.is_idle().then(|| worker.idle_since.saturating_add(after.min(self.limits.idle_max)))
        };
        let flights = self.workers.values().flat_map(|worker| {
            worker.flights.iter().filter_map(|flight| match flight.phase {
                Phase::Running(until) => Some(until),
                Phase::Orphan(until) => (until < Duration::MAX).then_some(until),
                Phase::Answered => None,
            })
        });
        let silent = self.workers.values().filter_map(super::Worker::silent_until);
        let waiting = self.waiting.iter().filter_map(|request| self.requests.get(request));
        let waiting = waiting.flat_map(|request| {
            let pause = self.crashes.get(&request.submission.key).map(|crashes| crashes.not_before);
            let patience = request.since.saturating_add(self.limits.wait_max);
            // One that was over at the last event held nobody up then; one that is over since is due, however late.
            [Some(patience), pause.filter(|pause| *pause > self.handled)]
        });
        self.workers
            .values()
            .filter_map(idle)
            .chain(flights)
            .chain(silent)
            .chain(self.build_due())
            .chain(waiting.flatten())
            .min()
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.expire_waiting(now);
        self.expire_flights(now);
        self.expire_idle(now);
        self.expire_builds(now);
        let pause = self.limits.backoff_max.saturating_mul(2);
        self.crashes.retain(|_, crashes| now < crashes.not_before.saturating_add(pause));
    }

    fn expire_waiting(&mut self, now: Duration) {
        let wait_max = self.limits.wait_max;
        let is_late = |request: &&RequestId| {
            self.requests.get(*request).is_some_and(|entry| entry.since.saturating_add(wait_max) <= now)
        };
        let late: Vec<RequestId> = self.waiting.iter().filter(is_late).copied().collect();
        for request in late {
            self.end(request, RequestEnd::NoWorker(wait_max));
        }
    }

    fn expire_flights(&mut self, now: Duration) {
        let (grace, finish) = (self.limits.cancel_grace, self.limits.finish_max);
        let mut hung: Vec<WorkerId> = Vec::new();
        let mut late: Vec<RequestId> = Vec::new();
        for (id, worker) in &mut self.workers {
            for flight in &mut worker.flights {
                let patience = match flight.phase {
                    Phase::Running(until) if until <= now => {
                        late.push(flight.request);
                        if worker.multiplex && worker.cancels && worker.doomed.is_none() {
                            // Others are well in it, perhaps: what it answers to this shows.
                            flight.phase = Phase::Orphan(now.saturating_add(grace));
                            self.effects.push(Effect::SendCancel(*id, flight.wire_id));
                            continue;
                        }
                        self.requests.get(&flight.request).map_or(grace, |entry| entry.submission.timeout)
                    }
                    Phase::Orphan(until) if until <= now && worker.cancels => grace,
                    Phase::Orphan(until) if until <= now => finish,
                    _ => continue,
                };
                flight.phase = Phase::Orphan(Duration::MAX);
                worker.doomed.get_or_insert(StopReason::Hung);
                worker.silence_max = Some(worker.silence_max.map_or(patience, |max| max.min(patience)));
                hung.push(*id);
            }
        }
        for request in late {
            let limit = self.requests.get(&request).map_or(Duration::ZERO, |entry| entry.submission.timeout);
            self.end(request, RequestEnd::TimedOut(limit));
        }
        hung.into_iter().for_each(|id| self.settle(id));
        self.end_wedged(now);
    }

    /// Ends those that have shown no sign of life since one of their requests should have been answered: the others in
    /// them would each wait for its own deadline.
    fn end_wedged(&mut self, now: Duration) {
        let wedged = self.workers.iter().filter_map(|(id, worker)| {
            let until = worker.silent_until().filter(|until| *until <= now)?;
            Some((*id, worker.key, now.saturating_sub(until) + worker.silence_max?))
        });
        let wedged: Vec<_> = wedged.collect();
        for (id, key, silence) in wedged {
            let seconds = silence.as_secs_f64();
            let why = format!(
                "Worker process did not return a WorkResponse: it answered nothing for {seconds:.1} s"
            );
            self.count_crash(key, now);
            self.fail_flights(id, &why);
            self.bury(id, Effect::Kill(id, StopReason::Hung));
        }
    }

    fn expire_idle(&mut self, now: Duration) {
        let (freeze_after, idle_max) = (self.limits.freeze_after, self.limits.idle_max);
        let idle = self.workers.iter_mut().filter(|(_, worker)| worker.is_idle());
        let mut ended = Vec::new();
        for (id, worker) in idle {
            let idle_for = now.saturating_sub(worker.idle_since);
            if idle_for >= idle_max {
                ended.push(*id);
            } else if idle_for >= freeze_after && !worker.frozen {
                worker.frozen = true;
                self.effects.push(Effect::Freeze(*id));
            }
        }
        for id in ended {
            self.doom(id, StopReason::Idle(idle_max));
        }
    }

    pub(super) fn memory(&mut self, id: WorkerId, bytes: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.bytes = bytes;
        let Some(bytes_max) = self.limits.memory_bytes_max else { return };
        let total_bytes = self.memory_bytes();
        // Those that go already are as good as gone.
        let staying = self.workers.iter().filter(|(_, worker)| worker.doomed.is_none());
        let mut staying: Vec<_> = staying
            .filter(|(_, worker)| worker.life == Life::Ready)
            .map(|(id, worker)| (*id, worker.is_idle(), worker.bytes))
            .collect();
        let mut left: u64 = staying.iter().map(|(_, _, bytes)| *bytes).sum();
        // Idle ones first, the largest of them first; then those at work, when they are done.
        staying.sort_by_key(|(id, idle, bytes)| (!idle, Reverse(*bytes), *id));
        for (id, _, bytes) in staying {
            if left <= bytes_max {
                break;
            }
            left -= bytes;
            self.doom(id, StopReason::MemoryPressure { bytes, total_bytes, bytes_max });
        }
    }

    /// Whether no worker may be added: what is there has to go first.
    pub(super) fn is_memory_full(&self) -> bool {
        self.limits.memory_bytes_max.is_some_and(|max| self.memory_bytes() > max)
    }

    /// What all workers use, as far as it was told.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.workers.values().map(|worker| worker.bytes).sum()
    }
}
