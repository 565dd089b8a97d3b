//! Input roots and output trees: directories named by digests.
//!
//! ```text
//!   Directory ── files:       name → digest, executable
//!             ├─ directories: name → digest of another Directory
//!             └─ symlinks:    name → target
//! ```
//! Invariants of a [`Directory`] that came through [`super::decode`]: every name is one path segment (no `/`, NUL,
//! `.`, `..`, at most 255 bytes), names are unique over all three lists, and each list is sorted by bytes.
//! Limits: a directory knows the digests of its children, not the children; who walks them counts them against a
//! budget.

use super::digest::Digest;

/// A moment, as node properties have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second: 0 to 999,999,999.
    pub nanos: u32,
}

/// The property of a file that marks it as a worker's own.
pub const TOOL_INPUT: &str = "bazel_tool_input";

/// What a client says of a node beyond its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeProperties {
    /// Name and value pairs, sorted by name.
    pub properties: Vec<(String, String)>,
    /// Time of last modification.
    pub mtime: Option<Timestamp>,
    /// Permission bits, at most 0o7777.
    pub unix_mode: Option<u32>,
}

impl NodeProperties {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == NodeProperties::default()
    }
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// One path segment.
    pub name: String,
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub executable: bool,
    /// What else is said of it.
    pub properties: NodeProperties,
}

/// A directory below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryNode {
    /// One path segment.
    pub name: String,
    /// The digest of its encoded [`Directory`].
    pub digest: Digest,
}

/// A symlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymlinkNode {
    /// One path segment.
    pub name: String,
    /// What it says; never followed by us.
    pub target: String,
    /// What else is said of it.
    pub properties: NodeProperties,
}

/// One directory of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Its files, sorted by name.
    pub files: Vec<FileNode>,
    /// Its directories, sorted by name.
    pub directories: Vec<DirectoryNode>,
    /// Its symlinks, sorted by name.
    pub symlinks: Vec<SymlinkNode>,
    /// What is said of the directory itself.
    pub properties: NodeProperties,
}
