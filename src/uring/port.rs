//! A descriptor as tasks see it: read, write, wait; by either backend.
//!
//! Invariant: what a task sees does not depend on the backend.

use super::buffer::Buffer;
use super::ipc::Backend;
use super::stop::Stop;
use super::{epoll, ring};
use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Sets or clears `O_NONBLOCK`.
///
/// # Errors
/// The kernel's.
pub(super) fn set_nonblocking(descriptor: impl AsFd, wanted: bool) -> io::Result<()> {
    let before = fcntl_getfl(&descriptor)?;
    let after = if wanted { before | OFlags::NONBLOCK } else { before - OFlags::NONBLOCK };
    if before != after {
        fcntl_setfl(&descriptor, after)?;
    }
    Ok(())
}

/// The reading side of a registration.
#[derive(Debug)]
pub(super) enum Reader {
    /// By io_uring: a read is armed and ends when bytes come.
    Ring(Arc<OwnedFd>),
    /// By epoll.
    Epoll(epoll::Watched),
}

impl Reader {
    /// Takes the descriptor over, on the thread that will read.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn new(backend: Backend, descriptor: OwnedFd) -> io::Result<Self> {
        let descriptor = Arc::new(descriptor);
        match backend {
            Backend::Uring => Ok(Reader::Ring(descriptor)),
            Backend::Epoll => epoll::Watched::new(descriptor).map(Reader::Epoll),
        }
    }

    /// Reads, once there is something; 0 bytes at the end. `None` if it was stopped before.
    pub async fn read(&self, mut buffer: Buffer, stop: &Stop) -> (Option<io::Result<usize>>, Buffer) {
        loop {
            if stop.is_set() {
                return (None, buffer);
            }
            let (result, back) = match self {
                Reader::Ring(descriptor) => ring::read(descriptor, buffer, stop).await,
                Reader::Epoll(watched) => watched.read(buffer, stop).await,
            };
            buffer = back;
            match result {
                Some(Err(why)) if why.kind() == io::ErrorKind::Interrupted => {}
                // Not to be cleared where the writing side is the same open file.
                Some(Err(why)) if why.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(Err(why)) = self.wait(stop).await {
                        return (Some(Err(why)), buffer);
                    }
                }
                other => return (other, buffer),
            }
        }
    }

    /// Waits until there is something to read, or the end, or a failure. `None` if it was stopped before.
    pub async fn wait(&self, stop: &Stop) -> Option<io::Result<()>> {
        loop {
            let result = match self {
                Reader::Ring(descriptor) => {
                    ring::wait(descriptor, PollFlags::IN, stop).await.map(|r| r.map(|_| ()))
                }
                Reader::Epoll(watched) => watched.wait(stop).await,
            };
            match result {
                Some(Err(why)) if why.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Reads what is there already; `None` if nothing is.
    pub fn read_now(&self, buffer: &mut Buffer) -> Option<io::Result<usize>> {
        let descriptor = match self {
            Reader::Ring(descriptor) => descriptor.as_fd(),
            Reader::Epoll(watched) => watched.descriptor(),
        };
        // It may be blocking; but nobody else reads from it, so what was there is still there.
        let mut asked = [rustix::event::PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        match rustix::event::poll(&mut asked, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(1..) => match rustix::io::read(descriptor, buffer.bytes_mut()) {
                Err(Errno::AGAIN) => None,
                other => Some(other.map_err(io::Error::from)),
            },
            _ => None,
        }
    }
}

/// Writes some of the bytes after the first `from`, once there is room. `None` if it was stopped before.
pub(super) async fn write(
    backend: Backend,
    descriptor: &Arc<OwnedFd>,
    mut buffer: Buffer,
    from: usize,
    stop: &Stop,
) -> (Option<io::Result<usize>>, Buffer) {
    loop {
        if stop.is_set() {
            return (None, buffer);
        }
        // What is written here has had to wait: first there must be room.
        let room = match backend {
            Backend::Uring => ring::wait(descriptor, PollFlags::OUT, stop).await.map(|r| r.map(|_| ())),
            Backend::Epoll => epoll::writable(descriptor, stop).await,
        };
        let result = match (room, backend) {
            (Some(Ok(())), Backend::Uring) => {
                let (result, back) = ring::write(descriptor, buffer, from, stop).await;
                buffer = back;
                result
            }
            (Some(Ok(())), Backend::Epoll) => Some(
                rustix::io::write(descriptor, buffer.bytes().get(from..).unwrap_or_default())
                    .map_err(io::Error::from),
            ),
            (Some(Err(why)), _) => Some(Err(why)),
            (None, _) => None,
        };
        match result {
            Some(Err(why))
                if matches!(why.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            other => return (other, buffer),
        }
    }
}
