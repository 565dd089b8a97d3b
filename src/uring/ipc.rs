//! The thread and its handle.
//!
//! ```text
//!   Ipc, Channel ──register──► bounded queue ──► the thread: one task each ──► ends with its descriptor or handle
//!   last Ipc dropped ──► no more come ──► last task ended ──► the thread ends
//! ```
//! Invariants: the thread never blocks but for events; every task has its seat, of which there are a bounded number, so
//! the queue to the thread is never full; tasks are owned by the thread's loop, which waits for the last one.

use super::error::{IpcError, SendError};
use super::framing::{Framing, Listener, Sink};
use super::limits::REGISTERED_MAX;
use super::line::Line;
use super::packets::{PacketListener, Packeting, Packets, Post};
use super::parcel::keeps_apart;
use super::port::set_nonblocking;
use super::stop::Stop;
use super::task::{self, Channeling};
use super::{packets, probe, ring};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};

/// By what the thread is to talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where it can be had, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// By what the thread talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

impl Backend {
    /// Its name, as reports have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
        }
    }
}

/// A handle of the thread that talks to inits and workers. The thread ends when the last handle is dropped and all that
/// is registered has ended.
#[derive(Clone, Debug)]
pub struct Ipc {
    commands: mpsc::Sender<Seated>,
    seats: Arc<Semaphore>,
    backend: Backend,
    fallback: Option<Arc<str>>,
}

/// Something to serve, with its seat.
struct Seated {
    what: Command,
    seat: OwnedSemaphorePermit,
}

enum Command {
    Channel(Channeling),
    Drain { reader: OwnedFd, sink: Arc<dyn Sink>, stop: Arc<Stop> },
    Packets(Packeting),
    Readable { descriptor: OwnedFd, callback: Box<dyn FnOnce() + Send>, stop: Arc<Stop> },
}

/// Bytes to and from one peer. Dropping it closes it.
#[derive(Debug)]
pub struct Channel {
    line: Arc<Line>,
}

/// Hands on bytes as long as it lives.
#[derive(Debug)]
pub struct Drain {
    stop: Arc<Stop>,
}

/// Waits as long as it lives.
#[derive(Debug)]
pub struct Readable {
    stop: Arc<Stop>,
}

impl Ipc {
    /// Starts the thread. Cheap enough to be done once a program, not once a worker.
    ///
    /// # Errors
    /// [`IpcError::Refused`] where io_uring alone would do and cannot be had, [`IpcError::Start`] where there are not
    /// even descriptors for epoll.
    pub fn start(choice: Choice) -> Result<Ipc, IpcError> {
        Ipc::start_with(choice, REGISTERED_MAX).map(|(ipc, _)| ipc)
    }

    /// The same with so many seats, and with what to wait for the end of the thread by.
    pub(super) fn start_with(choice: Choice, seats: usize) -> Result<(Ipc, JoinHandle<()>), IpcError> {
        let (commands, received) = mpsc::channel(seats);
        let (started, answer) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("fulgurite-ipc".to_owned())
            .spawn(move || run(choice, received, &started))
            .map_err(|why| IpcError::Start { why })?;
        let started = answer.recv().map_err(|_| IpcError::Ended)??;
        let seats = Arc::new(Semaphore::new(seats));
        let fallback = started.fallback.map(Arc::from);
        Ok((Ipc { commands, seats, backend: started.backend, fallback }, thread))
    }

    /// By what it talks.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why it does not talk by io_uring, though it might have.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Opens a channel to a peer at the other end of two pipes or a socket. The descriptors' mode (`O_NONBLOCK`) is
    /// changed: nobody else may use these open files.
    ///
    /// # Errors
    /// When the descriptors cannot be used, or there are too many.
    pub fn open(
        &self,
        reader: OwnedFd,
        writer: OwnedFd,
        framing: Box<dyn Framing>,
        listener: Arc<dyn Listener>,
    ) -> Result<Channel, IpcError> {
        self.ready(&reader)?;
        // Last: where both are one open file, a sender must not block.
        set_nonblocking(&writer, true).map_err(|why| IpcError::Descriptor { why })?;
        let line = Arc::new(Line::new(writer));
        self.register(Command::Channel(Channeling { reader, framing, listener, line: line.clone() }))?;
        Ok(Channel { line })
    }

    /// Hands all that comes to a sink.
    ///
    /// # Errors
    /// As [`Ipc::open`].
    pub fn drain(&self, reader: OwnedFd, sink: Arc<dyn Sink>) -> Result<Drain, IpcError> {
        self.ready(&reader)?;
        let stop = Arc::new(Stop::default());
        self.register(Command::Drain { reader, sink, stop: stop.clone() })?;
        Ok(Drain { stop })
    }

