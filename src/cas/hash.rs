//! Hashing files through their descriptors.

use super::CasError;
use super::limits::READ_BUFFER_BYTES;
use crate::action::{Digest, DigestFunction, Hasher};
use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};

thread_local! {
    // One a thread: a fresh one would cost a page fault for each 4 KiB of it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads a file from its first byte to its last, and gives each piece to `take`.
pub(super) fn read_file(
    file: &mut File,
    mut take: impl FnMut(&[u8]) -> Result<(), CasError>,
) -> Result<(), CasError> {
    let failed = |error: std::io::Error| CasError::from_io("read a file that is to be hashed", &error);
    file.rewind().map_err(failed)?;
    // Taken out of its place, so that `take` may read another file.
    let mut buffer = BUFFER.take();
    buffer.resize(READ_BUFFER_BYTES, 0);
    let result = loop {
        match file.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                if let Err(error) = take(&buffer[..count]) {
                    break Err(error);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Err(failed(error)),
        }
    };
    BUFFER.set(buffer);
    result
}

/// The digest of a file's bytes.
pub(super) fn hash_file(function: DigestFunction, file: &mut File) -> Result<Digest, CasError> {
    let mut hasher = Hasher::new(function);
    read_file(file, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(hasher.finish())
}
