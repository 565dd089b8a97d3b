//! One simulation: time, hosts with their slots, a remote with its queue, and a race for each action on its way.
mod remote;

use super::build::{Build, Fate};
use super::policy::{Policy, rules};
use super::{Condition, SimulateBench};
use crate::commit::Side;
use crate::race::forecast::{Forecast, Key, Measure, Memory};
use crate::race::gate::{Gate, Ticket};
use crate::race::knobs::Knobs;
use crate::race::policy::Situation;
use crate::race::sketch::Ring;
use crate::race::step::{CacheAnswer, Effect, End, Event, Outcome, State, step};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

/// What a simulation gave. Times are in seconds, sums over all hosts but for the first two.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The mean of the hosts' builds.
    pub wall_s: f64,
    /// The slowest host's build.
    pub wall_max_s: f64,
    /// Core time of local losers.
    pub wasted_local_s: f64,
    /// Time of remote executions that nobody used.
    pub wasted_remote_s: f64,
    /// Actions done here.
    pub local_wins: u64,
    /// Actions done there.
    pub remote_wins: u64,
    /// Actions for which both sides worked.
    pub raced: u64,
    /// Actions.
    pub actions: usize,
}

/// What will happen to an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    Tick,
    Answer,
    /// The remote says that it executes.
    Executing,
    RemoteEnd,
    LocalEnd,
    /// An execution that nobody waits for frees its place.
    RemoteFree,
}

/// A race on its way.
struct Live {
    state: State,
    fate: Fate,
    began_us: u64,
    tick_us: u64,
    answered_us: Option<u64>,
    local_from: Option<u64>,
    remote_from: Option<u64>,
    permitted_us: u64,
    told_us: Option<u64>,
    queued: bool,
    holds_remote: bool,
    local_is_running: bool,
}

/// How many forecasts in a row may be the same one: it is made of a hundred and more runs, and takes longer to make
/// than all else that is simulated for an action.
const FORECAST_FOR: u32 = 8;

struct Host {
    gate: Gate,
    ready: VecDeque<u32>,
    on_their_way: usize,
    left: usize,
    any_hit: bool,
    fetches: Ring,
    memory: Memory,
    keys: Vec<Key>,
    forecasts: Vec<(u32, Forecast)>,
    done_us: u64,
}

/// The world.
pub struct World<'a> {
    build: &'a Build,
    wanted: &'a SimulateBench,
    condition: &'a Condition,
    policy: Policy,
    knobs: Knobs,
    now_us: u64,
    coming: BinaryHeap<Reverse<(u64, u64, u32, Coming)>>,
    sequence: u64,
    hosts: Vec<Host>,
    needs: Vec<u32>,
    live: HashMap<u32, Live>,
    remote_free: usize,
    remote_queue: VecDeque<u32>,
    /// Those that the gate let in, and have not been told.
    entered: Vec<u32>,
    /// Hosts that may have room for another action.
    begin_next: Vec<usize>,
    found: Found,
}

impl<'a> World<'a> {
    /// Before it begins.
    #[must_use]
    pub fn new(
        build: &'a Build,
        wanted: &'a SimulateBench,
        condition: &'a Condition,
        policy: Policy,
    ) -> Self {
        let keys: Vec<Key> = build.kinds.iter().map(|kind| Key::new(kind, None)).collect();
        let host = || Host {
            gate: Gate::new(wanted.local_slots, wanted.jobs),
            ready: VecDeque::new(),
            on_their_way: 0,
            left: build.len(),
            any_hit: false,
            fetches: Ring::new(500),
            memory: Memory::default(),
            forecasts: vec![(0, Forecast::default()); keys.len()],
            keys: keys.clone(),
            done_us: 0,
        };
        let needs = build.actions.iter().map(|action| action.needs);
        World {
            build,
            wanted,
            condition,
            policy,
            knobs: if policy == Policy::Bazel { Knobs::bazel() } else { Knobs::default() },
            now_us: 0,
            coming: BinaryHeap::new(),
            sequence: 0,
            hosts: (0..wanted.hosts).map(|_| host()).collect(),
            needs: std::iter::repeat_n(needs, wanted.hosts).flatten().collect(),
            live: HashMap::new(),
            remote_free: match condition.slots_per_host {
                0 => usize::MAX,
                slots => slots * wanted.hosts,
            },
            remote_queue: VecDeque::new(),
            entered: Vec::new(),
            begin_next: Vec::new(),
            found: Found { actions: build.len() * wanted.hosts, ..Found::default() },
        }
    }

