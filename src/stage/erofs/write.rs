//! Writes an image from first to last byte, without going back.

use super::layout::{
    ENTRY_BYTES, Entry, INODE_BYTES, Layout, Place, REDIRECT, SHARED_AT, SLOT, SUPERBLOCK_AT, entries, split,
};
use super::{BLOCK, Inode, Kind};
use std::io::{self, Write};

const MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_COMPAT_MTIME`: times are those of modification.
const COMPAT: u32 = 0x2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`
const INCOMPAT: u32 = 0x4;
/// `EROFS_XATTR_INDEX_TRUSTED`
const TRUSTED: u8 = 4;
/// `overlay.metacopy`, the name after the prefix.
const METACOPY: &[u8] = b"overlay.metacopy";
/// Data layouts of inodes, with the bit of the extended form.
const PLAIN: u16 = 1;
const INLINE: u16 = 2 << 1 | 1;
const CHUNKS: u16 = 4 << 1 | 1;
/// A chunk that is a hole.
const HOLE: u32 = u32::MAX;
const BLOCK_BITS: u32 = 12;

/// Writes the image of these inodes. Answers its size in bytes.
///
/// # Errors
/// Those of `out`; `InvalidInput` if the list is empty or the image would be too large.
pub fn write(inodes: &[Inode<'_>], out: impl Write) -> io::Result<u64> {
    let layout = Layout::of(inodes).filter(|_| !inodes.is_empty());
    let layout = layout.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut image = Image { out, at: 0 };
    image.pad_to(SUPERBLOCK_AT)?;
    image.superblock(&layout, inodes.len())?;
    image.pad_to(SHARED_AT)?;
    image.put(&[METACOPY.len() as u8, TRUSTED, 0, 0])?;
    image.put(METACOPY)?;
    let mut buffer = Vec::with_capacity(BLOCK as usize);
    for (index, (inode, place)) in inodes.iter().zip(&layout.places).enumerate() {
        image.pad_to(place.offset)?;
        buffer.clear();
        head(inode, place, index, inodes, &mut buffer);
        match &inode.kind {
            Kind::File { object, size_bytes } => {
                if let Some(object) = object {
                    xattrs(object, &mut buffer);
                }
                if *size_bytes > 0 {
                    buffer.extend_from_slice(&HOLE.to_le_bytes());
                }
            }
            Kind::Symlink { target } if place.tail_bytes > 0 => buffer.extend_from_slice(target),
            Kind::Directory { .. } if place.tail_bytes > 0 => {
                let entries = entries(inodes, index);
                if let Some(last) = split(&entries).pop() {
                    directory_block(&entries[last], inodes, &layout, &mut buffer);
                }
            }
            Kind::Symlink { .. } | Kind::Directory { .. } => {}
        }
        image.put(&buffer)?;
    }
    image.pad_to(u64::from(layout.data_block) * BLOCK)?;
    for (index, place) in layout.places.iter().enumerate().filter(|(_, place)| place.blocks > 0) {
        image.blocks(inodes, &layout, index, place, &mut buffer)?;
    }
    image.out.flush()?;
    Ok(image.at)
}

struct Image<W> {
    out: W,
    at: u64,
}

impl<W: Write> Image<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        while self.at < offset {
            let count = (offset - self.at).min(BLOCK);
            self.put(&ZEROS[..usize::try_from(count).unwrap_or(0)])?;
        }
        Ok(())
    }

    fn superblock(&mut self, layout: &Layout, inodes: usize) -> io::Result<()> {
        let root = u16::try_from(layout.number(0)).unwrap_or(0);
        self.put(&MAGIC.to_le_bytes())?;
        self.put(&[0; 4])?; // no checksum
        self.put(&COMPAT.to_le_bytes())?;
        self.put(&[BLOCK_BITS as u8, 0])?; // and no extension slots
        self.put(&root.to_le_bytes())?;
        self.put(&(inodes as u64).to_le_bytes())?;
        self.put(&[0; 12])?; // build time
        self.put(&layout.blocks.to_le_bytes())?;
        self.put(&[0; 8])?; // metadata and shared xattrs count from block 0
        self.put(&[0; 32])?; // uuid, volume name
        self.put(&INCOMPAT.to_le_bytes())
    }

    /// The blocks of one directory or symlink.
    fn blocks(
        &mut self,
        inodes: &[Inode<'_>],
        layout: &Layout,
        index: usize,
        place: &Place,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        if let Kind::Symlink { target } = &inodes[index].kind {
            self.put(target)?;
            return self.pad_to(self.at.next_multiple_of(BLOCK));
        }
        let entries = entries(inodes, index);
        for range in split(&entries).into_iter().take(place.blocks as usize) {
            buffer.clear();
            directory_block(&entries[range], inodes, layout, buffer);
            self.put(buffer)?;
            self.pad_to(self.at.next_multiple_of(BLOCK))?;
        }
        Ok(())
    }
}

