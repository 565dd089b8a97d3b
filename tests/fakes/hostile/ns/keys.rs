//! N08: keyrings, which no namespace separates.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, Attempt, attempt};

/// The description of the planted key.
const NAME: &std::ffi::CStr = c"fulgurite-n08";
const KIND: &std::ffi::CStr = c"user";
/// Seconds that a planted key lives.
const LIFE: u64 = 600;

/// The special keyrings: thread, process, session, user, user session, and the persistent one by its command.
const RINGS: [(&str, i64); 5] =
    [("thread", -1), ("process", -2), ("session", -3), ("user", -4), ("user session", -5)];

const REFUSALS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// N08.
pub fn keyrings(_facts: &Facts, report: &mut Report) {
    let (kind, name) = (KIND.as_ptr() as u64, NAME.as_ptr() as u64);
    for (ring, id) in RINGS {
        let found = attempt(|| sys::call(libc::SYS_keyctl, &[10, id as u64, kind, name, 0]));
        if matches!(found, Attempt::Did(_)) {
            report.broke(format!("the key of an earlier run is in the {ring} keyring"));
        }
    }
    for (ring, id) in RINGS {
        let get = attempt(|| sys::call(libc::SYS_keyctl, &[0, id as u64, 1]));
        report.refused(&format!("keyctl get {ring}"), &get, &REFUSALS);
        let add = attempt(|| add(id));
        report.refused(&format!("add_key to {ring}"), &add, &REFUSALS);
    }
    let request = attempt(|| sys::call(libc::SYS_request_key, &[kind, name, 0, 0]));
    report.refused("request_key", &request, &REFUSALS);
    let join = attempt(|| sys::call(libc::SYS_keyctl, &[1, name]));
    report.refused("keyctl join session", &join, &REFUSALS);
    let persistent = attempt(|| sys::call(libc::SYS_keyctl, &[22, u64::MAX, (-3i64) as u64]));
    report.refused("keyctl persistent", &persistent, &REFUSALS);
    let mut capabilities = [0u8; 8];
    let place = capabilities.as_mut_ptr() as u64;
    let result = attempt(|| sys::call(libc::SYS_keyctl, &[31, place, 8]));
    report.refused("keyctl capabilities", &result, &REFUSALS);
}

/// Adds the marker to a keyring; it expires by itself.
pub fn add(ring: i64) -> Result<i64, i32> {
    let (kind, name) = (KIND.as_ptr() as u64, NAME.as_ptr() as u64);
    let key = sys::call(libc::SYS_add_key, &[kind, name, name, 4, ring as u64])?;
    let _ = sys::call(libc::SYS_keyctl, &[15, key as u64, LIFE]);
    Ok(key)
}