    /// Runs to the end of all builds.
    #[must_use]
    pub fn run(mut self) -> Found {
        for host in 0..self.hosts.len() {
            for action in 0..self.build.len() {
                if self.build.actions[action].needs == 0 {
                    self.hosts[host].ready.push_back((host * self.build.len() + action) as u32);
                }
            }
            self.begin_next.push(host);
        }
        self.settle();
        while let Some(Reverse((at, _, id, coming))) = self.coming.pop() {
            self.now_us = at;
            self.happen(id, coming);
            self.settle();
        }
        let walls: Vec<f64> = self.hosts.iter().map(|host| host.done_us as f64 / 1e6).collect();
        self.found.wall_s = walls.iter().sum::<f64>() / walls.len() as f64;
        self.found.wall_max_s = walls.iter().copied().fold(0.0, f64::max);
        self.found
    }

    /// What follows at the same moment, one race after the other.
    fn settle(&mut self) {
        loop {
            if let Some(id) = self.entered.pop() {
                self.tell(id, Event::Admitted);
            } else if let Some(host) = self.begin_next.pop() {
                self.begin_ready(host);
            } else {
                return;
            }
        }
    }

    fn will(&mut self, after_us: u64, id: u32, coming: Coming) {
        self.sequence += 1;
        self.coming.push(Reverse((self.now_us + after_us, self.sequence, id, coming)));
    }

    fn host_of(&self, id: u32) -> usize {
        id as usize / self.build.len()
    }

    fn action_of(&self, id: u32) -> usize {
        id as usize % self.build.len()
    }

    fn begin_ready(&mut self, host: usize) {
        while self.hosts[host].on_their_way < self.wanted.jobs {
            let Some(id) = self.hosts[host].ready.pop_front() else { return };
            self.hosts[host].on_their_way += 1;
            self.begin(host, id);
            if !self.entered.is_empty() {
                // Who entered is told first: the next one shall see how full the machine is.
                self.begin_next.push(host);
                return;
            }
        }
    }

    fn begin(&mut self, host: usize, id: u32) {
        let action = self.action_of(id);
        let kind = usize::from(self.build.actions[action].kind);
        let situation = self.situation(host, kind);
        let fetches = &self.hosts[host].fetches;
        let rules = rules(self.policy, &self.build.kinds[kind], &self.knobs, &situation, fetches);
        let live = Live {
            state: State::new(rules),
            fate: self.build.fate(action, host, self.wanted.seed, self.condition),
            began_us: self.now_us,
            tick_us: u64::MAX,
            answered_us: None,
            local_from: None,
            remote_from: None,
            permitted_us: 0,
            told_us: None,
            queued: false,
            holds_remote: false,
            local_is_running: false,
        };
        self.live.insert(id, live);
        self.tell(id, Event::Begin);
    }

    fn situation(&mut self, host: usize, kind: usize) -> Situation {
        let host = &mut self.hosts[host];
        if self.policy != Policy::Fulgurite {
            return Situation { any_hit: host.any_hit, ..Situation::default() };
        }
        let (left, forecast) = &mut host.forecasts[kind];
        if *left == 0 {
            *forecast = host.memory.forecast(&host.keys[kind]);
            *left = FORECAST_FOR;
        }
        *left -= 1;
        let mean = forecast.local.map_or(Duration::ZERO, |local| local.at(0.5));
        Situation {
            any_hit: host.any_hit,
            forecast: *forecast,
            local_wait: host.gate.likely_wait(mean),
            explore: host.memory.explore(),
            ..Situation::default()
        }
    }

