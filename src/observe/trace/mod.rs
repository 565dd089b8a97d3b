//! The trace: Chrome's format, which Perfetto reads, written while things happen.
//!
//! ```text
//!   [                                                    rows: slots, workers, the cluster for each slot, sandboxes
//!   {"ph":"M", …}     the name of a row
//!   ,{"ph":"X", …}    a span: an action (category `action`), a phase of it, a branch of a race, a request of a worker
//!   ,{"ph":"b", …} ,{"ph":"e", …}                        an action that waits for a slot
//!   ,{"ph":"i", …} ,{"ph":"C", …}                        a moment; levels
//!   ]                 not there if the program was killed: the format allows that
//! ```
//! Invariants: whoever tells never waits for the disk; memory is bounded, and what does not fit is counted; every
//! record that reached the disk can be read whatever became of the program; without a trace, a record costs a load.
//! Limits: the file ends at [`limits::TRACE_BYTES_MAX`](super::limits::TRACE_BYTES_MAX).

mod write;

use super::limits::TRACE_QUEUE_MAX;
use super::metrics;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{PoisonError, RwLock};
use std::thread::JoinHandle;

/// Rows of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// What slots do.
    Slots = 1,
    /// What persistent workers do.
    Workers = 2,
    /// What the cluster does, for each slot.
    Remote = 3,
    /// What waits for a slot.
    Queue = 4,
    /// What sandboxes do when nobody waits.
    Sandboxes = 5,
    /// The machine.
    Machine = 6,
}

impl Group {
    /// As it is shown.
    fn title(self) -> &'static str {
        match self {
            Group::Slots => "slots",
            Group::Workers => "workers",
            Group::Remote => "remote",
            Group::Queue => "queue",
            Group::Sandboxes => "sandboxes",
            Group::Machine => "machine",
        }
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Among which.
    pub group: Group,
    /// Its number there.
    pub number: u64,
    /// Its name.
    pub title: String,
}

/// What is written. Times are in microseconds since 1970.
#[derive(Clone, Debug)]
pub enum Record {
    /// From then until then.
    Span {
        /// Where.
        row: Row,
        /// What.
        name: String,
        /// Of which kind.
        category: &'static str,
        /// From when.
        from_us: u64,
        /// Until when.
        until_us: u64,
        /// More of it: an object, or nothing.
        args: Value,
    },
    /// An action waited for a slot.
    Waiting {
        /// What.
        name: String,
        /// From when.
        from_us: u64,
        /// Until when.
        until_us: u64,
    },
    /// At one moment.
    Moment {
        /// Where.
        row: Row,
        /// What.
        name: String,
        /// When.
        at_us: u64,
        /// More of it.
        args: Value,
    },
    /// How much there is of something.
    Level {
        /// Among which.
        group: Group,
        /// Of what.
        name: String,
        /// When.
        at_us: u64,
        /// How much, by name.
        levels: Vec<(&'static str, u64)>,
    },
}

static ON: AtomicBool = AtomicBool::new(false);
static SENDER: RwLock<Option<SyncSender<Record>>> = RwLock::new(None);

/// Whether a trace is written.
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Writes a record, if a trace is written.
pub fn record(make: impl FnOnce() -> Record) {
    if !is_on() {
        return;
    }
    let sender = SENDER.read().unwrap_or_else(PoisonError::into_inner);
    let Some(sender) = &*sender else { return };
    match sender.try_send(make()) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => metrics().trace_missed.count(),
        Err(TrySendError::Disconnected(_)) => ON.store(false, Ordering::Relaxed),
    }
}

/// The trace of this process.
#[derive(Debug)]
#[must_use = "a trace is whole when it is finished"]
pub struct Trace {
    thread: JoinHandle<std::io::Result<()>>,
}

/// Starts the trace of this process in a new file, or one that is overwritten. There is one at a time.
///
/// # Errors
/// When the file cannot be made, or no thread be started.
pub fn begin(path: &Path) -> std::io::Result<Trace> {
    begin_at(path, super::clock::now_us())
}

/// The same, of what has begun before.
///
/// # Errors
/// As [`begin`].
pub fn begin_at(path: &Path, began_us: u64) -> std::io::Result<Trace> {
    let file = std::fs::File::create(path)?;
    let (sender, records) = sync_channel(TRACE_QUEUE_MAX);
    let mut writer = write::Writer::new(file, began_us)?;
    let thread = std::thread::Builder::new()
        .name("fulgurite-trace".to_owned())
        .spawn(move || writer.follow(&records))?;
    *SENDER.write().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    ON.store(true, Ordering::Relaxed);
    Ok(Trace { thread })
}

impl Trace {
    /// Writes what is left, and the end. Blocks.
    ///
    /// # Errors
    /// What went wrong with the disk, whenever that was: the trace ends there.
    pub fn finish(self) -> std::io::Result<()> {
        ON.store(false, Ordering::Relaxed);
        *SENDER.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.thread
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread that writes it has panicked")))
    }
}
