//! Eviction: the least recently used blobs go when the store is full.
//!
//! ```text
//!   by-use, oldest first ─► judge (pure) ─► log the removals, sync the log ─► unlink ─► next batch, until low enough
//! ```
//! Invariants: what is pinned stays, whatever else; what was used in the last ten minutes stays unless a put would
//! fail; the log says that a blob is gone, durably, before it is, so that the index never claims one that is not there.
//! A put comes here only if the store is full to its last byte.

use super::CasError;
use super::index::Row;
use super::key::Key;
use super::limits::{
    EVICT_BATCH, EVICT_FROM_64THS, EVICT_TO_64THS, GRACE_SECONDS, RELIEF_BYTES_MIN, USE_BUCKET_SECONDS,
    charge,
};
use super::live::{Live, State};
use super::store::Store;
use crate::action::Digest;
use crate::failpoint;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// What becomes of a blob that eviction looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Evict,
    /// It was used later than the index knows, or is gone already: not its turn.
    Skip,
    /// It is pinned: that is a use.
    Keep,
    /// It, and so all after it, is too young.
    Stop,
}

/// From what index and memory say of a blob to what becomes of it. `youngest` is the last moment of use that is old
/// enough.
fn judge(row: &Row, live: Option<&Live>, youngest: u32) -> Verdict {
    match live {
        Some(live) if !live.is_present() => Verdict::Skip,
        Some(live) if live.pins > 0 => Verdict::Keep,
        _ if row.used > youngest => Verdict::Stop,
        Some(live) if live.used > row.used => Verdict::Skip,
        _ => Verdict::Evict,
    }
}

/// What eviction took, before it is unlinked.
struct Victim {
    digest: Digest,
    version: u32,
}

impl Store {
    /// In the background: from the high mark to the low one.
    pub(super) fn evict_in_background(&self) -> Result<(), CasError> {
        let part = |of: u64| self.size_bytes_max / 64 * of;
        if self.bytes.load(Ordering::SeqCst) <= part(EVICT_FROM_64THS) {
            return Ok(());
        }
        let _guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.checkpoint_or_relieve()?;
        self.evict(part(EVICT_TO_64THS), self.grown_old())
    }

    /// A checkpoint; if the disk is too full even for that, room is made first. The caller holds `maintenance`.
    pub(super) fn checkpoint_or_relieve(&self) -> Result<(), CasError> {
        match self.checkpoint_locked() {
            Err(CasError::Full { .. }) => self.relieve_locked(true),
            done => done,
        }
    }

    /// Makes room on a disk that others have filled, or that is smaller than the store may be. It stops when the disk
    /// has room by itself, unless what that says `is_doubted`.
    pub(super) fn relieve(&self, is_doubted: bool) -> Result<(), CasError> {
        let _guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.relieve_locked(is_doubted)
    }

    fn relieve_locked(&self, is_doubted: bool) -> Result<(), CasError> {
        let bytes = self.bytes.load(Ordering::SeqCst);
        let goal = bytes.saturating_sub(RELIEF_BYTES_MIN.max(bytes / 16));
        let is_over = || !is_doubted && self.places.has_room(2 * RELIEF_BYTES_MIN);
        if !is_over() {
            self.evict(goal, u32::MAX)?;
        }
        self.evict_unindexed(goal, is_over)?;
        self.checkpoint_locked()
    }

