//! Much work gives way: who stages a large root or stores a large blob lets threads with less to do go first.
//!
//! Staging thousands of files, or hashing megabytes, keeps a core busy for milliseconds, during which the many short
//! turns of small actions would each wait for a time slice.
//!
//! Limits: to come back from a lower priority takes CAP_SYS_NICE, so that as an
//! ordinary user nothing is lowered; nice(2) orders threads of one session only where autogroups are on (sched(7)).

use rustix::process::{getpriority_process, setpriority_process};

/// Priority of staging a large root, and of taking things apart: a tenth of the usual weight (sched(7)).
pub const STAGING: i32 = 10;

/// Priority of storing and reading what is large: a third of the usual weight, since running actions, which would
/// otherwise keep it waiting for as long as they have work, need it for those that come next.
pub const TRANSFER: i32 = 5;

/// The calling thread has a low priority until this is dropped.
#[derive(Debug)]
pub struct LowPriority {
    before: i32,
}

impl LowPriority {
    /// Lowers it to this; `None` where it could not be raised again, or is as low.
    #[must_use]
    pub fn enter(low: i32) -> Option<LowPriority> {
        // 0 is the calling thread, not the process (setpriority(2)).
        let before = getpriority_process(None).ok().filter(|before| *before < low)?;
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        setpriority_process(None, low).ok()?;
        Some(LowPriority { before })
    }
}

impl Drop for LowPriority {
    fn drop(&mut self) {
        // Root of a user namespace may be refused; the thread then stays polite.
        let _ = setpriority_process(None, self.before);
    }
}
