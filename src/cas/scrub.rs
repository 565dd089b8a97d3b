//! Looking at blobs where nobody asks: what is on the disk, and what the kernel's cache says is there.
//!
//! ```text
//!   bytes of the cache   bytes of the disk (O_DIRECT)
//!   good                 good                            whole
//!   good, bad            bad                             quarantined: the cache lasts until it is needed elsewhere
//!   bad                  good                            the cache is dropped and read again; still bad: quarantined
//! ```
//! A bit of the disk turns without a word, and holes in the kernel have let processes write to the cache of files that
//! they may only read (CVE-2026-31431), which a hash through the cache finds and one of the disk does not. The keeper
//! looks at some blobs whenever it has waited its full time, the longest unused first, and begins anew when it is
//! through.
//!
//! Limits: where there is no O_DIRECT only the cache is hashed; blobs beyond [`SCRUB_BLOB_BYTES_MAX`] are left out,
//! since
//! a checkpoint waits meanwhile. What is dirty in the cache is written by the kernel before it is read past it.

use super::CasError;
use super::hash::hash_file;
use super::key::Key;
use super::limits::{SCRUB_BATCH, SCRUB_BLOB_BYTES_MAX, SCRUB_BYTES};
use super::places::looks_like;
use super::store::Store;
use crate::action::{Digest, Hasher};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::Advice;
use rustix::io::Errno;
use std::fs::File;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// It is as it was put.
    Whole,
    /// It is not there.
    Missing,
    /// It was bad, and is in quarantine.
    Bad,
    /// The kernel's cache had other bytes than the disk, and has them no more.
    CacheDiffered,
}

/// What reading past the cache needs of addresses and lengths: the largest block of a device.
const ALIGNMENT: usize = 4096;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;

impl Store {
    /// Looks at one blob.
    pub(super) fn scrub(&self, digest: &Digest) -> Result<Scrubbed, CasError> {
        let failed = |errno| CasError::io(format!("look at blob {digest} on the disk"), errno);
        let file = match self.places.open_object(digest) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Scrubbed::Missing),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let is_cache_good = looks_like(&stat, digest) && hash_file(digest.function, file.as_fd())? == *digest;
        let on_disk = match self.places.open_direct(digest) {
            Ok(direct) => hash_direct(digest, &direct).map_err(failed)?,
            // This filesystem has no such thing.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => None,
            Err(Errno::NOENT) => return Ok(Scrubbed::Missing),
            Err(errno) => return Err(failed(errno)),
        };
        self.counters.scrubbed.fetch_add(1, Ordering::Relaxed);
        match (is_cache_good, on_disk.map(|found| found == *digest)) {
            (true, None | Some(true)) => Ok(Scrubbed::Whole),
            (false, Some(true)) if looks_like(&stat, digest) => self.read_again(digest, &file),
            _ => self.condemned(digest, stat.st_ino),
        }
    }

    /// The disk is right and the cache is not.
    fn read_again(&self, digest: &Digest, file: &File) -> Result<Scrubbed, CasError> {
        let failed = |errno| CasError::io(format!("drop blob {digest} from the cache"), errno);
        tracing::error!(%digest, "the kernel's cache of a blob has other bytes than the disk: it is dropped");
        self.counters.cache_differed.fetch_add(1, Ordering::Relaxed);
        rustix::fs::fadvise(file, 0, None, Advice::DontNeed).map_err(failed)?;
        if hash_file(digest.function, file.as_fd())? == *digest {
            return Ok(Scrubbed::CacheDiffered);
        }
        // Somebody has it mapped.
        let stat = rustix::fs::fstat(file).map_err(failed)?;
        self.condemned(digest, stat.st_ino)
    }

    fn condemned(&self, digest: &Digest, inode: u64) -> Result<Scrubbed, CasError> {
        self.condemn(digest, Some(inode), "a look at the disk found other bytes")?;
        Ok(Scrubbed::Bad)
    }

    /// Looks at some more blobs. For the keeper.
    pub(super) fn scrub_some(&self) -> Result<(), CasError> {
        let mut at = self.scrub_after.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        let batch = self.index.oldest(*at, SCRUB_BATCH)?;
        if batch.is_empty() {
            *at = None;
        }
        for (key, row) in batch {
            *at = Some((row.used, key));
            if row.size_bytes <= SCRUB_BLOB_BYTES_MAX {
                bytes += row.size_bytes;
                self.scrub_row(&key, row.size_bytes)?;
            }
            if bytes >= SCRUB_BYTES {
                break;
            }
        }
        Ok(())
    }

    fn scrub_row(&self, key: &Key, size_bytes: u64) -> Result<(), CasError> {
        match self.scrub(&key.digest(size_bytes)) {
            // What cannot be read now is told by whoever needs it.
            Ok(_) | Err(CasError::Io { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The digest of what is on the disk; `None` where the file cannot be read past the cache after all.
fn hash_direct(digest: &Digest, file: &File) -> Result<Option<Digest>, Errno> {
    let mut buffer = vec![0; PIECE_BYTES + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let piece = buffer.get_mut(start..start + PIECE_BYTES).ok_or(Errno::INVAL)?;
    let mut hasher = Hasher::new(digest.function);
    let mut at = 0;
    loop {
        match read_at(file.as_fd(), piece, at) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(count) => {
                hasher.update(&piece[..count]);
                at += count as u64;
                if count < PIECE_BYTES {
                    return Ok(Some(hasher.finish()));
                }
            }
            Err(Errno::INVAL) if at == 0 => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

fn read_at(file: BorrowedFd<'_>, piece: &mut [u8], at: u64) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut piece[..], at))
}
