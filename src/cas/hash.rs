//! Hashing files through their descriptors.

use super::CasError;
use super::limits::READ_BUFFER_BYTES;
use crate::action::{Digest, DigestFunction, Hasher};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::cell::RefCell;

thread_local! {
    // One a thread: a fresh one would cost a page fault for each 4 KiB of it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads a file from its first byte to its last, and gives each piece to `take`. Its offset is not used.
pub(super) fn read_file(
    file: BorrowedFd<'_>,
    mut take: impl FnMut(&[u8]) -> Result<(), CasError>,
) -> Result<(), CasError> {
    let mut at = 0;
    // Taken out of its place, so that `take` may read another file.
    let mut buffer = BUFFER.take();
    buffer.resize(READ_BUFFER_BYTES, 0);
    let result = loop {
        match rustix::io::pread(file, &mut buffer[..], at) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                at += count as u64;
                if let Err(error) = take(&buffer[..count]) {
                    break Err(error);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => break Err(CasError::io("read a file that is to be hashed", errno)),
        }
    };
    BUFFER.set(buffer);
    result
}

/// The digest of a file's bytes.
pub(super) fn hash_file(function: DigestFunction, file: BorrowedFd<'_>) -> Result<Digest, CasError> {
    let mut hasher = Hasher::new(function);
    read_file(file, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(hasher.finish())
}
