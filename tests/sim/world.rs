//! The world of one race: time, the destination, the journal, the gate; and what must hold in it.

use crate::random::Random;
use crate::script::{Part, Script};
use fulgurite::commit::{Claim, ClaimCell, Side, State as Word};
use fulgurite::race::step::{CacheAnswer, Effect, End, Event, Outcome, State, step};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is at one output's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    Old,
    Nothing,
    Of(Side),
}

/// What will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    Tell(Event),
    /// The gate lets in who has asked so many times.
    Admit(u32),
    Claim(Side),
    Abandon,
    CallerCancels,
    Crash,
    /// The n-th rename of the publication, of which number 0 is the intent.
    Publish(Side, u64),
    Execute,
    /// The branch ends; the number tells a later order to end from an earlier one.
    End(Side, End, u32),
    /// A local branch in place writes another output.
    Write(u64),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub started: bool,
    pub ended: Option<End>,
    aborted: bool,
    handed: bool,
    pub discarded: bool,
    orders: u32,
}

/// One race, and everything around it.
pub struct World {
    seed: u64,
    random: Random,
    pub script: Script,
    now: u64,
    sequence: u64,
    coming: BTreeMap<(u64, u64), Coming>,
    state: State,
    cell: ClaimCell,
    claim: Option<Claim>,
    pub destination: Vec<Bytes>,
    intent: Option<Side>,
    pub published: Option<Side>,
    publishes: u32,
    pub branches: [Seen; 2],
    pub holds_place: bool,
    asked: u32,
    permit: bool,
    pub outcome: Option<Outcome>,
    /// Ends in the order in which the race was told of them, while it was open.
    pub told: Vec<(Side, End)>,
    pub disturbed: bool,
    notes: Vec<String>,
    trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let script = Script::new(&mut random);
        let outputs = usize::try_from(script.outputs).unwrap();
        World {
            seed,
            random,
            script,
            now: 0,
            sequence: 0,
            coming: BTreeMap::new(),
            state: State::new(script.rules),
            cell: ClaimCell::new(seed),
            claim: None,
            destination: vec![Bytes::Old; outputs],
            intent: None,
            published: None,
            publishes: 0,
            branches: [Seen::default(); 2],
            holds_place: false,
            asked: 0,
            permit: false,
            outcome: None,
            told: Vec::new(),
            disturbed: false,
            notes: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Runs to the end of everything, or to the crash; gives what was met.
    pub fn run(&mut self) -> Vec<String> {
        self.will(0, Coming::Tell(Event::Begin));
        if let Some(at) = self.script.cancel_at {
            self.will(at, Coming::CallerCancels);
        }
        if let Some(at) = self.script.crash_at {
            self.will(at, Coming::Crash);
        }
        loop {
            let next = self.coming.first_key_value().map(|((at, _), _)| *at);
            let wake = self.state.wake_at().map(|at| u64::try_from(at.as_millis()).unwrap().max(self.now));
            match (next, wake.filter(|_| self.outcome.is_none())) {
                (next, Some(wake)) if next.is_none_or(|next| wake < next) => {
                    self.now = wake;
                    self.tell(Event::Tick);
                }
                (Some(_), _) => {
                    let ((at, _), coming) = self.coming.pop_first().unwrap();
                    self.now = at;
                    if coming == Coming::Crash {
                        self.crash();
                        return std::mem::take(&mut self.notes);
                    }
                    self.happen(coming);
                }
                (None, _) => break,
            }
        }
        self.check_the_end();
        std::mem::take(&mut self.notes)
    }

    fn will(&mut self, after: u64, coming: Coming) {
        self.sequence += 1;
        self.coming.insert((self.now + after, self.sequence), coming);
    }

    fn soon(&mut self, coming: Coming) {
        let after = if self.script.answers_at_once { 0 } else { self.random.below(self.script.spread + 1) };
        self.will(after, coming);
    }

    fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    #[track_caller]
    pub fn must(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "seed {}: {what}\nscript: {:?}\nstate: {:?}\nbranches: {:?}\ndestination: {:?}\ntrace:\n{}",
            self.seed,
            self.script,
            self.state,
            self.branches,
            self.destination,
            self.trace.join("\n")
        );
    }

    fn branch(&mut self, side: Side) -> &mut Seen {
        &mut self.branches[usize::from(side == Side::Remote)]
    }

    fn part(&self, side: Side) -> Part {
        if side == Side::Local { self.script.local } else { self.script.remote }
    }

