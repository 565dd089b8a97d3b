//! Bounds on what is reported about outputs. The bounds on trees are `stage::limits`.

use std::time::Duration;

/// Undeclared paths that are listed: enough to see what an action does, not to store it.
pub const UNDECLARED_SHOWN_MAX: usize = 1000;

/// Missing outputs that an error message names; the error value holds all of them.
pub const MISSING_SHOWN_MAX: usize = 20;

/// How much one action may hand off before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoffLimits {
    /// Files, directories and symlinks. Each is held in memory with its name until the messages are written: a
    /// million is some 200 MB, and an hour's worth of any real action.
    pub entries_max: u64,
    /// Levels of directories below an output: see [`crate::stage::limits::TreeLimits`].
    pub depth_max: usize,
    /// Apparent bytes of all files. A sparse file costs the action nothing, and hashing it costs us its whole size:
    /// 64 GiB are a minute of SHA-256.
    pub bytes_max: u64,
    /// Bytes of all encoded directories, and of all Trees together: what a client may have to read in one piece, and
    /// what we hold in memory. A million entries take some 100 MB.
    pub message_bytes_max: u64,
}

impl HandoffLimits {
    /// Far above any real build action.
    pub const DEFAULT: Self =
        Self { entries_max: 1_000_000, depth_max: 8192, bytes_max: 64 << 30, message_bytes_max: 128 << 20 };
}

impl Default for HandoffLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Threads of one process that hash outputs beside the callers of `hand_off`: hashing is bound by the cores, and a
/// machine with many of them is bound by memory and disk before these are busy.
pub const HASHING_THREADS_MAX: usize = 16;

/// Files on their way to the hashing threads of one handoff; each holds two descriptors.
pub const HASHING_QUEUE: usize = 32;

/// Work that is done before another thread is asked for, in bytes: a thread takes 14 µs to start and join on an idle
/// machine (p95 24), in which SHA-256 with its instructions does 25 to 40 KiB; below some multiple of that, two threads
/// are not faster than one.
pub const HASHED_ALONE_BYTES: u64 = 128 << 10;

/// What a file counts beside its bytes: opening, sealing and renaming it takes 12 µs, in which 16 to 20 KiB are hashed.
pub const FILE_COST_BYTES: u64 = 16 << 10;

/// Symlinks followed to learn whether an output symlink leads to a directory: the kernel's own bound.
pub const SYMLINKS_MAX: usize = 40;

/// Bytes of a stream that are kept: what a person may want to read, and a client to download.
pub const SPOOL_BYTES_MAX: u64 = 64 << 20;

/// A stream may take this many times what is kept of it before its action is killed, 4 GiB as a rule: nobody prints so
/// much on purpose, and a disk of usual size has that much room.
pub const SPOOL_DISK_FACTOR: u64 = 64;

/// How often that is looked at while actions run: in the time between, the fastest disk takes as much as that again.
pub const SPOOL_LOOK_EVERY: Duration = Duration::from_millis(250);

/// Empty spools kept for the next actions: two for each of as many actions as a large host runs at once. Each costs a
/// descriptor.
pub const SPOOLS_KEPT_MAX: usize = 256;
