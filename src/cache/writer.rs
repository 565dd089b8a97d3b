//! The thread that writes what has changed.
//!
//! ```text
//!   idle ── a change ──► waiting (at most FLUSH_INTERVAL, or FLUSH_BYTES, or asked) ──► writing ──► idle
//!                            ▲ changes of the meantime gather for the next commit ───────┘
//! ```
//! Invariants: a change is in `waiting`, in `writing`, or done; the lock is never held while the disk is waited for.
//! Limits: a commit that fails loses its changes, which is a warning and later a miss; a kill loses those of the last
//! interval.

use super::changes::Changes;
use super::disk::Disk;
use super::error::CacheError;
use super::hot::Hot;
use super::limits::{FLUSH_BYTES, FLUSH_INTERVAL};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Disk,
    state: Mutex<State>,
    /// Tells the writer.
    wake: Condvar,
    /// Tells those who wait for the writer.
    done: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) hot: Hot,
    pub(super) waiting: Changes,
    pub(super) writing: Arc<Changes>,
    /// The number of the next use or put.
    pub(super) next: u64,
    /// Commits that were tried.
    pub(super) commits: u64,
    pub(super) evicted: u64,
    pub(super) dropped: u64,
    /// Why the last commit failed, if it did.
    error: Option<CacheError>,
    asked: bool,
    closing: bool,
    ended: bool,
}

impl Shared {
    pub(super) fn new(disk: Disk, next: u64, hot: Hot) -> Self {
        let state = State {
            hot,
            waiting: Changes::default(),
            writing: Arc::default(),
            next,
            commits: 0,
            evicted: 0,
            dropped: 0,
            error: None,
            asked: false,
            closing: false,
            ended: false,
        };
        Shared { disk, state: Mutex::new(state), wake: Condvar::new(), done: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the writer of the changes that wait.
    pub(super) fn wake(&self, state: &State) {
        if state.waiting.len() == 1 || state.waiting.bytes() >= FLUSH_BYTES {
            self.wake.notify_one();
        }
    }

    /// Waits until every change made before is on disk.
    pub(super) fn flush(&self) -> Result<(), CacheError> {
        let mut state = self.lock();
        let ahead = u64::from(!state.writing.is_empty()) + u64::from(!state.waiting.is_empty());
        if ahead == 0 {
            return Ok(());
        }
        let target = state.commits + ahead;
        state.asked = true;
        self.wake.notify_one();
        while state.commits < target && !state.ended {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.error.clone().map_or(Ok(()), Err)
    }

    /// Lets the writer end once it has written everything.
    pub(super) fn end(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// The writer's life.
    pub(super) fn write_changes(&self) {
        while let Some(changes) = self.next_changes() {
            let result = self.disk.apply(&changes);
            let mut state = self.lock();
            state.commits += 1;
            state.writing = Arc::default();
            match result {
                Ok(evicted) => {
                    state.error = None;
                    state.evicted += evicted.len() as u64;
                    for key in evicted {
                        // Unless it was put again in the meantime.
                        if state.waiting.get(&key).is_none() {
                            state.hot.remove(&key);
                        }
                    }
                }
                Err(error) => {
                    state.dropped += changes.len() as u64;
                    let count = changes.len();
                    tracing::warn!("{count} changes of the action cache are lost: {error}");
                    state.error = Some(error);
                }
            }
            drop(state);
            self.done.notify_all();
        }
        self.disk.close();
        self.lock().ended = true;
        self.done.notify_all();
    }

    /// Waits for changes, and then for more of them. `None` at the end.
    fn next_changes(&self) -> Option<Arc<Changes>> {
        let state = self.lock();
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closing;
        let state = self.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let gathers =
            |state: &mut State| !state.asked && !state.closing && state.waiting.bytes() < FLUSH_BYTES;
        let waited = self.wake.wait_timeout_while(state, FLUSH_INTERVAL, gathers);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.asked = false;
        if state.waiting.is_empty() {
            return None;
        }
        let changes = Arc::new(std::mem::take(&mut state.waiting));
        state.writing = changes.clone();
        Some(changes)
    }
}
