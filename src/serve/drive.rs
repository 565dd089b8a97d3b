//! Where the server reads the clock and draws random numbers.

use crate::action::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// What time it is.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// A number that nobody guesses.
///
/// # Errors
/// What the kernel says, should it have no random numbers.
pub(super) fn random() -> Result<u128, rustix::io::Errno> {
    let mut bytes = [0u8; 16];
    let count = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    if count < bytes.len() {
        return Err(rustix::io::Errno::AGAIN);
    }
    Ok(u128::from_ne_bytes(bytes))
}
