//! One race, event by event.

use crate::commit::Side::{Local, Remote};
use crate::race::limits::QUIET_WITHIN;
use crate::race::policy::{LocalStart, Plan, RemoteStart};
use crate::race::step::{
    CacheAnswer, Effect, End, Event, FailureRule, Outcome, Rules, SignalSet, State, Why, step,
};
use std::time::Duration;

const NOW: RemoteStart = RemoteStart::AtOnce { execute_after: Duration::ZERO };

fn rules() -> Rules {
    Rules {
        plan: Plan { local: LocalStart::AtOnce, remote: NOW },
        in_place: false,
        local_holds: false,
        failure: FailureRule::First,
        publish_failures: false,
        let_remote_finish: false,
        may_reap: true,
        ignored_signals: SignalSet::default(),
        deadline: None,
        quiet_within: QUIET_WITHIN,
    }
}

struct Trace {
    state: State,
    now: Duration,
}

impl Trace {
    fn new(rules: Rules) -> Self {
        Trace { state: State::new(rules), now: Duration::ZERO }
    }

    /// With both branches running.
    fn running(rules: Rules) -> Self {
        let mut trace = Trace::new(rules);
        trace.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce), Effect::AskLocal(Why::AtOnce)]);
        trace.gives(Event::Admitted, &[Effect::StartLocal]);
        trace.gives(Event::Answer(CacheAnswer::Miss), &[Effect::ExecuteRemote(Why::AtOnce)]);
        trace
    }

    #[track_caller]
    fn gives(&mut self, event: Event, expected: &[Effect]) {
        let (state, effects) = step(self.state, event, self.now);
        assert_eq!(effects, expected, "after {event:?} in {:?}", self.state);
        self.state = state;
    }

    #[track_caller]
    fn tick_at(&mut self, millis: u64, expected: &[Effect]) {
        self.now = Duration::from_millis(millis);
        self.gives(Event::Tick, expected);
    }
}

#[test]
fn the_winner_publishes_without_waiting_for_the_loser() {
    for side in [Local, Remote] {
        let mut trace = Trace::running(rules());
        trace.gives(Event::Ended(side, End::Ready), &[Effect::Claim(side)]);
        trace.gives(Event::Claimed(side), &[Effect::Abort(side.other()), Effect::Publish(side)]);
        trace.gives(Event::Published(side), &[Effect::Reap(side.other())]);
        trace.gives(Event::Reaped(side.other()), &[Effect::Return(Outcome::Won(side))]);
        trace.gives(Event::Ended(side.other(), End::Ready), &[Effect::Discard(side.other())]);
    }
}

#[test]
fn a_full_reaper_means_to_wait() {
    let mut trace = Trace::running(rules());
    trace.gives(Event::Ended(Local, End::Ready), &[Effect::Claim(Local)]);
    trace.gives(Event::Claimed(Local), &[Effect::Abort(Remote), Effect::Publish(Local)]);
    trace.gives(Event::Published(Local), &[Effect::Reap(Remote)]);
    trace.gives(Event::NotReaped(Remote), &[]);
    trace.gives(Event::Ended(Remote, End::Canceled), &[Effect::Return(Outcome::Won(Local))]);
}

#[test]
fn in_place_remote_waits_for_quiet_and_for_a_clean_destination() {
    let in_place = Rules { in_place: true, ..rules() };
    let mut trace = Trace::running(in_place);
    trace.gives(Event::Ended(Remote, End::Ready), &[Effect::Claim(Remote)]);
    trace.gives(Event::Claimed(Remote), &[Effect::Abort(Local)]);
    trace.gives(Event::Ended(Local, End::Ready), &[Effect::Discard(Local)]);
    trace.gives(Event::Discarded(Local), &[Effect::Publish(Remote)]);
    trace.gives(Event::Published(Remote), &[Effect::Return(Outcome::Won(Remote))]);

    let mut stuck = Trace::running(in_place);
    stuck.gives(Event::Ended(Remote, End::Ready), &[Effect::Claim(Remote)]);
    stuck.gives(Event::Claimed(Remote), &[Effect::Abort(Local)]);
    assert_eq!(stuck.state.wake_at(), Some(QUIET_WITHIN));
    stuck.tick_at(59_999, &[]);
    stuck.tick_at(60_000, &[Effect::DropClaim(Remote), Effect::Discard(Remote), Effect::Reap(Local)]);
    stuck.gives(Event::Reaped(Local), &[Effect::Return(Outcome::Broken(Remote))]);
}

