//! A thread of init that detaches what lies in a worker's cellar, so that init need not wait for the kernel.
//!
//! ```text
//! none ─ start ─► idle ◄─────────────► sweeping      order: Sweep
//!   ▲               └─► ended ─┘                     order: Quit; `end` waits until the stack is free
//! ```
//! Detaching a mount takes a grace period of the kernel, and nothing but time. The thread stands in the store of the
//! cellar, and unmounts what it stands under until there is nothing. It is a thread and not a process, so that
//! killing everybody else does not end it, and that nobody is left who would have to be reaped.
//!
//! Invariants: it shares init's memory and descriptors, not its root and working directory; it allocates nothing,
//! takes no lock, knows no errno, and touches nothing but [`Orders`]; it has ended before a reset goes on, so that it
//! keeps no namespace alive that is replaced.
//!
//! Limits: where it cannot be started (too many processes), init detaches for itself, after its answer.
use crate::sys::raw::{self, Start};
use crate::sys::{Errno, Result, process};
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};

/// Bytes of its stack: a few frames, also where nothing is optimized.
const STACK_BYTES: usize = 64 << 10;

const WAIT: u32 = 0;
const SWEEP: u32 = 1;
const QUIT: u32 = 2;

/// What init and its thread share.
#[derive(Default)]
struct Orders {
    /// What is to be done next.
    next: AtomicU32,
    /// Not zero from before the thread starts until the kernel has done with it.
    lives: AtomicU32,
}

/// See the module's documentation.
pub struct Sweeper {
    orders: Orders,
    /// Mapped by the first start, and kept.
    stack: *mut u8,
    /// Whether there is one that was not told to quit.
    works: bool,
}

impl Sweeper {
    /// None yet.
    pub const fn new() -> Sweeper {
        let orders = Orders { next: AtomicU32::new(WAIT), lives: AtomicU32::new(0) };
        Sweeper { orders, stack: null_mut(), works: false }
    }

    /// Starts the thread; the caller's working directory is the store, and may be another one afterwards.
    ///
    /// # Safety
    /// This must not move or go before [`Sweeper::end`] was called, or the process ends.
    pub unsafe fn start(&mut self) -> Result<()> {
        self.end();
        if self.stack.is_null() {
            self.stack = super::new_stack(STACK_BYTES)?;
        }
        self.orders.next.store(WAIT, Ordering::SeqCst);
        self.orders.lives.store(1, Ordering::SeqCst);
        let argument = (&raw const self.orders).cast_mut().cast();
        let start = Start { stack: self.stack, stack_bytes: STACK_BYTES, entry: sweep, argument };
        // SAFETY: the last thread on this stack has ended, says `end`; the orders stay where they are, says the caller.
        let started = unsafe { raw::clone_thread(&self.orders.lives, start) };
        if started.is_err() {
            self.orders.lives.store(0, Ordering::SeqCst);
        }
        self.works = started.is_ok();
        started.map(drop)
    }

    /// Has it detach what lies there; `false` if there is no thread.
    pub fn sweep(&self) -> bool {
        self.works && self.order(SWEEP)
    }

    /// Has it end when it has done what it does. What it was ordered to do may not be done.
    pub fn quit(&mut self) {
        if core::mem::take(&mut self.works) {
            self.order(QUIT);
        }
    }

    /// As [`Sweeper::quit`], and waits until it has ended.
    pub fn end(&mut self) {
        self.quit();
        loop {
            let lives = self.orders.lives.load(Ordering::SeqCst);
            if lives == 0 {
                return;
            }
            raw::wait_while(&self.orders.lives, lives);
        }
    }

    fn order(&self, what: u32) -> bool {
        self.orders.next.store(what, Ordering::SeqCst);
        raw::wake_all(&self.orders.next);
        true
    }
}

/// The thread. Never returns.
///
/// # Safety
/// `orders` must point to [`Orders`] that stay where they are until this thread has ended.
unsafe extern "C" fn sweep(orders: *mut c_void) -> ! {
    // SAFETY: the caller vouches for the pointer; all that is behind it is atomic.
    let orders = unsafe { &*orders.cast::<Orders>() };
    loop {
        match orders.next.swap(WAIT, Ordering::SeqCst) {
            QUIT => process::exit_thread(),
            SWEEP => {
                // What cannot be detached now is tried again with the next order.
                while detach_above().is_ok() {}
            }
            _ => raw::wait_while(&orders.next, WAIT),
        }
    }
}

/// Detaches what is mounted on the working directory, the last one first; `EINVAL` if nothing is.
fn detach_above() -> Result<()> {
    const DETACH: u64 = 2;
    // SAFETY: umount2(2) takes a path, which is a constant, and flags.
    let done: core::result::Result<u64, Errno> =
        unsafe { raw::call(libc::SYS_umount2, [c".".as_ptr() as u64, DETACH, 0, 0, 0]) };
    done.map(drop)
}
