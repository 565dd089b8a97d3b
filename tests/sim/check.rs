//! What must hold when all is over.

use crate::script::LISTED;
use crate::world::{Bytes, World, end_has_product};
use fulgurite::commit::Side;
use fulgurite::race::policy::{LocalStart, RemoteStart};
use fulgurite::race::step::{End, FailureRule, Outcome};

impl World {
    pub fn check_the_end(&mut self) {
        let Some(outcome) = self.outcome else { return self.must(false, "G3: it never returned") };
        for seen in self.branches {
            self.must(!seen.started || seen.ended.is_some(), "G3: a branch never ended");
        }
        self.must(!self.holds_place, "a place was never given back");
        if let Outcome::Won(side) = outcome {
            self.must(
                self.branches[usize::from(side == Side::Remote)].ended == Some(End::Ready),
                "G6: won, not ready",
            );
            self.must(self.published == Some(side), "G1: won without having published");
        }
        if let Some(side) = self.published {
            self.must(
                self.destination.iter().all(|bytes| *bytes == Bytes::Of(side)),
                "G1: not all of one branch",
            );
        } else if !self.script.rules.in_place {
            self.must(self.destination.iter().all(|bytes| *bytes == Bytes::Old), "G2: bytes of nobody");
        }
        self.check_failures(outcome);
    }

    /// G6, and what becomes of products.
    fn check_failures(&self, outcome: Outcome) {
        for (index, side) in [Side::Local, Side::Remote].into_iter().enumerate() {
            let seen = self.branches[index];
            let used = self.published == Some(side) || outcome == Outcome::Failed(side);
            let broken = outcome == Outcome::Broken(side);
            if seen.ended.is_some_and(end_has_product) && !used && !broken {
                self.must(seen.discarded, "a product was forgotten");
            }
            self.must(!(used && seen.discarded), "a product was used and discarded");
        }
        let listed =
            |end: End| end == End::Signal(LISTED) && self.script.rules.ignored_signals.contains(LISTED);
        if let Outcome::Failed(side) = outcome {
            let end = self.branches[usize::from(side == Side::Remote)].ended;
            self.must(matches!(end, Some(End::Failed | End::Signal(_))), "G6: failed without a failure");
        }
        let quiet = !self.disturbed && self.script.rules.deadline.is_none() && self.script.answers_at_once;
        let ends: Vec<End> = self.told.iter().map(|(_, end)| *end).collect();
        let infra = |end: &End| matches!(end, End::Infra | End::Miss | End::Canceled) || listed(*end);
        if !quiet || self.script.publish_fails {
            return;
        }
        let decisive = self.told.iter().find(|(_, end)| !infra(end));
        match decisive {
            Some((side, End::Failed)) if self.script.rules.failure == FailureRule::First => {
                // It may be published as a success is, and then fail to be.
                let counts = [Outcome::Failed(*side), Outcome::Broken(*side)].contains(&outcome);
                self.must(counts, "G6: the first failure did not count");
            }
            Some((side, End::Ready)) => {
                let broken = outcome == Outcome::Broken(*side);
                self.must(outcome == Outcome::Won(*side) || broken, "G6: the first success did not count");
            }
            _ => {}
        }
        if outcome == Outcome::NoResult {
            self.must(ends.iter().all(infra), "G6: there was a result");
            let plan = self.script.rules.plan;
            let remote_ran = plan.remote == RemoteStart::Never || self.branches[1].started;
            let local_ran =
                plan.local == LocalStart::Never || self.branches[0].started || self.script.gate.is_none();
            self.must(remote_ran && local_ran, "G6: a side that could run did not");
        }
    }
}
