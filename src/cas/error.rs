//! What can go wrong with blobs.

use crate::action::Digest;
use crate::observe::{self, StoreFault};
use rustix::io::Errno;

/// Why a blob was not stored or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CasError {
    /// No such blob.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// The bytes are not those that the digest names.
    #[error("the bytes have digest {found}, not {expected}")]
    Mismatch {
        /// What was claimed.
        expected: Digest,
        /// What they have.
        found: Digest,
    },
    /// More than the caller or the store allows.
    #[error("a blob of {size_bytes} bytes is too large: at most {bytes_max} are possible here")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// The disk or the store is full of what is in use.
    #[error("cannot {what}: there is no room")]
    Full {
        /// What was tried.
        what: String,
    },
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
}

impl CasError {
    /// A failed call; a full disk and an exceeded quota become [`CasError::Full`].
    pub(super) fn io(what: impl Into<String>, errno: Errno) -> Self {
        let what = what.into();
        let errors = &observe::metrics().store_errors;
        match errno {
            Errno::NOSPC | Errno::DQUOT => {
                errors.of(StoreFault::Full).count();
                CasError::Full { what }
            }
            errno => {
                errors.of(StoreFault::Io).count();
                CasError::Io { what, errno }
            }
        }
    }

    pub(super) fn from_io(what: impl Into<String>, error: &std::io::Error) -> Self {
        CasError::io(what, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}
