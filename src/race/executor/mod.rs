//! An executor that races this machine against a cluster.
//!
//! ```text
//!   execute ─► policy: who starts when ─► race ─┬ local: any other executor ──► result in our store ─┐
//!                                               └ remote: cache, upload, Execute, fetch, verify ─────┤
//!   result of one branch alone ◄── claim ◄──────────────────────────────────────────────────────────┘
//! ```
//! A result is ready when all that it names is in our store; the branch that then has the claim gives its result, and
//! what the other put into the store is content without a name: nobody is told of it.
//!
//! Invariants: those of [`super::drive`]; a failure of the cluster's is never told as the action's; what a loser
//! uploads goes on, its execution does not. Limits: one cluster.

mod local;
mod options;
mod remote;
mod seen;

pub use options::{Place, RacingOptions, RemoteUse};

use super::admission::LocalGate;
use super::cold::{Cold, pace};
use super::drive::{Course, Finished, Race, run};
use super::forecast::{Forecast, Key, Measure, Memory};
use super::gate::Request;
use super::history::{History, HistoryError};
use super::knobs::LocalStrategy;
use super::policy::{
    Abilities, Breaker, Choice, Facts, LocalStart, Plan, RemoteAbility, RemoteStart, Situation, choose,
};
use super::reaper::Reaper;
use super::report::{Report, Totals, TotalsNow};
use super::step::{CacheAnswer, Outcome};
use crate::action::{ActionResult, RaceSummary};
use crate::cas::Cas;
use crate::commit::{ClaimCell, Claims, Side};
use crate::exec::executor::{Cancel, Execution, Executor, Job, Placement, Verdict, Watch, WorkerStart};
use crate::remote::{Cluster, RemoteJob};
use local::{Sandbox, Stash};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Races after which what was measured is written.
const SAVE_EACH: u64 = 256;

/// See the module's documentation.
pub struct Racing {
    local: Arc<dyn Executor>,
    cluster: Cluster,
    store: Cas,
    options: RacingOptions,
    course: Course,
    gate: LocalGate,
    claims: Claims,
    memory: Mutex<Memory>,
    history: Option<History>,
    any_hit: AtomicBool,
    races: AtomicU64,
    /// Races that go on.
    running: AtomicUsize,
    /// Last, so that all that uses it is gone before.
    runtime: Arc<Runtime>,
}

