//! Where everything in an image goes: decided before a byte is written.
//!
//! Sizes do not depend on places, so that one pass over the list gives every inode its offset, and with it its number
//! (offset / 32), before directories are written that name these numbers.

use super::{BLOCK, Inode, Kind};
use std::ops::Range;

/// Where the superblock stands.
pub const SUPERBLOCK_AT: u64 = 1024;
/// Bytes of the superblock.
pub const SUPERBLOCK_BYTES: u64 = 128;
/// Where the one shared xattr stands; a multiple of 4.
pub const SHARED_AT: u64 = SUPERBLOCK_AT + SUPERBLOCK_BYTES;
/// Where inodes begin.
const INODES_AT: u64 = SHARED_AT + 32;
/// Bytes of an extended inode.
pub const INODE_BYTES: u64 = 64;
/// Inodes begin at multiples of this.
pub const SLOT: u64 = 32;
/// Bytes of an entry of a directory, without its name.
pub const ENTRY_BYTES: usize = 12;
/// The most that is kept beside an inode instead of in a block: beyond it, keeping both in one block wastes more.
const TAIL_BYTES_MAX: u64 = 2048;
/// `overlay.redirect`, the name after the prefix.
pub const REDIRECT: &[u8] = b"overlay.redirect";
/// Bytes of the header of an inode's xattrs.
const XATTR_HEADER_BYTES: usize = 12;
/// Bytes of the header of one xattr.
pub const XATTR_ENTRY_BYTES: usize = 4;

/// Where one inode and its data go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Of the inode, in bytes.
    pub offset: u64,
    /// Bytes of its xattrs.
    pub xattr_bytes: u16,
    /// The first of its blocks.
    pub block: u32,
    /// How many blocks it has.
    pub blocks: u32,
    /// What is kept beside it.
    pub tail_bytes: u16,
    /// Bytes of the directory, symlink or file.
    pub size_bytes: u64,
}

/// Where everything goes.
#[derive(Debug)]
pub struct Layout {
    /// By the place in the list.
    pub places: Vec<Place>,
    /// The first block after the inodes.
    pub data_block: u32,
    /// Blocks of the whole image.
    pub blocks: u32,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name, `.` and `..` too.
    pub name: &'a [u8],
    /// The inode, by its place in the list.
    pub inode: u32,
}

impl Layout {
    /// Decides for a list of inodes; `None` if the image would be too large for its block numbers.
    #[must_use]
    pub fn of(inodes: &[Inode<'_>]) -> Option<Layout> {
        let mut at = INODES_AT;
        let mut blocks = 0_u32;
        let mut places = Vec::with_capacity(inodes.len());
        for index in 0..inodes.len() {
            let mut place = measure(inodes, index);
            let whole = INODE_BYTES + u64::from(place.xattr_bytes) + beside(&inodes[index], &place);
            if place.tail_bytes > 0 && at % BLOCK + whole > BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            place.offset = at;
            place.block = blocks;
            blocks = blocks.checked_add(place.blocks)?;
            at = (at + whole).next_multiple_of(SLOT);
            places.push(place);
        }
        let data_block = u32::try_from(at.div_ceil(BLOCK)).ok()?;
        let end = data_block.checked_add(blocks)?;
        for place in &mut places {
            place.block += data_block;
        }
        Some(Layout { places, data_block, blocks: end })
    }

    /// The number of an inode.
    #[must_use]
    pub fn number(&self, inode: u32) -> u64 {
        self.places[inode as usize].offset / SLOT
    }
}

/// Bytes after the xattrs: a chunk, or the tail.
fn beside(inode: &Inode<'_>, place: &Place) -> u64 {
    match inode.kind {
        Kind::File { size_bytes: 0, .. } => 0,
        Kind::File { .. } => 4,
        _ => u64::from(place.tail_bytes),
    }
}

fn measure(inodes: &[Inode<'_>], index: usize) -> Place {
    match &inodes[index].kind {
        Kind::File { size_bytes, object } => Place {
            size_bytes: *size_bytes,
            xattr_bytes: object.as_ref().map_or(0, |path| xattr_bytes(path)),
            ..Place::default()
        },
        Kind::Symlink { target } => with_tail(0, target.len() as u64),
        Kind::Directory { .. } => {
            let entries = entries(inodes, index);
            let mut split = split(&entries);
            let last = split.pop().map_or(0, |range| block_bytes(&entries[range]));
            with_tail(split.len() as u64, last as u64)
        }
    }
}

/// `full` whole blocks and then `rest` bytes, which go beside the inode if they are few.
fn with_tail(full: u64, rest: u64) -> Place {
    let is_tail = rest <= TAIL_BYTES_MAX;
    let blocks = if is_tail { full } else { full + 1 };
    Place {
        size_bytes: full * BLOCK + rest,
        blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
        tail_bytes: if is_tail { u16::try_from(rest).unwrap_or(0) } else { 0 },
        ..Place::default()
    }
}

/// The header, one shared xattr, and the redirect.
fn xattr_bytes(object: &str) -> u16 {
    let redirect = (XATTR_ENTRY_BYTES + REDIRECT.len() + 1 + object.len()).next_multiple_of(4);
    u16::try_from(XATTR_HEADER_BYTES + 4 + redirect).unwrap_or(u16::MAX)
}

/// The entries of a directory, sorted by bytes.
#[must_use]
pub fn entries<'a>(inodes: &[Inode<'a>], index: usize) -> Vec<Entry<'a>> {
    let Kind::Directory { first, count } = inodes[index].kind else { return Vec::new() };
    let own = u32::try_from(index).unwrap_or(0);
    let mut found = Vec::with_capacity(count as usize + 2);
    found.extend((first..first + count).map(|inode| Entry { name: inodes[inode as usize].name, inode }));
    for entry in [Entry { name: b".", inode: own }, Entry { name: b"..", inode: inodes[index].parent }] {
        let at = found.partition_point(|other: &Entry<'_>| other.name < entry.name);
        found.insert(at, entry);
    }
    found
}

/// The entries block by block: none lies in two.
#[must_use]
pub fn split(entries: &[Entry<'_>]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        let needed = ENTRY_BYTES + entry.name.len();
        if bytes + needed > BLOCK as usize {
            ranges.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += needed;
    }
    ranges.push(start..entries.len());
    ranges
}

/// Bytes of the entries of one block.
#[must_use]
pub fn block_bytes(entries: &[Entry<'_>]) -> usize {
    entries.iter().map(|entry| ENTRY_BYTES + entry.name.len()).sum()
}
