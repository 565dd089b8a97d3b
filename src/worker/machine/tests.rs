//! The machine by itself: single rules by hand, and its invariants over random histories.

mod histories;

use super::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A machine with what it said so far.
pub(super) struct Scene {
    pub machine: Machine,
    pub now: Duration,
    pub requests: u64,
    /// Of what is submitted.
    pub build: Option<String>,
}

impl Scene {
    pub fn new(limits: PoolLimits) -> Self {
        Scene { machine: Machine::new(limits), now: Duration::ZERO, requests: 0, build: None }
    }

    pub fn event(&mut self, event: Event) -> Vec<Effect> {
        self.machine.handle(event, self.now)
    }

    pub fn submit(&mut self, family: u8, tools: u8, multiplex: bool, cancels: bool) -> Vec<Effect> {
        self.requests += 1;
        self.event(Event::Submit(Submission {
            request: RequestId(self.requests),
            key: WorkerKey::for_test(family, tools),
            tools: Arc::from([("tool".to_owned(), format!("{tools}"))]),
            mnemonic: format!("Kind{}", family % 2),
            build: self.build.clone(),
            multiplex,
            cancels,
            timeout: 10 * SECOND,
        }))
    }

    fn tick(&mut self, after: Duration) -> Vec<Effect> {
        self.now += after;
        self.event(Event::Tick)
    }

    /// A worker that has answered one request.
    fn warm(&mut self, family: u8, tools: u8) -> WorkerId {
        let effects = self.submit(family, tools, false, false);
        let Some(Effect::Start(worker, request)) = effects.last().cloned() else { panic!("{effects:?}") };
        assert_eq!(self.event(Event::Started(worker)), [assign(request.0, worker, 0, 0)]);
        assert_eq!(self.event(Event::Answered(worker, 0)), [Effect::End(request, RequestEnd::Answered)]);
        assert_eq!(self.event(Event::Released(worker, 0)), []);
        worker
    }
}

fn assign(request: u64, worker: WorkerId, wire_id: i32, slot: u32) -> Effect {
    Effect::Assign { request: RequestId(request), worker, wire_id, slot }
}

fn end(request: u64, end: RequestEnd) -> Effect {
    Effect::End(RequestId(request), end)
}

fn start(worker: u64, request: u64) -> Effect {
    Effect::Start(WorkerId(worker), RequestId(request))
}

fn limits() -> PoolLimits {
    PoolLimits { per_key_max: 2, ..PoolLimits::default() }
}

#[test]
fn the_worker_used_last_is_used_next_and_waiters_come_in_order() {
    let mut scene = Scene::new(limits());
    let (one, two) = (WorkerId(1), WorkerId(2));
    assert_eq!(scene.submit(1, 1, false, false), [start(1, 1)]);
    assert_eq!(scene.submit(1, 1, false, false), [start(2, 2)]);
    assert_eq!(scene.submit(1, 1, false, false), [], "two is the most");
    assert_eq!(scene.submit(1, 1, false, false), []);
    assert_eq!(scene.event(Event::Started(one)), [assign(1, one, 0, 0)]);
    assert_eq!(scene.event(Event::Started(two)), [assign(2, two, 0, 0)]);
    scene.event(Event::Answered(two, 0)).clear();
    assert_eq!(scene.event(Event::Released(two, 0)), [assign(3, two, 0, 0)]);
    scene.event(Event::Answered(one, 0)).clear();
    assert_eq!(scene.event(Event::Released(one, 0)), [assign(4, one, 0, 0)]);
    for worker in [one, two] {
        scene.event(Event::Answered(worker, 0)).clear();
        scene.event(Event::Released(worker, 0)).clear();
    }
    assert_eq!(scene.submit(1, 1, false, false), [assign(5, two, 0, 0)]);
}

