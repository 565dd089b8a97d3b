//! What those who do something say of it, in one call each; it goes to the numbers, the trace and the watchers.

use super::events::{self, ActionName, RaceTold, What, WorkerTold};
use super::limits::WORKERS_MAX;
use super::metrics;
use super::trace::{self, Group, Record, Row};
use super::words::{Outcome, Phase, RaceEnd, Side, StartWhy, Strategy, WorkerGone};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

thread_local! {
    static SLOT: Cell<u64> = const { Cell::new(0) };
}

/// This thread is that of a slot from now on: what is told on it goes into the slot's row.
pub fn enter_slot(number: usize) {
    SLOT.set(number as u64);
}

fn slot_row(group: Group) -> Row {
    let number = SLOT.get();
    let title =
        if group == Group::Remote { format!("remote of slot {number}") } else { format!("slot {number}") };
    Row { group, number, title }
}

/// A part of an action's time, in microseconds since 1970.
pub type PhaseSeen = (Phase, u64, u64);

/// An action that had its turn, and is over.
#[derive(Clone, Debug)]
pub struct ActionSeen {
    /// Its digest.
    pub digest: String,
    /// Its kind.
    pub mnemonic: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Who made the result.
    pub strategy: Strategy,
    /// When it came.
    pub queued_us: u64,
    /// When it had its turn.
    pub began_us: u64,
    /// When its answer was there.
    pub ended_us: u64,
    /// What was done on this machine, and when.
    pub phases: Vec<PhaseSeen>,
    /// How long the side that made the result worked on it, without waiting for others.
    pub work_us: u64,
    /// The worker that made it: number, mnemonic and which of its requests.
    pub worker: Option<(u64, u64)>,
    /// Processor time.
    pub cpu: Duration,
    /// Of the command.
    pub exit_code: i32,
}

/// An action had its turn, and is over. On its slot's thread.
pub fn action(seen: &ActionSeen) {
    let numbers = metrics();
    numbers.actions.of(seen.outcome).of(seen.strategy).count();
    if seen.strategy == Strategy::Cached {
        return;
    }
    numbers.action_times.of(seen.strategy).note_us(seen.ended_us.saturating_sub(seen.queued_us));
    numbers.action_cpu.of(seen.strategy).add_time(seen.cpu);
    numbers.phase_times.of(Phase::Queue).note_us(seen.began_us.saturating_sub(seen.queued_us));
    for (phase, from, until) in &seen.phases {
        numbers.phase_times.of(*phase).note_us(until.saturating_sub(*from));
    }
    if trace::is_on() {
        trace_action(seen);
    }
}

fn trace_action(seen: &ActionSeen) {
    let name = if seen.mnemonic.is_empty() { "action" } else { &seen.mnemonic };
    let row = slot_row(Group::Slots);
    let args = json!({
        "mnemonic": seen.mnemonic, "digest": seen.digest, "outcome": seen.outcome.word(),
        "strategy": seen.strategy.word(), "exit_code": seen.exit_code, "work_us": seen.work_us,
        "queue_us": seen.began_us.saturating_sub(seen.queued_us), "cpu_us": micros(seen.cpu),
        "worker": seen.worker.map(|(number, _)| number),
    });
    trace::record(|| Record::Waiting {
        name: name.to_owned(),
        from_us: seen.queued_us,
        until_us: seen.began_us,
    });
    let span = |row: &Row, name: &str, category, from_us, until_us, args| Record::Span {
        row: row.clone(),
        name: name.to_owned(),
        category,
        from_us,
        until_us,
        args,
    };
    trace::record(|| span(&row, name, "action", seen.began_us, seen.ended_us, args));
    for (phase, from, until) in &seen.phases {
        trace::record(|| span(&row, phase.word(), "phase", *from, *until, Value::Null));
    }
    let run = seen.phases.iter().find(|(phase, ..)| *phase == Phase::Run);
    if let (Some((number, request)), Some((_, from, until))) = (seen.worker, run) {
        let row = worker_row(number, &seen.mnemonic);
        let args = json!({ "digest": seen.digest, "request": request, "slot": SLOT.get() });
        trace::record(|| span(&row, name, "request", *from, *until, args));
    }
}

/// A branch of a race. Times count from the beginning of the race.
#[derive(Clone, Debug, Default)]
pub struct BranchSeen {
    /// Why it was wanted when it was; `None`: it was not.
    pub why: Option<StartWhy>,
    /// When it was wanted.
    pub wanted_at: Option<Duration>,
    /// When it started.
    pub started_at: Option<Duration>,
    /// When it ended; `None`: its race did not wait for it.
    pub ended_at: Option<Duration>,
    /// When it was told to stop.
    pub aborted_at: Option<Duration>,
    /// How it ended, in a word.
    pub end: Option<String>,
    /// Processor time, as far as it is known.
    pub cpu: Duration,
}

