//! Bounds on input roots and on what is kept of them, each with its reason.

/// What an input root may be. Counted by digest before anything is expanded: a tree of 2^40 paths by sharing is as
/// small as its forty messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootLimits {
    /// Paths: files, directories and symlinks. Images and lists grow with them, 200 bytes each.
    pub paths_max: u64,
    /// Bytes of all paths together, which a listing of the tree would have.
    pub path_bytes_max: u64,
    /// Bytes of the longest path. The kernel takes no longer one in a system call (PATH_MAX), the mount point counted.
    pub path_length_max: u64,
    /// Levels of directories. Deeper than any real tree; a walk with open descriptors must get along.
    pub depth_max: u64,
    /// Bytes of one encoded Directory: 500,000 files with names of 64 bytes.
    pub directory_bytes_max: u64,
    /// Bytes of all encoded directories together, each counted once.
    pub directories_bytes_max: u64,
}

impl RootLimits {
    /// Far above any real build action: the Linux kernel's sources have 90,000 paths.
    pub const DEFAULT: Self = Self {
        paths_max: 1_000_000,
        path_bytes_max: 512 << 20,
        path_length_max: 4089,
        depth_max: 1024,
        directory_bytes_max: 64 << 20,
        directories_bytes_max: 256 << 20,
    };
}

impl Default for RootLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Roots that stay staged although nobody uses them. Each holds a descriptor and a mount; a build has a few hundred
/// roots that come again.
pub const WARM_ROOTS_MAX: usize = 256;

/// Paths of all warm roots together, by which memory (300 bytes a path) and images are bounded.
pub const WARM_PATHS_MAX: u64 = 2_000_000;

/// Blobs that warm roots keep from eviction.
pub const WARM_PINS_MAX: u64 = 1_000_000;

/// Warm roots keep no more than this part of the store from eviction. Were it more, what clients upload for their next
/// actions could be evicted before it is staged, each time anew.
pub const WARM_STORE_PART: u64 = 4;

/// Roots that were put out and are not taken apart yet; with more, who stages a new one does it for one of them first.
pub const RETIRED_MAX: usize = 64;

/// Bytes of the files that trees of the directory cache are linked from.
pub const TREE_FILES_BYTES_MAX: u64 = 8 << 30;

/// Paths of a root, its top not counted, up to which each action gets marks of its own in place of an image: a mark
/// costs some 15 µs, an image with its superblock and its two mounts as much as eight of them.
pub const MARKED_PATHS_MAX: u64 = 8;

/// Bytes of all files of so small a root together up to which an action gets files of its own, with no overlay over
/// them: copying that much costs 10 µs, an overlay and its end 150.
pub const PLAIN_BYTES_MAX: u64 = 64 << 10;

/// Paths of a root from which on it is staged with a low priority: some 300 µs of work.
pub const POLITE_PATHS_MIN: u64 = 256;

/// The same of a root whose top is known by its size alone: a Directory of some 200 files.
pub const POLITE_BYTES_MIN: u64 = 16 << 10;
