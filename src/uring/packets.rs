//! Messages with descriptors, to and from one peer: for sockets that keep messages apart (SEQPACKET).
//!
//! ```text
//!   any thread ── Packets::send ──────────► socket                as long as there is room
//!                     └─ queue ─► ipc thread: SendMsg ──┘         else
//!   PacketListener ◄── Packet, its descriptors owned ◄── RecvMsg ◄──┘
//! ```
//! Invariants: messages go in the order of the sends; a descriptor that came belongs to whoever hears of it, and is
//! closed if nobody does; a message is whole, or the line ends. Limits: as long, and with as many descriptors, as
//! `limits` says.

use super::ipc::Backend;
use super::limits::PACKETS_QUEUED_MAX;
use super::parcel::{Packet, Parcel};
use super::stop::Stop;
use super::{SendError, epoll, ring};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Is told of messages, on the thread that reads: it must not block.
pub trait PacketListener: Send + Sync {
    /// One came.
    fn packet(&self, packet: Packet);

    /// No more will come: the peer has closed its end, or something failed. Not called after the handle was dropped.
    fn ended(&self, how: io::Result<()>);
}

/// Messages to and from one peer. Dropping it closes it.
#[derive(Debug)]
pub struct Packets {
    pub(super) post: Arc<Post>,
}

/// What the handle and its task share.
#[derive(Debug)]
pub(super) struct Post {
    outgoing: Mutex<Outgoing>,
    wake: Notify,
    stop: Stop,
}

#[derive(Debug)]
struct Outgoing {
    /// `None`: closed.
    socket: Option<Arc<OwnedFd>>,
    queue: VecDeque<Packet>,
    /// The task has one that is not sent yet.
    is_sending: bool,
}

/// What the task needs.
pub(super) struct Packeting {
    pub socket: Arc<OwnedFd>,
    /// The same socket, for sending.
    pub writer: Arc<OwnedFd>,
    pub listener: Arc<dyn PacketListener>,
    pub post: Arc<Post>,
}

impl Packets {
    /// Sends a message with descriptors, or queues what there is no room for. Never blocks.
    ///
    /// # Errors
    /// [`SendError::Full`]: it was not taken. [`SendError::Closed`]: the peer is gone, or the message is too large for
    /// any.
    pub fn send(&self, packet: Packet) -> Result<(), SendError> {
        self.post.send(packet)
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.post.close();
    }
}

impl Post {
    pub fn new(socket: &Arc<OwnedFd>) -> Self {
        let outgoing = Outgoing { socket: Some(socket.clone()), queue: VecDeque::new(), is_sending: false };
        Post { outgoing: Mutex::new(outgoing), wake: Notify::new(), stop: Stop::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, packet: Packet) -> Result<(), SendError> {
        let mut outgoing = self.lock();
        let Some(socket) = outgoing.socket.clone() else { return Err(SendError::Closed) };
        if outgoing.queue.len() >= PACKETS_QUEUED_MAX {
            return Err(SendError::Full);
        }
        if outgoing.is_sending || !outgoing.queue.is_empty() {
            outgoing.queue.push_back(packet);
            return Ok(());
        }
        let mut parcel = Parcel::holding(&socket, packet).map_err(|_| SendError::Closed)?;
        match parcel.send_now() {
            Ok(_) => Ok(()),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                outgoing.queue.push_back(parcel.unpacked());
                drop(outgoing);
                self.wake.notify_one();
                Ok(())
            }
            // The reading side finds out as well, and tells.
            Err(_) => Err(SendError::Closed),
        }
    }

    fn next(&self) -> Option<Packet> {
        let mut outgoing = self.lock();
        let next = outgoing.queue.pop_front();
        outgoing.is_sending = next.is_some();
        next
    }

    fn close(&self) {
        let mut outgoing = self.lock();
        outgoing.socket = None;
        outgoing.queue.clear();
        drop(outgoing);
        self.stop.set();
    }
}

/// Serves a socket until its end.
pub(super) async fn serve(backend: Backend, packeting: Packeting) {
    let Packeting { socket, writer, listener, post } = packeting;
    let receiving = async {
        let how = receive_all(backend, &socket, &*listener, &post.stop).await;
        if let Some(how) = how.filter(|_| !post.stop.is_set()) {
            listener.ended(how);
        }
        post.close();
    };
    tokio::join!(receiving, send_all(backend, &writer, &post));
}

/// `None`: it was stopped.
async fn receive_all(
    backend: Backend,
    socket: &Arc<OwnedFd>,
    listener: &dyn PacketListener,
    stop: &Stop,
) -> Option<io::Result<()>> {
    let watched = match backend {
        Backend::Uring => None,
        Backend::Epoll => match epoll::Watched::new(socket.clone()) {
            Ok(watched) => Some(watched),
            Err(why) => return Some(Err(why)),
        },
    };
    let mut parcel = Parcel::empty(socket);
    loop {
        let (result, back) = match &watched {
            None => ring::receive(socket, parcel, stop).await,
            Some(watched) => watched.receive(parcel, stop).await,
        };
        parcel = back;
        let packet = match result? {
            Ok(length) => parcel.take(length),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => Err(why),
        };
        match packet {
            // A message without bytes and descriptors is the end: nobody sends such.
            Ok(packet) if packet.bytes.is_empty() && packet.descriptors.is_empty() => return Some(Ok(())),
            Ok(packet) if !stop.is_set() => listener.packet(packet),
            Ok(_) => return None,
            Err(why) => return Some(Err(why)),
        }
    }
}

/// Sends what could not be sent at once.
async fn send_all(backend: Backend, socket: &Arc<OwnedFd>, post: &Post) {
    while !post.stop.is_set() {
        let Some(packet) = post.next() else {
            tokio::select! {
                () = post.wake.notified() => {}
                () = post.stop.wait() => {}
            }
            continue;
        };
        let Ok(mut parcel) = Parcel::holding(socket, packet) else { return post.close() };
        loop {
            let result = match backend {
                Backend::Uring => {
                    let (result, back) = ring::send(socket, parcel, &post.stop).await;
                    parcel = back;
                    result
                }
                Backend::Epoll => {
                    let room = epoll::writable(socket, &post.stop).await;
                    room.map(|room| room.and_then(|()| parcel.send_now()))
                }
            };
            match result {
                Some(Err(why))
                    if matches!(why.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Some(Ok(_)) => break,
                _ => return post.close(),
            }
        }
    }
}
