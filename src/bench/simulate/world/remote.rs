//! The remote: its places, its queue, and what it says.

use super::{Coming, World, seconds};
use crate::bench::simulate::policy::Policy;
use crate::commit::Side;
use crate::race::forecast::Measure;
use crate::race::step::{End, Event};
use std::time::Duration;

impl World<'_> {
    /// An action may be executed: it goes into the queue.
    pub(super) fn execute(&mut self, id: u32) {
        if let Some(live) = self.live.get_mut(&id) {
            live.queued = true;
            live.permitted_us = self.now_us;
        }
        self.remote_queue.push_back(id);
        self.serve_remote();
    }

    /// It says that it executes an action.
    pub(super) fn says(&mut self, id: u32) {
        let Some(live) = self.live.get_mut(&id) else { return };
        // Who was stopped meanwhile hears nothing.
        if live.remote_from.is_none() || self.policy != Policy::Fulgurite {
            return;
        }
        live.told_us = Some(self.now_us);
        let waited = self.now_us - live.permitted_us;
        self.measure(id, Measure::Begin, waited);
        self.tell(id, Event::Executing);
    }

    /// It has what it was asked for.
    pub(super) fn remote_end(&mut self, id: u32) {
        let host = self.host_of(id);
        let Some(live) = self.live.get_mut(&id) else { return };
        let since_answer = self.now_us - live.answered_us.unwrap_or(self.now_us);
        let told = live.told_us;
        let (hit, held) = (live.fate.hit, std::mem::take(&mut live.holds_remote));
        let waits_for_local = self.policy.local_is_final() && live.local_is_running;
        if waits_for_local && let Some(from) = live.remote_from.take() {
            self.found.wasted_remote_s += seconds(self.now_us - from);
        }
        if held {
            self.free_remote();
        }
        if hit {
            self.hosts[host].fetches.push(Duration::from_micros(since_answer));
        }
        self.measure(id, if hit { Measure::Fetch } else { Measure::Remote }, since_answer);
        if let Some(told) = told {
            self.measure(id, Measure::Run, self.now_us - told);
        }
        if !waits_for_local {
            self.tell(id, Event::Ended(Side::Remote, End::Ready));
        }
    }

    /// A place of it is free.
    pub(super) fn free_remote(&mut self) {
        self.remote_free = self.remote_free.saturating_add(1);
        self.serve_remote();
    }

    /// Whoever is the next has a free place.
    pub(super) fn serve_remote(&mut self) {
        while self.remote_free > 0 {
            let Some(id) = self.remote_queue.pop_front() else { return };
            // Who was stopped while it waited is still in the queue.
            let Some(live) = self.live.get_mut(&id).filter(|live| live.queued) else { continue };
            live.queued = false;
            live.remote_from = Some(self.now_us);
            let takes = live.fate.remote_us + live.fate.fetch_us;
            if self.condition.slots_per_host > 0 {
                live.holds_remote = true;
                self.remote_free -= 1;
            }
            // The news has half of the way to make that a question and its answer have.
            let news = live.fate.answer_us / 2;
            self.will(takes, id, Coming::RemoteEnd);
            self.will(news.min(takes), id, Coming::Executing);
        }
    }
}