    /// Takes over a socket that keeps messages apart, for messages with descriptors both ways.
    ///
    /// # Errors
    /// As [`Ipc::open`], and when it is another kind of socket.
    pub fn packets(&self, socket: OwnedFd, listener: Arc<dyn PacketListener>) -> Result<Packets, IpcError> {
        let no_such = || io::Error::new(io::ErrorKind::InvalidInput, "it keeps no messages apart");
        let kept = keeps_apart(socket.as_fd());
        kept.and_then(|kept| if kept { Ok(()) } else { Err(no_such()) })
            .map_err(|why| IpcError::Descriptor { why })?;
        self.ready(&socket)?;
        // Epoll takes a descriptor once: the sending side has its own.
        let writer = socket.try_clone().map_err(|why| IpcError::Descriptor { why })?;
        let (socket, writer) = (Arc::new(socket), Arc::new(writer));
        let post = Arc::new(Post::new(&writer));
        self.register(Command::Packets(Packeting { socket, writer, listener, post: post.clone() }))?;
        Ok(Packets { post })
    }

    /// Calls back, on the thread, once there is something to read, the end, or a failure. The callback must not block.
    /// The descriptor's mode stays as it is.
    ///
    /// # Errors
    /// As [`Ipc::open`].
    pub fn readable(
        &self,
        descriptor: OwnedFd,
        callback: Box<dyn FnOnce() + Send>,
    ) -> Result<Readable, IpcError> {
        let stop = Arc::new(Stop::default());
        self.register(Command::Readable { descriptor, callback, stop: stop.clone() })?;
        Ok(Readable { stop })
    }

    /// A ring waits in the kernel, on descriptors that block; epoll must find out that nothing is there.
    fn ready(&self, reader: &OwnedFd) -> Result<(), IpcError> {
        set_nonblocking(reader, self.backend == Backend::Epoll).map_err(|why| IpcError::Descriptor { why })
    }

    fn register(&self, what: Command) -> Result<(), IpcError> {
        let seat = self.seats.clone().try_acquire_owned().map_err(|_| IpcError::TooMany)?;
        self.commands.try_send(Seated { what, seat }).map_err(|why| match why {
            mpsc::error::TrySendError::Full(_) => IpcError::TooMany,
            mpsc::error::TrySendError::Closed(_) => IpcError::Ended,
        })
    }
}

impl Channel {
    /// Writes a message, frame and all, or queues what the peer does not read at once. Never blocks.
    ///
    /// # Errors
    /// [`SendError::Full`]: nothing of the message was taken. [`SendError::Closed`]: the channel has ended; unless it
    /// was closed here, the listener is told why.
    pub fn send(&self, message: Vec<u8>) -> Result<(), SendError> {
        self.line.send(message)
    }

    /// Whether the peer has begun a message that is not whole yet, as far as was read.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.line.is_inside()
    }

    /// Closes both directions and drops what is queued. No event comes any more, but for one that the thread is
    /// telling at this moment. Again does nothing.
    pub fn close(&self) {
        self.line.hang_up();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop.set();
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        self.stop.set();
    }
}

impl fmt::Debug for Seated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seated").finish_non_exhaustive()
    }
}

/// How the thread has started.
struct Started {
    backend: Backend,
    fallback: Option<String>,
}

type Answer = SyncSender<Result<Started, IpcError>>;

/// The thread.
fn run(choice: Choice, commands: mpsc::Receiver<Seated>, started: &Answer) {
    let fallback = match (choice, ring_runtime(choice)) {
        (_, Ok(Some(runtime))) => {
            // Nobody waits for an answer any more only if the starting thread has died.
            let _ = started.send(Ok(Started { backend: Backend::Uring, fallback: None }));
            return runtime.block_on(serve(Backend::Uring, commands));
        }
        (Choice::Uring, Err(why)) => {
            let _ = started.send(Err(IpcError::Refused { why }));
            return;
        }
        (_, Err(why)) => Some(why),
        (_, Ok(None)) => None,
    };
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match built {
        Ok(runtime) => {
            let _ = started.send(Ok(Started { backend: Backend::Epoll, fallback }));
            LocalSet::new().block_on(&runtime, serve(Backend::Epoll, commands));
        }
        Err(why) => {
            let _ = started.send(Err(IpcError::Start { why }));
        }
    }
}

/// A ring that works, if one is wanted.
fn ring_runtime(choice: Choice) -> Result<Option<tokio_uring::Runtime>, String> {
    if choice == Choice::Epoll {
        return Ok(None);
    }
    let runtime = ring::runtime().map_err(|why: io::Error| probe::explain(&why))?;
    runtime.block_on(ring::probe())?;
    Ok(Some(runtime))
}

/// Serves what is registered until nobody can register any more and all has ended.
async fn serve(backend: Backend, mut commands: mpsc::Receiver<Seated>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Seated { what, seat }) => drop(tasks.spawn_local(task_of(backend, what, seat))),
                None => break,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn task_of(backend: Backend, what: Command, seat: OwnedSemaphorePermit) {
    match what {
        Command::Channel(channeling) => task::channel(backend, channeling).await,
        Command::Drain { reader, sink, stop } => task::drain(backend, reader, sink, stop).await,
        Command::Packets(packeting) => packets::serve(backend, packeting).await,
        Command::Readable { descriptor, callback, stop } => {
            task::readable(backend, descriptor, callback, stop).await;
        }
    }
    drop(seat);
}
