//! Which waiting local branch enters next. Pure: time is given to it.
//!
//! ```text
//!   ask ──► waiting ──► admit ──► running ──► ended
//!              └─ withdraw ─┘         (withdraw of a running one is its end)
//! ```
//! - *sole* branches, which nobody races, come first, oldest first;
//! - of racing ones the newest comes first, since its rival is furthest from its end; one that has waited longer than
//!   its `slow_remote_time` comes before that;
//! - the number of places is Bazel's: `load factor` 0 gives one to each job, 1 to each processor, and between the two
//!   they shrink by `min(⌊places × (1 − f) × waiting / jobs⌋, places − 1)`;
//! - with *low pass* no racing branch enters beyond the processors, and none under pressure: the machine is never
//!   oversubscribed by work that somebody else does as well.
//!
//! Invariants: never less than one place, and sole branches always get it; a ticket is waiting, running or unknown.

use super::limits::GATE_WAITING_MAX;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Names a local branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a local branch brings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// `local_load_factor` of its mnemonic.
    pub load_factor: f64,
    /// `slow_remote_time` of its mnemonic.
    pub slow_remote_time: Duration,
    /// Whether it may only enter where there is a processor for it.
    pub low_pass: bool,
    /// Nobody races it.
    pub sole: bool,
}

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{GATE_WAITING_MAX} local branches wait for a place, which is the most there may be")]
pub struct Full;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    request: Request,
    since: Duration,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    processors: usize,
    jobs: usize,
    running: HashMap<Ticket, bool>,
    pressure: bool,
    next: u64,
    sole: BTreeMap<u64, Waiting>,
    racing: BTreeMap<u64, Waiting>,
    places: HashMap<Ticket, (bool, u64)>,
}

impl Gate {
    /// On a machine with so many processors, and at most so many actions on their way.
    #[must_use]
    pub fn new(processors: usize, jobs: usize) -> Self {
        Gate {
            processors: processors.max(1),
            jobs: jobs.max(1),
            running: HashMap::new(),
            pressure: false,
            next: 0,
            sole: BTreeMap::new(),
            racing: BTreeMap::new(),
            places: HashMap::new(),
        }
    }

    /// The machine is, or is no more, under pressure.
    pub fn set_pressure(&mut self, pressure: bool) {
        self.pressure = pressure;
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.places.len()
    }

    /// Whether a branch that came now would find a processor.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.pressure && self.sole.is_empty() && self.running.len() < self.processors
    }

    /// How long a racing branch that came now would wait, if branches take `mean`: the newest is the next, so that it
    /// is the time until one of the running ends.
    #[must_use]
    pub fn likely_wait(&self, mean: Duration) -> Duration {
        if self.has_room() {
            return Duration::ZERO;
        }
        let before = u32::try_from(self.sole.len() + 1).unwrap_or(u32::MAX);
        mean.saturating_mul(before) / u32::try_from(self.processors).unwrap_or(1)
    }

    /// A branch wants to enter.
    ///
    /// # Errors
    /// Too many wait.
    pub fn ask(&mut self, ticket: Ticket, request: Request, now: Duration) -> Result<(), Full> {
        if self.places.len() >= GATE_WAITING_MAX {
            return Err(Full);
        }
        let order = self.next;
        self.next += 1;
        let queue = if request.sole { &mut self.sole } else { &mut self.racing };
        queue.insert(order, Waiting { ticket, request, since: now });
        self.places.insert(ticket, (request.sole, order));
        Ok(())
    }

    /// A waiting branch has no rival any more.
    pub fn make_sole(&mut self, ticket: Ticket) {
        if let Some((is_sole @ false, order)) = self.places.get_mut(&ticket)
            && let Some(waiting) = self.racing.remove(order)
        {
            *is_sole = true;
            self.sole.insert(*order, waiting);
        }
    }

    /// It does not want to any more, or has ended.
    pub fn leave(&mut self, ticket: Ticket) {
        self.running.remove(&ticket);
        if let Some((is_sole, order)) = self.places.remove(&ticket) {
            let queue = if is_sole { &mut self.sole } else { &mut self.racing };
            queue.remove(&order);
        }
    }

    /// The next one that may enter, if any may: it has entered.
    pub fn admit(&mut self, now: Duration) -> Option<Ticket> {
        let (is_sole, order, waiting) = self.next_waiting(now)?;
        if self.running.len() >= self.permits(&waiting.request, is_sole) {
            return None;
        }
        let queue = if is_sole { &mut self.sole } else { &mut self.racing };
        queue.remove(&order);
        self.places.remove(&waiting.ticket);
        self.running.insert(waiting.ticket, is_sole);
        Some(waiting.ticket)
    }

    fn next_waiting(&self, now: Duration) -> Option<(bool, u64, Waiting)> {
        if let Some((order, waiting)) = self.sole.first_key_value() {
            return Some((true, *order, *waiting));
        }
        let (order, oldest) = self.racing.first_key_value()?;
        let slow = oldest.request.slow_remote_time;
        if !slow.is_zero() && now.saturating_sub(oldest.since) > slow {
            return Some((false, *order, *oldest));
        }
        let (order, newest) = self.racing.last_key_value()?;
        Some((false, *order, *newest))
    }

    /// How many may run while this one is the next.
    fn permits(&self, request: &Request, is_sole: bool) -> usize {
        let all = if request.load_factor > 0.0 { self.processors } else { self.jobs };
        let permits = shrunk(all, request.load_factor, self.waiting(), self.jobs);
        match (is_sole, request.low_pass) {
            // Somebody has to run, or pressure would never end.
            (false, true) if self.pressure => 0,
            (true, _) if self.pressure => 1,
            (_, true) => permits.min(self.processors),
            (_, false) => permits,
        }
    }
}

