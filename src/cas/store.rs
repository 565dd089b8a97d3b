//! The store itself: what is there, for whom it is kept, and how much room is left.
//!
//! Locks, outermost first: `maintenance` (checkpoint, eviction), then one shard, then the index for one read. Nobody
//! holds two shards. Invariants: what happens to one blob (put, pin, removal) happens under its shard's lock, so that
//! nothing vanishes between being found and being pinned; nothing is hashed, copied or synced under it, but for the
//! syncs of `Durability::Power`. The truth about what is there is memory, then the index; a file that neither knows is
//! none, and is replaced.

use super::clock::Clock;
use super::error::CasError;
use super::index::Index;
use super::keeper::Bell;
use super::key::Key;
use super::limits::{EVICT_FROM_64THS, PENDING_KICK, PENDING_TOUCHES_MAX, PLACE_TRIES_MAX, charge};
use super::live::{Live, State};
use super::log::Log;
use super::places::Places;
use super::record::Event;
use super::shard::Shard;
use super::stats::Counters;
use super::{Cas, Durability, Tuning};
use crate::action::Digest;
use crate::failpoint;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(super) struct Store {
    pub places: Places,
    pub index: Index,
    pub log: Log,
    pub shards: Vec<Mutex<Shard>>,
    pub clock: Clock,
    pub counters: Counters,
    pub bell: Arc<Bell>,
    /// Held by whoever checkpoints or evicts.
    pub maintenance: Mutex<()>,
    pub durability: Durability,
    pub tuning: Tuning,
    pub size_bytes_max: u64,
    /// What all blobs are charged for.
    pub bytes: AtomicU64,
    /// What blobs on their way in will be charged for.
    pub reserved: AtomicU64,
    /// Dirty entries in memory.
    pub pending: AtomicU64,
    /// A put has met a full disk.
    pub is_short: AtomicBool,
    /// The directory at which the search for strays goes on.
    pub sweep_next: AtomicU32,
    /// The blob that was scrubbed last.
    pub scrub_after: Mutex<Option<(u32, Key)>>,
    /// The last field, so that whoever gets the lock finds the index closed.
    pub lock: Locked,
}

/// Whether a blob is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Absent,
    Present,
    /// There, but to be hashed first.
    Suspect,
}

/// What to note of a blob that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    Use,
    Pin,
}

/// Room for a blob on its way in. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Reserved {
    store: Arc<Store>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.store.reserved.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// The lock file, locked until this is dropped.
#[derive(Debug)]
pub(super) struct Locked(pub File);

