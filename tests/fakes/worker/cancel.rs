//! Whether a request was cancelled, and waits that a cancel ends.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Set once, by the reader.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: Mutex<bool>,
    changed: Condvar,
}

impl Cancel {
    /// It is cancelled from now on.
    pub fn cancel(&self) {
        *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether it is.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits that long, or until it is cancelled; says whether it is.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        while !*cancelled {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            let woken = self.changed.wait_timeout(cancelled, left);
            cancelled = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *cancelled
    }
}
