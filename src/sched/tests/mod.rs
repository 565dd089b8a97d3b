//! Merging, bounds and endings, without a clock.

mod fairness;

use super::*;
use crate::action::{Digest, DigestFunction};
use proptest::prelude::*;
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn request(operation: u128, action: &str) -> Submission {
    Submission {
        operation: OperationId(operation),
        tenant: String::new(),
        invocation: "build".to_owned(),
        priority: 0,
        key: Some(Digest::of(DigestFunction::Sha256, action.as_bytes())),
        fresh: false,
    }
}

struct Bench {
    scheduler: Scheduler,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(slots: usize) -> Self {
        Bench::with(slots, SchedulerLimits::default())
    }

    fn with(slots: usize, limits: SchedulerLimits) -> Self {
        Bench { scheduler: Scheduler::new(slots, limits), effects: Vec::new() }
    }

    fn submit(&mut self, request: Submission) -> Accepted {
        self.scheduler.submit(request, &mut self.effects).unwrap()
    }

    fn started(&mut self) -> Vec<RunId> {
        let started = |effect| match effect {
            Effect::Start { run, .. } => Some(run),
            _ => None,
        };
        self.effects.drain(..).filter_map(started).collect()
    }

    fn finish(&mut self, run: RunId, cost: Duration) -> Vec<OperationId> {
        self.end(run, Cost { held: cost, work: cost })
    }

    fn end(&mut self, run: RunId, cost: Cost) -> Vec<OperationId> {
        self.scheduler.finished(seconds(1), run, cost, 10, &mut self.effects)
    }
}

#[test]
fn identical_actions_share_a_run_and_each_has_its_operation() {
    let mut bench = Bench::new(1);
    let first = bench.submit(request(1, "a"));
    let second = bench.submit(request(2, "a"));
    assert_eq!((first.joined, second.joined), (false, true));
    assert_eq!(first.run, second.run);
    assert_eq!(bench.started(), [first.run]);
    assert_eq!(bench.finish(first.run, seconds(1)), [OperationId(1), OperationId(2)]);
}

#[test]
fn what_must_not_be_cached_is_not_merged() {
    let mut bench = Bench::new(4);
    let alone = |operation| Submission { key: None, ..request(operation, "a") };
    let first = bench.submit(alone(1));
    let second = bench.submit(alone(2));
    assert_ne!(first.run, second.run);
    assert_eq!(bench.started().len(), 2);
}

#[test]
fn tenants_never_share_a_run() {
    let mut bench = Bench::new(4);
    let first = bench.submit(request(1, "a"));
    let second = bench.submit(Submission { tenant: "b".to_owned(), ..request(2, "a") });
    assert_ne!(first.run, second.run);
}

#[test]
fn canceling_one_of_two_leaves_the_run_alone() {
    let mut bench = Bench::new(1);
    let run = bench.submit(request(1, "a")).run;
    bench.submit(request(2, "a"));
    bench.started();
    assert!(bench.scheduler.cancel(seconds(1), OperationId(1), &mut bench.effects));
    assert_eq!(bench.effects, [Effect::End(OperationId(1), Ending::Canceled)]);
    bench.effects.clear();
    assert!(bench.scheduler.cancel(seconds(1), OperationId(2), &mut bench.effects));
    assert_eq!(bench.effects, [Effect::Kill(run)]);
    // The last one ends with the run, so that it gets what was printed; nobody joins a run that dies.
    bench.effects.clear();
    assert_ne!(bench.submit(request(3, "a")).run, run);
    assert_eq!(bench.finish(run, seconds(1)), [OperationId(2)]);
}

