//! The put log: what the index does not know yet.
//!
//! ```text
//!   log.0, log.1     one is written, the other belongs to the checkpoint that is under way, or is free
//! ```
//! A record is written before the deed it tells of, with one write(2) and no sync: what the page cache has, a kill of
//! the daemon can't take away. Files are allocated whole beforehand, so that a full disk does not keep a removal from
//! being logged. Invariants: a generation's file is used again only after the index has been committed with it; order
//! of records of one blob is order of events (the caller holds the blob's shard).

use super::CasError;
use super::key::Key;
use super::limits::LOG_RECORDS_MARGIN;
use super::record::{Event, RECORD_BYTES, Record};
use crate::action::Digest;
use crate::failpoint;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Both files, and where the next record goes.
#[derive(Debug)]
pub(super) struct Log {
    files: [File; 2],
    /// Generation in the upper half, next record in the lower.
    next: AtomicU64,
    /// Last generation that the index has.
    committed: AtomicU32,
    soft: u32,
    boot: [u8; 8],
}

impl Log {
    /// Opens both files, making them if they are not there, and gives all whole records of generations after
    /// `committed`, oldest first.
    pub(super) fn open(
        dir: &Path,
        soft: u32,
        boot: [u8; 8],
        committed: u32,
    ) -> Result<(Log, Vec<Record>), CasError> {
        let records_max = u64::from(soft) + u64::from(LOG_RECORDS_MARGIN);
        let open = |name: &str| {
            let path = dir.join(name);
            let failed =
                |error: std::io::Error| CasError::from_io(format!("open {}", path.display()), &error);
            let mut options = File::options();
            let file =
                options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            let length = records_max * RECORD_BYTES as u64;
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
                Ok(()) | Err(Errno::OPNOTSUPP) => Ok(file),
                Err(errno) => Err(CasError::io(format!("allocate {}", path.display()), errno)),
            }
        };
        let files = [open("log.0")?, open("log.1")?];
        let mut records = Vec::new();
        for (at, file) in files.iter().enumerate() {
            records.extend(read(file, at, records_max)?.into_iter().filter(|it| it.generation > committed));
        }
        // Stable: within a generation the order of the file stays.
        records.sort_by_key(|record| record.generation);
        let last = records.last().map_or(committed, |record| record.generation);
        let log = Log {
            files,
            next: AtomicU64::new(u64::from(last) << 32),
            committed: AtomicU32::new(committed),
            soft,
            boot,
        };
        Ok((log, records))
    }

    /// Begins the first generation after what was replayed and committed.
    pub(super) fn restart(&self, committed: u32) {
        self.committed.store(committed, Ordering::SeqCst);
        self.next.store(u64::from(committed + 1) << 32, Ordering::SeqCst);
    }

    /// Records written in the current generation.
    pub(super) fn used(&self) -> u32 {
        self.next.load(Ordering::SeqCst) as u32
    }

    /// Whether a put may begin.
    pub(super) fn has_room(&self) -> bool {
        self.used() < self.soft
    }

    /// Whether a batch of removals may begin.
    pub(super) fn has_room_for(&self, records: u32) -> bool {
        self.used().saturating_add(records) < self.soft.saturating_add(LOG_RECORDS_MARGIN)
    }

    /// Tells of an event that is about to happen. The caller holds the blob's shard.
    pub(super) fn append(&self, event: Event, digest: &Digest) -> Result<u32, CasError> {
        let failed = |errno| CasError::io(format!("log blob {digest}"), errno);
        failpoint::hit("cas.log").map_err(failed)?;
        let slots = self.soft.saturating_add(LOG_RECORDS_MARGIN);
        let take = |next: u64| ((next as u32) < slots).then_some(next + 1);
        let taken = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        let next = taken.map_err(|_| failed(Errno::NOBUFS))?;
        let (generation, slot) = ((next >> 32) as u32, next as u32);
        let record = Record {
            event,
            key: Key::of(digest),
            size_bytes: digest.size_bytes,
            generation,
            boot: self.boot,
        };
        self.file(generation)
            .write_all_at(&record.encode(), u64::from(slot) * RECORD_BYTES as u64)
            .map_err(|error| CasError::from_io(format!("log blob {digest}"), &error))?;
        Ok(generation)
    }

    /// Makes what was appended survive a power cut.
    pub(super) fn sync(&self, generation: u32) -> Result<(), CasError> {
        failpoint::hit("cas.log.sync").map_err(|errno| CasError::io("sync the put log", errno))?;
        self.file(generation).sync_data().map_err(|error| CasError::from_io("sync the put log", &error))
    }

    /// The same for the current generation.
    pub(super) fn sync_current(&self) -> Result<(), CasError> {
        self.sync((self.next.load(Ordering::SeqCst) >> 32) as u32)
    }

    /// Begins a new generation, if the one before the current is committed. Gives the one that is now to be committed.
    pub(super) fn rotate(&self) -> u32 {
        let next = self.next.load(Ordering::SeqCst);
        let generation = (next >> 32) as u32;
        if self.committed.load(Ordering::SeqCst) + 1 < generation {
            return generation - 1;
        }
        // Whoever appends meanwhile either has a slot of the old generation, and holds a shard that the checkpoint
        // has yet to visit, or takes one of the new.
        self.next.store(u64::from(generation + 1) << 32, Ordering::SeqCst);
        generation
    }

    /// The index has everything up to this generation.
    pub(super) fn committed(&self, generation: u32) {
        self.committed.store(generation, Ordering::SeqCst);
    }

    fn file(&self, generation: u32) -> &File {
        &self.files[(generation & 1) as usize]
    }
}

fn read(file: &File, at: usize, records_max: u64) -> Result<Vec<Record>, CasError> {
    let failed = |error: std::io::Error| CasError::from_io("read the put log", &error);
    let length = file.metadata().map_err(failed)?.len().min(records_max * RECORD_BYTES as u64);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    let (chunks, _) = bytes.as_chunks::<RECORD_BYTES>();
    let here = |record: &Record| (record.generation & 1) as usize == at;
    Ok(chunks.iter().filter_map(Record::decode).filter(here).collect())
}
