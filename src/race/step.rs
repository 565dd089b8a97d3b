//! One race: what happens next, given what has happened. No clock, no I/O, no thread.
//!
//! ```text
//!  branch   Absent   Held ◄─► Queued (local only) ──► Running ──► Standing ──► Over
//!                      └──────────── told not to start ────────────────────────►
//!  race     Open ── Claim(side) ── Claimed ──► Won ──(in place: local quiet)──► Publish ── Published ──► Return
//!             │                  └ Lost ──► Discard
//!             └─ Abandon ── Abandoned ──► Stopped(why) ──► Return
//!                        └ NotAbandoned: a claim was first, and stands
//! ```
//! Answers to `Claim` and `Abandon` may come late and in any order; the claim's word decides, never this machine.
//!
//! Invariants: at most one `Publish`, only for a side that was told `Claimed`, and with a local branch that writes in
//! place only when that is quiet and what it left is gone; `Abort` once per branch and never for the winner; `Return`
//! once, when each branch is over or handed to the reaper; a failure decides only while the race is open.

mod ending;
mod terms;

pub use terms::{CacheAnswer, Effect, Effects, End, Event, FailureRule, Outcome, Rules, SignalSet, Why};

use super::policy::{LocalStart, RemoteStart};
use crate::commit::Side;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Absent,
    Held,
    Queued,
    Running,
    /// It has ended with a product that may still count.
    Standing,
    /// It has ended; what it left in place is being removed.
    Clearing,
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Branch {
    phase: Phase,
    end: Option<End>,
    claiming: bool,
    aborted: bool,
    reap_asked: bool,
    handed: bool,
}

impl Branch {
    fn new(takes_part: bool) -> Self {
        let phase = if takes_part { Phase::Held } else { Phase::Absent };
        Branch { phase, end: None, claiming: false, aborted: false, reap_asked: false, handed: false }
    }

    fn is_over(&self) -> bool {
        self.handed || matches!(self.phase, Phase::Absent | Phase::Over)
    }

    /// May still come to a result, and has none.
    fn is_trying(&self) -> bool {
        matches!(self.phase, Phase::Held | Phase::Queued | Phase::Running) && !self.aborted
    }