#[test]
fn both_ready_at_once_the_word_decides() {
    let mut trace = Trace::running(rules());
    trace.gives(Event::Ended(Local, End::Ready), &[Effect::Claim(Local)]);
    trace.gives(Event::Ended(Remote, End::Ready), &[Effect::Claim(Remote)]);
    trace.gives(Event::Lost(Local), &[Effect::Discard(Local)]);
    trace.gives(Event::Claimed(Remote), &[Effect::Publish(Remote)]);
    trace.gives(Event::Published(Remote), &[Effect::Return(Outcome::Won(Remote))]);
}

#[test]
fn the_first_failure_fails_the_action() {
    for side in [Local, Remote] {
        let mut trace = Trace::running(rules());
        trace.gives(Event::Ended(side, End::Failed), &[Effect::Abandon]);
        trace.gives(Event::Abandoned, &[Effect::Abort(side.other()), Effect::Reap(side.other())]);
        trace.gives(
            Event::Ended(side.other(), End::Ready),
            &[Effect::Discard(side.other()), Effect::Return(Outcome::Failed(side))],
        );
    }
}

#[test]
fn a_failure_waits_for_the_other_where_the_rule_says_so() {
    let other = Rules { failure: FailureRule::Other, ..rules() };
    let mut saved = Trace::running(other);
    saved.gives(Event::Ended(Remote, End::Failed), &[]);
    saved.gives(Event::Ended(Local, End::Ready), &[Effect::Claim(Local)]);
    saved.gives(Event::Claimed(Local), &[Effect::Discard(Remote), Effect::Publish(Local)]);

    let mut both = Trace::running(other);
    both.gives(Event::Ended(Remote, End::Failed), &[]);
    both.gives(Event::Ended(Local, End::Failed), &[Effect::Abandon]);
    both.gives(Event::Abandoned, &[Effect::Discard(Remote), Effect::Return(Outcome::Failed(Local))]);

    let mut alone = Trace::running(other);
    alone.gives(Event::Ended(Remote, End::Failed), &[]);
    alone.gives(Event::Ended(Local, End::Infra), &[Effect::Abandon]);
    alone.gives(Event::Abandoned, &[Effect::Return(Outcome::Failed(Remote))]);
}

#[test]
fn published_failures_need_the_claim() {
    let mut trace = Trace::running(Rules { publish_failures: true, ..rules() });
    trace.gives(Event::Ended(Local, End::Failed), &[Effect::Claim(Local)]);
    trace.gives(Event::Claimed(Local), &[Effect::Abort(Remote), Effect::Publish(Local)]);
    trace.gives(Event::Published(Local), &[Effect::Reap(Remote)]);
    trace.gives(Event::Reaped(Remote), &[Effect::Return(Outcome::Failed(Local))]);
}

#[test]
fn infrastructure_is_not_the_action() {
    for (side, end) in
        [(Local, End::Infra), (Remote, End::Infra), (Remote, End::Canceled), (Local, End::Canceled)]
    {
        let mut trace = Trace::running(rules());
        trace.gives(Event::Ended(side, end), &[]);
        trace.gives(Event::Ended(side.other(), End::Ready), &[Effect::Claim(side.other())]);
        let mut none = Trace::running(rules());
        none.gives(Event::Ended(side, end), &[]);
        none.gives(Event::Ended(side.other(), End::Infra), &[Effect::Abandon]);
        none.gives(Event::Abandoned, &[Effect::Return(Outcome::NoResult)]);
    }
}