impl Drop for Locked {
    fn drop(&mut self) {
        // By hand: a child between fork and exec has the descriptor too, and so the lock.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

impl Store {
    pub(super) fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a blob up, and notes what for, and that it was at `now`.
    pub(super) fn find(
        &self,
        shard: &mut Shard,
        digest: &Digest,
        note: Note,
        now: u32,
    ) -> Result<Presence, CasError> {
        let key = Key::of(digest);
        if let Some(live) = shard.get_mut(&key) {
            live.is_warm = true;
            return Ok(self.judge(live, digest, note, now));
        }
        let mut live = match self.index.get(&key)? {
            Some(row) => Live::of(&row),
            None => Live::absent(digest.size_bytes),
        };
        let presence = self.judge(&mut live, digest, note, now);
        shard.insert(key, live);
        Ok(presence)
    }

    fn judge(&self, live: &mut Live, digest: &Digest, note: Note, now: u32) -> Presence {
        if !live.is_present() || live.size_bytes != digest.size_bytes {
            return Presence::Absent;
        }
        if live.is_suspect {
            return Presence::Suspect;
        }
        if live.used < now {
            if live.is_dirty || self.pending.load(Ordering::Relaxed) < PENDING_TOUCHES_MAX {
                live.used = now;
                self.changed(live);
            } else {
                self.counters.uses_forgotten.fetch_add(1, Ordering::Relaxed);
            }
        }
        live.pins += u32::from(note == Note::Pin);
        Presence::Present
    }

    /// Those of `digests` that are not there, in their order.
    pub(super) fn missing(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let now = self.clock.now();
        let is_missing = |digest: &Digest| {
            let found = self.find(&mut self.shard(&Key::of(digest)), digest, Note::Use, now);
            let found = match found {
                Ok(Presence::Suspect) => self.find_sound(digest, Note::Use),
                other => other.map(|presence| presence == Presence::Present),
            };
            !found.unwrap_or_else(|error| {
                tracing::warn!(%digest, %error, "could not look for a blob");
                false
            })
        };
        digests.into_iter().filter(is_missing).collect()
    }

    /// As [`Store::find`], after hashing what has to be hashed first.
    pub(super) fn find_sound(&self, digest: &Digest, note: Note) -> Result<bool, CasError> {
        loop {
            let presence = self.find(&mut self.shard(&Key::of(digest)), digest, note, self.clock.now())?;
            match presence {
                Presence::Absent => return Ok(false),
                Presence::Present => return Ok(true),
                // Afterwards it is no suspect, or not there.
                Presence::Suspect => _ = self.verify(digest)?,
            }
        }
    }

    /// Whether a put has nothing to do. It looks at the file, since a blob that somebody damaged must not keep a whole
    /// one out.
    pub(super) fn holds(&self, digest: &Digest) -> Result<bool, CasError> {
        let failed = |errno| CasError::io(format!("look at blob {digest}"), errno);
        Ok(self.find_sound(digest, Note::Use)? && self.places.is_sound(digest).map_err(failed)?)
    }

    /// Gives back pins, in the order of keys.
    pub(super) fn unpin(&self, keys: &[Key]) {
        for group in keys.chunk_by(|a, b| a.shard() == b.shard()) {
            let Some(first) = group.first() else { continue };
            let mut shard = self.shard(first);
            for key in group {
                shard.unpin(key);
            }
        }
        self.counters.pinned.fetch_sub(keys.len() as u64, Ordering::Relaxed);
    }

    /// Makes room for a blob of this size, by eviction if there is none.
    pub(super) fn reserve(self: &Arc<Self>, size_bytes: u64) -> Result<Reserved, CasError> {
        let bytes = charge(size_bytes);
        if bytes > self.size_bytes_max {
            return Err(CasError::TooLarge { size_bytes, bytes_max: self.size_bytes_max });
        }
        for is_last in [false, true] {
            let reserved = self.reserved.fetch_add(bytes, Ordering::SeqCst) + bytes;
            let taken = Reserved { store: self.clone(), bytes };
            let filled = self.bytes.load(Ordering::SeqCst).saturating_add(reserved);
            if filled <= self.size_bytes_max {
                if filled > self.size_bytes_max / 64 * EVICT_FROM_64THS {
                    self.bell.ring();
                }
                return Ok(taken);
            }
            drop(taken);
            if !is_last {
                self.evict_for(bytes)?;
            }
        }
        let what = format!("make room for {size_bytes} bytes: what is stored is in use");
        Err(CasError::Full { what })
    }

    /// Waits until the log can take more: only if checkpoints are slower than puts.
    pub(super) fn await_log(&self) -> Result<(), CasError> {
        while !self.log.has_room() {
            let _guard = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.log.has_room() {
                self.checkpoint_locked()?;
            }
        }
        Ok(())
    }

    /// Puts a verified file in its place with `place`, unless the blob is there. True if it was this call.
    pub(super) fn publish(
        &self,
        digest: &Digest,
        place: impl Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<bool, CasError> {
        self.await_log()?;
        let failed = |errno| CasError::io(format!("store blob {digest}"), errno);
        let mut shard = self.shard(&Key::of(digest));
        let is_there = self.find(&mut shard, digest, Note::Use, self.clock.now())? == Presence::Present;
        // The file too: see `holds`.
        if is_there && self.places.is_sound(digest).map_err(failed)? {
            return Ok(false);
        }
        let generation = self.log.append(Event::Put, digest)?;
        failpoint::hit("cas.link").map_err(failed)?;
        self.place(digest, place).map_err(failed)?;
        if let Err(error) = self.settle(digest, generation) {
            self.remove_entry(&mut shard, digest)?;
            return Err(error);
        }
        self.enter(&mut shard, digest);
        drop(shard);
        if self.pending.load(Ordering::Relaxed) > PENDING_KICK
            || self.log.used() > self.tuning.log_records / 2
        {
            self.bell.ring();
        }
        Ok(true)
    }

    fn place(
        &self,
        digest: &Digest,
        place: impl Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let path = Cas::object_path(digest);
        for _ in 0..PLACE_TRIES_MAX {
            match place(self.places.objects.as_fd(), &path) {
                Ok(()) => return Ok(()),
                // Nobody knows what stands there: a power cut, or a hand, has left it.
                Err(Errno::EXIST) => self.places.unlink(digest)?,
                Err(Errno::NOENT) => self.places.make_shard(digest, self.durability)?,
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }

    /// What has to hold before a put is answered.
    fn settle(&self, digest: &Digest, generation: u32) -> Result<(), CasError> {
        let failed = |errno| CasError::io(format!("store blob {digest}"), errno);
        failpoint::hit("cas.linked").map_err(failed)?;
        if self.durability == Durability::Power {
            self.places.sync_shard(digest).map_err(failed)?;
            self.log.sync(generation)?;
        }
        Ok(())
    }

    /// Enters a blob that has just been put in its place.
    pub(super) fn enter(&self, shard: &mut Shard, digest: &Digest) {
        let key = Key::of(digest);
        let was_counted = match shard.get(&key) {
            Some(live) => live.state != State::Gone,
            // An unreadable index has failed this put already.
            None => self.index.get(&key).is_ok_and(|row| row.is_some()),
        };
        if !was_counted {
            self.bytes.fetch_add(charge(digest.size_bytes), Ordering::SeqCst);
            self.counters.blobs.fetch_add(1, Ordering::Relaxed);
        }
        let row = super::index::Row { size_bytes: digest.size_bytes, used: 0, is_suspect: false };
        let live = shard.entry_or(key, || Live::of(&row));
        live.size_bytes = digest.size_bytes;
        live.used = self.clock.now();
        live.state = State::Recent;
        live.is_suspect = false;
        self.changed(live);
        live.born = live.version;
    }

    /// Takes a blob out of memory and, with the next checkpoint, out of the index, and its file from its place.
    pub(super) fn remove_entry(&self, shard: &mut Shard, digest: &Digest) -> Result<(), CasError> {
        let failed = |errno| CasError::io(format!("remove blob {digest}"), errno);
        self.log.append(Event::Removed, digest)?;
        self.forget(shard, digest);
        self.places.unlink(digest).map_err(failed)
    }

    /// The part of a removal that is about memory; gives the version it has there now.
    pub(super) fn forget(&self, shard: &mut Shard, digest: &Digest) -> u32 {
        let key = Key::of(digest);
        let row = match shard.get(&key) {
            Some(_) => None,
            None => self.index.get(&key).ok().flatten(),
        };
        let was_known = row.is_some() || shard.get(&key).is_some_and(|live| live.state != State::Gone);
        if was_known {
            let size_bytes = shard.get(&key).map(|live| live.size_bytes).or(row.map(|row| row.size_bytes));
            self.bytes.fetch_sub(charge(size_bytes.unwrap_or(0)), Ordering::SeqCst);
            self.counters.blobs.fetch_sub(1, Ordering::Relaxed);
        }
        let size_bytes = digest.size_bytes;
        let none = super::index::Row { size_bytes, used: 0, is_suspect: false };
        let live = shard.entry_or(key, || Live::of(&row.unwrap_or(none)));
        live.state = State::Gone;
        self.changed(live);
        live.version
    }

    /// Has the keeper make room if a put met a full disk.
    pub(super) fn noticing<T>(&self, done: Result<T, CasError>) -> Result<T, CasError> {
        if matches!(done, Err(CasError::Full { .. })) {
            self.is_short.store(true, Ordering::SeqCst);
            self.bell.ring();
        }
        done
    }

    /// Notes that an entry differs from its row.
    pub(super) fn changed(&self, live: &mut Live) {
        if live.change() {
            self.pending.fetch_add(1, Ordering::Relaxed);
        }
    }
}
