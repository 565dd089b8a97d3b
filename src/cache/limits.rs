//! Bounds of the action cache, each with its reason.
//!
//! Invariant: nothing here grows with what a client or an action wrote beyond one of these.

use std::time::Duration;

/// Largest encoded result: the size of message that clients of REAPI take without being told otherwise.
pub const ENCODED_BYTES_MAX: usize = 4 << 20;

/// Most blobs that one result may need: far above the 100,000 files of the largest real tree artifacts, and 10 MiB on
/// disk. What needs more is not cached.
pub const REFERENCES_MAX: usize = 1 << 18;

/// Largest Tree or Directory that is read for its references: as many nodes as [`REFERENCES_MAX`] allows, with names
/// of the longest usual length.
pub const TREE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of Trees and Directories that are read for one result: few Trees of full size, or many small ones.
pub const WALK_BYTES_MAX: u64 = 256 << 20;

/// Bytes of changes that wait to be written. At a kilobyte a result that is a minute of the fastest builder, and the
/// writer takes them within a second; beyond it a new entry lives in memory only.
pub const WAITING_BYTES_MAX: u64 = 64 << 20;

/// Bytes of waiting changes at which the writer begins at once, so that they stay far below [`WAITING_BYTES_MAX`].
pub const FLUSH_BYTES: u64 = 4 << 20;

/// How long a change waits for others that can share its commit: a commit waits for the disk, and a kill loses no
/// more than this.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// What an entry costs in memory beyond its bytes: keys in two maps and allocations.
pub const ENTRY_OVERHEAD_BYTES: u64 = 400;

/// Pages of the file that are kept in memory; the entries themselves are kept by the hot map.
pub const PAGE_CACHE_BYTES: usize = 8 << 20;

/// A use is written only when this part of the possible entries were used since the last one that was: the order of
/// eviction is that exact, and a build of hits writes next to nothing.
pub const USE_RESOLUTION: u64 = 64;

/// Openings that may be lost, one after another, before the file is taken for the reason: a person who is impatient
/// with a repair kills it once or twice.
pub const OPENINGS_MAX: u64 = 3;
