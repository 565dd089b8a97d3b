//! What a channel's handle and its task share: the queue of what is to be written, and how it ended.
//!
//! ```text
//!            send: all written at once                      (nobody else is woken)
//!   idle ────────────────────────────► idle
//!    │ send: the pipe is full, wholly or in part
//!    ▼
//!   queued ◄──── send appends, or Full ────┐
//!    │ the task takes a batch              │
//!    ▼                                     │
//!   writing ───────────────────────────────┘ ─── nothing left ──► idle
//!
//!   any ── close, end of the other side, failure ──► closed
//! ```
//! Invariants: bytes are written in the order of the sends, by the sender only while nothing is queued or being
//! written; `waiting_bytes` counts what was taken and not yet written; a closed line has no writer, so that the
//! worker's standard input ends as soon as the task has let go of its share.

use super::SendError;
use super::limits::{BATCH_BYTES, QUEUED_BYTES_MAX, QUEUED_MESSAGES_MAX};
use super::stop::Stop;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// One channel's shared part.
#[derive(Debug)]
pub(super) struct Line {
    outgoing: Mutex<Outgoing>,
    /// Something was queued, or the line was closed.
    pub wake: Notify,
    /// No more reading: closed, or writing has failed.
    pub reading: Stop,
    /// No more writing: closed, or the other side has ended.
    pub writing: Stop,
    /// The owner has hung up: no event from now on.
    is_hung_up: AtomicBool,
    /// The peer has begun a message.
    is_inside: AtomicBool,
}

#[derive(Debug)]
struct Outgoing {
    /// `None`: closed.
    writer: Option<Arc<OwnedFd>>,
    queue: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    failure: Option<io::Error>,
}

impl Line {
    /// A line to a non-blocking descriptor.
    pub fn new(writer: OwnedFd) -> Self {
        let writer = Some(Arc::new(writer));
        let outgoing = Outgoing { writer, queue: VecDeque::new(), waiting_bytes: 0, failure: None };
        Line {
            outgoing: Mutex::new(outgoing),
            wake: Notify::new(),
            reading: Stop::default(),
            writing: Stop::default(),
            is_hung_up: AtomicBool::new(false),
            is_inside: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor, unless closed.
    pub fn writer(&self) -> Option<Arc<OwnedFd>> {
        self.lock().writer.clone()
    }

    /// Writes a message, or queues what cannot be written now.
    pub fn send(&self, mut message: Vec<u8>) -> Result<(), SendError> {
        let mut outgoing = self.lock();
        let Some(writer) = &outgoing.writer else { return Err(SendError::Closed) };
        if outgoing.waiting_bytes == 0 {
            match write_now(writer, &message) {
                Ok(written) if written == message.len() => return Ok(()),
                Ok(written) => drop(message.drain(..written)),
                Err(why) => {
                    outgoing.fail(why);
                    drop(outgoing);
                    self.reading.set();
                    self.writing.set();
                    return Err(SendError::Closed);
                }
            }
            outgoing.push(message);
            drop(outgoing);
            self.wake.notify_one();
            return Ok(());
        }
        if outgoing.is_full_for(&message) {
            return Err(SendError::Full);
        }
        if !message.is_empty() {
            outgoing.push(message);
        }
        Ok(())
    }

    /// Takes what is to be written next; it is reported by [`Line::wrote`].
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut outgoing = self.lock();
        let mut batch = outgoing.queue.pop_front()?;
        while let Some(next) = outgoing.queue.front()
            && batch.len() + next.len() <= BATCH_BYTES
        {
            batch.extend_from_slice(next);
            outgoing.queue.pop_front();
        }
        Some(batch)
    }

    /// So many bytes of what was taken are written.
    pub fn wrote(&self, count: usize) {
        let mut outgoing = self.lock();
        outgoing.waiting_bytes = outgoing.waiting_bytes.saturating_sub(count);
    }

    /// Writing has failed: the reading side is to find out what came before, and to tell.
    pub fn fail(&self, why: io::Error) {
        self.lock().fail(why);
        self.reading.set();
        self.writing.set();
    }

    /// Why writing failed, once.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }

    /// No more is sent, and what is queued is dropped.
    pub fn end(&self) {
        self.lock().close();
        self.reading.set();
        self.writing.set();
    }

    /// The owner wants to hear nothing more.
    pub fn hang_up(&self) {
        self.is_hung_up.store(true, Ordering::SeqCst);
        self.end();
    }

    /// The reading side is within a message, or between two.
    pub fn set_inside(&self, is_inside: bool) {
        self.is_inside.store(is_inside, Ordering::SeqCst);
    }

    /// Whether it was within one when it last read.
    pub fn is_inside(&self) -> bool {
        self.is_inside.load(Ordering::SeqCst)
    }

    /// Whether it has said so.
    pub fn is_hung_up(&self) -> bool {
        self.is_hung_up.load(Ordering::SeqCst)
    }
}

impl Outgoing {
    fn is_full_for(&self, message: &[u8]) -> bool {
        self.queue.len() >= QUEUED_MESSAGES_MAX || self.waiting_bytes + message.len() > QUEUED_BYTES_MAX
    }

    fn push(&mut self, message: Vec<u8>) {
        self.waiting_bytes += message.len();
        self.queue.push_back(message);
    }

    fn fail(&mut self, why: io::Error) {
        if self.writer.is_some() {
            self.failure = Some(why);
            self.close();
        }
    }

    fn close(&mut self) {
        self.writer = None;
        self.queue = VecDeque::new();
        self.waiting_bytes = 0;
    }
}

/// Writes what goes at once; 0 if nothing does.
fn write_now(writer: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        match rustix::io::write(writer, bytes) {
            Ok(written) => return Ok(written),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
    }
}
