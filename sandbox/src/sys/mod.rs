//! The fence: one short safe function for each system call that rustix does not wrap.
//!
//! Descriptors come in borrowed and go out owned. Nothing here decides anything, allocates, or panics, so that
//! every function may be called between `clone3` and `execve`. Together with `init` these are the only files of
//! the crate that may say `unsafe`; each block says why this call is sound.
#![allow(unsafe_code)]

pub mod lease;
pub mod message;
pub mod mount;
pub mod process;
pub mod raw;

pub use rustix::io::Errno;

/// What every function of this module returns.
pub type Result<T> = core::result::Result<T, Errno>;

/// Turns a raw return value of `libc::syscall` or a libc wrapper into a result.
pub(crate) fn check(ret: i64) -> Result<i64> {
    if ret == -1 { Err(last_errno()) } else { Ok(ret) }
}

/// The errno that the last failed libc call left behind.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: `__errno_location` returns the address of this thread's errno, which is valid for reading.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
