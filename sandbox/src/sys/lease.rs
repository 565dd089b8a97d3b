//! Leases on files: the kernel's own word that nobody can write to a file.
//!
//! A read lease is granted only while no descriptor is open for writing and no page is mapped writable, on any
//! filesystem below an overlay as well. Whoever opens the file for writing while the lease stands waits until it is
//! given back (at most `/proc/sys/fs/lease-break-time`), and the holder gets a signal; see [`read`].
use super::{Result, check};
use std::os::fd::{AsRawFd, BorrowedFd};

/// From `include/uapi/asm-generic/fcntl.h`; the libc crate does not have it.
const F_SETSIG: libc::c_int = 10;

/// Takes a read lease on a file that is open for reading only. `AGAIN`: somebody can write to it. The descriptor's
/// last copy gives it back when it is closed.
///
/// The signal of a broken lease is SIGIO by default, which kills; SIGURG is set instead, which nobody hears.
pub fn read(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: F_SETSIG takes an integer and touches no memory; the descriptor is open as long as it is borrowed.
    check(i64::from(unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) }))?;
    // SAFETY: F_SETLEASE takes an integer and touches no memory; the descriptor is open as long as it is borrowed.
    check(i64::from(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) })).map(drop)
}

/// Gives a lease back.
pub fn give_back(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: F_SETLEASE takes an integer and touches no memory; the descriptor is open as long as it is borrowed.
    check(i64::from(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) })).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_lease_is_refused_while_anybody_can_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "before").unwrap();
        let file = File::open(&path).unwrap();
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(read(file.as_fd()), Err(Errno::AGAIN));
        // A shared mapping without a descriptor counts as well.
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the address is the kernel's choice, and nothing else knows the mapping.
        let mapped = unsafe { mmap(std::ptr::null_mut(), 6, protection, flags, &writer, 0) }.unwrap();
        drop(writer);
        assert_eq!(read(file.as_fd()), Err(Errno::AGAIN));
        // SAFETY: mapped above with this length, and not used any more.
        unsafe { munmap(mapped, 6) }.unwrap();
        assert_eq!(read(file.as_fd()), Ok(()));
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        let refused = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
        assert_eq!(refused.map(drop), Err(Errno::AGAIN), "who would write is held off");
        give_back(file.as_fd()).unwrap();
        assert!(File::options().write(true).open(&path).is_ok());
    }
}