/// A race that returned.
#[derive(Clone, Debug)]
pub struct RaceSeen {
    /// Whose action.
    pub tenant: String,
    /// Its digest.
    pub digest: String,
    /// Its kind.
    pub mnemonic: String,
    /// When it began, in microseconds since 1970.
    pub began_us: u64,
    /// How it ended.
    pub end: RaceEnd,
    /// The cluster's cache had a result, or none; and when it said so.
    pub answer: Option<(bool, Duration)>,
    /// When the cluster said that it executes the action.
    pub executing_at: Option<Duration>,
    /// The local branch.
    pub local: BranchSeen,
    /// The remote branch.
    pub remote: BranchSeen,
    /// When the outputs were claimed and published.
    pub published_at: Option<Duration>,
    /// When it returned.
    pub returned_at: Duration,
    /// By how much the winner was faster.
    pub margin: Option<Duration>,
    /// From the claim to the end of the loser.
    pub quiet: Option<Duration>,
    /// Time of the loser.
    pub wasted_wall: Duration,
    /// Its processor time.
    pub wasted_cpu: Duration,
}

impl RaceSeen {
    fn winner(&self) -> Option<Side> {
        match self.end {
            RaceEnd::Local => Some(Side::Local),
            RaceEnd::Remote => Some(Side::Remote),
            _ => None,
        }
    }

    fn is_hit(&self) -> bool {
        matches!(self.answer, Some((true, _)))
    }
}

/// A race has returned. On its slot's thread.
pub fn race(seen: &RaceSeen) {
    let numbers = metrics();
    numbers.races.of(seen.end).count();
    if seen.local.started_at.is_some() && seen.remote.started_at.is_some() {
        numbers.races_both.count();
    }
    if seen.end == RaceEnd::Remote && seen.is_hit() {
        numbers.race_hits.count();
    }
    for (side, branch) in [(Side::Local, &seen.local), (Side::Remote, &seen.remote)] {
        if let (Some(why), Some(_)) = (branch.why, branch.started_at) {
            numbers.race_starts.of(side).of(why).count();
        }
    }
    if let Some(winner) = seen.winner() {
        let loser = if winner == Side::Local { Side::Remote } else { Side::Local };
        seen.margin.iter().for_each(|margin| numbers.race_margins.of(winner).note(*margin));
        seen.quiet.iter().for_each(|quiet| numbers.race_quiet.of(loser).note(*quiet));
    }
    if trace::is_on() {
        trace_race(seen);
    }
    events::tell(Some(&seen.tenant), || {
        let start = |branch: &BranchSeen| branch.why.zip(branch.started_at);
        let name =
            ActionName { digest: seen.digest.clone(), mnemonic: seen.mnemonic.clone(), ..Default::default() };
        let told = RaceTold {
            end: seen.end,
            remote_hit: seen.is_hit(),
            local: start(&seen.local),
            remote: start(&seen.remote),
            margin: seen.margin,
            wasted_wall: seen.wasted_wall,
            wasted_cpu: seen.wasted_cpu,
        };
        What::Raced(name, Box::new(told))
    });
}

fn trace_race(seen: &RaceSeen) {
    let at = |time: Duration| seen.began_us.saturating_add(micros(time));
    for (group, name, branch) in
        [(Group::Slots, "local", &seen.local), (Group::Remote, "remote", &seen.remote)]
    {
        let row = slot_row(group);
        let until = branch.ended_at.unwrap_or(seen.returned_at);
        let why = branch.why.map(StartWhy::word);
        if let (Some(wanted), Some(started)) = (branch.wanted_at, branch.started_at)
            && started > wanted
            && group == Group::Slots
        {
            let args = json!({ "why": why });
            let (from_us, until_us) = (at(wanted), at(started));
            let (row, name) = (row.clone(), "wait for a place".to_owned());
            trace::record(|| Record::Span { row, name, category: "race", from_us, until_us, args });
        }
        if let Some(started) = branch.started_at {
            let args = json!({
                "why": why, "end": branch.end, "cpu_us": micros(branch.cpu), "digest": seen.digest,
                "wanted_us": branch.wanted_at.map(micros), "aborted_us": branch.aborted_at.map(micros),
                "left_to_reaper": branch.ended_at.is_none(),
                "cache": (group == Group::Remote)
                    .then_some(seen.answer)
                    .flatten()
                    .map(|(hit, _)| if hit { "hit" } else { "miss" }),
                "executing_us": (group == Group::Remote).then_some(seen.executing_at).flatten().map(micros),
            });
            let (from_us, until_us, row, name) = (at(started), at(until), row.clone(), name.to_owned());
            trace::record(|| Record::Span { row, name, category: "race", from_us, until_us, args });
        }
        if let Some(aborted) = branch.aborted_at {
            let (name, args) = (format!("abort {name}"), Value::Null);
            trace::record(|| Record::Moment { row, name, at_us: at(aborted), args });
        }
    }
    if let (Some(winner), Some(published)) = (seen.winner(), seen.published_at) {
        let args = json!({
            "winner": winner.word(), "margin_us": seen.margin.map(micros), "digest": seen.digest,
            "wasted_cpu_us": micros(seen.wasted_cpu), "wasted_us": micros(seen.wasted_wall),
            "quiet_us": seen.quiet.map(micros),
        });
        let (row, name) = (slot_row(Group::Slots), format!("claim {winner}"));
        trace::record(|| Record::Moment { row, name, at_us: at(published), args });
    }
}

