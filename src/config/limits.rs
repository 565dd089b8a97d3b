//! Bounds of configuration, each with its reason.
//!
//! Invariant: a file that is not one of ours is refused before it is held in memory.

/// Largest configuration file: a thousand instances with a comment for each value.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Largest file of tokens: ten thousand of them.
pub const TOKENS_BYTES_MAX: u64 = 2 << 20;

/// Shortest bearer token that is taken in plain text: 16 random bytes are 22 characters of base64, and what is shorter
/// is a password.
pub const TOKEN_CHARACTERS_MIN: usize = 16;

/// Characters of a wrong value that an error shows.
pub const SHOWN_CHARACTERS_MAX: usize = 80;