    fn happen(&mut self, id: u32, coming: Coming) {
        if coming == Coming::RemoteFree {
            self.free_remote();
            return;
        }
        // What comes for an action that is over comes for nobody.
        let Some(live) = self.live.get_mut(&id) else { return };
        match coming {
            Coming::Tick => {
                live.tick_us = u64::MAX;
                self.tell(id, Event::Tick);
            }
            Coming::Answer => self.answer(id),
            Coming::Executing => self.says(id),
            Coming::LocalEnd => {
                let took = self.now_us - live.local_from.unwrap_or(self.now_us);
                live.local_is_running = false;
                self.measure(id, Measure::Local, took);
                self.tell(id, Event::Ended(Side::Local, End::Ready));
            }
            Coming::RemoteEnd => self.remote_end(id),
            Coming::RemoteFree => {}
        }
    }

    fn answer(&mut self, id: u32) {
        let host = self.host_of(id);
        let Some(live) = self.live.get_mut(&id) else { return };
        let fate = live.fate;
        live.answered_us = Some(self.now_us);
        if fate.hit {
            self.hosts[host].any_hit = true;
            self.measure(id, Measure::Hit, fate.answer_us);
            self.will(fate.fetch_us, id, Coming::RemoteEnd);
            self.tell(id, Event::Answer(CacheAnswer::Hit));
        } else if self.policy == Policy::Siso && self.hosts[host].gate.has_room() {
            // Instead of, not against: the remote side is over.
            self.tell(id, Event::Ended(Side::Remote, End::Infra));
        } else {
            self.measure(id, Measure::Miss, fate.answer_us);
            self.tell(id, Event::Answer(CacheAnswer::Miss));
        }
    }

    fn measure(&mut self, id: u32, what: Measure, micros: u64) {
        if self.policy == Policy::Fulgurite {
            let (host, kind) = (self.host_of(id), self.build.actions[self.action_of(id)].kind);
            let host = &mut self.hosts[host];
            host.memory.add(&host.keys[usize::from(kind)], what, Duration::from_micros(micros));
        }
    }

    /// It was stopped; it would have taken longer.
    fn measure_stopped(&mut self, id: u32, what: Measure, micros: u64) {
        if self.policy == Policy::Fulgurite {
            let (host, kind) = (self.host_of(id), self.build.actions[self.action_of(id)].kind);
            let host = &mut self.hosts[host];
            host.memory.at_least(&host.keys[usize::from(kind)], what, Duration::from_micros(micros));
        }
    }

