//! Messages with descriptors over a SEQPACKET socket: one message, one send, one receive.
//!
//! A message is at most [`BYTES_MAX`] bytes and [`DESCRIPTORS_MAX`] descriptors; a longer one is refused on the
//! sending side. Received descriptors are close-on-exec. Source: unix(7), cmsg(3).
use super::{Errno, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use std::mem::MaybeUninit;

/// The largest message in bytes. Small on purpose: what is larger travels in a memfd.
pub const BYTES_MAX: usize = 256;
/// The most descriptors in one message. The kernel's own limit is 253 (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 64;

/// Descriptors that came with a message, in order.
pub type Descriptors = [Option<OwnedFd>; DESCRIPTORS_MAX];

/// An empty set of descriptors to receive into.
#[must_use]
pub fn no_descriptors() -> Descriptors {
    [const { None }; DESCRIPTORS_MAX]
}

/// A connected pair of close-on-exec sockets that keep message boundaries.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one message. `EPIPE`: the other end is closed.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    if bytes.len() > BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message; `Ok(None)` when the other end is closed. `EAGAIN` only when `wait` is false.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8; BYTES_MAX],
    descriptors: &mut Descriptors,
    wait: bool,
) -> Result<Option<usize>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => continue,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(message) => break message,
        }
    };
    for slot in descriptors.iter_mut() {
        *slot = None;
    }
    let mut next = descriptors.iter_mut();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            for fd in rights {
                if let Some(slot) = next.next() {
                    *slot = Some(fd);
                }
            }
        }
    }
    if message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok((message.bytes != 0).then_some(message.bytes))
}
