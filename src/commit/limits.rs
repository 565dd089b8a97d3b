//! Bounds on publishing.

use std::time::Duration;

/// Destination directories that are kept open; others are opened again and compared. Far below any usual
/// limit of open files, and above the number of directories that most actions write to.
pub const DIRECTORIES_OPEN_MAX: usize = 256;

/// Names tried for a slot of the journal before giving up.
pub const NAME_TRIES_MAX: u32 = 1000;

/// Bytes of one record. The longest path and its numbers are some 4 KiB, so that 16,000 outputs of the worst kind fit,
/// and half a million usual ones.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// Outputs that changed their way while being published, as one record may list them.
pub const AMENDMENTS_MAX: usize = 1 << 20;

/// Bytes of an action's id in a record: digests and names of targets fit.
pub const ACTION_BYTES_MAX: usize = 256;

/// Slots that are kept for the next publication; as many publish at a time on the largest machines.
pub const SLOTS_FREE_MAX: usize = 256;

/// A slot longer than this is cut when it becomes free.
pub const SLOT_BYTES_KEPT: usize = 1 << 20;

/// Slots that one recovery looks at. More than that were left by no process that respects the bounds above.
pub const RECOVER_MAX: usize = 100_000;

/// Names that are listed at a time when a directory is cleared.
pub const CLEAR_BATCH: usize = 1024;

/// Names below one output that are looked at to tell whether a command in place has touched it: as many as a large
/// output directory has. One with more does not run in place.
pub const STAMP_ENTRIES_MAX: usize = 1 << 20;

/// What changes so long after the last sign of life of a command's process was changed by somebody else: beats come
/// each second, and killed processes end within seconds.
pub const BEAT_GRACE: Duration = Duration::from_secs(10);

/// How long a recovery waits for the end of a command whose process has died: it was killed then, and has to get a
/// processor to end.
pub const END_PATIENCE: Duration = Duration::from_secs(10);
