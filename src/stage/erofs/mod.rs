//! EROFS images without contents: the names, modes, times and symlinks of an input root, and for each file where in the
//! store its bytes are.
//!
//! ```text
//!   0      1024        1152             1184
//!   │ zero │ superblock │ shared xattr   │ root inode │ inode │ inode … │ pad │ directory and symlink blocks │
//!                        (metacopy)       └ 64 bytes, xattrs, then a chunk (files) or the tail (directories, links)
//!   file inode:  trusted.overlay.metacopy = ""   trusted.overlay.redirect = "/sha256/ab/abcd…"   one chunk, a hole
//! ```
//! Source: `fs/erofs/erofs_fs.h`, Documentation/filesystems/erofs.rst and overlayfs.rst ("Data-only lower layers") of
//! Linux 6.18. Invariants: an inode and its tail lie in one block, entries of a directory are sorted by bytes with `.`
//! and `..` among them, each path has an inode of its own with one link. Limits: blocks of 4 KiB, no compression, no
//! contents, owner 0; feature bits that Linux 5.15 has.

mod layout;
#[cfg(test)]
mod tests;
mod write;

pub use write::write;

use crate::action::Timestamp;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// The largest file that one chunk can stand for.
pub const FILE_BYTES_MAX: u64 = 1 << 43;

/// One path of the image. A list of them has the root first, each directory before its children, and the children of
/// each directory one after the other, sorted by name.
#[derive(Clone, Debug)]
pub struct Inode<'a> {
    /// Its last segment; empty for the root.
    pub name: &'a [u8],
    /// The directory that it is in, by its place in the list; the root is its own.
    pub parent: u32,
    /// Permission bits.
    pub mode: u16,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// What it is.
    pub kind: Kind<'a>,
}

/// What a path is.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// A directory, with the place of its first child and how many there are.
    Directory {
        /// The first child's place in the list.
        first: u32,
        /// How many there are.
        count: u32,
    },
    /// A symlink.
    Symlink {
        /// What it says.
        target: &'a [u8],
    },
    /// A regular file.
    File {
        /// Its size, at most [`FILE_BYTES_MAX`].
        size_bytes: u64,
        /// Where its bytes are below the data layer, without a leading slash; `None` if there are none.
        object: Option<String>,
    },
}
