//! Opening a store: one process at a time, and all that a killed predecessor knew.
//!
//! ```text
//!   lock ─► sweep temporary ─► open the index ─► replay both logs (stat each) ─► commit ─► keeper
//!                                │ damaged                                                  └ the machine had stopped:
//!                                └► moved aside; every blob is found again                    looks for strays
//! ```
//! Time and memory are bounded by the logs, not by the blobs: no directory is walked and no table read, but for an
//! index that was lost. What a log of another boot tells of is suspect: the machine may have stopped before the
//! bytes were on the disk.

use super::clock::Clock;
use super::ending;
use super::error::CasError;
use super::index::{Index, Opened, Row};
use super::keeper::{Bell, Kept};
use super::key::Key;
use super::limits::SHARDS;
use super::live::{Live, State};
use super::log::Log;
use super::mark::{self, Left};
use super::places::{Places, errno_of, looks_like};
use super::record::{Event, Record};
use super::stats::Counters;
use super::store::{Locked, Store};
use super::strays::NONE_LEFT;
use super::{CasOptions, Durability, Tuning};
use crate::action::{Digest, DigestFunction};
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Opens the store and starts its keeper.
pub(super) fn open(
    options: &CasOptions,
    durability: Durability,
    tuning: Tuning,
) -> Result<Arc<Kept>, CasError> {
    let dir = &options.dir;
    make_dir(dir)?;
    let lock = lock(dir)?;
    let left = mark::read(&lock.0, tuning.boot);
    let places = Places::open(dir, tuning.are_drafts_named)?;
    let Opened { index, totals, is_lost } = Index::open(&dir.join("index"))?;
    let is_unswept = is_lost || left == Left::Unswept;
    mark::write(&lock.0, tuning.boot, if is_unswept { Left::Unswept } else { Left::Open });
    let (log, records) = Log::open(dir, tuning.log_records, tuning.boot, totals.generation)?;
    let counters = Counters::default();
    counters.blobs.store(totals.blobs, Ordering::Relaxed);
    let store = Store {
        places,
        index,
        log,
        shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        clock: Clock::new(totals.seconds),
        counters,
        bell: Arc::new(Bell::default()),
        maintenance: Mutex::default(),
        durability,
        tuning,
        size_bytes_max: options.size_bytes_max,
        bytes: AtomicU64::new(totals.bytes),
        reserved: AtomicU64::new(0),
        pending: AtomicU64::new(0),
        is_short: AtomicBool::new(false),
        sweep_next: AtomicU32::new(if is_unswept { 0 } else { NONE_LEFT }),
        scrub_after: Mutex::default(),
        lock,
    };
    // A log alone may tell of removals that later puts have made good.
    let last = records.last().map_or(totals.generation, |record| record.generation);
    store.replay(if is_lost { Vec::new() } else { records }, totals.generation, last)?;
    if is_lost {
        store.sweep_all()?;
    }
    let started = Kept::start(store);
    let kept = Arc::new(started.map_err(|error| CasError::from_io("start the thread of the store", &error))?);
    for function in DigestFunction::ALL {
        kept.store.materialize_empty(function)?;
    }
    // It may have been opened with less room than it takes.
    kept.store.bell.ring();
    Ok(kept)
}

/// What identifies this boot of the machine; zeros, which are no boot, if nothing does.
pub(super) fn boot() -> [u8; 8] {
    let mut boot = [0; 8];
    if let Ok(id) = std::fs::read("/proc/sys/kernel/random/boot_id") {
        boot.copy_from_slice(&blake3::hash(&id).as_bytes()[..8]);
    }
    boot
}

fn make_dir(dir: &Path) -> Result<(), CasError> {
    let failed = |errno| CasError::io(format!("make the directory {}", dir.display()), errno);
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed(errno_of(&error)))?;
    }
    // Whoever can write here can poison every consumer.
    match rustix::fs::mkdir(dir, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn lock(dir: &Path) -> Result<Locked, CasError> {
    let path = dir.join("lock");
    let failed = |errno| CasError::io(format!("lock {}", path.display()), errno);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(&path).map_err(|error| failed(errno_of(&error)))?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    let take = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    let mut taken = take();
    if taken == Err(Errno::WOULDBLOCK) {
        ending::await_end(&stat);
        taken = take();
    }
    match taken {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let pid = mark::read_pid(&file);
            let what = format!("open the store {}: the process {pid} uses it", dir.display());
            return Err(CasError::io(what, Errno::BUSY));
        }
        Err(errno) => return Err(failed(errno)),
    }
    mark::write_pid(&file);
    Ok(Locked(file))
}

impl Store {
    /// Takes over what the logs tell, and brings it into the index.
    fn replay(&self, records: Vec<Record>, committed: u32, last: u32) -> Result<(), CasError> {
        let latest: HashMap<Key, Record> = records.into_iter().map(|it| (it.key, it)).collect();
        for record in latest.values() {
            self.replay_one(record)?;
        }
        // At once: both files may be taken, and the first put needs a free one.
        if last > committed {
            let totals = self.write_generation(last)?;
            self.bytes.store(totals.bytes, Ordering::SeqCst);
            self.counters.blobs.store(totals.blobs, Ordering::Relaxed);
        }
        self.log.restart(last);
        Ok(())
    }

    fn replay_one(&self, record: &Record) -> Result<(), CasError> {
        let digest = record.key.digest(record.size_bytes);
        let failed = |errno| CasError::io(format!("look at blob {digest}"), errno);
        let row = self.index.get(&record.key)?;
        let stat = self.places.stat(&digest).map_err(failed)?;
        let is_whole = stat.as_ref().is_some_and(|stat| looks_like(stat, &digest));
        let is_this_boot = record.boot == self.tuning.boot && record.boot != [0; 8];
        let mut live =
            Live::of(&row.unwrap_or(Row { size_bytes: record.size_bytes, used: 0, is_suspect: false }));
        if record.event == Event::Put && is_whole {
            live.state = State::Recent;
            live.size_bytes = record.size_bytes;
            live.used = self.clock.now();
            live.is_suspect = !is_this_boot;
        } else {
            live.state = State::Gone;
            if stat.is_some() {
                self.places.unlink(&digest).map_err(failed)?;
            }
        }
        self.changed(&mut live);
        live.born = live.version;
        self.shard(&record.key).insert(record.key, live);
        Ok(())
    }

    /// The empty blob is always there, and nothing evicts it.
    fn materialize_empty(self: &Arc<Self>, function: DigestFunction) -> Result<(), CasError> {
        let digest = Digest::empty(function);
        let draft = self.places.draft()?;
        self.publish(&digest, |objects, path| draft.place(objects, path))?;
        self.pin_forever(&digest)
    }
}