    /// May still come to a result, or has one.
    fn may_deliver(&self) -> bool {
        !matches!(self.phase, Phase::Absent | Phase::Over | Phase::Clearing) && !self.aborted
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Open,
    /// The claim is this side's; it is not published yet, and waits for the other to be quiet.
    Waiting(Side),
    Publishing(Side),
    Final(Outcome),
}

/// The state of one race.
#[derive(Clone, Copy, Debug)]
pub struct State {
    rules: Rules,
    local: Branch,
    remote: Branch,
    decision: Decision,
    /// Sent, and not answered.
    abandoning: Option<Outcome>,
    local_due: Option<(Duration, Why)>,
    execute_due: Option<(Duration, Why)>,
    answer: Option<CacheAnswer>,
    executing: bool,
    quiet_due: Option<Duration>,
    returned: bool,
}

/// The next state, and what is to be done. `now` is counted from the beginning of the race and never goes back.
#[must_use]
pub fn step(mut state: State, event: Event, now: Duration) -> (State, Effects) {
    let mut effects = Effects::new();
    match event {
        Event::Begin => state.begin(now, &mut effects),
        Event::Tick => state.tick(now, &mut effects),
        Event::Admitted => state.admitted(&mut effects),
        Event::Refused => state.refused(now, &mut effects),
        Event::Answer(answer) => state.answered(answer, now, &mut effects),
        Event::Executing => state.executes_there(now, &mut effects),
        Event::Ended(side, end) => state.ended(side, end, now, &mut effects),
        Event::Claimed(side) => state.claimed(side, now, &mut effects),
        Event::Lost(side) => state.lost(side, &mut effects),
        Event::Abandoned => state.abandoned(&mut effects),
        Event::NotAbandoned => state.abandoning = None,
        Event::Published(side) => state.published(side),
        Event::Broken(side) => state.decision = Decision::Final(Outcome::Broken(side)),
        Event::Discarded(side) => state.cleared(side),
        Event::Reaped(side) => state.branch(side).handed = true,
        Event::NotReaped(side) => state.not_reaped(side, &mut effects),
        Event::Cancel => state.abandon(Outcome::Canceled, &mut effects),
    }
    state.proceed(&mut effects);
    (state, effects)
}

impl State {
    /// Before the beginning.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        State {
            local: Branch::new(rules.plan.local != LocalStart::Never),
            remote: Branch::new(rules.plan.remote != RemoteStart::Never),
            rules,
            decision: Decision::Open,
            abandoning: None,
            local_due: None,
            execute_due: None,
            answer: None,
            executing: false,
            quiet_due: None,
            returned: false,
        }
    }

    /// When to send a `Tick`, whatever else happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let due = |due: Option<(Duration, Why)>| due.map(|(at, _)| at);
        let deadline = self.rules.deadline.filter(|_| self.is_undecided());
        [due(self.local_due), due(self.execute_due), self.quiet_due, deadline].into_iter().flatten().min()
    }

    /// Whether nothing is decided yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.decision == Decision::Open
    }

    /// Nothing is decided, and nothing is about to be.
    fn is_undecided(&self) -> bool {
        self.is_open() && self.abandoning.is_none()
    }

    /// Whether `Return` was given.
    #[must_use]
    pub fn has_returned(&self) -> bool {
        self.returned
    }

    /// The side that has the claim.
    #[must_use]
    pub fn winner(&self) -> Option<Side> {
        match self.decision {
            Decision::Waiting(side)
            | Decision::Publishing(side)
            | Decision::Final(Outcome::Won(side) | Outcome::Broken(side)) => Some(side),
            Decision::Open | Decision::Final(_) => None,
        }
    }

    fn branch(&mut self, side: Side) -> &mut Branch {
        match side {
            Side::Local => &mut self.local,
            Side::Remote => &mut self.remote,
        }
    }

    fn peek(&self, side: Side) -> &Branch {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }

    fn begin(&mut self, now: Duration, effects: &mut Effects) {
        if let RemoteStart::AtOnce { .. } = self.rules.plan.remote {
            self.start_remote(Why::AtOnce, effects);
        }
        self.local_due = match self.rules.plan.local {
            LocalStart::Never | LocalStart::Fallback => None,
            LocalStart::AtOnce => Some((now, Why::AtOnce)),
            LocalStart::After(delay) => Some((now + delay, Why::DelayOver)),
            LocalStart::OnAnswer { silence, .. } => Some((now + silence, Why::Silence)),
        };
        match (self.local.may_deliver(), self.remote.may_deliver()) {
            (false, false) => self.abandon(Outcome::NoResult, effects),
            // Alone, there is nothing to wait for.
            (true, false) => self.urge(Side::Local, now, effects),
            (false, true) => self.urge(Side::Remote, now, effects),
            (true, true) => {}
        }
        self.tick(now, effects);
    }

    fn tick(&mut self, now: Duration, effects: &mut Effects) {
        if let Some((at, why)) = self.local_due
            && at <= now
        {
            self.ask_local(why, effects);
        }
        if let Some((at, why)) = self.execute_due
            && at <= now
        {
            self.execute(why, effects);
        }
        if let (Some(at), Decision::Waiting(side)) = (self.quiet_due, self.decision)
            && at <= now
        {
            // What cannot be killed cannot be published over. Its claim goes, and with it the right of anybody.
            self.quiet_due = None;
            self.decision = Decision::Final(Outcome::Broken(side));
            effects.extend([Effect::DropClaim(side), Effect::Discard(side)]);
            self.branch(side).phase = Phase::Over;
            self.rules.in_place = false;
        }
        if self.is_open() && self.rules.deadline.is_some_and(|at| at <= now) {
            self.abandon(Outcome::Deadline, effects);
        }
    }

    fn start_remote(&mut self, why: Why, effects: &mut Effects) {
        if self.remote.phase == Phase::Held && self.is_undecided() {
            self.remote.phase = Phase::Running;
            effects.push(Effect::StartRemote(why));
        }
    }

    fn ask_local(&mut self, why: Why, effects: &mut Effects) {
        self.local_due = None;
        if self.local.phase == Phase::Held && self.is_undecided() {
            self.local.phase = Phase::Queued;
            effects.push(Effect::AskLocal(why));
        }
    }

    fn execute(&mut self, why: Why, effects: &mut Effects) {
        self.execute_due = None;
        if !self.executing && self.remote.phase == Phase::Running && self.is_undecided() {
            self.executing = true;
            effects.push(Effect::ExecuteRemote(why));
        }
    }

    fn admitted(&mut self, effects: &mut Effects) {
        if self.local.phase == Phase::Queued && self.is_undecided() {
            self.local.phase = Phase::Running;
            effects.push(Effect::StartLocal);
            if self.rules.local_holds {
                self.dismiss(Side::Remote, effects);
            }
        } else {
            effects.push(Effect::WithdrawLocal);
        }
    }

    fn refused(&mut self, now: Duration, effects: &mut Effects) {
        if self.local.phase == Phase::Queued {
            self.withdrawn(Side::Local, now, effects);
        }
    }

    fn answered(&mut self, answer: CacheAnswer, now: Duration, effects: &mut Effects) {
        self.answer = Some(answer);
        if !self.is_open() {
            return;
        }
        if let (LocalStart::OnAnswer { miss, hit, .. }, Phase::Held) =
            (self.rules.plan.local, self.local.phase)
        {
            self.local_due = Some(match answer {
                CacheAnswer::Miss => (now + miss, Why::Miss),
                CacheAnswer::Hit => (now + hit, Why::SlowDownload),
            });
        }
        if answer == CacheAnswer::Miss {
            let hold = match self.rules.plan.remote {
                RemoteStart::AtOnce { execute_after } => execute_after,
                RemoteStart::Never | RemoteStart::Fallback => Duration::ZERO,
            };
            let alone = !self.local.is_trying();
            let why = if alone { Why::OtherCannot } else { Why::DelayOver };
            self.execute_due = match hold {
                Duration::ZERO => Some((now, Why::AtOnce)),
                _ if alone => Some((now, why)),
                hold => Some((now + hold, why)),
            };
        }
        self.tick(now, effects);
    }

    /// Who has not started is late by as much as the other has to do still.
    fn executes_there(&mut self, now: Duration, effects: &mut Effects) {
        let LocalStart::OnAnswer { executing: Some(hold), .. } = self.rules.plan.local else { return };
        if !self.is_undecided() || self.remote.phase != Phase::Running {
            return;
        }
        let from = match (self.local.phase, self.local_due) {
            (Phase::Held, Some((at, _))) => at,
            (Phase::Queued, _) => {
                self.local.phase = Phase::Held;
                effects.push(Effect::WithdrawLocal);
                now
            }
            _ => return,
        };
        self.local_due = Some((from.max(now + hold), Why::DelayOver));
    }

    /// The other side cannot do it: whatever held this one back, does no more.
    fn urge(&mut self, side: Side, now: Duration, effects: &mut Effects) {
        match side {
            Side::Local => self.ask_local(Why::OtherCannot, effects),
            Side::Remote => {
                self.start_remote(Why::OtherCannot, effects);
                if self.execute_due.is_some() {
                    self.execute_due = Some((now, Why::OtherCannot));
                    self.tick(now, effects);
                }
            }
        }
    }
}
