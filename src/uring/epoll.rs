//! The same operations by epoll, through tokio: for where io_uring cannot be had.
//!
//! Invariants: descriptors are non-blocking; a writer is registered only while it has to wait, so that a peer that
//! reads wakes nobody for nothing.

#![allow(unsafe_code)]

use super::buffer::Buffer;
use super::parcel::Parcel;
use super::stop::Stop;
use rustix::fs::FileType;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is registered for reading.
#[derive(Debug)]
pub(super) struct Watched {
    descriptor: AsyncFd<Arc<OwnedFd>>,
    /// A read that gives less than it could has taken all there was. Not so for sockets, which stop at the edges of
    /// what came with descriptors.
    is_pipe: bool,
}

impl Watched {
    /// Registers it with the runtime of this thread.
    ///
    /// # Errors
    /// The kernel's: not every file can be waited for.
    pub fn new(descriptor: Arc<OwnedFd>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&descriptor)?.st_mode);
        // SAFETY: an `Arc` of an owned descriptor gives the same open descriptor as long as it lives.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        Ok(Watched { descriptor, is_pipe: kind == FileType::Fifo })
    }

    /// The descriptor itself.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.get_ref().as_fd()
    }

    /// Reads, once there is something. `None` if it was stopped before.
    pub async fn read(&self, mut buffer: Buffer, stop: &Stop) -> (Option<io::Result<usize>>, Buffer) {
        loop {
            let mut ready = tokio::select! {
                biased;
                () = stop.wait() => return (None, buffer),
                ready = self.descriptor.readable() => match ready {
                    Ok(ready) => ready,
                    Err(why) => return (Some(Err(why)), buffer),
                },
            };
            let space = buffer.bytes().len();
            match rustix::io::read(self.descriptor.get_ref(), buffer.bytes_mut()) {
                Ok(got) => {
                    // Nothing is left, and what comes next tells again. That the end has come is not cleared by this.
                    if self.is_pipe && got > 0 && got < space {
                        ready.clear_ready();
                    }
                    return (Some(Ok(got)), buffer);
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(why) => return (Some(Err(why.into())), buffer),
            }
        }
    }

    /// Receives a message with its descriptors. `None` if it was stopped before.
    pub async fn receive(&self, mut parcel: Parcel, stop: &Stop) -> (Option<io::Result<usize>>, Parcel) {
        loop {
            let mut ready = tokio::select! {
                biased;
                () = stop.wait() => return (None, parcel),
                ready = self.descriptor.readable() => match ready {
                    Ok(ready) => ready,
                    Err(why) => return (Some(Err(why)), parcel),
                },
            };
            match parcel.receive_now() {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                other => return (Some(other), parcel),
            }
        }
    }

    /// Waits until there is something to read, or the end. `None` if it was stopped before.
    pub async fn wait(&self, stop: &Stop) -> Option<io::Result<()>> {
        tokio::select! {
            biased;
            () = stop.wait() => None,
            ready = self.descriptor.readable() => Some(ready.map(|_| ())),
        }
    }
}

/// Waits until something can be written, or has failed. `None` if it was stopped before.
pub(super) async fn writable(descriptor: &Arc<OwnedFd>, stop: &Stop) -> Option<io::Result<()>> {
    // SAFETY: an `Arc` of an owned descriptor gives the same open descriptor as long as it lives.
    let watched = match unsafe { AsyncFd::register_with_interest(descriptor.clone(), Interest::WRITABLE) } {
        Ok(watched) => watched,
        Err(why) => return Some(Err(why.into())),
    };
    tokio::select! {
        biased;
        () = stop.wait() => None,
        ready = watched.writable() => Some(ready.map(|_| ())),
    }
}