    fn happen(&mut self, coming: Coming) {
        match coming {
            Coming::Tell(event) => self.tell(event),
            Coming::Admit(asked) if asked != self.asked => {}
            Coming::Admit(_) => self.tell(Event::Admitted),
            Coming::Claim(side) => {
                let answer = match self.cell.claim(side) {
                    Ok(claim) => {
                        let before = self.claim.replace(claim);
                        self.must(before.is_none(), "G1: a second claim");
                        Event::Claimed(side)
                    }
                    Err(_) => {
                        self.note("lost the claim");
                        Event::Lost(side)
                    }
                };
                self.soon(Coming::Tell(answer));
            }
            Coming::Abandon => {
                let done = self.cell.abandon() || self.cell.state() == Word::Abandoned;
                self.soon(Coming::Tell(if done { Event::Abandoned } else { Event::NotAbandoned }));
            }
            Coming::CallerCancels => {
                if !self.cell.abandon() {
                    self.note("cancelled too late");
                }
                self.disturbed = true;
                self.soon(Coming::Tell(Event::Cancel));
            }
            Coming::Publish(side, at) => self.publish(side, at),
            Coming::Execute => {
                let part = self.script.remote;
                self.will(part.takes, Coming::End(Side::Remote, part.end, 0));
                if let Some(after) = self.script.says_after {
                    self.will(after, Coming::Tell(Event::Executing));
                }
            }
            Coming::End(side, end, order) => self.end(side, end, order),
            Coming::Write(at) => {
                let seen = self.branches[0];
                if seen.ended.is_none() && self.must_be_alone(Side::Local) {
                    self.destination[usize::try_from(at).unwrap()] = Bytes::Of(Side::Local);
                }
            }
            Coming::Crash => {}
        }
    }

    /// A branch in place writes only while nothing is published.
    fn must_be_alone(&self, side: Side) -> bool {
        self.must(self.intent.is_none_or(|publishing| publishing == side), "G2: a late writer");
        true
    }

    fn end(&mut self, side: Side, end: End, order: u32) {
        let seen = *self.branch(side);
        if seen.ended.is_some() || order < seen.orders {
            return;
        }
        self.branch(side).ended = Some(end);
        if side == Side::Local {
            self.holds_place = false;
            if self.script.rules.in_place && !end_has_product(end) {
                // The duty of a branch in place.
                self.clean();
            } else if self.script.rules.in_place {
                self.must_be_alone(side);
                self.destination.fill(Bytes::Of(side));
            }
        }
        if self.outcome.is_some() {
            self.must(seen.handed, "G3: a branch outlived its race, and nobody has it");
            self.note("ended after the return");
        }
        self.tell(Event::Ended(side, end));
    }

    fn clean(&mut self) {
        for bytes in &mut self.destination {
            if *bytes == Bytes::Of(Side::Local) {
                *bytes = Bytes::Nothing;
            }
        }
    }

