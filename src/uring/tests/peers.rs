//! The other ends: frames, a listener that remembers, and what a worker would hold.

use crate::uring::{Channel, Choice, Event, Framing, FramingError, Ipc, Listener};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Longer than anything takes that is not stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// More than any test has on its way.
const EVENTS: usize = 1 << 16;

/// What a frame may claim.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

/// Frames with four bytes of length in front.
#[derive(Default)]
pub struct Lengths {
    pending: Vec<u8>,
}

impl Framing for Lengths {
    fn feed(&mut self, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), FramingError> {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.pending.get(at..at + 4) {
            let length = u32::from_le_bytes(head.try_into().unwrap()) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(FramingError { why: "too long".to_owned(), seen: head.to_vec() });
            }
            let Some(body) = self.pending.get(at + 4..at + 4 + length) else { break };
            messages.push(body.to_vec());
            at += 4 + length;
        }
        self.pending.drain(..at);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), FramingError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(FramingError { why: "ended inside a frame".to_owned(), seen: self.pending.clone() })
    }
}

/// A message in its frame.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut framed = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    framed.extend_from_slice(body);
    framed
}

/// Reads one frame, as a worker would.
pub fn read_frame(from: &mut impl Read) -> Vec<u8> {
    let mut head = [0; 4];
    from.read_exact(&mut head).unwrap();
    let mut body = vec![0; u32::from_le_bytes(head) as usize];
    from.read_exact(&mut body).unwrap();
    body
}

/// Remembers events.
pub struct Recorder(SyncSender<Event>);

impl Listener for Recorder {
    fn event(&self, event: Event) {
        let _ = self.0.try_send(event);
    }
}

/// A channel with what it said.
pub struct Talk {
    pub channel: Channel,
    pub events: Receiver<Event>,
    pub listener: Arc<Recorder>,
}

impl Talk {
    pub fn open(ipc: &Ipc, reader: OwnedFd, writer: OwnedFd) -> Talk {
        Talk::open_for(EVENTS, ipc, reader, writer)
    }

    /// One of many, which has no more than `events` on its way: room for them is made at once.
    pub fn open_for(events: usize, ipc: &Ipc, reader: OwnedFd, writer: OwnedFd) -> Talk {
        let (sender, events) = sync_channel(events);
        let listener = Arc::new(Recorder(sender));
        let channel = ipc.open(reader, writer, Box::<Lengths>::default(), listener.clone()).unwrap();
        Talk { channel, events, listener }
    }

    pub fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    pub fn message(&self) -> Vec<u8> {
        match self.event() {
            Event::Message(message) => message,
            other => panic!("{other:?} instead of a message"),
        }
    }

    /// Waits until the thread has let go of everything, and gives what came until then.
    pub fn rest(self) -> Vec<Event> {
        let Talk { channel, events, listener } = self;
        drop((channel, listener));
        events.iter().collect()
    }
}

/// The worker's ends of two pipes.
pub struct Worker {
    pub stdin: File,
    pub stdout: File,
}

/// Two pipes: our reader and writer, and the worker.
pub fn pipes() -> (OwnedFd, OwnedFd, Worker) {
    let (stdin, writer) = std::io::pipe().unwrap();
    let (reader, stdout) = std::io::pipe().unwrap();
    let file = |fd: OwnedFd| File::from(fd);
    (reader.into(), writer.into(), Worker { stdin: file(stdin.into()), stdout: file(stdout.into()) })
}

/// A socket: our reader and writer, which are one open file, and the other end.
pub fn socket() -> (OwnedFd, OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.try_clone().unwrap().into(), ours.into(), theirs)
}

/// Sends frames back until the end.
pub fn echo(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)))
}

/// The thread, and what to wait for its end by.
pub fn start(choice: Choice) -> (Ipc, std::thread::JoinHandle<()>) {
    Ipc::start_with(choice, 2048).unwrap()
}

/// Whether io_uring can be had here; says so if not.
pub fn has_ring(name: &str) -> bool {
    match Ipc::start(Choice::Uring) {
        Ok(_) => true,
        Err(why) => {
            println!("SKIP uring {name}: {why}");
            false
        }
    }
}

/// Lets this process have so many descriptors; false if it can't.
pub fn may_have_descriptors(count: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= count) {
        return true;
    }
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    now.maximum.is_none_or(|maximum| maximum >= count) && setrlimit(Resource::Nofile, wanted).is_ok()
}
