//! The second half of a race: what follows when a branch has ended, and when the claim was answered.

use super::{Branch, Decision, Effect, Effects, End, FailureRule, Outcome, Phase, State};
use crate::commit::Side;
use std::time::Duration;

impl State {
    pub(super) fn ended(&mut self, side: Side, end: End, now: Duration, effects: &mut Effects) {
        if self.peek(side).phase != Phase::Running {
            return;
        }
        self.branch(side).end = Some(end);
        if !self.is_open() {
            self.retire(side, effects);
            return;
        }
        match end {
            End::Ready => {
                self.branch(side).phase = Phase::Standing;
                self.claim(side, effects);
            }
            End::Signal(signal)
                if side == Side::Local
                    && self.rules.ignored_signals.contains(signal)
                    && self.remote.may_deliver() =>
            {
                self.withdrawn(side, now, effects);
            }
            End::Failed | End::Signal(_) => self.failed(side, now, effects),
            End::Infra | End::Miss | End::Canceled => self.withdrawn(side, now, effects),
            End::Bug => {
                self.retire(side, effects);
                self.abandon(Outcome::Bug(side), effects);
            }
        }
    }

    fn claim(&mut self, side: Side, effects: &mut Effects) {
        let branch = self.branch(side);
        if !branch.claiming {
            branch.claiming = true;
            effects.push(Effect::Claim(side));
        }
    }

    fn failed(&mut self, side: Side, now: Duration, effects: &mut Effects) {
        self.branch(side).phase = Phase::Standing;
        let other = *self.peek(side.other());
        match (self.rules.failure, other.phase) {
            (FailureRule::Other, _) if other.is_trying() => self.urge(side.other(), now, effects),
            // It failed before this one, and was waiting for it. Local's error is the likelier to be understood.
            (FailureRule::Other, Phase::Standing) if !other.claiming => {
                self.decide_failure(Side::Local, effects);
            }
            _ => self.decide_failure(side, effects),
        }
    }

    fn decide_failure(&mut self, side: Side, effects: &mut Effects) {
        if self.rules.publish_failures {
            self.claim(side, effects);
        } else {
            self.abandon(Outcome::Failed(side), effects);
        }
    }

    /// This side has no result, and that is not the action's fault: the other one decides.
    pub(super) fn withdrawn(&mut self, side: Side, now: Duration, effects: &mut Effects) {
        self.retire(side, effects);
        let other = *self.peek(side.other());
        if other.is_trying() {
            self.urge(side.other(), now, effects);
        } else if other.phase != Phase::Standing {
            self.abandon(Outcome::NoResult, effects);
        } else if !other.claiming {
            self.decide_failure(side.other(), effects);
        }
    }

    /// A branch that does not count any more: what it made goes.
    fn retire(&mut self, side: Side, effects: &mut Effects) {
        let in_place = self.rules.in_place && side == Side::Local;
        let branch = self.branch(side);
        let has_product = branch.end.is_some_and(End::has_product);
        branch.claiming = false;
        branch.phase = if has_product && in_place { Phase::Clearing } else { Phase::Over };
        if has_product {
            effects.push(Effect::Discard(side));
        }
    }

    pub(super) fn abandon(&mut self, why: Outcome, effects: &mut Effects) {
        if self.is_undecided() {
            self.abandoning = Some(why);
            effects.push(Effect::Abandon);
        }
    }

    pub(super) fn abandoned(&mut self, effects: &mut Effects) {
        let Some(why) = self.abandoning.take().filter(|_| self.is_open()) else { return };
        self.decision = Decision::Final(why);
        self.settle();
        for side in [Side::Local, Side::Remote] {
            if why == Outcome::Failed(side) {
                // Its product says what failed, and goes back with the outcome.
                self.branch(side).phase = Phase::Over;
            } else {
                self.dismiss(side, effects);
            }
        }
    }

    pub(super) fn claimed(&mut self, side: Side, now: Duration, effects: &mut Effects) {
        if !self.is_open() {
            // Cannot be: the word is left once. A claim that nobody may use must not stay.
            effects.push(Effect::DropClaim(side));
            return;
        }
        self.settle();
        self.decision = Decision::Waiting(side);
        let winner = self.branch(side);
        winner.claiming = false;
        winner.phase = Phase::Over;
        let fills_cache = side == Side::Local
            && self.rules.let_remote_finish
            && self.rules.may_reap
            && self.executing
            && self.remote.phase == Phase::Running;
        if fills_cache {
            effects.push(Effect::LetRun(Side::Remote));
        } else {
            self.dismiss(side.other(), effects);
        }
        if self.must_be_quiet(side) {
            self.quiet_due = Some(now + self.rules.quiet_within);
        }
    }

    /// No time that was waited for matters any more.
    fn settle(&mut self) {
        self.local_due = None;
        self.execute_due = None;
    }

    /// Nothing of this branch is wanted.
    pub(super) fn dismiss(&mut self, side: Side, effects: &mut Effects) {
        let branch = self.branch(side);
        match branch.phase {
            Phase::Held => branch.phase = Phase::Over,
            Phase::Queued => {
                branch.phase = Phase::Over;
                effects.push(Effect::WithdrawLocal);
            }
            Phase::Running if !branch.aborted => {
                branch.aborted = true;
                effects.push(Effect::Abort(side));
            }
            // Where a claim was asked for, its answer retires the branch.
            Phase::Standing if !branch.claiming => self.retire(side, effects),
            Phase::Running | Phase::Standing | Phase::Absent | Phase::Clearing | Phase::Over => {}
        }
    }

    pub(super) fn lost(&mut self, side: Side, effects: &mut Effects) {
        if self.peek(side).phase == Phase::Standing && self.peek(side).claiming {
            self.retire(side, effects);
        }
    }

    pub(super) fn published(&mut self, side: Side) {
        let outcome = match self.peek(side).end {
            Some(End::Failed | End::Signal(_)) => Outcome::Failed(side),
            _ => Outcome::Won(side),
        };
        self.decision = Decision::Final(outcome);
    }

    pub(super) fn cleared(&mut self, side: Side) {
        let branch = self.branch(side);
        if branch.phase == Phase::Clearing {
            branch.phase = Phase::Over;
        }
    }

    pub(super) fn not_reaped(&mut self, side: Side, effects: &mut Effects) {
        let branch = self.branch(side);
        // It was left to run because somebody else would wait for it. Nobody does.
        if branch.phase == Phase::Running && !branch.aborted {
            branch.aborted = true;
            effects.push(Effect::Abort(side));
        }
    }

    fn must_be_quiet(&self, winner: Side) -> bool {
        winner == Side::Remote && self.rules.in_place && !self.local.is_over()
    }

    /// What follows from the state alone.
    pub(super) fn proceed(&mut self, effects: &mut Effects) {
        if let Decision::Waiting(side) = self.decision
            && !self.must_be_quiet(side)
        {
            self.quiet_due = None;
            self.decision = Decision::Publishing(side);
            effects.push(Effect::Publish(side));
        }
        let Decision::Final(outcome) = self.decision else { return };
        for side in [Side::Local, Side::Remote] {
            let in_place = self.rules.in_place && side == Side::Local;
            let may_reap = self.rules.may_reap && !in_place;
            let branch: &mut Branch = self.branch(side);
            if branch.phase == Phase::Running && may_reap && !branch.reap_asked {
                branch.reap_asked = true;
                effects.push(Effect::Reap(side));
            }
        }
        if self.local.is_over() && self.remote.is_over() && !self.returned {
            self.returned = true;
            effects.push(Effect::Return(outcome));
        }
    }
}