#[test]
fn a_worker_whose_tools_changed_goes_and_says_which() {
    let mut scene = Scene::new(limits());
    let old = scene.warm(1, 1);
    let effects = scene.submit(1, 2, false, false);
    let why = StopReason::ToolsChanged(vec!["tool: 1 -> 2".to_owned()]);
    assert_eq!(effects, [Effect::Stop(old, why.clone()), start(2, 2)]);
    assert!(why.to_string().ends_with("its files have changed on disk:\ntool: 1 -> 2"));
    assert_eq!(scene.event(Event::Gone(old, String::new())), []);
}

#[test]
fn a_crash_costs_one_retry_and_then_the_request() {
    let mut scene = Scene::new(limits());
    let first = scene.warm(1, 1);
    assert_eq!(scene.submit(1, 1, false, false), [assign(2, first, 0, 0)]);
    assert_eq!(scene.event(Event::Gone(first, "killed by SIGSEGV".to_owned())), [start(2, 2)]);
    let second = WorkerId(2);
    assert_eq!(scene.event(Event::Started(second)), [assign(2, second, 0, 0)]);
    let crashed = RequestEnd::Crashed(second, "again".to_owned());
    assert_eq!(scene.event(Event::Gone(second, "again".to_owned())), [end(2, crashed)]);
    // The key has crashed twice in a row: the next start waits.
    assert_eq!(scene.submit(1, 1, false, false), []);
    let due = scene.machine.due().unwrap();
    assert_eq!(scene.tick(due - scene.now), [start(3, 3)]);
}

#[test]
fn a_worker_that_is_long_in_coming_keeps_no_other_from_starting() {
    let mut scene = Scene::new(PoolLimits { starting_max: 1, ..limits() });
    assert_eq!(scene.submit(1, 1, false, false), [start(1, 1)]);
    assert_eq!(scene.submit(2, 1, false, false), []);
    assert_eq!(scene.event(Event::Executed(WorkerId(1))), [start(2, 2)]);
    assert_eq!(scene.submit(1, 1, false, false), [], "one starts");
    let why = || "it serves no socket".to_owned();
    assert_eq!(
        scene.event(Event::StartFailed(WorkerId(1), why())),
        [end(1, RequestEnd::StartFailed(why())), end(3, RequestEnd::StartFailed(why()))]
    );
}

#[test]
fn a_worker_that_knows_no_cancel_has_the_time_to_finish() {
    let mut scene = Scene::new(PoolLimits { cancel_grace: SECOND, finish_max: 5 * SECOND, ..limits() });
    let worker = WorkerId(1);
    assert_eq!(scene.submit(1, 1, false, true), [start(1, 1)]);
    assert_eq!(scene.event(Event::Started(worker)), [assign(1, worker, 0, 0)]);
    assert_eq!(scene.event(Event::KnowsNoCancel(worker)), []);
    assert_eq!(
        scene.event(Event::Cancel(RequestId(1))),
        [end(1, RequestEnd::Canceled)],
        "and nothing is sent"
    );
    assert_eq!(scene.tick(4 * SECOND), []);
    assert_eq!(scene.tick(SECOND), [Effect::Kill(worker, StopReason::Hung)]);
    assert_eq!(scene.event(Event::KnowsNoCancel(worker)), [], "it may be gone by then");
    assert_eq!(scene.event(Event::Gone(worker, String::new())), []);
    assert_eq!(scene.event(Event::KnowsNoCancel(worker)), []);
}

#[test]
fn a_crash_is_reported_where_nothing_is_retried() {
    let mut scene = Scene::new(PoolLimits { retry_crashed: false, ..limits() });
    let first = scene.warm(1, 1);
    scene.submit(1, 1, false, false).clear();
    let crashed = RequestEnd::Crashed(first, "gone".to_owned());
    assert_eq!(scene.event(Event::Gone(first, "gone".to_owned())), [end(2, crashed)]);
    assert_eq!(scene.submit(1, 1, false, false), [start(2, 3)], "the key lives on");
}

