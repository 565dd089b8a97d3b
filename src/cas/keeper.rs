//! The keeper: the store's own thread, which checkpoints and evicts, looks for strays, and scrubs.
//!
//! It wakes every few seconds, or when the bell is rung, and ends when the last handle of the store is dropped: with a
//! last checkpoint, after which the next start has nothing to replay. A process that ends without waiting for it loses
//! nothing: that is a kill, and the log has it.

use super::ending;
use super::limits::{CHECKPOINT_INTERVAL, RELIEF_BYTES_MIN, SPARED_MAX, SWEEP_DIRECTORIES};
use super::mark::{self, Left};
use super::store::Store;
use super::strays::NONE_LEFT;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Wakes the keeper.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

/// Why the keeper is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// Nobody rang in the whole time.
    InTime,
    Rung,
    Over,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rung {
    is_rung: bool,
    is_over: bool,
}

impl Bell {
    /// There is work.
    pub(super) fn ring(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.is_rung, true) {
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.changed.notify_one();
    }

    /// Waits for the bell or for the time.
    fn wait(&self) -> Woken {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_quiet = |state: &mut Rung| !state.is_rung && !state.is_over;
        let waited = self.changed.wait_timeout_while(state, CHECKPOINT_INTERVAL, is_quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.is_over, std::mem::take(&mut state.is_rung)) {
            (true, _) => Woken::Over,
            (_, true) => Woken::Rung,
            (_, false) => Woken::InTime,
        }
    }
}

/// A store with its keeper. Dropping it tells the keeper to end, and does not wait.
#[derive(Debug)]
pub(super) struct Kept {
    /// Dropped before `thread`, so that the keeper, when it is told, has the last hold of it.
    pub store: Arc<Store>,
    thread: Thread,
}

#[derive(Debug)]
struct Thread {
    bell: Arc<Bell>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Kept {
    pub(super) fn start(store: Store) -> std::io::Result<Kept> {
        let store = Arc::new(store);
        let (kept, bell) = (store.clone(), store.bell.clone());
        let handle = std::thread::Builder::new().name("cas".to_owned()).spawn(move || keep(kept))?;
        Ok(Kept { store, thread: Thread { bell, handle: Mutex::new(Some(handle)) } })
    }

    /// Ends the keeper and waits for its last checkpoint.
    pub(super) fn close(&self) {
        self.thread.bell.end();
        let handle = self.thread.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            // A keeper that panicked has left a store that a start can replay.
            let _ = handle.join();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let handle = self.thread.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        if handle.is_some() {
            ending::begin(&self.store);
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.bell.end();
    }
}

fn keep(store: Arc<Store>) {
    let ended = ending::Ended::of(&store);
    // How often in a row a full disk was taken to be over: what stays full although there is room, as a quota, is
    // believed in the end. Once is not enough: puts that failed before there was room are told one after the other.
    let mut spared = 0;
    loop {
        let woken = store.bell.wait();
        if woken == Woken::Over {
            break;
        }
        if store.tuning.is_keeper_idle {
            continue;
        }
        let was_short = store.is_short.swap(false, Ordering::SeqCst);
        let is_doubted = spared == SPARED_MAX;
        let is_over = was_short && spared < SPARED_MAX && store.places.has_room(2 * RELIEF_BYTES_MIN);
        spared = if is_over { spared + 1 } else { 0 };
        let done = if was_short && !is_over { store.relieve(is_doubted) } else { store.checkpoint() };
        // Eviction also after a failed checkpoint: it may have failed for want of room.
        let done = store.evict_in_background().and(done).and_then(|()| store.sweep_some(SWEEP_DIRECTORIES));
        let done = match woken {
            Woken::InTime => store.scrub_some().and(done),
            Woken::Rung | Woken::Over => done,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the store could not be brought to the disk");
        }
    }
    match store.checkpoint() {
        Ok(()) if store.sweep_next.load(Ordering::Relaxed) == NONE_LEFT => {
            mark::write(&store.lock.0, store.tuning.boot, Left::Clean);
        }
        // What is left to sweep is swept after the next start.
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "the store was closed without a last checkpoint"),
    }
    drop(store);
    drop(ended);
}
