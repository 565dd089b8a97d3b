//! The journal: one directory per place of layers, one slot (a small file) per publication that is under way.
//!
//! ```text
//!   <place>/journal/slot-<tag>       locked (flock) by the process that uses it
//!
//!   take ──► write record, `prepared` ──► `intent` ──► renames ──► `done` ──► free, for the next publication
//!            power: fsync                 fsync                    fsync of directories first
//! ```
//! Slots are used again, so that a publication costs three writes to an open file, and no creation or removal.
//!
//! Invariants: a slot that nobody has locked belongs to a dead process, or to a publication that was dropped between
//! its claim and its end; [`super::recover`] takes it. Whoever creates a slot makes sure after locking it that it was
//! not removed meanwhile.
//!
//! Limits: with [`Durability::Process`] nothing is synced: the journal then serves a death of the process, and not of
//! the machine.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::limits::{NAME_TRIES_MAX, SLOT_BYTES_KEPT, SLOTS_FREE_MAX};
use super::record::{self, Phase, Record};
use crate::failpoint::hit;
use crate::stage::{Fault, beneath};

/// The directory's name in its place.
pub(super) const DIRECTORY: &std::ffi::CStr = c"journal";
/// What names of slots begin with.
pub(super) const SLOT_PREFIX: &str = "slot-";

/// What published outputs survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process at any instruction.
    #[default]
    Process,
    /// That, and the loss of power: data, journal and directories are synced.
    Power,
}

/// Where publications write down what they are about to do. Clones are the same journal.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    home: OwnedFd,
    durability: Durability,
    free: Mutex<Vec<SlotFile>>,
    /// Tags are numbered from a random start.
    next_tag: AtomicU64,
}

#[derive(Debug)]
struct SlotFile {
    file: OwnedFd,
    name: CString,
    /// Of the last record.
    length: usize,
}

/// A slot for one publication.
#[derive(Debug)]
pub(super) struct Slot {
    shared: Arc<Shared>,
    slot: Option<SlotFile>,
    /// Distinguishes this publication from all others.
    pub tag: u64,
    amendments: usize,
}