#[test]
fn a_listed_signal_leaves_the_decision_to_remote() {
    let mut listed = rules();
    assert!(listed.ignored_signals.insert(9) && !listed.ignored_signals.insert(0));
    assert!(!listed.ignored_signals.insert(65));
    let mut trace = Trace::running(listed);
    trace.gives(Event::Ended(Local, End::Signal(9)), &[Effect::Discard(Local)]);
    trace.gives(Event::Ended(Remote, End::Ready), &[Effect::Claim(Remote)]);
    let mut other = Trace::running(listed);
    other.gives(Event::Ended(Local, End::Signal(11)), &[Effect::Abandon]);
    // With nobody left to decide, the signal is the action's failure.
    let mut last = Trace::running(listed);
    last.gives(Event::Ended(Remote, End::Infra), &[]);
    last.gives(Event::Ended(Local, End::Signal(9)), &[Effect::Abandon]);
    last.gives(Event::Abandoned, &[Effect::Return(Outcome::Failed(Local))]);
}

#[test]
fn a_miss_starts_local_at_once_and_a_hit_only_if_it_is_slow() {
    let (miss, hit) = (Duration::ZERO, Duration::from_millis(300));
    let local = LocalStart::OnAnswer { miss, hit, silence: Duration::from_millis(100), executing: None };
    let plan = Plan { local, remote: NOW };
    let begin = |trace: &mut Trace| trace.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce)]);

    let mut missed = Trace::new(Rules { plan, ..rules() });
    begin(&mut missed);
    let both = [Effect::AskLocal(Why::Miss), Effect::ExecuteRemote(Why::AtOnce)];
    missed.gives(Event::Answer(CacheAnswer::Miss), &both);

    let mut slow = Trace::new(Rules { plan, ..rules() });
    begin(&mut slow);
    slow.now = Duration::from_millis(50);
    slow.gives(Event::Answer(CacheAnswer::Hit), &[]);
    assert_eq!(slow.state.wake_at(), Some(Duration::from_millis(350)));
    slow.tick_at(349, &[]);
    slow.tick_at(350, &[Effect::AskLocal(Why::SlowDownload)]);

    let mut fast = Trace::new(Rules { plan, ..rules() });
    begin(&mut fast);
    fast.gives(Event::Answer(CacheAnswer::Hit), &[]);
    fast.gives(Event::Ended(Remote, End::Ready), &[Effect::Claim(Remote)]);
    fast.gives(Event::Claimed(Remote), &[Effect::Publish(Remote)]);
    fast.gives(Event::Published(Remote), &[Effect::Return(Outcome::Won(Remote))]);

    let mut silent = Trace::new(Rules { plan, ..rules() });
    begin(&mut silent);
    silent.tick_at(100, &[Effect::AskLocal(Why::Silence)]);
}

