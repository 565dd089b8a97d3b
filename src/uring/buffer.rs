//! Bytes that the kernel may be writing into or reading from.
//!
//! ```text
//!            lend                      completion
//!   Buffer ───────► Lent (in the ring) ──────────► Buffer
//!                     │ whoever waited is gone
//!                     └──────────────► kept by the ring until the completion, then freed
//! ```
//! Invariants: while the kernel may touch the bytes, nobody else can: `Lent` owns them and gives no access. It also
//! owns
//! a share of the descriptor, so that its number cannot come to mean another file meanwhile. The bytes stand on the
//! heap and do not move when `Lent` does. All of a buffer is initialized at any time.

use super::limits::{READ_BYTES_MAX, READ_BYTES_MIN};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes that are ours.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
}

/// Bytes that are the kernel's, until its operation has ended.
#[derive(Debug)]
pub(super) struct Lent {
    bytes: Box<[u8]>,
    // Held, not used: see the invariants.
    _descriptor: Arc<OwnedFd>,
}

impl Buffer {
    /// For reading, as small as they are.
    pub fn new() -> Self {
        Buffer { bytes: vec![0; READ_BYTES_MIN].into_boxed_slice() }
    }

    /// For writing.
    pub fn holding(bytes: Vec<u8>) -> Self {
        Buffer { bytes: bytes.into_boxed_slice() }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes, to be read into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Gives the bytes to an operation on the descriptor.
    pub fn lend(self, descriptor: &Arc<OwnedFd>) -> Lent {
        Lent { bytes: self.bytes, _descriptor: descriptor.clone() }
    }

    /// Fits it to a peer of whom the last read gave so many bytes. Call it after those were used.
    pub fn fit(self, read: usize) -> Self {
        let size = self.bytes.len();
        if read == size && size < READ_BYTES_MAX {
            return Buffer { bytes: vec![0; READ_BYTES_MAX].into_boxed_slice() };
        }
        // Whoever sends little may be silent for long, and there may be thousands of these.
        if read <= READ_BYTES_MIN && size > READ_BYTES_MIN { Buffer::new() } else { self }
    }
}

impl Lent {
    /// Where the bytes after the first `from` stand, and how many they are.
    pub fn place(&self, from: usize) -> (*const u8, u32) {
        let rest = self.bytes.get(from..).unwrap_or_default();
        (rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX))
    }

    /// Where the kernel may write, and how much.
    pub fn place_mut(&mut self) -> (*mut u8, u32) {
        (self.bytes.as_mut_ptr(), u32::try_from(self.bytes.len()).unwrap_or(u32::MAX))
    }

    /// The operation has ended. Only its completion may call this.
    pub fn back(self) -> Buffer {
        Buffer { bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_when_filled_and_shrink_when_idle() {
        let check = |size: usize, read: usize, expected: usize| {
            let buffer = Buffer { bytes: vec![0; size].into_boxed_slice() };
            assert_eq!(buffer.fit(read).bytes().len(), expected, "{size} {read}");
        };
        check(READ_BYTES_MIN, 10, READ_BYTES_MIN);
        check(READ_BYTES_MIN, READ_BYTES_MIN, READ_BYTES_MAX);
        check(READ_BYTES_MAX, READ_BYTES_MAX, READ_BYTES_MAX);
        check(READ_BYTES_MAX, READ_BYTES_MAX / 2, READ_BYTES_MAX);
        check(READ_BYTES_MAX, 0, READ_BYTES_MIN);
    }

    #[test]
    fn lending_moves_no_byte_and_holds_the_descriptor() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let descriptor = Arc::new(OwnedFd::from(reader));
        let buffer = Buffer::holding(b"abcdef".to_vec());
        let stands_at = buffer.bytes().as_ptr();
        let mut lent = buffer.lend(&descriptor);
        assert_eq!(Arc::strong_count(&descriptor), 2);
        assert_eq!(lent.place(2), (stands_at.wrapping_add(2), 4));
        assert_eq!(lent.place(7).1, 0);
        assert_eq!(lent.place_mut(), (stands_at.cast_mut(), 6));
        let moved = Box::new(lent);
        assert_eq!(moved.back().bytes(), b"abcdef");
        assert_eq!(Arc::strong_count(&descriptor), 1);
    }
}
