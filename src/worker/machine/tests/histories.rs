//! Random histories: whatever happens in whatever order, the invariants hold, and in the end everybody has an end.

use super::super::*;
use super::{SECOND, Scene};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

/// Something that may happen; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Deed {
    Submit { family: u8, tools: u8, cancels: bool },
    Cancel(usize),
    Start(usize),
    FailStart(usize),
    Answer(usize),
    Release(usize),
    Crash(usize),
    AnswerTwice(usize),
    Leave(usize),
    Memory(usize, u64),
    Wait(u64),
    Clear,
}

fn deed() -> impl Strategy<Value = Deed> {
    let at = 0usize..64;
    prop_oneof![
        6 => (0u8..4, 0u8..2, any::<bool>())
            .prop_map(|(family, tools, cancels)| Deed::Submit { family, tools, cancels }),
        2 => at.clone().prop_map(Deed::Cancel),
        4 => at.clone().prop_map(Deed::Start),
        1 => at.clone().prop_map(Deed::FailStart),
        5 => at.clone().prop_map(Deed::Answer),
        5 => at.clone().prop_map(Deed::Release),
        2 => at.clone().prop_map(Deed::Crash),
        1 => at.clone().prop_map(Deed::AnswerTwice),
        3 => at.clone().prop_map(Deed::Leave),
        2 => (at, 0u64..80).prop_map(|(at, bytes)| Deed::Memory(at, bytes)),
        3 => (0u64..40).prop_map(Deed::Wait),
        1 => Just(Deed::Clear),
    ]
}

/// The outside: what a driver would know.
struct World {
    scene: Scene,
    limits: PoolLimits,
    starting: Vec<(WorkerId, u8)>,
    /// Worker, family.
    live: HashMap<WorkerId, u8>,
    dying: Vec<WorkerId>,
    running: Vec<(WorkerId, i32, RequestId)>,
    answered: Vec<(WorkerId, i32)>,
    used_ids: HashSet<(WorkerId, i32)>,
    families: HashMap<RequestId, u8>,
    runs: HashMap<RequestId, u32>,
    open: HashSet<RequestId>,
}

/// Families 2 and 3 take several requests at a time.
fn is_multiplex(family: u8) -> bool {
    family >= 2
}

impl World {
    fn new(limits: PoolLimits) -> Self {
        World {
            scene: Scene::new(limits.clone()),
            limits,
            starting: Vec::new(),
            live: HashMap::new(),
            dying: Vec::new(),
            running: Vec::new(),
            answered: Vec::new(),
            used_ids: HashSet::new(),
            families: HashMap::new(),
            runs: HashMap::new(),
            open: HashSet::new(),
        }
    }