#[test]
fn a_queued_run_is_dropped_with_its_last_operation() {
    let mut bench = Bench::new(0);
    let run = bench.submit(request(1, "a")).run;
    assert!(bench.scheduler.cancel(seconds(1), OperationId(1), &mut bench.effects));
    assert_eq!(bench.effects, [Effect::Drop(run), Effect::End(OperationId(1), Ending::Canceled)]);
    assert_eq!(bench.scheduler.load(), (0, 0));
    assert!(!bench.scheduler.cancel(seconds(1), OperationId(9), &mut bench.effects));
}

#[test]
fn a_fresh_request_never_gets_what_was_visible_before_it() {
    let fresh = |operation| Submission { fresh: true, ..request(operation, "a") };
    let mut bench = Bench::new(1);
    let run = bench.submit(request(1, "a")).run;
    // Started: it may be answering from the cache.
    let second = bench.submit(fresh(2));
    assert!(!second.joined);
    // It waits, so that it can be joined, and it will not look into the cache.
    assert_eq!(bench.submit(fresh(3)).run, second.run);
    bench.effects.clear();
    bench.finish(run, seconds(1));
    assert_eq!(bench.effects, [Effect::Start { run: second.run, may_use_cache: false }]);
    bench.scheduler.executing(second.run);
    assert!(bench.submit(fresh(4)).joined);
    bench.scheduler.publishing(second.run);
    assert!(!bench.submit(fresh(5)).joined);
}

#[test]
fn a_queued_run_becomes_fresh_with_the_first_that_demands_it() {
    let mut bench = Bench::new(0);
    let run = bench.submit(request(1, "a")).run;
    assert_eq!(bench.submit(Submission { fresh: true, ..request(2, "a") }).run, run);
    bench.scheduler.slots_free_for_tests(1);
    bench.scheduler.tick(seconds(1), &mut bench.effects);
    assert_eq!(bench.effects, [Effect::Start { run, may_use_cache: false }]);
}

#[test]
fn a_full_queue_refuses_one_tenant_and_not_the_other() {
    let limits = SchedulerLimits { queued_per_tenant: 2, ..SchedulerLimits::default() };
    let mut bench = Bench::with(0, limits);
    bench.submit(request(1, "a"));
    bench.submit(request(2, "b"));
    let refused = bench.scheduler.submit(request(3, "c"), &mut bench.effects);
    assert_eq!(refused, Err(Refusal::QueueFull { waiting: 2 }));
    // What joins takes no place.
    assert!(bench.submit(request(4, "a")).joined);
    bench.submit(Submission { tenant: "other".to_owned(), ..request(5, "c") });
}

#[test]
fn operations_are_bounded() {
    let limits = SchedulerLimits { operations_per_tenant: 2, ..SchedulerLimits::default() };
    let mut bench = Bench::with(1, limits);
    let run = bench.submit(request(1, "a")).run;
    bench.submit(request(2, "a"));
    let refused = bench.scheduler.submit(request(3, "a"), &mut bench.effects);
    assert_eq!(refused, Err(Refusal::TooManyOperations { operations: 2 }));
    bench.finish(run, seconds(1));
    bench.submit(request(3, "a"));
}

#[test]
fn operations_without_waiters_are_canceled_a_minute_after_a_connection_was_lost() {
    let mut bench = Bench::new(1);
    let run = bench.submit(request(1, "a")).run;
    bench.started();
    bench.scheduler.detach(seconds(10), OperationId(1), Leaving::Lost);
    bench.scheduler.tick(seconds(69), &mut bench.effects);
    assert_eq!(bench.effects, []);
    // Somebody comes back in time.
    assert!(bench.scheduler.attach(OperationId(1)));
    bench.scheduler.tick(seconds(80), &mut bench.effects);
    assert_eq!(bench.effects, []);
    bench.scheduler.detach(seconds(80), OperationId(1), Leaving::Lost);
    bench.scheduler.tick(seconds(140), &mut bench.effects);
    assert_eq!(bench.effects, [Effect::Kill(run)]);
}

