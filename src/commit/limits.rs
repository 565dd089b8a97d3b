//! Bounds on publishing.

/// Destination directories that are kept open; others are opened again and compared. Far below any usual
/// limit of open files, and above the number of directories that most actions write to.
pub const DIRECTORIES_OPEN_MAX: usize = 256;

/// Names tried for a temporary copy before giving up.
pub const TEMPORARY_TRIES_MAX: u32 = 1000;
