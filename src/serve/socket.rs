//! A connection: TCP or Unix, counted, and closed if it does not ask anything soon.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) origin: Origin,
    /// Whether it has made a call that was let in.
    pub(super) called: Arc<AtomicBool>,
}

/// How it came.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// By TCP; with a certificate if the listener demands one.
    Tcp(#[allow(dead_code, reason = "for the log")] SocketAddr),
    /// By a Unix socket, as a user who may come.
    Unix,
}

/// Room for a connection, and how long it may be without a call.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) patience: Duration,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    peer: Peer,
    /// Gone once the peer has called.
    patience: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn tcp(stream: TcpStream, address: SocketAddr, room: Room) -> io::Result<Self> {
        // Answers are small, and go out at once.
        stream.set_nodelay(true)?;
        Ok(Socket::new(Stream::Tcp(stream), Origin::Tcp(address), room))
    }

    pub(super) fn unix(stream: UnixStream, room: Room) -> Self {
        Socket::new(Stream::Unix(stream), Origin::Unix, room)
    }

    fn new(stream: Stream, origin: Origin, room: Room) -> Self {
        let peer = Peer { origin, called: Arc::default() };
        let patience = Some(Box::pin(tokio::time::sleep(room.patience)));
        Socket { stream, peer, patience, _permit: room.permit }
    }
}

impl Connected for Socket {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(patience) = &mut this.patience {
            if this.peer.called.load(Ordering::Relaxed) {
                this.patience = None;
            } else if patience.as_mut().poll(context).is_ready() {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the peer asked nothing");
                return Poll::Ready(Err(error));
            }
        }
        match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