/// Who has started goes on; who waits, for its time or its place, waits anew.
#[test]
fn once_the_remote_executes_who_has_not_started_is_late() {
    let (miss, hold) = (Duration::from_millis(40), Duration::from_millis(200));
    let silence = Duration::from_secs(9);
    let waits = |miss, executing| LocalStart::OnAnswer { miss, hit: silence, silence, executing };
    let missed = |local| {
        let mut trace = Trace::new(Rules { plan: Plan { local, remote: NOW }, ..rules() });
        trace.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce)]);
        trace
    };
    let execute = Effect::ExecuteRemote(Why::AtOnce);

    let mut held = missed(waits(miss, Some(hold)));
    held.gives(Event::Answer(CacheAnswer::Miss), &[execute]);
    held.now = Duration::from_millis(10);
    held.gives(Event::Executing, &[]);
    assert_eq!(held.state.wake_at(), Some(Duration::from_millis(210)));
    held.tick_at(210, &[Effect::AskLocal(Why::DelayOver)]);

    let mut longer = missed(waits(silence, Some(hold)));
    longer.gives(Event::Answer(CacheAnswer::Miss), &[execute]);
    longer.gives(Event::Executing, &[]);
    assert_eq!(longer.state.wake_at(), Some(silence));

    let now = Duration::ZERO;
    let mut queued = missed(waits(now, Some(hold)));
    queued.gives(Event::Answer(CacheAnswer::Miss), &[Effect::AskLocal(Why::Miss), execute]);
    queued.gives(Event::Executing, &[Effect::WithdrawLocal]);
    // On its way when it was withdrawn.
    queued.gives(Event::Admitted, &[Effect::WithdrawLocal]);
    queued.tick_at(200, &[Effect::AskLocal(Why::DelayOver)]);
    queued.gives(Event::Admitted, &[Effect::StartLocal]);

    let mut fails = missed(waits(now, Some(hold)));
    fails.gives(Event::Answer(CacheAnswer::Miss), &[Effect::AskLocal(Why::Miss), execute]);
    fails.gives(Event::Executing, &[Effect::WithdrawLocal]);
    fails.gives(Event::Ended(Remote, End::Infra), &[Effect::AskLocal(Why::OtherCannot)]);

    let mut running = missed(waits(now, Some(hold)));
    running.gives(Event::Answer(CacheAnswer::Miss), &[Effect::AskLocal(Why::Miss), execute]);
    running.gives(Event::Admitted, &[Effect::StartLocal]);
    running.gives(Event::Executing, &[]);

    let mut even = missed(waits(now, None));
    even.gives(Event::Answer(CacheAnswer::Miss), &[Effect::AskLocal(Why::Miss), execute]);
    even.gives(Event::Executing, &[]);
}

#[test]
fn what_is_held_back_starts_when_the_other_cannot() {
    let hold = Duration::from_secs(5);
    let after = LocalStart::After(hold);
    let plan = Plan { local: after, remote: NOW };
    let mut local = Trace::new(Rules { plan, ..rules() });
    local.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce)]);
    local.gives(Event::Ended(Remote, End::Infra), &[Effect::AskLocal(Why::OtherCannot)]);
    local.gives(Event::Refused, &[Effect::Abandon]);

    let plan = Plan { local: LocalStart::AtOnce, remote: RemoteStart::AtOnce { execute_after: hold } };
    let mut remote = Trace::new(Rules { plan, ..rules() });
    remote.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce), Effect::AskLocal(Why::AtOnce)]);
    remote.gives(Event::Admitted, &[Effect::StartLocal]);
    remote.gives(Event::Answer(CacheAnswer::Miss), &[]);
    remote.gives(Event::Ended(Local, End::Infra), &[Effect::ExecuteRemote(Why::OtherCannot)]);

    let plan = Plan { local: LocalStart::AtOnce, remote: RemoteStart::Fallback };
    let mut fallback = Trace::new(Rules { plan, ..rules() });
    fallback.gives(Event::Begin, &[Effect::AskLocal(Why::AtOnce)]);
    fallback.gives(Event::Admitted, &[Effect::StartLocal]);
    fallback.gives(Event::Ended(Local, End::Infra), &[Effect::StartRemote(Why::OtherCannot)]);
    fallback.gives(Event::Answer(CacheAnswer::Miss), &[Effect::ExecuteRemote(Why::AtOnce)]);
}

#[test]
fn a_cancellation_ends_both_and_comes_too_late_after_a_claim() {
    let mut trace = Trace::running(rules());
    trace.gives(Event::Cancel, &[Effect::Abandon]);
    let aborts = [Effect::Abort(Local), Effect::Abort(Remote), Effect::Reap(Local), Effect::Reap(Remote)];
    trace.gives(Event::Abandoned, &aborts);
    trace.gives(Event::Ended(Local, End::Canceled), &[]);
    trace.gives(Event::Reaped(Remote), &[Effect::Return(Outcome::Canceled)]);

    let mut late = Trace::running(rules());
    late.gives(Event::Ended(Local, End::Ready), &[Effect::Claim(Local)]);
    late.gives(Event::Cancel, &[Effect::Abandon]);
    late.gives(Event::NotAbandoned, &[]);
    late.gives(Event::Claimed(Local), &[Effect::Abort(Remote), Effect::Publish(Local)]);
    late.gives(Event::Cancel, &[]);
}

