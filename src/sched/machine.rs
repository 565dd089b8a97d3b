//! Runs and the operations that wait for them, as a machine of events and effects. Time is given to it.

use super::fair::{Bill, FairQueue, Mean, Ticket};
use super::limits::{LESS_WORK_TIMES, LIGHT_MICROS_MAX, SHORTER_TIMES, SchedulerLimits};
use super::types::{Accepted, Cost, Effect, Ending, Leaving, OperationId, Refusal, RunId, Submission};
use crate::action::Digest;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Queued(Ticket),
    Started(Bill),
    Executing(Bill),
    Publishing(Bill),
}

#[derive(Debug)]
struct Run {
    tenant: String,
    key: Option<Digest>,
    fresh: bool,
    killed: bool,
    priority: i32,
    phase: Phase,
    operations: Vec<OperationId>,
}

#[derive(Debug)]
struct Operation {
    tenant: String,
    /// `None` once it is over.
    run: Option<RunId>,
    waiters: u32,
    /// Until when those who left may come back.
    kept_until: Duration,
    weight_bytes: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    slots: usize,
    /// What has a slot, with what it was charged.
    running: BTreeMap<RunId, Mean>,
    draining: bool,
    next_run: u64,
    queue: FairQueue<RunId>,
    runs: HashMap<RunId, Run>,
    by_key: HashMap<(String, Digest), RunId>,
    operations: HashMap<OperationId, Operation>,
    live_per_tenant: HashMap<String, usize>,
    /// Operations that are over, by when and in which order they ended.
    ended: BTreeMap<(Duration, u64), OperationId>,
    ended_count: u64,
    ended_bytes: u64,
}

impl Scheduler {
    /// With so many slots.
    #[must_use]
    pub fn new(slots: usize, limits: SchedulerLimits) -> Self {
        Scheduler {
            limits,
            slots,
            running: BTreeMap::new(),
            draining: false,
            next_run: 0,
            queue: FairQueue::default(),
            runs: HashMap::new(),
            by_key: HashMap::new(),
            operations: HashMap::new(),
            live_per_tenant: HashMap::new(),
            ended: BTreeMap::new(),
            ended_count: 0,
            ended_bytes: 0,
        }
    }