    /// Tells a race, does what it says, and tells it what that gives.
    fn tell(&mut self, id: u32, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(live) = self.live.get_mut(&id) else { return };
            let now = Duration::from_micros(self.now_us - live.began_us);
            let (state, effects) = step(live.state, event, now);
            live.state = state;
            for effect in effects {
                self.perform(id, effect, &mut events);
            }
        }
        let Some(live) = self.live.get_mut(&id) else { return };
        if let Some(wake) = live.state.wake_at() {
            let at = (live.began_us + micros(wake)).max(self.now_us);
            if at < live.tick_us {
                live.tick_us = at;
                self.will(at - self.now_us, id, Coming::Tick);
            }
        }
    }

    fn perform(&mut self, id: u32, effect: Effect, events: &mut VecDeque<Event>) {
        let host = self.host_of(id);
        let ticket = Ticket(u64::from(id));
        let now = Duration::from_micros(self.now_us);
        match effect {
            Effect::StartRemote(_) => {
                if let Some(live) = self.live.get(&id) {
                    self.will(live.fate.answer_us, id, Coming::Answer);
                }
            }
            Effect::ExecuteRemote(_) => self.execute(id),
            Effect::AskLocal(_) => match self.hosts[host].gate.ask(ticket, self.policy.request(), now) {
                Ok(()) => self.admit(host),
                Err(_) => events.push_back(Event::Refused),
            },
            Effect::WithdrawLocal => {
                self.hosts[host].gate.leave(ticket);
                self.admit(host);
            }
            Effect::StartLocal => {
                let takes = self.build.actions[self.action_of(id)].local_us;
                if let Some(live) = self.live.get_mut(&id) {
                    live.local_from = Some(self.now_us);
                    live.local_is_running = true;
                }
                self.will(takes, id, Coming::LocalEnd);
            }
            Effect::Abort(side) => {
                self.stop(id, side);
                events.push_back(Event::Ended(side, End::Canceled));
            }
            Effect::Claim(side) => events.push_back(Event::Claimed(side)),
            Effect::Abandon => events.push_back(Event::Abandoned),
            Effect::Publish(side) => events.push_back(Event::Published(side)),
            Effect::Discard(side) => events.push_back(Event::Discarded(side)),
            Effect::Reap(side) => events.push_back(Event::NotReaped(side)),
            Effect::LetRun(_) | Effect::DropClaim(_) => {}
            Effect::Return(outcome) => self.finish(id, outcome),
        }
    }

    /// Lets in whoever may enter. They are told later, so that no race is told something while another is.
    fn admit(&mut self, host: usize) {
        let now = Duration::from_micros(self.now_us);
        while let Some(Ticket(entered)) = self.hosts[host].gate.admit(now) {
            self.entered.push(entered as u32);
        }
    }

    /// A loser stops at once.
    fn stop(&mut self, id: u32, side: Side) {
        let Some(live) = self.live.get_mut(&id) else { return };
        match side {
            Side::Local => {
                let ran = self.now_us - live.local_from.unwrap_or(self.now_us);
                self.found.wasted_local_s += seconds(ran);
                live.local_is_running = false;
                self.measure_stopped(id, Measure::Local, ran);
            }
            Side::Remote => {
                live.queued = false;
                let since =
                    live.answered_us.filter(|_| live.remote_from.is_some()).map(|at| self.now_us - at);
                let held = std::mem::take(&mut live.holds_remote);
                let (from, fate, told) = (live.remote_from, live.fate, live.told_us);
                if let Some(from) = from {
                    let ran = self.now_us - from;
                    let rest = fate.remote_us.saturating_sub(ran);
                    let goes_on = self.policy.remote_goes_on();
                    self.found.wasted_remote_s += seconds(if goes_on { fate.remote_us } else { ran });
                    match (held, goes_on) {
                        (true, true) => self.will(rest, id, Coming::RemoteFree),
                        (true, false) => self.free_remote(),
                        (false, _) => {}
                    }
                }
                if let Some(since) = since {
                    self.measure_stopped(id, Measure::Remote, since);
                }
                if let Some(told) = told {
                    self.measure_stopped(id, Measure::Run, self.now_us - told);
                }
            }
        }
    }

    fn finish(&mut self, id: u32, outcome: Outcome) {
        let (host, action) = (self.host_of(id), self.action_of(id));
        let Some(live) = self.live.remove(&id) else { return };
        match outcome {
            Outcome::Won(Side::Local) => self.found.local_wins += 1,
            _ => self.found.remote_wins += 1,
        }
        let remote_worked = live.remote_from.is_some() || (live.fate.hit && live.answered_us.is_some());
        self.found.raced += u64::from(live.local_from.is_some() && remote_worked);
        self.hosts[host].gate.leave(Ticket(u64::from(id)));
        self.admit(host);
        let first = host * self.build.len();
        for next in self.build.dependents(action) {
            let next = first + *next as usize;
            self.needs[next] -= 1;
            if self.needs[next] == 0 {
                self.hosts[host].ready.push_back(next as u32);
            }
        }
        let host_now = &mut self.hosts[host];
        host_now.on_their_way -= 1;
        host_now.left -= 1;
        if host_now.left == 0 {
            host_now.done_us = self.now_us;
        }
        self.begin_next.push(host);
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Rounded up: who is woken before its time waits again, at the same microsecond, for ever.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}
