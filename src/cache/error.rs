//! What can go wrong with the action cache.

use super::limits;
use std::path::PathBuf;

/// Why the cache was not opened, read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Another process has it open.
    #[error("cannot open the action cache {}: another process uses it", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A result that is too large to be kept.
    #[error(
        "a result of {encoded_bytes} bytes with {references} blobs is too large to be cached: at most {} bytes and \
         {} blobs are",
        limits::ENCODED_BYTES_MAX,
        limits::REFERENCES_MAX
    )]
    TooLarge {
        /// The size of the encoded result.
        encoded_bytes: usize,
        /// How many blobs it needs.
        references: usize,
    },
    /// A blob of another digest function than the action.
    #[error("the result of an action named by {action} needs blobs named by {reference}")]
    MixedFunctions {
        /// The action's function.
        action: &'static str,
        /// The other one.
        reference: &'static str,
    },
    /// The file could not be opened, read or written.
    #[error("cannot {what} the action cache {}: {why}", path.display())]
    Store {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the store said.
        why: String,
    },
}