impl std::fmt::Debug for Racing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Racing").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Racing {
    /// Races `local` against a cluster, whose calls are made on `runtime`. `epoch` is later than those of all earlier
    /// processes.
    ///
    /// # Errors
    /// When the history of earlier races cannot be opened.
    pub fn new(
        local: Arc<dyn Executor>,
        cluster: Cluster,
        store: Cas,
        runtime: Arc<Runtime>,
        options: RacingOptions,
        epoch: u64,
    ) -> Result<Racing, HistoryError> {
        let history = options.history.as_deref().map(History::open).transpose()?;
        let memory = history.as_ref().map_or_else(|| Ok(Memory::default()), History::load)?;
        let gate = LocalGate::new(local.slots(), options.jobs.max(local.slots()));
        let course = Course {
            gate: Arc::new(gate.clone()),
            reaper: Arc::new(Reaper::new(super::limits::REAPER_MAX)),
            totals: Arc::new(Totals::default()),
        };
        Ok(Racing {
            local,
            cluster,
            store,
            options,
            course,
            gate,
            claims: Claims::new(epoch),
            memory: Mutex::new(memory),
            history,
            any_hit: AtomicBool::new(false),
            races: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            runtime,
        })
    }

    /// Sums over all races.
    #[must_use]
    pub fn totals(&self) -> TotalsNow {
        self.course.totals.now()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes actions alike: their kind, and the names of their outputs.
    fn key(job: &Job) -> Key {
        let mut hasher = DefaultHasher::new();
        for output in &job.command.outputs {
            output.declared.hash(&mut hasher);
        }
        let family = (!job.command.outputs.is_empty()).then(|| hasher.finish());
        Key::new(&job.mnemonic, family)
    }

    fn place(&self, job: &Job) -> Place {
        match job.placement {
            Placement::Configured => self.options.place,
            Placement::Local => Place::Local,
            Placement::Remote => Place::Remote,
            Placement::RemoteLocalFallback => Place::RemoteLocalFallback,
            Placement::Racing => Place::Racing,
        }
    }

    fn choice(&self, job: &Job, key: &Key, cold_worker: Option<&str>) -> Result<Choice, String> {
        let place = self.place(job);
        let facts = Facts {
            mnemonic: &job.mnemonic,
            for_tool: false,
            local_allowed: place != Place::Remote,
            remote_allowed: place != Place::Local,
            remote_cache_allowed: place != Place::Local && accepts_cached(job),
        };
        let ability = match self.options.remote {
            RemoteUse::Execute => RemoteAbility::Execute,
            RemoteUse::CacheOnly => RemoteAbility::CacheOnly,
        };
        let abilities =
            Abilities { local: &[LocalStrategy::Worker, LocalStrategy::Sandboxed], remote: ability };
        let situation = {
            let mut memory = self.memory();
            let forecast = memory.forecast(key);
            let so_far = memory.count(&job.invocation);
            let cold = cold_worker.and_then(|kind| self.cold(&mut memory, key, kind, &forecast, so_far));
            let mean = forecast.local.map_or(Duration::ZERO, |local| local.at(0.5));
            Situation {
                breaker: match (self.cluster.is_taken_to_be_gone(), self.cluster.is_trial_due()) {
                    (false, _) => Breaker::Closed,
                    // Else nobody would ever find out that it is there again.
                    (true, true) => Breaker::HalfOpen,
                    (true, false) => Breaker::Open,
                },
                any_hit: self.any_hit.load(Ordering::Relaxed),
                local_wait: self.gate.likely_wait(mean),
                explore: memory.explore(),
                cold,
                forecast,
            }
        };
        let mut choice =
            choose(&facts, &abilities, &self.options.knobs, &situation).map_err(|error| error.to_string())?;
        if !accepts_cached(job) {
            choice.rules.plan = unasked(choice.rules.plan);
        }
        if place == Place::RemoteLocalFallback && choice.rules.plan.remote != RemoteStart::Never {
            choice.rules.plan = fallback(choice.rules.plan);
        }
        Ok(choice)
    }

    /// What is known where a worker of this kind would have to be started.
    fn cold(
        &self,
        memory: &mut Memory,
        key: &Key,
        kind: &str,
        forecast: &Forecast,
        so_far: u64,
    ) -> Option<Cold> {
        let slots = u32::try_from(self.local.slots().max(1)).unwrap_or(u32::MAX);
        Some(Cold {
            start: memory.start(kind)?,
            // What nobody has seen is taken to be as fast as the remote.
            here: forecast.local.or(forecast.remote).map(|local| local.at(0.5) / slots),
            there: memory.forecast(&key.of_pace()).remote.as_ref().map(pace),
            so_far,
        })
    }

    fn race(&self, job: &Job, cancel: &Cancel, choice: &Choice) -> (Ran, Stash) {
        let knobs = &self.options.knobs;
        let mnemonic = job.mnemonic.as_str();
        let stash = Stash::default();
        let plan = choice.rules.plan;
        let local = Sandbox {
            local: self.local.clone(),
            job: job.clone(),
            stash: stash.clone(),
            inputs: self.options.lazily.clone().map(|elsewhere| (elsewhere, self.runtime.clone())),
        };
        // Where local could win, all outputs are here before the claim: they could be gone after it.
        let alone = matches!(plan.local, LocalStart::Never | LocalStart::Fallback);
        let remote = remote::Branch {
            cluster: self.cluster.for_action("", mnemonic, &job.action_digest),
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            job: RemoteJob {
                action_digest: job.action_digest,
                action: job.action.clone(),
                command: job.command.clone(),
                mnemonic: job.mnemonic.clone(),
                executes: self.options.remote == RemoteUse::Execute,
                accept_cached: accepts_cached(job),
                lazily: alone && self.options.lazily.is_some(),
            },
            elsewhere: self.options.lazily.clone(),
            stash: stash.clone(),
        };
        let race = Race {
            name: job.action_digest.to_string(),
            rules: choice.rules,
            cell: self.cell(),
            request: Request {
                load_factor: *knobs.local_load_factor.of(mnemonic),
                slow_remote_time: *knobs.slow_remote_time.of(mnemonic),
                low_pass: *knobs.low_pass.of(mnemonic),
                sole: plan.remote == RemoteStart::Never,
            },
            local: (plan.local != LocalStart::Never).then(|| Box::new(local) as _),
            remote: (plan.remote != RemoteStart::Never).then(|| Box::new(remote) as _),
            debug: *knobs.debug_spawn_scheduler.of(mnemonic),
        };
        let finished = run(race, &self.course, cancel, |claim, product: Execution| {
            let side = claim.side();
            claim.settle();
            Ok((side, product))
        });
        (finished, stash)
    }

    fn cell(&self) -> ClaimCell {
        self.claims.cell()
    }

    /// What is told, of whatever the race came to.
    fn conclude(&self, job: &Job, finished: Ran, stash: &Stash) -> Execution {
        let Finished { outcome, published, failure, broken, local_why, remote_why, report } = finished;
        let mut execution = match (published, failure) {
            (Some((_, execution)), _) | (None, Some(execution)) => execution,
            (None, None) => without(outcome, stash, [local_why, remote_why, broken]),
        };
        execution.result.timeline.queued = Some(job.queued);
        execution.result.usage.race = Some(summary(&report));
        execution
    }

    /// What the race says of such actions, of which so many went on at a time.
    fn learn(&self, key: &Key, report: &Report, at_a_time: usize, was_cold: bool) {
        let starts = self.local.worker_starts();
        let mut memory = self.memory();
        for WorkerStart { kind, took, is_over } in starts {
            memory.started(&kind, took, is_over);
        }
        if let Some((answer, at)) = report.answer {
            let is_hit = matches!(answer, CacheAnswer::Hit);
            memory.add(key, if is_hit { Measure::Hit } else { Measure::Miss }, at);
            if is_hit {
                self.any_hit.store(true, Ordering::Relaxed);
            }
        }
        for side in [Side::Local, Side::Remote] {
            let branch = report.side(side);
            let what = match (side, report.answer) {
                (Side::Local, _) => Measure::Local,
                (Side::Remote, Some((CacheAnswer::Hit, _))) => Measure::Fetch,
                (Side::Remote, _) => Measure::Remote,
            };
            let from = match side {
                Side::Local => branch.started_at,
                Side::Remote => report.answer.map(|(_, at)| at).or(branch.started_at),
            };
            let Some(from) = from else { continue };
            // With the start of a worker in it, it says nothing of those that come after.
            if side == Side::Local && was_cold {
                continue;
            }
            match (branch.end, branch.ended_at) {
                (Some(super::step::End::Ready), Some(ended)) => {
                    let took = ended.saturating_sub(from);
                    memory.add(key, what, took);
                    if what == Measure::Remote {
                        let share = took / u32::try_from(at_a_time.max(1)).unwrap_or(u32::MAX);
                        memory.add(&key.of_pace(), what, share);
                    }
                }
                // It would have taken longer.
                _ => memory.at_least(key, what, report.returned_at.saturating_sub(from)),
            }
        }
        learn_of_execution(&mut memory, key, report);
        drop(memory);
        if self.races.fetch_add(1, Ordering::Relaxed) % SAVE_EACH == SAVE_EACH - 1 {
            self.save();
        }
    }

    fn save(&self) {
        let Some(history) = &self.history else { return };
        let changes = self.memory().changes();
        if let Err(error) = history.save(&changes) {
            tracing::warn!(%error, "what was measured of races is lost");
        }
    }

    /// A local win fills the cluster's cache, if it lets us.
    fn fill(&self, job: &Job, execution: &Execution, winner: Option<Side>) {
        let is_good = execution.verdict == Verdict::Exited && execution.result.exit_code == 0;
        let may = is_good && !job.action.do_not_cache && !execution.result.usage.is_uncacheable;
        if winner == Some(Side::Local) && may && self.options.upload_local_results {
            let (store, action) = (self.store.clone(), (job.action_digest, job.action.command_digest));
            let mut result = execution.result.clone();
            // Of no use elsewhere.
            result.usage.race = None;
            let _context = self.runtime.enter();
            self.cluster.fill_in_background(store, action, result, job.command.outputs_are_typed);
        }
    }
}