/// A sandbox has become like new: its number, when that began, and how long it took.
pub fn reset(sandbox: u64, began_us: u64, took: Duration) {
    metrics().phase_times.of(Phase::Reset).note(took);
    trace::record(|| Record::Span {
        row: Row { group: Group::Sandboxes, number: sandbox, title: format!("sandbox {sandbox}") },
        name: Phase::Reset.word().to_owned(),
        category: "phase",
        from_us: began_us,
        until_us: began_us.saturating_add(micros(took)),
        args: Value::Null,
    });
}

/// A result was served from the action cache, without a turn.
pub fn cached(tenant: &str, digest: &dyn std::fmt::Display, mnemonic: &str) {
    metrics().actions.of(Outcome::Succeeded).of(Strategy::Cached).count();
    events::tell(Some(tenant), || {
        let name = ActionName {
            operation: String::new(),
            digest: digest.to_string(),
            mnemonic: mnemonic.to_owned(),
        };
        let end = events::ActionEnd {
            outcome: Outcome::Succeeded,
            strategy: Strategy::Cached,
            exit_code: 0,
            wall_us: 0,
            cpu_user_us: 0,
            cpu_system_us: 0,
            memory_peak_bytes: 0,
            worker: String::new(),
            message: String::new(),
        };
        What::Ended(name, Box::new(end))
    });
}

#[derive(Clone, Debug)]
struct KnownWorker {
    told: WorkerTold,
    why: Option<WorkerGone>,
}

static WORKERS: LazyLock<Mutex<BTreeMap<u64, KnownWorker>>> = LazyLock::new(Mutex::default);

fn workers() -> MutexGuard<'static, BTreeMap<u64, KnownWorker>> {
    WORKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn worker_row(number: u64, mnemonic: &str) -> Row {
    let known = workers().get(&number).map(|known| known.told.mnemonic.clone());
    let mnemonic = known.unwrap_or_else(|| mnemonic.to_owned());
    Row { group: Group::Workers, number, title: format!("worker {number} {mnemonic}") }
}

/// A worker can be spoken with.
pub fn worker_started(number: u64, mnemonic: &str, key: &str) {
    metrics().worker_started(mnemonic);
    let told =
        WorkerTold { number, mnemonic: mnemonic.to_owned(), key: key.to_owned(), ..WorkerTold::default() };
    {
        let mut known = workers();
        if known.len() >= WORKERS_MAX {
            known.pop_first();
        }
        known.insert(number, KnownWorker { told: told.clone(), why: None });
    }
    trace::record(|| Record::Moment {
        row: worker_row(number, mnemonic),
        name: "start".to_owned(),
        at_us: super::clock::now_us(),
        args: json!({ "key": key }),
    });
    events::tell(None, || What::WorkerStarted(told));
}

/// A worker is being stopped, or killed, for this reason; the first counts.
pub fn worker_stops(number: u64, why: WorkerGone) {
    if let Some(known) = workers().get_mut(&number) {
        known.why.get_or_insert(why);
    }
}

/// A worker is there no more: why, in words, if nobody has stopped it.
pub fn worker_ended(number: u64, mnemonic: &str, text: &str) {
    let row = trace::is_on().then(|| worker_row(number, mnemonic));
    let known = workers().remove(&number);
    let (told, why) = match known {
        Some(known) => (known.told, known.why.unwrap_or(WorkerGone::Crashed)),
        None => {
            let mnemonic = mnemonic.to_owned();
            (WorkerTold { number, mnemonic, ..WorkerTold::default() }, WorkerGone::StartFailed)
        }
    };
    metrics().worker_ended(mnemonic, why);
    if let Some(row) = row {
        trace::record(|| Record::Moment {
            row,
            name: format!("end: {why}"),
            at_us: super::clock::now_us(),
            args: json!({ "why": why.word(), "text": text }),
        });
    }
    events::tell(None, || What::WorkerEnded(told, why, text.to_owned()));
}

/// The cluster is taken to be gone, or is there again.
pub fn cluster(gone: bool) {
    let numbers = metrics();
    numbers.remote_gone.set(u64::from(gone));
    if gone {
        numbers.remote_outages.count();
    }
    events::tell(None, || What::Cluster { gone });
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