#[test]
fn after_a_crash_each_of_several_requests_runs_alone() {
    let mut scene = Scene::new(limits());
    scene.submit(1, 1, true, false).clear();
    let one = WorkerId(1);
    scene.event(Event::Started(one)).clear();
    assert_eq!(scene.submit(1, 1, true, false), [assign(2, one, 2, 1)]);
    assert_eq!(scene.event(Event::Gone(one, "boom".to_owned())), [start(2, 1)]);
    let two = WorkerId(2);
    assert_eq!(scene.submit(1, 1, true, false), []);
    assert_eq!(scene.event(Event::Started(two)), [assign(1, two, 1, 0)]);
    // The first was to blame: the second has another chance all the same.
    let crashed = end(1, RequestEnd::Crashed(two, "boom".to_owned()));
    assert_eq!(scene.event(Event::Gone(two, "boom".to_owned())), [crashed]);
    assert_eq!(scene.tick(SECOND), [start(3, 2)]);
    let three = WorkerId(3);
    assert_eq!(scene.event(Event::Started(three)), [assign(2, three, 1, 0)]);
    assert_eq!(scene.event(Event::Answered(three, 1)), [end(2, RequestEnd::Answered)]);
    assert_eq!(scene.event(Event::Released(three, 1)), [assign(3, three, 2, 0)]);
}

#[test]
fn a_pause_that_ended_while_nobody_looked_is_due_at_once() {
    let mut scene = Scene::new(PoolLimits { starting_max: 1, ..limits() });
    scene.submit(1, 1, false, false).clear();
    for worker in [WorkerId(1), WorkerId(2)] {
        scene.event(Event::Started(worker)).clear();
        scene.event(Event::Gone(worker, "boom".to_owned())).clear();
    }
    scene.submit(1, 1, false, false).clear();
    let pause = scene.machine.due().unwrap();
    assert!(pause > scene.now && pause < SECOND, "{pause:?}");
    // The clock is looked at long after: it is not forgotten until the request has waited too long.
    scene.now = 3 * SECOND;
    assert_eq!(scene.machine.due(), Some(pause));
    assert_eq!(scene.event(Event::Tick), [start(3, 2)]);
    // One that was over when something else held the start up is not due again and again.
    scene.event(Event::StartFailed(WorkerId(3), "no".to_owned())).clear();
    assert_eq!(scene.submit(2, 1, false, false), [start(4, 3)]);
    assert_eq!(scene.submit(1, 1, false, false), []);
    let pause = scene.machine.due().unwrap();
    assert!(pause < 4 * SECOND, "{pause:?}");
    assert_eq!(scene.tick(SECOND), [], "another one starts");
    assert_eq!(scene.machine.due(), Some(scene.now - SECOND + limits().wait_max));
}

#[test]
fn a_hung_request_ends_at_its_deadline_and_its_neighbours_go_on() {
    let mut scene = Scene::new(limits());
    scene.submit(1, 1, true, false).clear();
    let one = WorkerId(1);
    scene.event(Event::Started(one)).clear();
    scene.now += 5 * SECOND;
    scene.submit(1, 1, true, false).clear();
    scene.submit(1, 1, true, false).clear();
    assert_eq!(scene.machine.due(), Some(10 * SECOND));
    // It has answered something meanwhile: it is not the process that hangs.
    scene.event(Event::Answered(one, 3)).clear();
    scene.event(Event::Released(one, 3)).clear();
    assert_eq!(scene.tick(5 * SECOND), [end(1, RequestEnd::TimedOut(10 * SECOND))]);
    assert_eq!(scene.event(Event::Answered(one, 2)), [end(2, RequestEnd::Answered)]);
    assert_eq!(scene.event(Event::Released(one, 2)), [Effect::Kill(one, StopReason::Hung)]);
}