/// How long the cluster's queue took, and what came after it.
fn learn_of_execution(memory: &mut Memory, key: &Key, report: &Report) {
    let Some(permitted) = report.execution.permitted_at else { return };
    let (end, returned) = (report.remote.end, report.returned_at);
    let Some(begun) = report.execution.begun_at else {
        // Of those that say it at all, it would have been later.
        return memory.at_least(key, Measure::Begin, returned.saturating_sub(permitted));
    };
    memory.add(key, Measure::Begin, begun.saturating_sub(permitted));
    match (end, report.remote.ended_at) {
        (Some(super::step::End::Ready), Some(ended)) => {
            memory.add(key, Measure::Run, ended.saturating_sub(begun));
        }
        _ => memory.at_least(key, Measure::Run, returned.saturating_sub(begun)),
    }
}

type Ran = Finished<Execution, (Side, Execution)>;

/// A result that nobody may keep is looked for nowhere.
fn accepts_cached(job: &Job) -> bool {
    !job.action.do_not_cache && !job.fresh
}

/// Where the cache is not asked, local waits for no answer: it starts when it would after a miss.
fn unasked(plan: Plan) -> Plan {
    match plan.local {
        LocalStart::OnAnswer { miss, .. } => Plan { local: LocalStart::After(miss), ..plan },
        _ => plan,
    }
}