    /// For a disk on which the index can't grow: what only memory and the log know goes, longest unused first.
    fn evict_unindexed(&self, goal: u64, is_over: impl Fn() -> bool) -> Result<(), CasError> {
        let mut recent = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let found = shard.iter().filter(|(_, live)| live.state == State::Recent && live.pins == 0);
            recent.extend(found.map(|(key, live)| (live.used, *key, live.version)));
        }
        recent.sort_unstable();
        for (_, key, version) in recent {
            // What came since somebody else has made room is not what is in the way.
            if self.bytes.load(Ordering::SeqCst) <= goal || is_over() {
                break;
            }
            let mut shard = self.shard(&key);
            let Some(live) = shard.get(&key).copied() else { continue };
            if live.version == version && live.pins == 0 {
                self.remove_entry(&mut shard, &key.digest(live.size_bytes))?;
                self.counters.evicted.fetch_add(1, Ordering::Relaxed);
                self.counters.bytes_evicted.fetch_add(charge(live.size_bytes), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// On the path of a put: until `bytes` more fit, if they can.
    pub(super) fn evict_for(&self, bytes: u64) -> Result<(), CasError> {
        let _guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = || self.reserved.load(Ordering::SeqCst).saturating_add(bytes);
        let goal = || self.size_bytes_max.saturating_sub(taken());
        if self.bytes.load(Ordering::SeqCst) <= goal() {
            return Ok(());
        }
        // What came since the last checkpoint can't be evicted: its last use is not in the index.
        self.checkpoint_or_relieve()?;
        self.evict(goal().min(self.size_bytes_max / 64 * EVICT_TO_64THS), self.grown_old())?;
        if self.bytes.load(Ordering::SeqCst) <= goal() {
            return Ok(());
        }
        self.checkpoint_or_relieve()?;
        // A little more than is needed, so that not each put comes here.
        self.evict(goal().saturating_sub(self.size_bytes_max / 64), u32::MAX)
    }

    /// Whatever is not pinned, until `goal`.
    #[cfg(test)]
    pub(super) fn evict_to(&self, goal: u64) -> Result<(), CasError> {
        let _guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.checkpoint_or_relieve()?;
        self.evict(goal, u32::MAX)
    }

    /// The last moment of use that is beyond grace.
    fn grown_old(&self) -> u32 {
        let grace = u32::try_from(GRACE_SECONDS / USE_BUCKET_SECONDS).unwrap_or(u32::MAX).saturating_add(1);
        // Nothing was used at moment 0: in a store younger than grace nothing is old.
        self.clock.now().saturating_sub(grace)
    }

    /// Removes the longest unused until no more than `goal` bytes are left. The caller holds `maintenance`.
    fn evict(&self, goal: u64, youngest: u32) -> Result<(), CasError> {
        let mut after = None;
        while self.bytes.load(Ordering::SeqCst) > goal {
            if !self.log.has_room_for(u32::try_from(EVICT_BATCH).unwrap_or(u32::MAX)) {
                self.checkpoint_locked()?;
            }
            let batch = self.index.oldest(after, EVICT_BATCH)?;
            let Some((key, row)) = batch.last() else { break };
            after = Some((row.used, *key));
            let (victims, is_over) = self.choose(&batch, goal, youngest)?;
            self.remove(&victims)?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// Takes from memory what is to go, as far as the goal needs it.
    fn choose(
        &self,
        batch: &[(Key, Row)],
        goal: u64,
        youngest: u32,
    ) -> Result<(Vec<Victim>, bool), CasError> {
        let mut victims = Vec::new();
        for (key, row) in batch {
            if self.bytes.load(Ordering::SeqCst) <= goal {
                return Ok((victims, true));
            }
            let mut shard = self.shard(key);
            match judge(row, shard.get(key), youngest) {
                Verdict::Stop => return Ok((victims, true)),
                Verdict::Skip => {}
                Verdict::Keep => {
                    if let Some(live) = shard.get_mut(key) {
                        live.used = self.clock.now();
                        self.changed(live);
                    }
                }
                Verdict::Evict => {
                    if let Err(error) = self.log_removal(key, row.size_bytes) {
                        drop(shard);
                        self.remove(&victims)?;
                        return Err(error);
                    }
                    let digest = key.digest(row.size_bytes);
                    let version = self.forget(&mut shard, &digest);
                    victims.push(Victim { digest, version });
                    self.counters.evicted.fetch_add(1, Ordering::Relaxed);
                    self.counters.bytes_evicted.fetch_add(charge(row.size_bytes), Ordering::Relaxed);
                }
            }
        }
        Ok((victims, false))
    }

    /// Unlinks what was taken, unless it was put again meanwhile.
    fn remove(&self, victims: &[Victim]) -> Result<(), CasError> {
        if victims.is_empty() {
            return Ok(());
        }
        let failed = |errno| CasError::io("evict a blob", errno);
        failpoint::hit("cas.evict.chosen").map_err(failed)?;
        // If that fails, the index may claim them after a power cut: then they are found to be gone when opened.
        let synced = self.log.sync_current();
        for Victim { digest, version } in victims {
            let key = Key::of(digest);
            let shard = self.shard(&key);
            let is_gone =
                shard.get(&key).is_some_and(|live| live.state == State::Gone && live.version == *version);
            if is_gone {
                self.places.unlink(digest).map_err(failed)?;
            }
        }
        failpoint::hit("cas.evict.removed").map_err(failed)?;
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(live: Option<(State, u32, u32)>, expected: Verdict) {
        let row = Row { size_bytes: 1, used: 10, is_suspect: false };
        let live = live.map(|(state, used, pins)| Live { state, used, pins, ..Live::of(&row) });
        assert_eq!(judge(&row, live.as_ref(), 20), expected, "{live:?}");
    }

    #[test]
    fn the_old_and_unpinned_go() {
        check(None, Verdict::Evict);
        check(Some((State::Indexed, 10, 0)), Verdict::Evict);
        check(Some((State::Recent, 10, 0)), Verdict::Evict);
        check(Some((State::Indexed, 10, 1)), Verdict::Keep);
        check(Some((State::Indexed, 30, 2)), Verdict::Keep);
        check(Some((State::Indexed, 15, 0)), Verdict::Skip);
        check(Some((State::Gone, 10, 0)), Verdict::Skip);
        check(Some((State::Lost, 10, 0)), Verdict::Skip);
    }

    #[test]
    fn the_young_end_it() {
        let row = Row { size_bytes: 1, used: 21, is_suspect: false };
        assert_eq!(judge(&row, None, 20), Verdict::Stop);
    }
}
