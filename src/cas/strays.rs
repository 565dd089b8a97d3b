//! Files in the places of blobs that neither the index nor a log knows.
//!
//! ```text
//!   the machine stopped: names came to the disk, the records of them did not ─► swept by the keeper, in steps
//!   the index was lost: all blobs are strays                                 ─► swept before the store opens
//!     a stray that can be a blob ─► suspect, the longest unused of all       another ─► removed
//! ```
//! A killed process leaves none: its logs are in the kernel's cache. Invariants: nothing is believed of a stray but its
//! size, so that it is hashed before its first use; one that is being put at the same moment is none, since a put holds
//! the shard from the name to the entry. Limits: what has no name of a blob is left alone.

use super::CasError;
use super::index::Row;
use super::key::Key;
use super::limits::{PENDING_KICK, SHARDS, charge};
use super::live::{Live, State};
use super::mark::{self, Left};
use super::places::looks_like;
use super::store::Store;
use crate::action::{Digest, DigestFunction};
use rustix::io::Errno;
use std::sync::atomic::Ordering;

/// Directories of blobs: one for each function and shard.
const DIRECTORIES: u32 = (DigestFunction::ALL.len() * SHARDS) as u32;

/// There is nothing to sweep.
pub(super) const NONE_LEFT: u32 = u32::MAX;

impl Store {
    /// Looks through all that is there.
    pub(super) fn sweep_all(&self) -> Result<(), CasError> {
        self.sweep_next.store(0, Ordering::Relaxed);
        self.sweep_some(DIRECTORIES)
    }

    /// Looks through some more directories, if that is due. For the keeper.
    pub(super) fn sweep_some(&self, directories: u32) -> Result<(), CasError> {
        let first = self.sweep_next.load(Ordering::Relaxed);
        if first == NONE_LEFT {
            return Ok(());
        }
        let last = first.saturating_add(directories).min(DIRECTORIES);
        for number in first..last {
            self.sweep_directory(number)?;
            self.sweep_next.store(number + 1, Ordering::Relaxed);
            if self.pending.load(Ordering::Relaxed) > PENDING_KICK {
                self.checkpoint()?;
            }
        }
        if last == DIRECTORIES {
            self.checkpoint()?;
            self.sweep_next.store(NONE_LEFT, Ordering::Relaxed);
            mark::write(&self.lock.0, self.tuning.boot, Left::Open);
            let found = self.counters.strays.load(Ordering::Relaxed);
            tracing::info!("{found} blobs were found that nobody knew of");
        }
        Ok(())
    }

    fn sweep_directory(&self, number: u32) -> Result<(), CasError> {
        let number = usize::try_from(number).unwrap_or(0);
        let function = DigestFunction::ALL[number / SHARDS % DigestFunction::ALL.len()];
        let path = format!("{}/{:02x}", function.name(), number % SHARDS);
        let failed = |errno| CasError::io(format!("look through {path}"), errno);
        for name in self.places.object_names(&path).map_err(failed)? {
            let hash = name.to_str().ok().and_then(|name| Digest::parse(function, name, 0).ok());
            let Some(named) = hash.filter(|digest| Self::is_in(digest, number % SHARDS)) else { continue };
            let Some(stat) = self.places.stat(&named).map_err(failed)? else { continue };
            let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
            self.take_in(&Digest { size_bytes, ..named })?;
        }
        Ok(())
    }

    fn is_in(digest: &Digest, shard: usize) -> bool {
        Key::of(digest).shard() == shard
    }

    /// Takes in one file, unless it is known.
    fn take_in(&self, digest: &Digest) -> Result<(), CasError> {
        let failed = |errno: Errno| CasError::io(format!("look at blob {digest}"), errno);
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        let is_known = match shard.get(&key) {
            Some(live) => live.state != State::Gone,
            None => self.index.get(&key)?.is_some(),
        };
        // Again, now that nobody can put it.
        let stat = self.places.stat(digest).map_err(failed)?;
        let Some(stat) = stat.filter(|_| !is_known) else { return Ok(()) };
        if !looks_like(&stat, digest) {
            return self.places.unlink(digest).map_err(failed);
        }
        let row = Row { size_bytes: digest.size_bytes, used: 0, is_suspect: true };
        let live = shard.entry_or(key, || Live::of(&row));
        *live = Live { pins: live.pins, version: live.version, is_dirty: live.is_dirty, ..Live::of(&row) };
        live.state = State::Recent;
        self.changed(live);
        live.born = live.version;
        self.bytes.fetch_add(charge(digest.size_bytes), Ordering::SeqCst);
        self.counters.blobs.fetch_add(1, Ordering::Relaxed);
        self.counters.strays.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