#[test]
fn a_process_that_says_nothing_costs_its_other_requests_one_retry() {
    let mut scene = Scene::new(limits());
    scene.submit(1, 1, true, false).clear();
    let one = WorkerId(1);
    scene.event(Event::Started(one)).clear();
    scene.now += 4 * SECOND;
    scene.submit(1, 1, true, false).clear();
    scene.submit(1, 1, true, false).clear();
    // Stopped: the first is told at its deadline, and the others do not wait for theirs.
    let late = end(1, RequestEnd::TimedOut(10 * SECOND));
    assert_eq!(scene.tick(6 * SECOND), [late, Effect::Kill(one, StopReason::Hung)]);
    assert_eq!(scene.event(Event::Gone(one, String::new())), [start(2, 2)]);
    let two = WorkerId(2);
    assert_eq!(scene.event(Event::Started(two)), [assign(2, two, 1, 0)]);
    assert_eq!(scene.event(Event::Answered(two, 1)), [end(2, RequestEnd::Answered)]);
    assert_eq!(scene.event(Event::Released(two, 1)), [assign(3, two, 2, 0)]);
}

#[test]
fn one_that_falls_silent_after_a_late_request_is_ended_when_it_has_been_silent_as_long() {
    let mut scene = Scene::new(limits());
    scene.submit(1, 1, true, false).clear();
    let one = WorkerId(1);
    scene.event(Event::Started(one)).clear();
    scene.now += 7 * SECOND;
    scene.submit(1, 1, true, false).clear();
    scene.submit(1, 1, true, false).clear();
    scene.event(Event::Answered(one, 3)).clear();
    scene.event(Event::Released(one, 3)).clear();
    assert_eq!(scene.tick(3 * SECOND), [end(1, RequestEnd::TimedOut(10 * SECOND))]);
    assert_eq!(scene.machine.due(), Some(17 * SECOND));
    // The last one is late itself at that time.
    let late = end(2, RequestEnd::TimedOut(10 * SECOND));
    assert_eq!(scene.tick(7 * SECOND), [late, Effect::Kill(one, StopReason::Hung)]);
}

#[test]
fn a_late_request_of_many_is_canceled_and_the_worker_stays_if_it_obeys() {
    let several = || {
        let mut scene = Scene::new(limits());
        scene.submit(1, 1, true, true).clear();
        scene.event(Event::Started(WorkerId(1))).clear();
        scene.now += 9 * SECOND;
        scene.submit(1, 1, true, true).clear();
        let effects = scene.tick(SECOND);
        let late = end(1, RequestEnd::TimedOut(10 * SECOND));
        assert_eq!(effects, [Effect::SendCancel(WorkerId(1), 1), late]);
        assert_eq!(scene.machine.due(), Some(15 * SECOND));
        scene
    };
    let one = WorkerId(1);
    let mut scene = several();
    assert_eq!(scene.event(Event::Answered(one, 1)), []);
    assert_eq!(scene.event(Event::Released(one, 1)), []);
    assert_eq!(scene.submit(1, 1, true, true), [assign(3, one, 3, 0)]);
    // It does not: nothing is heard of it in all of the grace.
    let mut scene = several();
    assert_eq!(scene.tick(5 * SECOND), [Effect::Kill(one, StopReason::Hung)]);
    assert_eq!(scene.event(Event::Gone(one, String::new())), [start(2, 2)]);
    // It does not, but answers another: only the late one hangs.
    let mut scene = several();
    scene.now += 4 * SECOND;
    assert_eq!(scene.event(Event::Answered(one, 2)), [end(2, RequestEnd::Answered)]);
    assert_eq!(scene.event(Event::Released(one, 2)), []);
    assert_eq!(scene.tick(SECOND), [Effect::Kill(one, StopReason::Hung)]);
}