/// The inode itself.
fn head(inode: &Inode<'_>, place: &Place, index: usize, inodes: &[Inode<'_>], to: &mut Vec<u8>) {
    let (format, kind_bits, links) = match &inode.kind {
        Kind::File { size_bytes: 0, .. } => (PLAIN, 0o100_000, 1),
        Kind::File { .. } => (CHUNKS, 0o100_000, 1),
        Kind::Symlink { .. } => (if place.tail_bytes > 0 { INLINE } else { PLAIN }, 0o120_000, 1),
        Kind::Directory { first, count } => {
            let children = &inodes[*first as usize..(*first + *count) as usize];
            let directories =
                children.iter().filter(|child| matches!(child.kind, Kind::Directory { .. })).count();
            let format = if place.tail_bytes > 0 { INLINE } else { PLAIN };
            (format, 0o040_000, 2 + u32::try_from(directories).unwrap_or(0))
        }
    };
    let union = match inode.kind {
        Kind::File { size_bytes: 0, .. } => 0,
        Kind::File { size_bytes, .. } => chunk_format(size_bytes),
        _ if place.blocks > 0 => place.block,
        _ => 0,
    };
    let xattr_words = if place.xattr_bytes == 0 { 0 } else { 1 + (place.xattr_bytes - 12) / 4 };
    to.extend_from_slice(&format.to_le_bytes());
    to.extend_from_slice(&xattr_words.to_le_bytes());
    to.extend_from_slice(&(kind_bits | inode.mode & 0o7777).to_le_bytes());
    to.extend_from_slice(&[0; 2]);
    to.extend_from_slice(&place.size_bytes.to_le_bytes());
    to.extend_from_slice(&union.to_le_bytes());
    to.extend_from_slice(&u32::try_from(index + 1).unwrap_or(u32::MAX).to_le_bytes());
    to.extend_from_slice(&[0; 8]); // owner and group 0
    to.extend_from_slice(&inode.mtime.seconds.to_le_bytes());
    to.extend_from_slice(&inode.mtime.nanos.to_le_bytes());
    to.extend_from_slice(&links.to_le_bytes());
    to.extend_from_slice(&[0; 16]);
    debug_assert_eq!(to.len() as u64, INODE_BYTES);
}

/// The size of the one chunk that covers a file, as `log2(chunk / block)`.
fn chunk_format(size_bytes: u64) -> u32 {
    let bits = u64::BITS - (size_bytes - 1).leading_zeros();
    bits.saturating_sub(BLOCK_BITS).min(31)
}

fn xattrs(object: &str, to: &mut Vec<u8>) {
    let value_bytes = u16::try_from(object.len() + 1).unwrap_or(u16::MAX);
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]); // one is shared
    to.extend_from_slice(&((SHARED_AT / 4) as u32).to_le_bytes());
    to.extend_from_slice(&[REDIRECT.len() as u8, TRUSTED]);
    to.extend_from_slice(&value_bytes.to_le_bytes());
    to.extend_from_slice(REDIRECT);
    to.push(b'/');
    to.extend_from_slice(object.as_bytes());
    to.resize(to.len().next_multiple_of(4), 0);
}

fn directory_block(entries: &[Entry<'_>], inodes: &[Inode<'_>], layout: &Layout, to: &mut Vec<u8>) {
    let mut name_at = ENTRY_BYTES * entries.len();
    for entry in entries {
        let kind = match inodes[entry.inode as usize].kind {
            Kind::File { .. } => 1,
            Kind::Directory { .. } => 2,
            Kind::Symlink { .. } => 7,
        };
        to.extend_from_slice(&(layout.places[entry.inode as usize].offset / SLOT).to_le_bytes());
        to.extend_from_slice(&u16::try_from(name_at).unwrap_or(0).to_le_bytes());
        to.extend_from_slice(&[kind, 0]);
        name_at += entry.name.len();
    }
    for entry in entries {
        to.extend_from_slice(entry.name);
    }
}
