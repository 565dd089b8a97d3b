//! Bounds on walks over trees that somebody else shaped, each with its reason.
//!
//! Invariant: no walk of this crate recurses, and none holds more descriptors or names than these allow.

/// Descriptors that one walk keeps open; deeper levels are closed and found again through `..`.
pub const WALK_DESCRIPTORS_MAX: usize = 64;

/// Names of one directory held at once by a removal, which lists again after each batch.
pub const REMOVE_BATCH: usize = 4096;

/// Tries at a name that nobody else uses, before giving up.
pub const NAME_TRIES_MAX: u32 = 1000;

/// Bytes of one path that an error shows; a hostile tree can have paths of a megabyte.
pub const SHOWN_BYTES_MAX: usize = 512;

/// Largest extended attribute list that is read: the kernel's XATTR_LIST_MAX.
pub const XATTR_LIST_BYTES_MAX: usize = 65_536;

/// Layers of dead processes that one sweep removes; the next start goes on.
pub const SWEEP_MAX: usize = 10_000;

/// How large a tree may be before a walk refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Levels of directories below the start. A real source tree has tens; a chain of thousands is an attack
    /// or a test, and costs time in the square of its depth in the kernel's path functions of whoever reads
    /// it next.
    pub depth_max: usize,
    /// Files, directories and symlinks.
    pub entries_max: u64,
    /// Bytes that may be copied; holes do not count.
    pub copy_bytes_max: u64,
}

impl TreeLimits {
    /// For inputs and outputs: far above any real build action.
    pub const DEFAULT: Self = Self { depth_max: 8192, entries_max: 4_000_000, copy_bytes_max: 256 << 30 };
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Levels of directories of an input root that is made from a tree: each has a descriptor open while what is below it
/// is walked. Real trees have tens.
pub const MERKLE_DEPTH_MAX: usize = 256;
