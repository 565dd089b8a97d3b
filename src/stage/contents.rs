//! The bytes of one file into another: shared if the filesystem can, else copied without filling its holes.
//!
//! ```text
//!   transfer   FICLONE ──no──> for each data range (SEEK_DATA, SEEK_HOLE): copy_file_range ──no──> pread + pwrite
//!   copy                       for each data range: pread + pwrite
//! ```
//!
//! Invariants: a hole stays a hole (a sparse file of a terabyte costs what its data costs); what is copied is
//! counted against a budget *before* it is written.

use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// How the bytes came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Both files share their blocks (reflink).
    Shared,
    /// This many bytes were written.
    Copied(u64),
}

/// Makes `target`, which is new and empty, equal to `source`, which has `size` bytes. Refuses with `FBIG` to
/// write more than `budget` bytes.
pub fn transfer(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    size: u64,
    budget: u64,
) -> Result<Transfer, Errno> {
    if size > 0 && rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(Transfer::Shared);
    }
    copy_ranges(source, target, size, budget, copy_range).map(Transfer::Copied)
}

/// The same without sharing; answers how much was written. Not by the kernel, whose copies share blocks where they can.
pub fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>, size: u64, budget: u64) -> Result<u64, Errno> {
    copy_ranges(source, target, size, budget, |source, target, start, end| {
        copy_through_memory(source, target, start, end).map(|at| at - start)
    })
}

/// Copies each range that has data with `copy_range`, which gives the bytes that it copied.
fn copy_ranges(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    size: u64,
    budget: u64,
    copy_range: impl Fn(BorrowedFd<'_>, BorrowedFd<'_>, u64, u64) -> Result<u64, Errno>,
) -> Result<u64, Errno> {
    let mut copied = 0;
    let mut offset = 0;
    while offset < size {
        let (start, end) = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            // It may have grown since it was looked at: of that nobody asked for anything.
            Ok(start) if start >= size => break,
            Ok(start) => (start, rustix::fs::seek(source, SeekFrom::Hole(start))?.min(size)),
            Err(Errno::NXIO) => break,
            Err(_) => (offset, size),
        };
        if end - start > budget - copied {
            return Err(Errno::FBIG);
        }
        let written = copy_range(source, target, start, end)?;
        copied += written;
        offset = end;
        if written < end - start {
            break;
        }
    }
    if offset < size {
        rustix::fs::ftruncate(target, size)?;
    }
    Ok(copied)
}

/// Copies `start..end`, or less if the source ends before.
fn copy_range(source: BorrowedFd<'_>, target: BorrowedFd<'_>, start: u64, end: u64) -> Result<u64, Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), length) {
            Ok(0)
            | Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM | Errno::IO) => {
                return copy_through_memory(source, target, write_at, end).map(|at| at - start);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(read_at - start)
}

/// Copies `at..end` with a buffer; answers where it ended.
fn copy_through_memory(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<u64, Errno> {
    let mut buffer = vec![0; 128 * 1024];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut buffer[..wanted], at))?;
        if read == 0 {
            break;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(target, rest, at))?;
            at += written as u64;
            rest = &rest[written..];
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// Somebody appends while it is copied: what is more than it had is neither copied nor an error.
    #[test]
    fn of_a_file_that_has_grown_as_much_is_copied_as_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, b"rightLATE").unwrap();
        let source = std::fs::File::open(&from).unwrap();
        let target = std::fs::File::create(&to).unwrap();
        assert_eq!(copy(source.as_fd(), target.as_fd(), 5, 5), Ok(5));
        assert_eq!(std::fs::read(&to).unwrap(), b"right");
        let target = std::fs::File::create(&to).unwrap();
        assert_eq!(copy_ranges(source.as_fd(), target.as_fd(), 5, 5, copy_range), Ok(5));
        assert_eq!(std::fs::read(&to).unwrap(), b"right");
        assert_eq!(copy(source.as_fd(), target.as_fd(), 5, 4), Err(Errno::FBIG));
    }
}
