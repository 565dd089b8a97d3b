//! Ctrl-C, SIGTERM and a closed terminal: kill what runs, then clean up as after any other end.
//!
//! The signals are blocked before the first thread starts and awaited by one thread, so that nothing is interrupted
//! half way. The zygote and the inits have sessions of their own and see none of them.
use fulgurite_sandbox::sandbox::Killer;
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const AWAITED: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Blocked signals, not awaited yet.
#[derive(Debug)]
pub struct BlockedSignals(SigSet);

/// What the waiting thread shares with the main one.
#[derive(Clone, Debug)]
pub struct Interruption {
    number: Arc<AtomicI32>,
    event: Arc<OwnedFd>,
    killers: Arc<Mutex<Vec<Killer>>>,
}

impl BlockedSignals {
    /// Blocks them. Call it before the first thread starts.
    #[must_use]
    pub fn block() -> Self {
        let mut set = SigSet::empty();
        // Who was started with one ignored, as nohup(1) does, and shells for what runs in the background, is to go on.
        let ignored = ignored();
        let heeded = AWAITED.into_iter().filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0);
        heeded.for_each(|signal| set.add(signal));
        // Blocking known signals cannot fail (sigprocmask(2)).
        let _ = set.thread_block();
        BlockedSignals(set)
    }

    /// Starts the thread that waits for them.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn wait_in_background(self) -> std::io::Result<Interruption> {
        let interruption = Interruption {
            number: Arc::default(),
            event: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?),
            killers: Arc::default(),
        };
        let shared = interruption.clone();
        self.forward_in_background(move |signal| {
            shared.number.store(signal, Ordering::Release);
            // It counts to 2^64 before it would block.
            let _ = rustix::io::write(&shared.event, &1u64.to_ne_bytes());
            shared.kill();
        })?;
        Ok(interruption)
    }

    /// Starts a thread that does this with every signal that comes.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn forward_in_background(self, mut act: impl FnMut(i32) + Send + 'static) -> std::io::Result<()> {
        let wait = move || {
            while let Ok(signal) = self.0.wait() {
                act(signal as i32);
            }
        };
        std::thread::Builder::new().name("fulgurite-signal".to_owned()).spawn(wait).map(drop)
    }
}

/// Signals that this process ignores, as proc_pid_status(5) shows them.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

impl Interruption {
    /// Kills this one too when a signal comes, or at once if one has come.
    pub fn watch(&self, killer: Killer) {
        self.killers.lock().unwrap_or_else(PoisonError::into_inner).push(killer);
        if self.number().is_some() {
            self.kill();
        }
    }

    fn kill(&self) {
        self.killers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Killer::kill);
    }

    /// Readable as soon as a signal has come.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The signal that came, if any.
    #[must_use]
    pub fn number(&self) -> Option<i32> {
        Some(self.number.load(Ordering::Acquire)).filter(|number| *number != 0)
    }
}
