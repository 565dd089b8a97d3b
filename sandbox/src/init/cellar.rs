//! Where a worker's views go that it shall not see any more, until the kernel has taken them apart.
//!
//! ```text
//! /work (bare) ◄ cellar's root ◄ the view, and on it whatever the view has
//!                 └ store ◄ a view of before ◄ the one after that, …
//! ```
//! Detaching a mount waits for a grace period of the kernel; moving one does not. The cellar is a small file system
//! between /work and the worker's view, of which the view hides all: a path that comes down to its root goes on into
//! the view, and one that comes up from the view passes it. So what is moved to its store is out of reach at once, for
//! whatever the worker's ids and however /work is spelled; its mode is not what keeps anybody out.
//!
//! What lies there is detached by a thread ([`super::sweeper`]), or by init itself when it may be too much.
//!
//! Invariants: no allocation, lock or panic; what lies in the store lies one on the other, and no more than
//! [`STORED_MAX`].
//!
//! Limits: what had the old view before keeps it, as ever; see [`super::hosted`].
use crate::sys::mount::{self, attr};
use crate::sys::{Errno, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;

/// How many views may lie in the store. Each keeps its file system, so that they should be few; looking whether there
/// are any costs a microsecond, so that it should not be done every time.
const STORED_MAX: u32 = 32;

/// See the module's documentation.
pub struct Cellar {
    root: OwnedFd,
    store: OwnedFd,
    /// How many came to the store since it was empty for sure.
    count: u32,
}

impl Cellar {
    /// Makes one on `place`.
    pub fn dig(place: BorrowedFd<'_>) -> Result<Cellar> {
        let attributes = attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC;
        // The root and the store are all that is ever in it.
        let root = mount::tmpfs(c"4096", c"8", c"0700", attributes)?;
        rustix::fs::mkdirat(&root, c"store", Mode::from_raw_mode(0o700))?;
        let store = mount::directory_below(root.as_fd(), c"store")?;
        mount::attach(root.as_fd(), place)?;
        Ok(Cellar { root, store, count: 0 })
    }

    /// Where the view is mounted.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Moves a view here, with all that is mounted in it: no path leads to it any more.
    pub fn take(&mut self, view: BorrowedFd<'_>) -> Result<()> {
        // move_mount(2) fails if the sweeper detaches the mount on top of the store between the kernel's finding that
        // and mounting on it: with EINVAL, or ENOENT since the fix of races in do_lock_mount of fs/namespace.c (Linux
        // 6.15, and stable ones). Each time takes one of those that lie there: it can happen so often and no more.
        let mut chances = self.count;
        loop {
            match mount::attach(view, self.store.as_fd()) {
                Err(Errno::INVAL | Errno::NOENT) if chances > 0 => chances -= 1,
                attached => {
                    attached?;
                    self.count += 1;
                    return Ok(());
                }
            }
        }
    }

    /// Whether something may lie here.
    pub fn is_used(&self) -> bool {
        self.count > 0
    }

    /// Whether what an exchange brings is not too much.
    pub fn has_room(&self) -> bool {
        // It may bring two.
        self.count + 2 <= STORED_MAX
    }

    /// Detaches what lies here; what cannot be detached stays. Changes the working directory.
    pub fn clear(&mut self) -> Result<()> {
        // The kernel takes the one on top, and says EINVAL when there is none; but also when the sweeper takes that one
        // at the same time, which can happen as often as there are any.
        let mut chances = self.count;
        loop {
            match mount::detach_mount(self.store.as_fd()) {
                Ok(()) => {}
                Err(Errno::INVAL) if chances > 0 => chances -= 1,
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        self.count = 0;
        Ok(())
    }

    /// Where it lies.
    pub fn store(&self) -> BorrowedFd<'_> {
        self.store.as_fd()
    }

    /// Detaches the cellar with all that lies in it, and `view`, which is mounted on it. Changes the working directory.
    pub fn fill_in(mut self, view: BorrowedFd<'_>) -> Result<()> {
        // With the view still on its root, the kernel would take that alone.
        self.take(view)?;
        mount::detach_mount(self.root.as_fd())
    }
}