#[test]
fn operations_that_were_left_are_canceled_soon_unless_somebody_was_lost_as_well() {
    let mut bench = Bench::new(1);
    let run = bench.submit(request(1, "a")).run;
    bench.started();
    assert!(bench.scheduler.attach(OperationId(1)));
    bench.scheduler.detach(seconds(5), OperationId(1), Leaving::Lost);
    bench.scheduler.detach(seconds(20), OperationId(1), Leaving::Left);
    bench.scheduler.tick(seconds(64), &mut bench.effects);
    assert_eq!(bench.effects, []);
    assert!(bench.scheduler.attach(OperationId(1)));
    bench.scheduler.detach(seconds(100), OperationId(1), Leaving::Left);
    bench.scheduler.tick(seconds(109), &mut bench.effects);
    assert_eq!(bench.effects, []);
    bench.scheduler.tick(seconds(110), &mut bench.effects);
    assert_eq!(bench.effects, [Effect::Kill(run)]);
}

/// Nobody who has lost a connection can come back to a daemon that is about to end.
#[test]
fn operations_of_those_who_were_lost_do_not_hold_up_the_end() {
    for drained_first in [true, false] {
        let mut bench = Bench::new(1);
        let run = bench.submit(request(1, "a")).run;
        bench.started();
        if drained_first {
            bench.scheduler.drain(seconds(5), &mut bench.effects);
        }
        bench.scheduler.detach(seconds(5), OperationId(1), Leaving::Lost);
        if !drained_first {
            bench.scheduler.drain(seconds(5), &mut bench.effects);
        }
        bench.scheduler.tick(seconds(14), &mut bench.effects);
        assert_eq!(bench.effects, []);
        bench.scheduler.tick(seconds(15), &mut bench.effects);
        assert_eq!(bench.effects, [Effect::Kill(run)]);
    }
}

#[test]
fn operations_that_are_over_stay_for_a_bounded_time_and_number() {
    let limits = SchedulerLimits { retained: 2, ..SchedulerLimits::default() };
    let mut bench = Bench::with(8, limits);
    for operation in 1..=3 {
        let run = bench.submit(request(operation, &operation.to_string())).run;
        bench.finish(run, seconds(1));
    }
    assert!(bench.effects.contains(&Effect::Forget(OperationId(1))));
    assert!(!bench.scheduler.attach(OperationId(1)));
    assert!(bench.scheduler.attach(OperationId(2)));
    bench.effects.clear();
    bench.scheduler.tick(seconds(301), &mut bench.effects);
    assert_eq!(bench.effects, [Effect::Forget(OperationId(2)), Effect::Forget(OperationId(3))]);
}

#[test]
fn results_that_are_kept_are_bounded_in_size() {
    let limits = SchedulerLimits { retained_bytes: 15, ..SchedulerLimits::default() };
    let mut bench = Bench::with(8, limits);
    for operation in 1..=2 {
        let run = bench.submit(request(operation, &operation.to_string())).run;
        bench.finish(run, seconds(1));
    }
    assert!(!bench.scheduler.attach(OperationId(1)));
    assert!(bench.scheduler.attach(OperationId(2)));
}

#[test]
fn draining_ends_what_waits_and_lets_run_what_runs() {
    let mut bench = Bench::new(1);
    let running = bench.submit(request(1, "a")).run;
    let queued = bench.submit(request(2, "b")).run;
    bench.effects.clear();
    bench.scheduler.drain(seconds(1), &mut bench.effects);
    assert_eq!(bench.effects, [Effect::Drop(queued), Effect::End(OperationId(2), Ending::Drained)]);
    let refused = bench.scheduler.submit(request(3, "c"), &mut bench.effects);
    assert_eq!(refused, Err(Refusal::Draining));
    bench.effects.clear();
    bench.scheduler.kill_all(&mut bench.effects);
    assert_eq!(bench.effects, [Effect::Kill(running)]);
    assert_eq!(bench.finish(running, seconds(1)), [OperationId(1)]);
}

