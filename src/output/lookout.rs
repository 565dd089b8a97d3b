//! Looks at what running actions print, and stops those that print without end.
//!
//! ```text
//!   action starts ─ watch ─► entries ◄─ looked at every LOOK_EVERY ─ one thread, asleep while there are none
//!   action ends ─── over ──► taken out; tells which stream was too much, if one was
//! ```
//! Actions write to files of their own, with nobody in between who could count. So somebody looks at the sizes, a few
//! times a second: two calls for each running action, and nothing at all for one that ends before the first look.
//!
//! Invariants: an action is stopped at most once, and never after `over`; the thread never waits for an action.
//! Limits: between two looks a fast writer gets some hundred MiB further than the bound.

use super::limits::SPOOL_LOOK_EVERY;
use super::spool::{Printing, Spool};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The thread and what it looks at. Dropping it ends the thread.
#[derive(Debug)]
pub struct Lookout {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A stream that took more room than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    /// As people call it.
    pub stream: &'static str,
    /// What it may take.
    pub bytes_max: u64,
}

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TooMuch { stream, bytes_max } = self;
        write!(f, "the command was killed: it printed more than {bytes_max} bytes to its {stream}")
    }
}

/// An action that is looked at. Dropping it ends that.
#[derive(Debug)]
pub struct Watched<'a> {
    shared: &'a Shared,
    number: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Somebody came to an empty house, or it is over.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<u64, Entry>,
    next: u64,
    /// The thread waits for somebody to come.
    asleep: bool,
    over: bool,
}

struct Entry {
    streams: [(&'static str, Printing); 2],
    stop: Box<dyn Fn() + Send>,
    too_much: Option<TooMuch>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("too_much", &self.too_much).finish_non_exhaustive()
    }
}

impl Lookout {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> std::io::Result<Lookout> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("lookout".to_owned()).spawn(move || of_thread.keep())?;
        Ok(Lookout { shared, thread: Some(thread) })
    }

    /// Looks at an action that is about to start; `stop` kills it, and is called once at most.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn watch(
        &self,
        stdout: &Spool,
        stderr: &Spool,
        stop: impl Fn() + Send + 'static,
    ) -> std::io::Result<Watched<'_>> {
        let streams = [("standard output", stdout.printing()?), ("standard error", stderr.printing()?)];
        let mut state = self.shared.lock();
        let number = state.next;
        state.next += 1;
        state.entries.insert(number, Entry { streams, stop: Box::new(stop), too_much: None });
        if std::mem::take(&mut state.asleep) {
            self.shared.changed.notify_one();
        }
        Ok(Watched { shared: &self.shared, number })
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing to add.
            let _ = thread.join();
        }
    }
}

impl Watched<'_> {
    /// The action has ended. Tells why it was stopped, if it was from here.
    #[must_use]
    pub fn over(self) -> Option<TooMuch> {
        self.shared.lock().entries.remove(&self.number)?.too_much
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.shared.lock().entries.remove(&self.number);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn keep(&self) {
        let mut state = self.lock();
        while !state.over {
            if state.entries.is_empty() {
                state.asleep = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let is_on = |state: &mut State| !state.over;
            let waited = self.changed.wait_timeout_while(state, SPOOL_LOOK_EVERY, is_on);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.entries.values_mut().for_each(Entry::look);
        }
    }
}

impl Entry {
    fn look(&mut self) {
        if self.too_much.is_some() {
            return;
        }
        let found = self.streams.iter().find(|(_, printing)| printing.is_beyond_reason());
        if let Some((stream, printing)) = found {
            self.too_much = Some(TooMuch { stream, bytes_max: printing.disk_bytes_max() });
            (self.stop)();
        }
    }
}