impl Journal {
    /// The journal in `home`, which is the place that holds the layers ([`crate::stage::Layer::place`]): private, and
    /// on a filesystem that stays. Nothing is created before the first publication.
    ///
    /// # Errors
    /// [`Fault`]: no random numbers, no descriptor.
    pub fn open(home: BorrowedFd<'_>, durability: Durability) -> Result<Self, Fault> {
        let fault = |why| Fault::new("open", "the journal", why);
        let home = home.try_clone_to_owned();
        let home = home.map_err(|error| fault(Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(fault)?;
        let next_tag = AtomicU64::new(u64::from_le_bytes(random));
        let shared = Shared { home, durability, free: Mutex::new(Vec::new()), next_tag };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Removes what is left of it, once nobody else publishes. What is merely dropped is removed by the next recovery.
    pub fn close(self) {
        let Some(shared) = Arc::into_inner(self.shared) else { return };
        let Ok(dir) = beneath::open_dir(shared.home.as_fd(), DIRECTORY) else { return };
        for slot in shared.free.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = rustix::fs::unlinkat(&dir, &slot.name, AtFlags::empty());
        }
        // Stays if anybody uses it.
        let _ = rustix::fs::unlinkat(&shared.home, DIRECTORY, AtFlags::REMOVEDIR);
    }

    /// What its publications survive.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// A slot that nobody else has.
    pub(super) fn take(&self) -> Result<Slot, Fault> {
        let shared = self.shared.clone();
        let tag = shared.next_tag.fetch_add(1, Ordering::Relaxed);
        let free = shared.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = match free {
            Some(slot) => slot,
            None => shared.create(tag).map_err(Fault::of("create a slot in", "the journal"))?,
        };
        Ok(Slot { shared, slot: Some(slot), tag, amendments: 0 })
    }
}

impl Shared {
    fn create(&self, tag: u64) -> Result<SlotFile, Errno> {
        for attempt in 0..NAME_TRIES_MAX {
            let dir = match rustix::fs::mkdirat(&self.home, DIRECTORY, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => beneath::open_dir(self.home.as_fd(), DIRECTORY),
                Err(why) => return Err(why),
            };
            // Another process may remove an empty journal at any time, and a slot that it finds before it is locked.
            let dir = match dir {
                Err(Errno::NOENT) => continue,
                dir => dir?,
            };
            let name =
                CString::new(format!("{SLOT_PREFIX}{tag:016x}-{attempt}")).map_err(|_| Errno::INVAL)?;
            let file = match beneath::create_file(dir.as_fd(), &name) {
                Err(Errno::EXIST | Errno::NOENT) => continue,
                file => file?,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => continue,
                answer => answer?,
            }
            if rustix::fs::fstat(&file)?.st_nlink == 0 {
                continue;
            }
            if let Err(why) = self.sync_names(&dir) {
                // Nobody knows of it, and nothing is left of it.
                let _ = rustix::fs::unlinkat(&dir, &name, AtFlags::empty());
                let _ = rustix::fs::unlinkat(&self.home, DIRECTORY, AtFlags::REMOVEDIR);
                return Err(why);
            }
            return Ok(SlotFile { file, name, length: 0 });
        }
        Err(Errno::EXIST)
    }

    fn sync_names(&self, dir: &OwnedFd) -> Result<(), Errno> {
        if self.durability == Durability::Power {
            hit("commit.sync")?;
            rustix::fs::fsync(dir)?;
            rustix::fs::fsync(&self.home)?;
        }
        Ok(())
    }

    fn sync(&self, file: &OwnedFd) -> Result<(), Errno> {
        match self.durability {
            Durability::Process => Ok(()),
            Durability::Power => {
                hit("commit.sync")?;
                rustix::fs::fdatasync(file)
            }
        }
    }
}

impl Slot {
    /// Whether data and directories are to be synced too.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn slot(&mut self) -> Result<&mut SlotFile, Errno> {
        self.slot.as_mut().ok_or(Errno::BADF)
    }

    /// Writes the record, in phase `prepared`. May be called again, as long as that is the phase.
    pub fn prepare(&mut self, record: &Record) -> Result<(), Errno> {
        hit("commit.record")?;
        self.write(record, Phase::Prepared)
    }

    /// Writes the record of a command in place.
    pub fn announce(&mut self, record: &Record) -> Result<(), Errno> {
        hit("commit.announce")?;
        self.write(record, Phase::InPlace)
    }

    /// The slot, for its times.
    pub fn file(&self) -> Option<&OwnedFd> {
        self.slot.as_ref().map(|slot| &slot.file)
    }

    fn write(&mut self, record: &Record, phase: Phase) -> Result<(), Errno> {
        let bytes = record::encode(record, phase).map_err(|_| Errno::FBIG)?;
        let slot = self.slot()?;
        write_all(&slot.file, &bytes, 0)?;
        slot.length = bytes.len();
        hit("commit.recorded")?;
        let slot = self.slot.as_ref().ok_or(Errno::BADF)?;
        self.shared.sync(&slot.file)
    }

    /// From here on, the publication is finished by whoever comes.
    pub fn intend(&mut self) -> Result<(), Errno> {
        hit("commit.intent")?;
        self.enter(Phase::Intent)?;
        hit("commit.intended")
    }

    /// Output `index` comes from its temporary name, as `inode`.
    pub fn amend(&mut self, index: usize, inode: u64) -> Result<(), Errno> {
        let bytes = record::amendment(self.tag, index as u64, inode);
        let before = self.amendments * bytes.len();
        let slot = self.slot()?;
        write_all(&slot.file, &bytes, (slot.length + before) as u64)?;
        self.amendments += 1;
        let slot = self.slot.as_ref().ok_or(Errno::BADF)?;
        self.shared.sync(&slot.file)
    }

    /// Nothing is left to do; the slot becomes free.
    pub fn finish(mut self) -> Result<(), Errno> {
        hit("commit.done")?;
        self.enter(Phase::Done)?;
        hit("commit.finished")?;
        let Some(slot) = self.slot.take() else { return Ok(()) };
        if slot.length > SLOT_BYTES_KEPT {
            rustix::fs::ftruncate(&slot.file, 0)?;
        }
        let mut free = self.shared.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < SLOTS_FREE_MAX {
            free.push(slot);
            return Ok(());
        }
        drop(free);
        let dir = beneath::open_dir(self.shared.home.as_fd(), DIRECTORY)?;
        rustix::fs::unlinkat(&dir, &slot.name, AtFlags::empty())
    }

    fn enter(&mut self, phase: Phase) -> Result<(), Errno> {
        write_all(&self.slot()?.file, &phase.bytes(), 0)?;
        let slot = self.slot.as_ref().ok_or(Errno::BADF)?;
        self.shared.sync(&slot.file)
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                at += count as u64;
                bytes = &bytes[count..];
            }
            Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// Opens a slot as a recovery does.
pub(super) fn open_slot(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}
