//! A network between two daemons on one machine: a proxy that delays, jitters, loses and ends.
//!
//! ```text
//!   client ─► read a piece ─► due = sent + half a round trip + jitter (+ a retransmission) ─► wait ─► write ─► server
//!                └ sent = when the line has room: bytes per second       pieces stay in their order
//! ```
//! A lost packet is what TCP makes of it: everything behind it waits for a retransmission. It needs no privileges, no
//! `tc` and no module of the kernel, which a network namespace with netem does.
//!
//! Invariants: bytes arrive unchanged and in order; the sequence of losses comes from a fixed seed; [`Link::cut`]
//! resets all connections, and from then on connecting is refused.
//!
//! Limits: handshakes are not delayed; no model of congestion; delays are as exact as tokio's timer, a millisecond.
use super::limits::{PIECE_BYTES, PIECES_ON_THE_WAY};
use crate::bench::BenchError;
use bytes::Bytes;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Bytes of a packet: what is lost at a time.
const PACKET_BYTES: usize = 1460;

/// What a network is like, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Half a round trip.
    pub delay: Duration,
    /// At most so much more.
    pub jitter: Duration,
    /// The share of packets that are lost: 0 to 1.
    pub loss: f64,
    /// How much later a lost packet comes.
    pub retransmission: Duration,
    /// Bytes each second.
    pub bytes_per_second: u64,
}

/// A running proxy.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Listens on loopback, and passes everything on to the Unix socket `server`.
    ///
    /// # Errors
    /// [`BenchError::File`]: no socket, no thread.
    pub fn to(server: &Path, shape: Shape) -> Result<Link, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::file("start a network"))?;
        let failed = || BenchError::file("listen on loopback");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let (end, ended) = watch::channel(false);
        let server = server.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || runtime.block_on(serve(listener, server, shape, ended)))
            .map_err(BenchError::file("start a network"))?;
        Ok(Link { address, end, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The other side dies: connections are reset, and new ones refused.
    pub fn cut(&mut self) {
        let _ = self.end.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn serve(listener: TcpListener, server: PathBuf, shape: Shape, mut ended: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut seed = 0;
    loop {
        tokio::select! {
            biased;
            _ = ended.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                seed += 2;
                connections.spawn(connection(near, server.clone(), shape, seed, ended.clone()));
            }
        }
    }
    // First nobody can come any more, then those that are here are reset, each by its own task.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    mut near: TcpStream,
    server: PathBuf,
    shape: Shape,
    seed: u64,
    mut ended: watch::Receiver<bool>,
) {
    let Ok(mut far) = UnixStream::connect(&server).await else { return };
    // A segment that waits for company would add a delay that is not ours.
    let _ = near.set_nodelay(true);
    // Halves that are borrowed: owned ones would say a proper end when they are dropped.
    let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
    let is_cut = tokio::select! {
        biased;
        _ = ended.changed() => true,
        _ = async {
            tokio::join!(
                direction(near_read, far_write, shape, seed),
                direction(far_read, near_write, shape, seed + 1)
            )
        } => false,
    };
    if is_cut {
        // Closed like this, it is reset.
        let _ = near.set_zero_linger();
    }
}

async fn direction(from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, shape: Shape, seed: u64) {
    let (sender, receiver) = mpsc::channel(PIECES_ON_THE_WAY);
    tokio::join!(depart(from, sender, shape, seed), arrive(to, receiver));
}

async fn depart(
    mut from: impl AsyncRead + Unpin,
    way: mpsc::Sender<(Instant, Bytes)>,
    shape: Shape,
    seed: u64,
) {
    let mut line = Line::new(shape, seed);
    let began = Instant::now();
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let due = began + line.due(began.elapsed(), read);
        let sent = piece.get(..read).map(Bytes::copy_from_slice).unwrap_or_default();
        if way.send((due, sent)).await.is_err() {
            return;
        }
    }
}

async fn arrive(mut to: impl AsyncWrite + Unpin, mut way: mpsc::Receiver<(Instant, Bytes)>) {
    while let Some((due, piece)) = way.recv().await {
        sleep_until(due).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// When pieces arrive. Pure: time is given to it.
#[derive(Debug)]
struct Line {
    shape: Shape,
    /// When the line has room again.
    free: Duration,
    /// When the last piece arrives.
    last: Duration,
    state: u64,
}

impl Line {
    fn new(shape: Shape, seed: u64) -> Self {
        Line { shape, free: Duration::ZERO, last: Duration::ZERO, state: seed }
    }

    /// From 0 to 1.
    fn chance(&mut self) -> f64 {
        // SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// When a piece that is handed over `now` arrives.
    fn due(&mut self, now: Duration, bytes: usize) -> Duration {
        let Shape { delay, jitter, loss, retransmission, bytes_per_second } = self.shape;
        let takes = Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
        self.free = self.free.max(now) + takes;
        let mut due = self.free + delay + jitter.mul_f64(self.chance());
        for _ in 0..bytes.div_ceil(PACKET_BYTES) {
            if self.chance() < loss {
                due += retransmission;
            }
        }
        self.last = self.last.max(due);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const SHAPE: Shape = Shape {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        retransmission: Duration::from_millis(200),
        bytes_per_second: 1_000_000,
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pieces_wait_for_the_line_and_keep_their_order() {
        let mut line = Line::new(SHAPE, 1);
        assert_eq!(line.due(ms(0), 1000), ms(11));
        assert_eq!(line.due(ms(0), 1000), ms(12));
        assert_eq!(line.due(ms(500), 1000), ms(511));
        let mut line = Line::new(Shape { jitter: ms(50), ..SHAPE }, 1);
        let dues: Vec<Duration> = (0..100).map(|now| line.due(ms(now), 10)).collect();
        assert!(dues.is_sorted() && dues.iter().zip(0..).all(|(due, now)| *due >= ms(now + 10)));
    }

    #[test]
    fn what_is_lost_comes_later() {
        let mut line = Line::new(Shape { loss: 1.0, ..SHAPE }, 1);
        assert_eq!(line.due(ms(0), PACKET_BYTES).as_millis(), 211);
        let mut line = Line::new(Shape { loss: 0.1, bytes_per_second: u64::MAX, ..SHAPE }, 7);
        let late = (0..10_000).map(|now| ms(now * 1000)).filter(|now| line.due(*now, 1) > *now + ms(100));
        assert!((800..1200).contains(&late.count()));
    }

    #[test]
    fn a_link_passes_bytes_on_until_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut piece = [0; 5];
            stream.read_exact(&mut piece).unwrap();
            stream.write_all(&piece).unwrap();
            // Nothing more comes: the end, or a reset.
            stream.read(&mut piece).unwrap_or(0)
        });
        let mut link = Link::to(&path, Shape { delay: ms(1), ..SHAPE }).unwrap();
        let mut stream = std::net::TcpStream::connect(link.address()).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut piece = [0; 5];
        stream.read_exact(&mut piece).unwrap();
        assert_eq!(&piece, b"hello");
        link.cut();
        assert!(stream.read(&mut piece).is_err(), "it is reset");
        assert!(std::net::TcpStream::connect(link.address()).is_err(), "it is refused");
        assert_eq!(echo.join().unwrap(), 0);
    }
}
