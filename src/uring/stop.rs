//! A switch that is thrown once, by any thread, and that tasks can wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The switch.
#[derive(Debug, Default)]
pub(super) struct Stop {
    is_set: AtomicBool,
    waiting: Notify,
}

impl Stop {
    /// Throws it.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        self.waiting.notify_waiters();
    }

    /// Whether it was thrown.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Ends when it was thrown.
    pub async fn wait(&self) {
        let mut notified = std::pin::pin!(self.waiting.notified());
        // Before the look, so that a throw right after it is not missed.
        notified.as_mut().enable();
        if !self.is_set() {
            notified.await;
        }
    }
}