    fn event(&mut self, event: Event) {
        let effects = self.scene.event(event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(worker, request) => {
                    let family = self.families[&request];
                    assert!(self.live.insert(worker, family).is_none(), "{worker} is started twice");
                    self.starting.push((worker, family));
                }
                Effect::Assign { request, worker, wire_id, slot } => {
                    self.assigned(request, worker, wire_id, slot);
                }
                Effect::End(request, end) => {
                    assert!(self.open.remove(&request), "{request:?} ends twice, the second time {end:?}");
                }
                Effect::Stop(worker, _) | Effect::Kill(worker, _) => {
                    assert!(!self.dying.contains(&worker), "{worker} dies twice");
                    self.dying.push(worker);
                }
                Effect::SendCancel(worker, wire_id) => {
                    let has = self.running.iter().any(|(at, id, _)| (*at, *id) == (worker, wire_id));
                    assert!(has, "{worker} is to cancel {wire_id}, which it does not have");
                }
                Effect::Freeze(_) | Effect::Thaw(_) => {}
            }
        }
        self.check();
    }

    fn assigned(&mut self, request: RequestId, worker: WorkerId, wire_id: i32, slot: u32) {
        let family = self.live[&worker];
        assert_eq!(family, self.families[&request], "another worker's request");
        assert!(self.open.contains(&request) && !self.dying.contains(&worker));
        assert!(!self.starting.iter().any(|(id, _)| *id == worker), "{worker} is not ready");
        let inside = self.running.iter().filter(|(at, ..)| *at == worker).count()
            + self.answered.iter().filter(|(at, _)| *at == worker).count();
        if is_multiplex(family) {
            assert!(wire_id > 0 && slot < self.limits.slots && inside < self.limits.slots as usize);
            assert!(self.used_ids.insert((worker, wire_id)), "{wire_id} repeats in {worker}");
        } else {
            assert!(wire_id == 0 && inside == 0, "{worker} has two requests at a time");
        }
        let runs = self.runs.entry(request).or_default();
        *runs += 1;
        assert!(*runs <= 2, "{request:?} runs {runs} times");
        assert!(*runs == 1 || inside == 0, "a suspect is not alone");
        self.running.push((worker, wire_id, request));
    }

    fn check(&self) {
        let limits = &self.limits;
        assert!(self.live.len() <= limits.workers_max && self.starting.len() <= limits.starting_max);
        assert_eq!(self.scene.machine.live(), self.live.len());
        for kind in 0..2 {
            let of_kind = self.live.values().filter(|family| *family % 2 == kind).count();
            assert!(of_kind <= limits.per_mnemonic_max);
        }
        assert!(self.scene.machine.waiting() <= limits.waiting_max + self.runs.len());
    }

    fn forget(&mut self, worker: WorkerId) {
        self.live.remove(&worker);
        self.dying.retain(|id| *id != worker);
        self.starting.retain(|(id, _)| *id != worker);
        self.running.retain(|(id, ..)| *id != worker);
        self.answered.retain(|(id, _)| *id != worker);
    }

    fn deed(&mut self, deed: Deed) {
        fn pick<T: Copy>(of: &[T], at: usize) -> Option<T> {
            of.get(at % of.len().max(1)).copied()
        }
        match deed {
            Deed::Submit { family, tools, cancels } => {
                let request = RequestId(self.scene.requests + 1);
                self.families.insert(request, family);
                self.open.insert(request);
                let effects = self.scene.submit(family, tools, is_multiplex(family), cancels);
                self.perform(effects);
            }
            Deed::Cancel(at) => {
                let open: Vec<_> = (1..=self.scene.requests).map(RequestId).collect();
                let Some(request) = pick(&open, at) else { return };
                self.event(Event::Cancel(request));
                assert!(!self.open.contains(&request), "its caller is not free");
            }
            Deed::Start(at) => {
                let Some((worker, _)) = pick(&self.starting, at) else { return };
                self.starting.retain(|(id, _)| *id != worker);
                self.event(Event::Started(worker));
            }
            Deed::FailStart(at) => {
                let Some((worker, _)) = pick(&self.starting, at) else { return };
                self.forget(worker);
                self.event(Event::StartFailed(worker, "cannot".to_owned()));
            }
            Deed::Answer(at) => {
                let Some((worker, wire_id, _)) = pick(&self.running, at) else { return };
                self.running.retain(|(at, id, _)| (*at, *id) != (worker, wire_id));
                self.answered.push((worker, wire_id));
                self.event(Event::Answered(worker, wire_id));
            }
            Deed::AnswerTwice(at) => {
                let Some((worker, wire_id)) = pick(&self.answered, at) else { return };
                self.event(Event::Answered(worker, wire_id));
                assert!(self.dying.contains(&worker), "an unknown answer must cost the worker");
            }
            Deed::Release(at) => {
                let Some((worker, wire_id)) = pick(&self.answered, at) else { return };
                self.answered.retain(|(at, id)| (*at, *id) != (worker, wire_id));
                self.event(Event::Released(worker, wire_id));
            }
            Deed::Crash(at) => {
                let mut live: Vec<_> = self.live.keys().copied().collect();
                live.sort_unstable();
                let Some(worker) = pick(&live, at) else { return };
                self.forget(worker);
                self.event(Event::Gone(worker, "crashed".to_owned()));
            }
            Deed::Leave(at) => {
                let Some(worker) = pick(&self.dying, at) else { return };
                self.forget(worker);
                self.event(Event::Gone(worker, "stopped".to_owned()));
            }
            Deed::Memory(at, bytes) => {
                let ready = self.scene.machine.ready();
                let Some(worker) = pick(&ready, at) else { return };
                self.event(Event::Memory(worker, bytes));
            }
            Deed::Wait(seconds) => {
                self.scene.now += SECOND * u32::try_from(seconds).unwrap();
                self.event(Event::Tick);
            }
            Deed::Clear => self.event(Event::Clear),
        }
    }

    /// A world in which everything works from now on: everybody gets an end, without waiting being given up.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.open.is_empty() {
                return;
            }
            if !self.dying.is_empty() {
                self.deed(Deed::Leave(0));
            } else if !self.starting.is_empty() {
                self.deed(Deed::Start(0));
            } else if !self.running.is_empty() {
                self.deed(Deed::Answer(0));
            } else if !self.answered.is_empty() {
                self.deed(Deed::Release(0));
            } else {
                let now = self.scene.now;
                let due = self.scene.machine.due().expect("nothing will ever happen, and somebody waits");
                self.scene.now = due.max(now + Duration::from_millis(1));
                self.event(Event::Tick);
            }
        }
        panic!("{:?} never end", self.open);
    }
}

fn small() -> PoolLimits {
    PoolLimits {
        workers_max: 5,
        per_key_max: 2,
        multiplex_per_key_max: 2,
        per_mnemonic_max: 3,
        slots: 3,
        starting_max: 2,
        waiting_max: 12,
        wait_max: Duration::from_secs(100_000),
        memory_bytes_max: Some(150),
        ..PoolLimits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_gets_exactly_one_end(deeds in prop::collection::vec(deed(), 1..250), retry in any::<bool>()) {
        let mut world = World::new(PoolLimits { retry_crashed: retry, ..small() });
        for deed in deeds {
            world.deed(deed);
        }
        world.finish();
        world.event(Event::Drain);
        for _ in 0..1000 {
            world.deed(Deed::Start(0));
            world.deed(Deed::Answer(0));
            world.deed(Deed::Release(0));
            world.deed(Deed::Leave(0));
        }
        prop_assert!(world.live.is_empty(), "{:?} are left", world.live);
    }
}