#[test]
fn canceled_callers_are_free_at_once() {
    let mut scene = Scene::new(limits());
    let canceled = |request| end(request, RequestEnd::Canceled);
    // It knows cancels, and answers in time.
    scene.submit(1, 1, false, true).clear();
    let one = WorkerId(1);
    scene.event(Event::Started(one)).clear();
    let effects = scene.event(Event::Cancel(RequestId(1)));
    assert_eq!(effects, [Effect::SendCancel(one, 0), canceled(1)]);
    assert_eq!(scene.event(Event::Answered(one, 0)), []);
    assert_eq!(scene.event(Event::Released(one, 0)), []);
    // Not in time.
    assert_eq!(scene.submit(1, 1, false, true), [assign(2, one, 0, 0)]);
    scene.event(Event::Cancel(RequestId(2))).clear();
    assert_eq!(scene.machine.due(), Some(5 * SECOND));
    assert_eq!(scene.tick(5 * SECOND), [Effect::Kill(one, StopReason::Hung)]);
    scene.event(Event::Gone(one, String::new())).clear();
    // It knows none, and may go on for a while.
    let two = scene.warm(2, 1);
    scene.submit(2, 1, false, false).clear();
    assert_eq!(scene.event(Event::Cancel(RequestId(4))), [canceled(4)]);
    assert_eq!(scene.tick(30 * SECOND), [Effect::Kill(two, StopReason::Hung)]);
    // Or not at all.
    let mut scene = Scene::new(PoolLimits { finish_max: Duration::ZERO, ..limits() });
    let one = scene.warm(1, 1);
    scene.submit(1, 1, false, false).clear();
    let effects = scene.event(Event::Cancel(RequestId(2)));
    assert_eq!(effects, [canceled(2), Effect::Kill(one, StopReason::Hung)]);
}

#[test]
fn idle_workers_are_frozen_then_stopped() {
    let mut scene = Scene::new(limits());
    let one = scene.warm(1, 1);
    assert_eq!(scene.tick(5 * SECOND), [Effect::Freeze(one)]);
    assert_eq!(scene.tick(SECOND), []);
    assert_eq!(scene.submit(1, 1, false, false), [Effect::Thaw(one), assign(2, one, 0, 0)]);
    scene.event(Event::Answered(one, 0)).clear();
    scene.event(Event::Released(one, 0)).clear();
    scene.tick(5 * SECOND).clear();
    let ttl = scene.machine.due().unwrap() - scene.now;
    let stop = Effect::Stop(one, StopReason::Idle(15 * 60 * SECOND));
    assert_eq!(scene.tick(ttl), [Effect::Thaw(one), stop]);
}

#[test]
fn workers_of_a_build_end_a_while_after_its_last_action() {
    let mut scene = Scene::new(PoolLimits { build_pause_max: Some(3 * SECOND), ..limits() });
    let name = |name: &str| name.to_owned();
    scene.event(Event::Entered(name("first"))).clear();
    scene.event(Event::Entered(name("first"))).clear();
    scene.event(Event::Entered(name("second"))).clear();
    scene.build = Some(name("first"));
    let one = scene.warm(1, 1);
    scene.build = Some(name("second"));
    let two = scene.warm(2, 1);
    scene.event(Event::Left(name("second"))).clear();
    scene.event(Event::Left(name("first"))).clear();
    // One action of the first is still here, though no worker has it.
    assert_eq!(scene.machine.due(), Some(3 * SECOND));
    assert_eq!(scene.tick(3 * SECOND), [Effect::Stop(two, StopReason::BuildOver)]);
    scene.event(Event::Left(name("first"))).clear();
    scene.event(Event::Entered(name("first"))).clear();
    assert_eq!(scene.tick(SECOND), []);
    scene.event(Event::Left(name("first"))).clear();
    assert_eq!(scene.tick(2 * SECOND), [Effect::Freeze(one)]);
    assert_eq!(scene.tick(SECOND), [Effect::Thaw(one), Effect::Stop(one, StopReason::BuildOver)]);
    let counts = scene.machine.counts();
    assert_eq!((counts.started, counts.stopped, counts.answered), (2, 2, 2));
}

