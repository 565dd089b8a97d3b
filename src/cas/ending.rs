//! Stores of this process that are being closed, so that who opens one of them again waits and is not refused.

use super::store::Store;
use rustix::fs::Stat;
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Device and inode of the lock file, and how many are ending: bounded by the stores that this process opened.
static ENDING: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());
static CHANGED: Condvar = Condvar::new();

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn begin(store: &Store) {
    if let Ok(stat) = rustix::fs::fstat(&store.lock.0) {
        ENDING.lock().unwrap_or_else(PoisonError::into_inner).insert(identity(&stat));
    }
}

/// Returns when that store is not ending, or not any more.
pub(super) fn await_end(stat: &Stat) {
    let ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ending = |ending: &mut BTreeSet<(u64, u64)>| ending.contains(&identity(stat));
    drop(CHANGED.wait_while(ending, is_ending));
}

/// Tells those who wait, when dropped.
pub(super) struct Ended(Option<(u64, u64)>);

impl Ended {
    pub(super) fn of(store: &Arc<Store>) -> Self {
        Ended(rustix::fs::fstat(&store.lock.0).ok().map(|stat| identity(&stat)))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(identity) = self.0 {
            ENDING.lock().unwrap_or_else(PoisonError::into_inner).remove(&identity);
            CHANGED.notify_all();
        }
    }
}