/// Remote first, and local only when remote cannot.
fn fallback(plan: Plan) -> Plan {
    let local = if plan.local == LocalStart::Never { LocalStart::Never } else { LocalStart::Fallback };
    // A remote that is taken to be gone is passed over.
    match plan.remote {
        RemoteStart::Fallback => Plan { local: LocalStart::AtOnce, remote: RemoteStart::Fallback },
        _ => Plan { local, remote: RemoteStart::AtOnce { execute_after: Duration::ZERO } },
    }
}

/// What is told when neither branch has a result that counts.
fn without(outcome: Outcome, stash: &Stash, whys: [Option<String>; 3]) -> Execution {
    let whys: Vec<String> = whys.into_iter().flatten().collect();
    let plain = |verdict| Execution { verdict, result: ActionResult::default() };
    match outcome {
        Outcome::Canceled => stash.take().filter(is_canceled).unwrap_or_else(|| plain(Verdict::Canceled)),
        Outcome::NoResult => match stash.take() {
            // What the local branch said is more than that there is nothing.
            Some(execution) => execution,
            None => plain(Verdict::Unavailable(whys.join("; "))),
        },
        Outcome::Deadline => plain(Verdict::Unavailable("the race took too long".to_owned())),
        Outcome::Bug(side) => plain(Verdict::Internal(format!("the {side} branch of the race has panicked"))),
        _ => plain(Verdict::Internal(format!("the race ended without a result: {}", whys.join("; ")))),
    }
}

fn is_canceled(execution: &Execution) -> bool {
    execution.verdict == Verdict::Canceled
}

fn summary(report: &Report) -> RaceSummary {
    let side = |side: Side| {
        let branch = report.side(side);
        (branch.why.map(|why| format!("{why:?}")), branch.started_at)
    };
    let ((local_why, local_started), (remote_why, remote_started)) = (side(Side::Local), side(Side::Remote));
    let (wasted_wall, wasted_cpu) = report.wasted();
    RaceSummary {
        winner: report.winner().map(|side| side.to_string()).unwrap_or_default(),
        remote_hit: matches!(report.answer, Some((CacheAnswer::Hit, _))),
        local_why,
        local_started,
        remote_why,
        remote_started,
        margin: report.margin(),
        wasted_wall,
        wasted_cpu,
    }
}

impl Executor for Racing {
    fn execute(&self, job: &Job, cancel: &Cancel, watch: &dyn Watch) -> Execution {
        let key = Self::key(job);
        let cold_worker = self.local.cold_worker(job);
        let choice = match self.choice(job, &key, cold_worker.as_deref()) {
            Ok(choice) => choice,
            Err(why) => {
                return Execution {
                    verdict: Verdict::FailedPrecondition(why),
                    result: ActionResult::default(),
                };
            }
        };
        // Told once and here: two branches may start, and a loser may outlive the call.
        watch.started(&crate::action::Timeline { queued: Some(job.queued), ..Default::default() });
        let began_us = crate::observe::now_us();
        self.running.fetch_add(1, Ordering::Relaxed);
        let (finished, stash) = self.race(job, cancel, &choice);
        let at_a_time = self.running.fetch_sub(1, Ordering::Relaxed);
        seen::tell(job, began_us, &finished.report);
        self.learn(&key, &finished.report, at_a_time, cold_worker.is_some());
        let winner = finished.report.winner();
        let execution = self.conclude(job, finished, &stash);
        self.fill(job, &execution, winner);
        execution
    }

    fn slots(&self) -> usize {
        self.options.jobs.max(self.local.slots())
    }

    fn workers(&self) -> Option<&crate::worker::Workers> {
        self.local.workers()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let totals = self.totals();
        let mut counters = self.local.counters();
        counters.extend([
            ("races", totals.races),
            ("raced", totals.raced),
            ("local_wins", totals.local_wins),
            ("remote_wins", totals.remote_wins),
            ("remote_hits", totals.hits),
            ("wasted_wall_us", totals.wasted_wall_us),
            ("wasted_cpu_us", totals.wasted_cpu_us),
            ("margin_us", totals.margin_us),
            ("races_failed", totals.failed),
            ("races_without_result", totals.no_result),
            ("races_stopped", totals.stopped),
            ("races_broken", totals.broken),
            ("reaped", totals.reaped),
        ]);
        counters
    }
}

impl Drop for Racing {
    fn drop(&mut self) {
        self.course.reaper.drain();
        self.cluster.say_goodbye();
        self.save();
    }
}