    /// A request comes; whoever brings it waits for it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn submit(&mut self, request: Submission, effects: &mut Vec<Effect>) -> Result<Accepted, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        let live = self.live_per_tenant.get(&request.tenant).copied().unwrap_or(0);
        if live >= self.limits.operations_per_tenant {
            return Err(Refusal::TooManyOperations { operations: live });
        }
        let joined = self.join(&request);
        let run = match joined {
            Some(run) => run,
            None => self.enqueue(&request)?,
        };
        *self.live_per_tenant.entry(request.tenant.clone()).or_insert(0) += 1;
        let operation = Operation {
            tenant: request.tenant,
            run: Some(run),
            waiters: 1,
            kept_until: Duration::ZERO,
            weight_bytes: 0,
        };
        self.operations.insert(request.operation, operation);
        self.dispatch(effects);
        Ok(Accepted { run, joined: joined.is_some() })
    }

    fn join(&mut self, request: &Submission) -> Option<RunId> {
        let id = *self.by_key.get(&(request.tenant.clone(), request.key?))?;
        let run = self.runs.get_mut(&id)?;
        match &mut run.phase {
            Phase::Queued(ticket) => {
                run.fresh |= request.fresh;
                if request.priority < run.priority {
                    run.priority = request.priority;
                    self.queue.reprioritize(ticket, request.priority);
                }
            }
            // It may be answering from the cache just now.
            Phase::Started(_) if request.fresh && !run.fresh => return None,
            // Its result may be visible already.
            Phase::Publishing(_) if request.fresh => return None,
            Phase::Started(_) | Phase::Executing(_) | Phase::Publishing(_) => {}
        }
        run.operations.push(request.operation);
        Some(id)
    }

    fn enqueue(&mut self, request: &Submission) -> Result<RunId, Refusal> {
        let waiting = self.queue.waiting(&request.tenant);
        if waiting >= self.limits.queued_per_tenant {
            return Err(Refusal::QueueFull { waiting });
        }
        let id = RunId(self.next_run);
        self.next_run += 1;
        let ticket = self.queue.push(&request.tenant, &request.invocation, request.priority, id);
        if let Some(key) = request.key {
            self.by_key.insert((request.tenant.clone(), key), id);
        }
        let run = Run {
            tenant: request.tenant.clone(),
            key: request.key,
            fresh: request.fresh,
            killed: false,
            priority: request.priority,
            phase: Phase::Queued(ticket),
            operations: vec![request.operation],
        };
        self.runs.insert(id, run);
        Ok(id)
    }

    /// The run's command is about to be started: its result will be a fresh one.
    pub fn executing(&mut self, run: RunId) {
        self.advance(run, Phase::Executing);
    }

    /// The run's result is about to become visible.
    pub fn publishing(&mut self, run: RunId) {
        self.advance(run, Phase::Publishing);
    }

    fn advance(&mut self, run: RunId, to: impl Fn(Bill) -> Phase) {
        if let Some(run) = self.runs.get_mut(&run)
            && let Phase::Started(bill) | Phase::Executing(bill) | Phase::Publishing(bill) = &run.phase
        {
            run.phase = to(bill.clone());
        }
    }

    /// The run is over: it cost so much, and its result holds so many bytes. Gives the operations that end with it.
    pub fn finished(
        &mut self,
        now: Duration,
        run: RunId,
        cost: Cost,
        weight_bytes: u64,
        effects: &mut Vec<Effect>,
    ) -> Vec<OperationId> {
        let Some(over) = self.remove_run(run) else { return Vec::new() };
        if let Phase::Started(bill) | Phase::Executing(bill) | Phase::Publishing(bill) = &over.phase {
            self.queue.settle(bill, cost);
            self.running.remove(&run);
        }
        for (index, operation) in over.operations.iter().enumerate() {
            // Operations that were merged share one result.
            self.end(now, *operation, if index == 0 { weight_bytes } else { 0 });
        }
        self.dispatch(effects);
        self.trim(effects);
        over.operations
    }

    /// Somebody cancels an operation. False if there is none of that name.
    pub fn cancel(&mut self, now: Duration, operation: OperationId, effects: &mut Vec<Effect>) -> bool {
        self.leave(now, operation, Ending::Canceled, effects)
    }

    fn leave(
        &mut self,
        now: Duration,
        operation: OperationId,
        why: Ending,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(found) = self.operations.get(&operation) else { return false };
        let Some(id) = found.run else { return true };
        let Some(run) = self.runs.get_mut(&id) else { return true };
        let is_last = run.operations.len() == 1;
        let is_queued = matches!(run.phase, Phase::Queued(_));
        if is_last && !is_queued {
            // It ends with its run, and with what the command has printed.
            if !run.killed {
                run.killed = true;
                effects.push(Effect::Kill(id));
                self.unmerge(id);
            }
            return true;
        }
        run.operations.retain(|other| *other != operation);
        if is_last {
            self.drop_queued(id, effects);
        }
        self.end(now, operation, 0);
        effects.push(Effect::End(operation, why));
        self.trim(effects);
        true
    }

    fn drop_queued(&mut self, id: RunId, effects: &mut Vec<Effect>) {
        if let Some(run) = self.remove_run(id) {
            if let Phase::Queued(ticket) = &run.phase {
                self.queue.remove(ticket);
            }
            effects.push(Effect::Drop(id));
        }
    }

    /// Somebody more waits for an operation. False if there is none of that name.
    pub fn attach(&mut self, operation: OperationId) -> bool {
        let Some(found) = self.operations.get_mut(&operation) else { return false };
        found.waiters += 1;
        true
    }

    /// Somebody who waited for an operation does so no longer.
    pub fn detach(&mut self, now: Duration, operation: OperationId, how: Leaving) {
        if let Some(found) = self.operations.get_mut(&operation) {
            found.waiters = found.waiters.saturating_sub(1);
            // A daemon that is about to end takes no connections: who has lost one cannot come back.
            let how = if self.draining { Leaving::Left } else { how };
            // Whoever may come back longest counts, in whatever order they left.
            found.kept_until = found.kept_until.max(now + self.limits.patience(how));
        }
    }

    /// Time has passed: what nobody waits for is canceled, and what is long over forgotten.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let is_abandoned =
            |found: &Operation| found.run.is_some() && found.waiters == 0 && now >= found.kept_until;
        let abandoned: Vec<OperationId> = self
            .operations
            .iter()
            .filter(|(_, found)| is_abandoned(found))
            .map(|(operation, _)| *operation)
            .collect();
        for operation in abandoned {
            self.leave(now, operation, Ending::Abandoned, effects);
        }
        while let Some(entry) = self.ended.first_key_value()
            && now >= entry.0.0 + self.limits.retained_for
        {
            self.forget_oldest(effects);
        }
        self.dispatch(effects);
    }

    /// The daemon is about to end: nothing more is accepted, what has not started ends now, and nobody who has lost a
    /// connection is waited for.
    pub fn drain(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.draining = true;
        let soon = now + self.limits.patience(Leaving::Left);
        self.operations.values_mut().for_each(|found| found.kept_until = found.kept_until.min(soon));
        let queued: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, run)| matches!(run.phase, Phase::Queued(_)))
            .map(|(id, _)| *id)
            .collect();
        for id in queued {
            let operations = self.runs.get(&id).map(|run| run.operations.clone()).unwrap_or_default();
            self.drop_queued(id, effects);
            for operation in operations {
                self.end(now, operation, 0);
                effects.push(Effect::End(operation, Ending::Drained));
            }
        }
        self.trim(effects);
    }

    /// Kills what runs.
    pub fn kill_all(&mut self, effects: &mut Vec<Effect>) {
        for (id, run) in &mut self.runs {
            if !run.killed && !matches!(run.phase, Phase::Queued(_)) {
                run.killed = true;
                effects.push(Effect::Kill(*id));
            }
        }
    }

    /// Runs that wait for a slot, and runs that have one.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let queued = self.runs.values().filter(|run| matches!(run.phase, Phase::Queued(_))).count();
        (queued, self.runs.len() - queued)
    }

    /// Whose an operation is.
    #[must_use]
    pub fn tenant(&self, operation: OperationId) -> Option<&str> {
        self.operations.get(&operation).map(|found| found.tenant.as_str())
    }

    /// The operations that wait for a run.
    #[must_use]
    pub fn waiting_for(&self, run: RunId) -> &[OperationId] {
        self.runs.get(&run).map_or(&[], |run| &run.operations)
    }

    /// A tenant's operations, by name.
    #[must_use]
    pub fn operations_of(&self, tenant: &str) -> Vec<OperationId> {
        let mut names: Vec<OperationId> = self
            .operations
            .iter()
            .filter(|(_, found)| found.tenant == tenant)
            .map(|(operation, _)| *operation)
            .collect();
        names.sort_unstable();
        names
    }

    #[cfg(test)]
    pub(super) fn slots_free_for_tests(&mut self, slots: usize) {
        self.slots = self.running.len() + slots;
    }

    fn dispatch(&mut self, effects: &mut Vec<Effect>) {
        while let Some((id, bill)) = self.turn() {
            if let Some(run) = self.runs.get_mut(&id) {
                self.running.insert(id, bill.charged());
                run.phase = Phase::Started(bill);
                effects.push(Effect::Start { run: id, may_use_cache: !run.fresh });
            }
        }
    }

    /// Whose turn it is, if there is a place. Beside so many as there are slots one more has a place that is light, and
    /// lighter by far than each of those: it would wait for much longer than it takes, and they hardly notice it.
    fn turn(&mut self) -> Option<(RunId, Bill)> {
        if self.running.len() < self.slots {
            return self.queue.pop();
        }
        let running = &self.running;
        if running.is_empty() || running.len() > self.slots {
            return None;
        }
        self.queue.pop_light(|light| {
            light.held_micros <= LIGHT_MICROS_MAX
                && running.values().all(|heavy| {
                    light.work_micros <= heavy.work_micros / LESS_WORK_TIMES
                        || light.held_micros <= heavy.held_micros / SHORTER_TIMES
                })
        })
    }

    fn unmerge(&mut self, id: RunId) {
        if let Some(run) = self.runs.get(&id)
            && let Some(key) = run.key
        {
            let key = (run.tenant.clone(), key);
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
        }
    }

    fn remove_run(&mut self, id: RunId) -> Option<Run> {
        self.unmerge(id);
        self.runs.remove(&id)
    }

    fn end(&mut self, now: Duration, operation: OperationId, weight_bytes: u64) {
        let Some(found) = self.operations.get_mut(&operation) else { return };
        if found.run.take().is_none() {
            return;
        }
        found.weight_bytes = weight_bytes;
        if let Some(live) = self.live_per_tenant.get_mut(&found.tenant) {
            *live = live.saturating_sub(1);
            if *live == 0 {
                self.live_per_tenant.remove(&found.tenant);
            }
        }
        self.ended.insert((now, self.ended_count), operation);
        self.ended_count += 1;
        self.ended_bytes += weight_bytes;
    }

    fn trim(&mut self, effects: &mut Vec<Effect>) {
        while self.ended.len() > self.limits.retained || self.ended_bytes > self.limits.retained_bytes {
            if !self.forget_oldest(effects) {
                return;
            }
        }
    }

    fn forget_oldest(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Some((_, operation)) = self.ended.pop_first() else { return false };
        if let Some(found) = self.operations.remove(&operation) {
            self.ended_bytes -= found.weight_bytes;
        }
        effects.push(Effect::Forget(operation));
        true
    }
}