#[test]
fn no_more_builds_are_known_than_there_may_be() {
    let mut scene = Scene::new(PoolLimits { build_pause_max: Some(SECOND), ..limits() });
    scene.build = Some("0".to_owned());
    scene.event(Event::Entered("0".to_owned())).clear();
    let one = scene.warm(1, 1);
    scene.event(Event::Left("0".to_owned())).clear();
    for number in 1..limits::BUILDS_MAX {
        scene.event(Event::Entered(number.to_string())).clear();
        assert_eq!(scene.event(Event::Left(number.to_string())), []);
    }
    scene.now += SECOND / 2;
    scene.event(Event::Entered("last".to_owned())).clear();
    let effects = scene.event(Event::Left("last".to_owned()));
    assert_eq!(effects, [Effect::Stop(one, StopReason::BuildOver)]);
}

#[test]
fn memory_takes_idle_ones_first_the_largest_of_them_first() {
    let mut scene = Scene::new(PoolLimits { memory_bytes_max: Some(100), ..limits() });
    let [busy, small, large] = [1, 2, 3].map(|family| scene.warm(family, 1));
    scene.submit(1, 1, false, false).clear();
    assert_eq!(scene.event(Event::Memory(busy, 60)), []);
    assert_eq!(scene.event(Event::Memory(small, 10)), []);
    let effects = scene.event(Event::Memory(large, 50));
    assert!(matches!(effects[..], [Effect::Stop(id, StopReason::MemoryPressure { .. })] if id == large));
    assert_eq!(scene.submit(4, 1, false, false), [], "nothing is added while it is full");
    assert_eq!(scene.event(Event::Gone(large, String::new())), [start(4, 5)]);
    let effects = scene.event(Event::Memory(busy, 160));
    assert!(matches!(effects[..], [Effect::Stop(id, _)] if id == small), "{effects:?}");
    assert_eq!(scene.event(Event::Answered(busy, 0)), [end(4, RequestEnd::Answered)]);
    let effects = scene.event(Event::Released(busy, 0));
    assert!(matches!(effects[..], [Effect::Stop(id, _)] if id == busy), "{effects:?}");
}

#[test]
fn an_answer_that_nobody_waits_for_breaks_the_worker() {
    let mut scene = Scene::new(limits());
    let one = scene.warm(1, 1);
    let effects = scene.event(Event::Answered(one, 7));
    assert!(matches!(effects[..], [Effect::Kill(_, StopReason::Broken(_))]), "{effects:?}");
    assert_eq!(scene.event(Event::Answered(one, 0)), [], "what it says now counts for nothing");
}

#[test]
fn what_cannot_be_started_fails_those_who_wait_for_it() {
    let mut scene = Scene::new(limits());
    scene.submit(1, 1, false, false).clear();
    let why = || "no such program".to_owned();
    let effects = scene.event(Event::StartFailed(WorkerId(1), why()));
    assert_eq!(effects, [end(1, RequestEnd::StartFailed(why()))]);
}

#[test]
fn draining_ends_all() {
    let mut scene = Scene::new(limits());
    let idle = scene.warm(1, 1);
    let busy = scene.warm(2, 1);
    scene.submit(2, 1, false, false).clear();
    scene.submit(3, 1, false, false).clear();
    let effects = scene.event(Event::Drain);
    assert_eq!(effects, [end(4, RequestEnd::Draining), Effect::Stop(idle, StopReason::Cleared)]);
    assert_eq!(scene.submit(1, 1, false, false), [end(5, RequestEnd::Draining)]);
    scene.event(Event::Answered(busy, 0)).clear();
    assert_eq!(scene.event(Event::Released(busy, 0)), [Effect::Stop(busy, StopReason::Cleared)]);
}
