//! A message with descriptors, laid out as the kernel wants it: `struct msghdr` and all that it points to.
//!
//! ```text
//!   Parcel (heap) ─ header ─► vector ─► bytes          lent to an operation of the ring as a whole, or used for one
//!                        └──► control (SCM_RIGHTS)     system call
//! ```
//! Invariants: a parcel stands on the heap and its parts do not move as long as it lives, wherever its handle goes;
//! descriptors that came are owned from the moment in which they are read out of it; what is sent stays owned by it
//! until the kernel has its own share.

#![allow(unsafe_code)]

use super::limits::{PACKET_BYTES_MAX, PACKET_DESCRIPTORS_MAX};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Bytes of control data for so many descriptors.
const CONTROL_BYTES: usize = {
    let payload = PACKET_DESCRIPTORS_MAX * size_of::<RawFd>();
    // A header, and both rounded up to a word.
    size_of::<libc::cmsghdr>() + payload.next_multiple_of(size_of::<usize>())
};

/// A whole message of a socket that keeps messages apart, with the descriptors that came with it.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// Control data must be aligned as its header is.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

struct Layout {
    header: libc::msghdr,
    vector: libc::iovec,
    control: Control,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// See the module's documentation.
pub(super) struct Parcel {
    // Boxed: the header points into it.
    layout: Box<Layout>,
    // Held, not used: its number must not come to mean another file while the kernel works on it.
    socket: Arc<OwnedFd>,
}

// SAFETY: the raw pointers of the header lead into the same box, which only the owner of the parcel uses.
unsafe impl Send for Parcel {}

impl Parcel {
    fn new(socket: &Arc<OwnedFd>, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> Self {
        let mut layout = Box::new(Layout {
            // SAFETY: zeros are a valid msghdr and iovec: null pointers with lengths of 0.
            header: unsafe { std::mem::zeroed() },
            // SAFETY: as above.
            vector: unsafe { std::mem::zeroed() },
            control: Control([0; CONTROL_BYTES]),
            bytes,
            descriptors,
        });
        layout.vector.iov_base = layout.bytes.as_mut_ptr().cast();
        layout.vector.iov_len = layout.bytes.len();
        layout.header.msg_iov = &raw mut layout.vector;
        layout.header.msg_iovlen = 1;
        Parcel { layout, socket: socket.clone() }
    }

    /// For a message that is to come.
    pub fn empty(socket: &Arc<OwnedFd>) -> Self {
        let mut parcel = Parcel::new(socket, vec![0; PACKET_BYTES_MAX], Vec::new());
        parcel.rearm();
        parcel
    }

    /// As new, for the next one.
    fn rearm(&mut self) {
        let layout = &mut *self.layout;
        layout.header.msg_control = layout.control.0.as_mut_ptr().cast();
        layout.header.msg_controllen = CONTROL_BYTES;
        layout.header.msg_flags = 0;
    }

    /// With a message that is to go.
    ///
    /// # Errors
    /// When it is longer, or has more descriptors, than one may have.
    pub fn holding(socket: &Arc<OwnedFd>, packet: Packet) -> io::Result<Self> {
        let Packet { bytes, descriptors } = packet;
        if bytes.len() > PACKET_BYTES_MAX || descriptors.len() > PACKET_DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut parcel = Parcel::new(socket, bytes, descriptors);
        parcel.attach();
        Ok(parcel)
    }

    fn attach(&mut self) {
        let layout = &mut *self.layout;
        let numbers: Vec<u8> =
            layout.descriptors.iter().flat_map(|descriptor| descriptor.as_raw_fd().to_ne_bytes()).collect();
        if numbers.is_empty() {
            return;
        }
        let length = size_of::<libc::cmsghdr>() + numbers.len();
        let head =
            libc::cmsghdr { cmsg_len: length, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
        // SAFETY: the control data is aligned for a header and has room for one.
        unsafe { layout.control.0.as_mut_ptr().cast::<libc::cmsghdr>().write(head) };
        let payload = &mut layout.control.0[size_of::<libc::cmsghdr>()..];
        payload[..numbers.len()].copy_from_slice(&numbers);
        layout.header.msg_control = layout.control.0.as_mut_ptr().cast();
        layout.header.msg_controllen = length;
    }

    /// The message that did not go.
    pub fn unpacked(self) -> Packet {
        let Layout { bytes, descriptors, .. } = *self.layout;
        Packet { bytes, descriptors }
    }

    /// What the kernel is given.
    pub fn header(&mut self) -> *mut libc::msghdr {
        &raw mut self.layout.header
    }

    /// The socket.
    pub fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Takes out the message of `length` bytes that has come.
    ///
    /// # Errors
    /// When it was longer than there was room, or had more descriptors: what came is closed.
    pub fn take(&mut self, length: usize) -> io::Result<Packet> {
        let descriptors = self.taken();
        let flags = self.layout.header.msg_flags;
        let bytes = self.layout.bytes.get(..length).unwrap_or_default().to_vec();
        self.rearm();
        if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is larger than any should be"));
        }
        Ok(Packet { bytes, descriptors })
    }

    /// Owns each descriptor that came, once.
    fn taken(&mut self) -> Vec<OwnedFd> {
        let mut descriptors = Vec::new();
        let header = self.header();
        // SAFETY: the header and its control data are as the kernel left them.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: the macros give headers that are whole within the control data.
            let head = unsafe { next.read_unaligned() };
            if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let count = head.cmsg_len.saturating_sub(size_of::<libc::cmsghdr>()) / size_of::<RawFd>();
                for at in 0..count {
                    // SAFETY: the payload has `count` numbers after its header.
                    let number = unsafe { libc::CMSG_DATA(next).cast::<RawFd>().add(at).read_unaligned() };
                    // SAFETY: the kernel has just made this number for us, and nobody else knows it.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
            // SAFETY: as for the first one.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        // Not again, should there be no message after this one.
        self.layout.header.msg_controllen = 0;
        descriptors
    }

    /// Receives without waiting.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` if nothing is there.
    pub fn receive_now(&mut self) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let (socket, header) = (self.socket(), self.header());
        // SAFETY: the header and all that it points to are valid, and ours until the call returns.
        counted(unsafe { libc::recvmsg(socket, header, flags) })
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` if there is no room.
    pub fn send_now(&mut self) -> io::Result<usize> {
        let (socket, header) = (self.socket(), self.header());
        // SAFETY: the header and all that it points to are valid, and ours until the call returns.
        counted(unsafe { libc::sendmsg(socket, header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
    }
}

fn counted(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether a socket keeps messages apart: only then a read is a message.
pub(super) fn keeps_apart(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_type(socket)? == rustix::net::SocketType::SEQPACKET)
}
