//! Who lets local branches in: the gate, with its clock and its callers.
//!
//! Invariants: a [`Place`] that is dropped gives up the branch's turn or its processor, once; nobody is called while
//! the gate is locked.

use super::gate::{Full, Gate, Request, Ticket};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Called when a branch may start.
pub type Entered = Box<dyn FnOnce() + Send>;

/// Lets local branches in.
pub trait Admission: Send + Sync {
    /// Asks for a place. `entered` is called once, here or from another thread, unless the place is dropped before.
    ///
    /// # Errors
    /// Too many wait.
    fn ask(&self, request: Request, entered: Entered) -> Result<Place, Full>;
}

/// A local branch's turn, and then its processor.
pub struct Place {
    hold: Box<dyn Hold>,
}

/// What a place stands for.
pub trait Hold: Send {
    /// Nobody races the branch any more.
    fn sole(&self);
    /// It has left.
    fn leave(&self);
}

impl Place {
    /// Of whatever is held.
    #[must_use]
    pub fn new(hold: Box<dyn Hold>) -> Self {
        Place { hold }
    }

    /// Nobody races the branch any more.
    pub fn sole(&self) {
        self.hold.sole();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hold.leave();
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// The gate of this machine. Clones are the same one.
#[derive(Clone)]
pub struct LocalGate {
    inner: Arc<Inner>,
}

struct Inner {
    began: Instant,
    state: Mutex<State>,
}

struct State {
    gate: Gate,
    next: u64,
    callers: HashMap<Ticket, Entered>,
}

impl LocalGate {
    /// On a machine with so many processors, and at most so many actions on their way.
    #[must_use]
    pub fn new(processors: usize, jobs: usize) -> Self {
        let state = State { gate: Gate::new(processors, jobs), next: 0, callers: HashMap::new() };
        LocalGate { inner: Arc::new(Inner { began: Instant::now(), state: Mutex::new(state) }) }
    }

    /// The machine is, or is no more, under pressure.
    pub fn set_pressure(&self, pressure: bool) {
        self.inner.change(|state| state.gate.set_pressure(pressure));
    }

    /// How long a racing branch that came now would wait, if branches take `mean`.
    #[must_use]
    pub fn likely_wait(&self, mean: Duration) -> Duration {
        self.inner.lock().gate.likely_wait(mean)
    }

    /// How many run, and how many wait.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let state = self.inner.lock();
        (state.gate.running(), state.gate.waiting())
    }
}

impl Admission for LocalGate {
    fn ask(&self, request: Request, entered: Entered) -> Result<Place, Full> {
        let now = self.inner.began.elapsed();
        let ticket = {
            let mut state = self.inner.lock();
            let ticket = Ticket(state.next);
            state.next += 1;
            state.gate.ask(ticket, request, now)?;
            state.callers.insert(ticket, entered);
            ticket
        };
        let place = Place::new(Box::new(Seat { inner: self.inner.clone(), ticket }));
        self.inner.change(|_| {});
        Ok(place)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the gate, then calls whoever may enter.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let now = self.began.elapsed();
        let mut entered = Vec::new();
        {
            let mut state = self.lock();
            change(&mut state);
            while let Some(ticket) = state.gate.admit(now) {
                entered.extend(state.callers.remove(&ticket));
            }
        }
        for call in entered {
            call();
        }
    }
}

struct Seat {
    inner: Arc<Inner>,
    ticket: Ticket,
}

impl Hold for Seat {
    fn sole(&self) {
        self.inner.change(|state| state.gate.make_sole(self.ticket));
    }

    fn leave(&self) {
        let mut unused = None;
        self.inner.change(|state| {
            state.gate.leave(self.ticket);
            unused = state.callers.remove(&self.ticket);
        });
    }
}

impl fmt::Debug for LocalGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (running, waiting) = self.counts();
        f.debug_struct("LocalGate").field("running", &running).field("waiting", &waiting).finish()
    }
}