/// Bazel's formula of places, of which at least one is left.
#[must_use]
pub fn shrunk(permits: usize, load_factor: f64, waiting: usize, jobs: usize) -> usize {
    if load_factor <= 0.0 || load_factor >= 1.0 {
        return permits;
    }
    let by = (permits as f64 * (1.0 - load_factor) * waiting as f64 / jobs.max(1) as f64).floor();
    permits - (by as usize).min(permits.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RACING: Request =
        Request { load_factor: 1.0, slow_remote_time: Duration::ZERO, low_pass: false, sole: false };
    const SOLE: Request = Request { sole: true, ..RACING };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn admitted(gate: &mut Gate, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| gate.admit(s(now))).map(|ticket| ticket.0).collect()
    }

    #[test]
    fn places_shrink_as_in_bazel() {
        let check =
            |permits, f, waiting, jobs, expected| assert_eq!(shrunk(permits, f, waiting, jobs), expected);
        check(8, 0.0, 100, 200, 8);
        check(8, 1.0, 100, 200, 8);
        check(8, 0.5, 0, 200, 8);
        check(8, 0.5, 100, 200, 6);
        check(8, 0.5, 200, 200, 4);
        check(8, 0.5, 99, 200, 7);
        check(8, 0.01, 100_000, 200, 1);
        check(1, 0.5, 1000, 1, 1);
    }

    #[test]
    fn a_factor_of_zero_admits_every_job() {
        let mut gate = Gate::new(2, 10);
        for ticket in 0..12 {
            gate.ask(Ticket(ticket), Request { load_factor: 0.0, ..RACING }, s(0)).unwrap();
        }
        assert_eq!(admitted(&mut gate, 0).len(), 10);
    }

    #[test]
    fn the_newest_enters_first_unless_the_oldest_waited_long() {
        let mut gate = Gate::new(1, 10);
        let request = Request { slow_remote_time: s(10), ..RACING };
        for ticket in 0..4 {
            gate.ask(Ticket(ticket), request, s(ticket)).unwrap();
        }
        assert_eq!(admitted(&mut gate, 10), [3]);
        assert!(admitted(&mut gate, 10).is_empty());
        gate.leave(Ticket(3));
        assert_eq!(admitted(&mut gate, 11), [0]);
        gate.leave(Ticket(0));
        assert_eq!(admitted(&mut gate, 11), [2]);
    }

    #[test]
    fn who_has_no_rival_comes_first() {
        let mut gate = Gate::new(1, 10);
        gate.ask(Ticket(1), RACING, s(0)).unwrap();
        gate.ask(Ticket(2), SOLE, s(1)).unwrap();
        gate.ask(Ticket(3), RACING, s(2)).unwrap();
        gate.make_sole(Ticket(1));
        for expected in [1, 2, 3] {
            assert_eq!(admitted(&mut gate, 3), [expected]);
            gate.leave(Ticket(expected));
        }
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }

    #[test]
    fn who_left_never_enters() {
        let mut gate = Gate::new(1, 10);
        gate.ask(Ticket(1), RACING, s(0)).unwrap();
        gate.ask(Ticket(2), RACING, s(0)).unwrap();
        gate.leave(Ticket(2));
        gate.leave(Ticket(2));
        assert_eq!(admitted(&mut gate, 0), [1]);
    }

    #[test]
    fn a_full_machine_races_no_more() {
        let low = Request { load_factor: 0.0, low_pass: true, ..RACING };
        let mut gate = Gate::new(2, 100);
        for ticket in 0..5 {
            gate.ask(Ticket(ticket), low, s(0)).unwrap();
        }
        assert_eq!(admitted(&mut gate, 0), [4, 3]);
        assert!(!gate.has_room());
        assert_eq!(gate.likely_wait(s(4)), s(2));
        gate.leave(Ticket(4));
        gate.leave(Ticket(3));
        gate.set_pressure(true);
        assert!(admitted(&mut gate, 0).is_empty());
        gate.make_sole(Ticket(1));
        gate.make_sole(Ticket(0));
        assert_eq!(admitted(&mut gate, 0), [0]);
        gate.set_pressure(false);
        assert_eq!(admitted(&mut gate, 0), [1]);
    }
}
