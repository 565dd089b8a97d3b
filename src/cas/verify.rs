//! Bad blobs: how they are found, and what becomes of them.
//!
//! A blob is bad if its file is gone, has another size or owner, can be written to, or has another hash. The first
//! three are seen by each open; the hash is computed when asked for, and for suspects before their first use. A bad
//! blob is moved to `quarantine` and is missing from then on, so that whoever has it puts it again.

use super::hash::hash_file;
use super::key::Key;
use super::live::State;
use super::places::looks_like;
use super::record::Event;
use super::store::{Note, Store};
use super::{Blob, CasError};
use crate::action::Digest;
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::sync::atomic::Ordering;

impl Store {
    /// Opens a blob that is there and sound.
    pub(super) fn open_sound(&self, digest: &Digest) -> Result<Blob, CasError> {
        if !self.find_sound(digest, Note::Use)? {
            return Err(CasError::Missing(*digest));
        }
        let failed = |errno| CasError::io(format!("open blob {digest}"), errno);
        let bad = match self.places.open_object(digest) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file).map_err(failed)?;
                if looks_like(&stat, digest) {
                    return Ok(Blob { file, size_bytes: digest.size_bytes });
                }
                Some((file, stat.st_ino))
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => None,
            Err(errno) => return Err(failed(errno)),
        };
        self.condemn(digest, bad.as_ref().map(|(_, inode)| *inode), "its file is not as it was put")?;
        Err(CasError::Missing(*digest))
    }

    /// Hashes a blob. True if it is as it should be; false if it is not there, or was bad and is now in quarantine.
    pub(super) fn verify(&self, digest: &Digest) -> Result<bool, CasError> {
        let failed = |errno| CasError::io(format!("open blob {digest}"), errno);
        let key = Key::of(digest);
        let file = match self.places.open_object(digest) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {
                self.condemn(digest, None, "its file is gone")?;
                return Ok(false);
            }
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let is_sound = looks_like(&stat, digest) && hash_file(digest.function, file.as_fd())? == *digest;
        self.counters.verified.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(&key);
        let row = match shard.get(&key) {
            Some(live) => live.row(),
            None => self.index.get(&key)?,
        };
        let Some(row) = row.filter(|row| row.size_bytes == digest.size_bytes) else { return Ok(false) };
        if !is_sound {
            drop(shard);
            self.condemn(digest, Some(stat.st_ino), "its bytes have another digest")?;
            return Ok(false);
        }
        if row.is_suspect {
            let live = shard.entry_or(key, || super::live::Live::of(&row));
            live.is_suspect = false;
            self.changed(live);
        }
        Ok(true)
    }

    /// Takes a blob out if what stands at its place is bad still: nothing, or the very file that `bad` is, or one that
    /// can't be it.
    pub(super) fn condemn(&self, digest: &Digest, bad: Option<u64>, why: &str) -> Result<(), CasError> {
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        let size_bytes = match shard.get(&key) {
            Some(live) if live.state == State::Gone => None,
            Some(live) => Some(live.size_bytes),
            None => self.index.get(&key)?.map(|row| row.size_bytes),
        };
        if size_bytes != Some(digest.size_bytes) {
            return Ok(());
        }
        let stat = self.places.stat(digest);
        let stat = stat.map_err(|errno| CasError::io(format!("look at blob {digest}"), errno))?;
        // Put again meanwhile: by its inode, which stays taken as long as the bad file is open.
        let is_replaced = stat.is_some_and(|stat| looks_like(&stat, digest) && Some(stat.st_ino) != bad);
        if is_replaced { Ok(()) } else { self.take_out(&mut shard, digest, why) }
    }

    /// Moves a blob to quarantine, whatever it is like.
    pub(super) fn quarantine(&self, digest: &Digest, why: &str) -> Result<(), CasError> {
        self.take_out(&mut self.shard(&Key::of(digest)), digest, why)
    }

    fn take_out(&self, shard: &mut super::shard::Shard, digest: &Digest, why: &str) -> Result<(), CasError> {
        self.log.append(Event::Removed, digest)?;
        self.forget(shard, digest);
        let moved = self.places.quarantine(digest);
        moved.map_err(|errno| CasError::io(format!("quarantine blob {digest}"), errno))?;
        self.counters.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%digest, why, "a bad blob was taken out of the store");
        Ok(())
    }
}
