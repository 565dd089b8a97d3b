//! Losers that outlive their race: their threads, until they have ended.
//!
//! ```text
//!   take ──► held ──► ended: joined at the next `take` or `sweep`
//!               └──── a remote execution that fills its cache, for too long: cancelled
//! ```
//! Invariants: at most so many at a time; whoever does not fit is waited for by its race; `drain` cancels all and joins
//! all, so that none outlives the daemon.

use super::branch::Cancel;
use super::limits::{FILL_MAX, REAPER_MAX};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// A branch that has lost and has not ended.
#[derive(Debug)]
pub struct Lingering {
    /// Its thread.
    pub thread: JoinHandle<()>,
    /// How it is told to stop.
    pub cancel: Cancel,
    /// Whether it was told.
    pub told: bool,
}

/// Holds losers.
#[derive(Debug)]
pub struct Reaper {
    most: usize,
    held: Mutex<Vec<(Lingering, Instant)>>,
}

impl Default for Reaper {
    fn default() -> Self {
        Reaper::new(REAPER_MAX)
    }
}

impl Reaper {
    /// For so many at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Reaper { most, held: Mutex::new(Vec::new()) }
    }

    /// Takes one over.
    ///
    /// # Errors
    /// It, if there is no room.
    pub fn take(&self, lingering: Lingering) -> Result<(), Lingering> {
        self.sweep();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= self.most {
            return Err(lingering);
        }
        held.push((lingering, Instant::now()));
        Ok(())
    }

    /// Joins those that have ended, and tells those to stop that have had time enough. Gives how many are left.
    pub fn sweep(&self) -> usize {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (lingering, since) in held.iter_mut().filter(|(lingering, _)| !lingering.told) {
            if since.elapsed() > FILL_MAX {
                lingering.told = true;
                lingering.cancel.cancel();
            }
        }
        let ended = held.extract_if(.., |(lingering, _)| lingering.thread.is_finished()).collect();
        let left = held.len();
        drop(held);
        join(ended);
        left
    }

    /// Stops all, and waits for them.
    pub fn drain(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        for (lingering, _) in &held {
            lingering.cancel.cancel();
        }
        join(held);
    }
}

fn join(ended: Vec<(Lingering, Instant)>) {
    for (lingering, _) in ended {
        // Their panics were caught inside, and reported.
        let _ = lingering.thread.join();
    }
}