#[derive(Clone, Debug)]
enum Step {
    Submit { action: u8, fresh: bool, merge: bool, priority: i32 },
    Cancel(u8),
    Detach(u8, bool),
    Attach(u8),
    Finish(u8),
    Publish(u8),
    Tick(u16),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, any::<bool>(), any::<bool>(), -2..2i32)
            .prop_map(|(action, fresh, merge, priority)| Step::Submit { action, fresh, merge, priority }),
        2 => any::<u8>().prop_map(Step::Cancel),
        1 => any::<(u8, bool)>().prop_map(|(index, lost)| Step::Detach(index, lost)),
        1 => any::<u8>().prop_map(Step::Attach),
        4 => any::<u8>().prop_map(Step::Finish),
        1 => any::<u8>().prop_map(Step::Publish),
        1 => (0..200u16).prop_map(Step::Tick),
        1 => Just(Step::Drain),
    ]
}

proptest! {
    /// Whatever happens in whatever order: slots are never exceeded, every operation ends once, nothing is left.
    #[test]
    fn every_operation_ends_once(steps in proptest::collection::vec(step(), 1..200)) {
        let mut bench = Bench::new(3);
        let mut now = Duration::ZERO;
        let mut submitted = 0u128;
        let mut ended = std::collections::BTreeMap::new();
        let mut running: Vec<RunId> = Vec::new();
        let pick = |index: u8, of: usize| usize::from(index) % of.max(1);
        let finish_all = steps.iter().cloned().chain(std::iter::repeat_n(Step::Finish(0), 400));
        for step in finish_all {
            match step {
                Step::Submit { action, fresh, merge, priority } => {
                    submitted += 1;
                    let key = merge.then(|| Digest::of(DigestFunction::Sha256, &[action]));
                    let sent = Submission { key, fresh, priority, ..request(submitted, "") };
                    if bench.scheduler.submit(sent, &mut bench.effects).is_err() {
                        *ended.entry(OperationId(submitted)).or_insert(0) += 1;
                    }
                }
                Step::Cancel(index) => {
                    let operation = OperationId(pick(index, usize::try_from(submitted).unwrap()) as u128 + 1);
                    bench.scheduler.cancel(now, operation, &mut bench.effects);
                }
                Step::Detach(index, lost) => {
                    let how = if lost { Leaving::Lost } else { Leaving::Left };
                    bench.scheduler.detach(now, OperationId(u128::from(index)), how);
                }
                Step::Attach(index) => {
                    bench.scheduler.attach(OperationId(u128::from(index)));
                }
                Step::Finish(index) if !running.is_empty() => {
                    let run = running.remove(pick(index, running.len()));
                    let over = bench.scheduler.finished(now, run, Cost::default(), 1, &mut bench.effects);
                    for operation in over {
                        *ended.entry(operation).or_insert(0) += 1;
                    }
                }
                Step::Publish(index) if !running.is_empty() => {
                    bench.scheduler.publishing(running[pick(index, running.len())]);
                }
                Step::Finish(_) | Step::Publish(_) => {}
                Step::Tick(passed) => {
                    now += Duration::from_secs(u64::from(passed));
                    bench.scheduler.tick(now, &mut bench.effects);
                }
                Step::Drain => bench.scheduler.drain(now, &mut bench.effects),
            }
            for effect in bench.effects.drain(..) {
                match effect {
                    Effect::Start { run, .. } => running.push(run),
                    Effect::End(operation, _) => *ended.entry(operation).or_insert(0) += 1,
                    Effect::Kill(_) | Effect::Drop(_) | Effect::Forget(_) => {}
                }
            }
            prop_assert!(running.len() <= 4);
        }
        prop_assert_eq!(bench.scheduler.load(), (0, 0));
        prop_assert_eq!(ended.len() as u128, submitted);
        prop_assert!(ended.values().all(|times| *times == 1));
    }
}
