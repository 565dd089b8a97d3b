//! Large roots give way: who stages one lets threads with less to do go first.
//!
//! Staging thousands of files keeps a core busy for milliseconds, during which the many short turns of small actions
//! would each wait for a time slice. Limits: to come back from a lower priority takes CAP_SYS_NICE, so that as an
//! ordinary user nothing is lowered; nice(2) orders threads of one session only where autogroups are on (sched(7)).

use rustix::process::{getpriority_process, setpriority_process};

/// Priority of staging a large root, and of taking things apart: a tenth of the usual weight (sched(7)).
const LOW: i32 = 10;

/// The calling thread has a low priority until this is dropped.
#[derive(Debug)]
pub struct LowPriority {
    before: i32,
}

impl LowPriority {
    /// Lowers it; `None` where it could not be raised again.
    pub fn enter() -> Option<LowPriority> {
        // 0 is the calling thread, not the process (setpriority(2)).
        let before = getpriority_process(None).ok().filter(|before| *before < LOW)?;
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        setpriority_process(None, LOW).ok()?;
        Some(LowPriority { before })
    }
}

impl Drop for LowPriority {
    fn drop(&mut self) {
        // Root of a user namespace may be refused; the thread then stays polite.
        let _ = setpriority_process(None, self.before);
    }
}
