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
    pub(super) line: Line,
}

/// Whether a connection was lost: its peer fell silent, and did not close or reset it. This is known before the calls
/// on it are told, unless it is us who give it up: they may then be told a moment earlier.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(Arc<AtomicBool>);

impl Line {
    /// Of somebody who asks now and then instead of waiting, and so is always about to come back.
    pub(super) fn of_poller() -> Self {
        let line = Line::default();
        line.lose();
        line
    }

    pub(super) fn is_lost(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn lose(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// How it came.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// By TCP; with a certificate if the listener demands one.
    Tcp(#[allow(dead_code, reason = "for the log")] SocketAddr),
    /// By a Unix socket, as this user, who may come.
    Unix {
        /// Which.
        uid: u32,
    },
}

impl Origin {
    /// Whether this user has come by a Unix socket.
    pub(super) fn is_user(&self, uid: u32) -> bool {
        matches!(self, Origin::Unix { uid: theirs } if *theirs == uid)
    }
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
    /// Whether the peer has closed it.
    closed: bool,
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

    pub(super) fn unix(stream: UnixStream, uid: u32, room: Room) -> Self {
        Socket::new(Stream::Unix(stream), Origin::Unix { uid }, room)
    }

    fn new(stream: Stream, origin: Origin, room: Room) -> Self {
        let peer = Peer { origin, called: Arc::default(), line: Line::default() };
        let patience = Some(Box::pin(tokio::time::sleep(room.patience)));
        Socket { stream, peer, closed: false, patience, _permit: room.permit }
    }

    /// Who writes to a peer that has closed the connection learns it before who reads does.
    fn look_at(&mut self, written: &Poll<io::Result<usize>>) {
        let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        if matches!(written, Poll::Ready(Err(error)) if gone.contains(&error.kind())) {
            self.closed = true;
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.closed {
            self.peer.line.lose();
        }
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
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        match &read {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => this.closed = true,
            Poll::Ready(Err(_)) if !this.closed => this.peer.line.lose(),
            Poll::Ready(Ok(())) if room > 0 && buffer.filled().len() == before => this.closed = true,
            _ => {}
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.look_at(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        self.look_at(&written);
        written
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
        // Both sides have said that nothing more comes: only one that is given up is dropped without that.
        self.closed = true;
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Room, Socket};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;

    async fn pair() -> (TcpStream, Socket, Line) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, address) = listener.accept().await.unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let room = Room { permit, patience: Duration::from_secs(3600) };
        let socket = Socket::tcp(far, address, room).unwrap();
        let line = socket.peer.line.clone();
        (near, socket, line)
    }

    #[tokio::test]
    async fn a_connection_that_its_peer_closed_is_not_lost() {
        let (near, mut socket, line) = pair().await;
        drop(near);
        assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
        drop(socket);
        assert!(!line.is_lost());
    }

    #[tokio::test]
    async fn nor_is_one_that_was_reset() {
        let (near, mut socket, line) = pair().await;
        rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
        drop(near);
        assert!(socket.read(&mut [0; 8]).await.is_err());
        drop(socket);
        assert!(!line.is_lost());
    }

    #[tokio::test]
    async fn nor_is_one_whose_end_a_write_finds() {
        let (near, mut socket, line) = pair().await;
        rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
        drop(near);
        while socket.write_all(&[0; 4096]).await.is_ok() {}
        drop(socket);
        assert!(!line.is_lost());
    }

    #[tokio::test]
    async fn nor_is_one_that_was_ended_in_order() {
        let (_near, mut socket, line) = pair().await;
        socket.shutdown().await.unwrap();
        drop(socket);
        assert!(!line.is_lost());
    }

    #[tokio::test]
    async fn a_connection_that_we_give_up_is_lost() {
        let (_near, socket, line) = pair().await;
        drop(socket);
        assert!(line.is_lost());
    }
}