    fn tell(&mut self, event: Event) {
        if let Event::Ended(side, end) = event
            && self.state.is_open()
            && self.cell.state() == Word::Open
        {
            self.told.push((side, end));
        }
        let was_open = self.state.is_open();
        let (state, effects) = step(self.state, event, Duration::from_millis(self.now));
        self.trace.push(format!("{:>6} ms  {event:?} -> {effects:?}", self.now));
        self.state = state;
        let waits = effects.contains(&Effect::Abort(Side::Local)) && self.script.rules.in_place;
        if event == Event::Claimed(Side::Remote) && was_open && waits {
            self.note("in place: waited for quiet");
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let returned = self.outcome.is_some();
        let harmless = matches!(effect, Effect::Discard(_) | Effect::WithdrawLocal);
        self.must(!returned || harmless, "G3: something is done after the return");
        match effect {
            Effect::StartRemote(_) => {
                self.start(Side::Remote);
                let after = self.script.answer_after;
                self.will(after, Coming::Tell(Event::Answer(self.script.answer)));
                if self.script.answer == CacheAnswer::Hit {
                    let part = self.script.remote;
                    self.will(after + part.takes, Coming::End(Side::Remote, part.end, 0));
                }
            }
            Effect::ExecuteRemote(_) => {
                self.must(!self.permit, "executed twice");
                self.permit = true;
                self.soon(Coming::Execute);
            }
            Effect::AskLocal(_) => match self.script.gate {
                Some(after) => {
                    self.holds_place = true;
                    self.asked += 1;
                    self.will(after, Coming::Admit(self.asked));
                }
                None => {
                    self.note("refused by the gate");
                    self.soon(Coming::Tell(Event::Refused));
                }
            },
            Effect::WithdrawLocal => self.holds_place = false,
            Effect::StartLocal => self.start_local(),
            Effect::Abort(side) => self.abort(side),
            Effect::LetRun(_) => self.note("left to fill the cache"),
            Effect::Claim(side) => self.soon(Coming::Claim(side)),
            Effect::Abandon => self.soon(Coming::Abandon),
            Effect::Publish(side) => self.begin_to_publish(side),
            Effect::DropClaim(_) => {
                self.note("in place: never quiet");
                self.claim = None;
            }
            Effect::Discard(side) => self.discard(side),
            Effect::Reap(side) => {
                self.must(!self.branch_has_ended(side), "reaped what has ended");
                let room = self.script.reaper_has_room;
                if room {
                    self.branch(side).handed = true;
                    self.note("handed to the reaper");
                }
                self.soon(Coming::Tell(if room { Event::Reaped(side) } else { Event::NotReaped(side) }));
            }
            Effect::Return(outcome) => self.finish(outcome),
        }
    }

    fn start(&mut self, side: Side) {
        self.must(!self.branches[usize::from(side == Side::Remote)].started, "a branch started twice");
        self.must(self.state.is_open(), "a branch started after the decision");
        self.branch(side).started = true;
    }

    fn start_local(&mut self) {
        self.must(self.holds_place, "local started without a place");
        self.start(Side::Local);
        let part = self.script.local;
        self.will(part.takes, Coming::End(Side::Local, part.end, 0));
        if self.script.rules.in_place {
            for at in 0..self.script.outputs {
                let after = self.random.below(part.takes + part.deaf + 1);
                self.will(after, Coming::Write(at));
            }
        }
    }

    fn abort(&mut self, side: Side) {
        let seen = *self.branch(side);
        self.must(seen.started && seen.ended.is_none(), "aborted what does not run");
        self.must(!seen.aborted, "aborted twice");
        self.must(self.state.winner() != Some(side), "G4: the winner was aborted");
        self.must(!self.state.is_open(), "aborted before the decision");
        let branch = self.branch(side);
        branch.aborted = true;
        branch.orders = 1;
        let part = self.part(side);
        self.will(part.deaf, Coming::End(side, part.end_if_stopped, 1));
    }

    fn branch_has_ended(&self, side: Side) -> bool {
        self.branches[usize::from(side == Side::Remote)].ended.is_some()
    }

    fn discard(&mut self, side: Side) {
        let seen = *self.branch(side);
        self.must(!seen.discarded, "discarded twice");
        self.must(seen.ended.is_some_and(end_has_product), "discarded nothing");
        self.must(self.published != Some(side), "G1: discarded what is published");
        self.branch(side).discarded = true;
        if side == Side::Local && self.script.rules.in_place {
            self.clean();
        }
        self.soon(Coming::Tell(Event::Discarded(side)));
    }

    fn begin_to_publish(&mut self, side: Side) {
        self.publishes += 1;
        self.must(self.publishes == 1, "G1: published twice");
        self.must(self.cell.state() == Word::Claimed(side), "G1: published without the claim");
        self.must(
            self.branches[usize::from(side == Side::Remote)].ended.is_some(),
            "published before the end",
        );
        if side == Side::Remote && self.script.rules.in_place {
            let seen = self.branches[0];
            self.must(!seen.started || seen.ended.is_some(), "G2: published while local wrote");
            self.must(
                !self.destination.contains(&Bytes::Of(Side::Local)),
                "G2: published over local's bytes",
            );
        }
        self.soon(Coming::Publish(side, 0));
    }

    fn publish(&mut self, side: Side, at: u64) {
        if at == 0 && self.script.publish_fails {
            self.claim = None;
            self.tell(Event::Broken(side));
            return;
        }
        if at == 0 {
            self.intent = Some(side);
        } else if at <= self.script.outputs {
            self.destination[usize::try_from(at - 1).unwrap()] = Bytes::Of(side);
            let loser = Bytes::Of(side.other());
            self.must(!self.destination.contains(&loser), "G2: a loser's byte");
        } else {
            self.published = Some(side);
            self.intent = None;
            self.claim.take().unwrap().settle();
            self.tell(Event::Published(side));
            return;
        }
        self.soon(Coming::Publish(side, at + 1));
    }

    /// The daemon dies. What is on the disk is the destination and the journal's intent.
    fn crash(&mut self) {
        let torn = self.intent.is_some() && self.destination.contains(&Bytes::Old);
        if let Some(side) = self.intent.take() {
            self.destination.fill(Bytes::Of(side));
        }
        // Without a layer, a crash leaves what the command has written, as in Bazel.
        let wrote = self.script.rules.in_place && self.branches[0].started && self.published.is_none();
        let first = self.destination[0];
        self.must(
            wrote || self.destination.iter().all(|bytes| *bytes == first),
            "G5: a mixture after a crash",
        );
        self.must(wrote || first != Bytes::Nothing, "G5: outputs are gone");
        self.note(match (first, torn) {
            (Bytes::Of(_), true) => "crash: torn, rolled forward",
            (Bytes::Of(_), false) => "crash: new",
            (Bytes::Old | Bytes::Nothing, _) => "crash: old",
        });
    }

    fn finish(&mut self, outcome: Outcome) {
        self.must(self.outcome.is_none(), "G3: returned twice");
        self.outcome = Some(outcome);
        self.note(format!("{outcome:?}"));
        for seen in self.branches {
            self.must(
                !seen.started || seen.ended.is_some() || seen.handed,
                "G3: returned before a branch ended",
            );
        }
        self.must(!self.holds_place || self.branches[0].handed, "G3: returned with a place at the gate");
    }
}

pub fn end_has_product(end: End) -> bool {
    end.has_product()
}
