//! An input root as a list of paths, and how each of them looks.
//!
//! ```text
//!   file        0644, 0755 if executable, or its own unix_mode     2000-01-01T00:00:00Z, or its own mtime
//!   directory   0755, or its own unix_mode | 0700                  the same
//!   symlink     0777                                               the same
//! ```
//! All three ways of staging show exactly this, so that no action can tell them apart. Inputs are writable for the
//! action as they would be in a source tree (its writes go to its layer); times are fixed, since a tree that is named
//! by its content has none, and not 1970, which zip and make take for no time at all.
//!
//! Invariants: the root comes first, each directory before its children, children side by side and sorted by bytes.

use super::closure::Closure;
use crate::action::{Digest, Directory, FileNode, NodeProperties, SymlinkNode, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;

/// What is said of times that nobody gave: 2000-01-01T00:00:00Z.
pub const MTIME: Timestamp = Timestamp { seconds: 946_684_800, nanos: 0 };

/// The last second that all of EROFS, ext4, XFS and tmpfs can store (ext4's, in the year 2446).
const SECONDS_MAX: i64 = 0x3_7fff_ffff;

/// One path.
#[derive(Clone, Copy, Debug)]
pub struct PathNode<'a> {
    /// Its last segment; empty for the root.
    pub name: &'a str,
    /// The directory that holds it, by its place in the list.
    pub parent: u32,
    /// What it is.
    pub what: What<'a>,
}

/// What a path is.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A directory, the place of its first child, and how many there are.
    Directory(&'a Directory, u32, u32),
    /// A regular file.
    File(&'a FileNode),
    /// A symlink.
    Symlink(&'a SymlinkNode),
}

impl PathNode<'_> {
    fn properties(&self) -> &NodeProperties {
        match self.what {
            What::Directory(directory, ..) => &directory.properties,
            What::File(file) => &file.properties,
            What::Symlink(link) => &link.properties,
        }
    }

    /// Its permission bits.
    #[must_use]
    pub fn mode(&self) -> u16 {
        match self.what {
            What::Directory(directory, ..) => directory_mode(directory),
            What::File(file) => {
                own_mode(&file.properties).unwrap_or(0o644) | if file.executable { 0o111 } else { 0 }
            }
            What::Symlink(_) => 0o777,
        }
    }

    /// Its time of last modification, as near as every filesystem can store it.
    #[must_use]
    pub fn mtime(&self) -> Timestamp {
        stored(self.properties())
    }
}

/// The permission bits of a directory: we must be able to enter it, whatever a client says.
#[must_use]
pub fn directory_mode(directory: &Directory) -> u16 {
    own_mode(&directory.properties).unwrap_or(0o755) | 0o700
}

/// The time of last modification of a directory.
#[must_use]
pub fn mtime(directory: &Directory) -> Timestamp {
    stored(&directory.properties)
}

fn own_mode(properties: &NodeProperties) -> Option<u16> {
    properties.unix_mode.map(|mode| (mode & 0o777) as u16)
}

fn stored(properties: &NodeProperties) -> Timestamp {
    let mtime = properties.mtime.unwrap_or(MTIME);
    match mtime.seconds {
        ..0 => Timestamp { seconds: 0, nanos: 0 },
        0..=SECONDS_MAX => mtime,
        _ => Timestamp { seconds: SECONDS_MAX, nanos: 0 },
    }
}

/// All paths of a closure. The closure was counted before: this makes no more than it allows.
#[must_use]
pub fn expand(closure: &Closure) -> Vec<PathNode<'_>> {
    let count = usize::try_from(closure.size.paths()).unwrap_or(0);
    let mut paths = Vec::with_capacity(count + 1);
    let Some(root) = closure.directories.get(&closure.root) else { return paths };
    paths.push(PathNode { name: "", parent: 0, what: What::Directory(root, 0, 0) });
    let mut at = 0;
    while let Some(node) = paths.get(at).copied() {
        if let What::Directory(directory, ..) = node.what {
            let first = paths.len();
            children(&closure.directories, directory, at, &mut paths);
            let added = &mut paths[first..];
            added.sort_unstable_by_key(|child| child.name);
            let count = u32::try_from(added.len()).unwrap_or(0);
            paths[at].what = What::Directory(directory, u32::try_from(first).unwrap_or(0), count);
        }
        at += 1;
    }
    paths
}

/// The bytes of the files at all paths together. For closures of few paths.
#[must_use]
pub fn file_bytes(closure: &Closure) -> u64 {
    let of = |node: &PathNode<'_>| match node.what {
        What::File(file) => file.digest.size_bytes,
        What::Directory(..) | What::Symlink(_) => 0,
    };
    expand(closure).iter().map(of).fold(0, u64::saturating_add)
}

fn children<'a>(
    directories: &'a HashMap<Digest, Arc<Directory>>,
    directory: &'a Directory,
    at: usize,
    to: &mut Vec<PathNode<'a>>,
) {
    let parent = u32::try_from(at).unwrap_or(0);
    to.extend(directory.files.iter().map(|file| PathNode {
        name: &file.name,
        parent,
        what: What::File(file),
    }));
    to.extend(directory.symlinks.iter().map(|link| PathNode {
        name: &link.name,
        parent,
        what: What::Symlink(link),
    }));
    to.extend(directory.directories.iter().filter_map(|child| {
        let found = directories.get(&child.digest)?;
        Some(PathNode { name: &child.name, parent, what: What::Directory(found, 0, 0) })
    }));
}
