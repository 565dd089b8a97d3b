//! Checkpoints: what memory knows goes to the index, after the bytes have gone to the disk.
//!
//! ```text
//!   rotate the log ─► collect dirty entries ─► syncfs ─► commit rows and generation ─► entries are clean, log is free
//! ```
//! Killed in between: the log still has it all. Invariant: a row is committed only after a successful sync that began
//! after its blob was in its place. A failed sync is final: the kernel may have dropped the bytes and reports once. The
//! blobs of that checkpoint are lost: nobody finds them any more, and they are removed as soon as they are not pinned.

use super::index::{Change, Totals};
use super::key::Key;
use super::live::{Live, State};
use super::store::Store;
use super::{CasError, record::Event};
use crate::failpoint;
use rustix::io::Errno;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

fn failed(errno: Errno) -> CasError {
    CasError::io("bring the store to the disk", errno)
}

/// A dirty entry as it was collected.
#[derive(Clone, Copy)]
struct Collected {
    key: Key,
    live: Live,
}

impl Store {
    /// Brings the index up to now.
    pub(super) fn checkpoint(&self) -> Result<(), CasError> {
        let _guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.checkpoint_locked()
    }

    /// The same for who holds `maintenance`.
    pub(super) fn checkpoint_locked(&self) -> Result<(), CasError> {
        if self.pending.load(Ordering::SeqCst) == 0 && self.log.used() == 0 {
            return Ok(());
        }
        let done = self.write_checkpoint();
        let counter = match done {
            Ok(()) => &self.counters.checkpoints,
            Err(_) => &self.counters.checkpoints_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        done
    }

    fn write_checkpoint(&self) -> Result<(), CasError> {
        let generation = self.log.rotate();
        failpoint::hit("cas.checkpoint.rotated").map_err(failed)?;
        self.write_generation(generation).map(|_| ())
    }

    /// The first checkpoint, of what was replayed: nothing is logged before it is through.
    pub(super) fn write_generation(&self, generation: u32) -> Result<Totals, CasError> {
        let collected = self.collect()?;
        if collected.iter().any(|entry| entry.live.state == State::Recent) {
            let synced = failpoint::hit("cas.checkpoint.sync");
            if let Err(errno) = synced.and_then(|()| rustix::fs::syncfs(&self.places.objects)) {
                self.lose(&collected);
                return Err(failed(errno));
            }
        }
        failpoint::hit("cas.checkpoint.synced").map_err(failed)?;
        let change = |entry: &Collected| Change { key: entry.key, row: entry.live.row() };
        let mut changes: Vec<Change> = collected.iter().map(change).collect();
        let totals = self.index.commit(&mut changes, generation, self.clock.seconds())?;
        self.log.committed(generation);
        self.clean(&collected);
        Ok(totals)
    }

    /// All entries that differ from their rows. Each shard is visited after the log was rotated: what was logged in
    /// the generation before is in here.
    fn collect(&self) -> Result<Vec<Collected>, CasError> {
        let mut collected = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let is_lost = |live: &Live| live.state == State::Lost && live.pins == 0;
            let lost: Vec<_> = shard
                .iter()
                .filter(|(_, live)| is_lost(live))
                .map(|(key, live)| key.digest(live.size_bytes))
                .collect();
            for digest in lost {
                self.remove_entry(&mut shard, &digest)?;
            }
            let dirty = shard.iter().filter(|(_, live)| live.is_dirty && live.state != State::Lost);
            collected.extend(dirty.map(|(key, live)| Collected { key: *key, live: *live }));
        }
        Ok(collected)
    }

    /// Marks as lost what was to be synced and was not.
    fn lose(&self, collected: &[Collected]) {
        for Collected { key, live: then } in collected.iter().filter(|it| it.live.state == State::Recent) {
            let mut shard = self.shard(key);
            if let Some(live) = shard.get_mut(key)
                && live.state == State::Recent
                && live.born == then.born
            {
                live.state = State::Lost;
            }
        }
    }

    /// Marks as clean what has been committed, unless it changed meanwhile.
    fn clean(&self, collected: &[Collected]) {
        for Collected { key, live: then } in collected {
            let mut shard = self.shard(key);
            let Some(live) = shard.get_mut(key) else { continue };
            if live.state == State::Recent && then.state == State::Recent && live.born == then.born {
                live.state = State::Indexed;
            }
            if live.version == then.version {
                live.is_dirty = false;
                self.pending.fetch_sub(1, Ordering::SeqCst);
                shard.release(key);
            }
        }
    }

    /// Logs a removal that is about to happen as part of a batch.
    pub(super) fn log_removal(&self, key: &Key, size_bytes: u64) -> Result<u32, CasError> {
        self.log.append(Event::Removed, &key.digest(size_bytes))
    }
}