#[test]
fn a_cancellation_before_the_start_withdraws() {
    let mut trace = Trace::new(rules());
    trace.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce), Effect::AskLocal(Why::AtOnce)]);
    trace.gives(Event::Cancel, &[Effect::Abandon]);
    trace.gives(Event::Admitted, &[Effect::WithdrawLocal]);
    let stop = [Effect::WithdrawLocal, Effect::Abort(Remote), Effect::Reap(Remote)];
    trace.gives(Event::Abandoned, &stop);
    trace.gives(Event::Ended(Remote, End::Canceled), &[Effect::Return(Outcome::Canceled)]);
}

#[test]
fn a_deadline_ends_the_race_and_not_the_publication() {
    let deadline = Some(Duration::from_secs(1));
    let mut trace = Trace::running(Rules { deadline, ..rules() });
    assert_eq!(trace.state.wake_at(), deadline);
    trace.tick_at(1000, &[Effect::Abandon]);
    trace.tick_at(1001, &[]);
    let mut late = Trace::running(Rules { deadline, ..rules() });
    late.gives(Event::Ended(Remote, End::Ready), &[Effect::Claim(Remote)]);
    late.gives(Event::Claimed(Remote), &[Effect::Abort(Local), Effect::Publish(Remote)]);
    assert_eq!(late.state.wake_at(), None);
    late.tick_at(1000, &[]);
}

#[test]
fn a_remote_that_lost_may_fill_its_cache() {
    let mut trace = Trace::running(Rules { let_remote_finish: true, ..rules() });
    trace.gives(Event::Ended(Local, End::Ready), &[Effect::Claim(Local)]);
    trace.gives(Event::Claimed(Local), &[Effect::LetRun(Remote), Effect::Publish(Local)]);
    trace.gives(Event::Published(Local), &[Effect::Reap(Remote)]);
    // Nobody would wait for it.
    trace.gives(Event::NotReaped(Remote), &[Effect::Abort(Remote)]);
    trace.gives(Event::Ended(Remote, End::Canceled), &[Effect::Return(Outcome::Won(Local))]);
}

#[test]
fn a_bug_is_told_as_a_bug() {
    let mut trace = Trace::running(rules());
    trace.gives(Event::Ended(Remote, End::Bug), &[Effect::Abandon]);
    trace.gives(Event::Abandoned, &[Effect::Abort(Local), Effect::Reap(Local)]);
    trace.gives(Event::Reaped(Local), &[Effect::Return(Outcome::Bug(Remote))]);
}

#[test]
fn alone_nobody_waits() {
    let plan = Plan { local: LocalStart::After(Duration::from_secs(1)), remote: RemoteStart::Never };
    Trace::new(Rules { plan, ..rules() }).gives(Event::Begin, &[Effect::AskLocal(Why::OtherCannot)]);
    let plan = Plan { local: LocalStart::Never, remote: RemoteStart::Never };
    let mut trace = Trace::new(Rules { plan, ..rules() });
    trace.gives(Event::Begin, &[Effect::Abandon]);
    trace.gives(Event::Abandoned, &[Effect::Return(Outcome::NoResult)]);
}

#[test]
fn a_local_branch_that_holds_the_outputs_stops_the_other_when_it_starts() {
    let mut trace = Trace::new(Rules { in_place: true, local_holds: true, ..rules() });
    trace.gives(Event::Begin, &[Effect::StartRemote(Why::AtOnce), Effect::AskLocal(Why::AtOnce)]);
    trace.gives(Event::Admitted, &[Effect::StartLocal, Effect::Abort(Remote)]);
    trace.gives(Event::Ended(Remote, End::Canceled), &[]);
    trace.gives(Event::Ended(Local, End::Ready), &[Effect::Claim(Local)]);
    trace.gives(Event::Claimed(Local), &[Effect::Publish(Local)]);
    trace.gives(Event::Published(Local), &[Effect::Return(Outcome::Won(Local))]);
}
