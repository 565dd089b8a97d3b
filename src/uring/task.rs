//! The tasks of the thread: one for each channel, drain and wait.
//!
//! Invariants: a task ends when its descriptor does, when its handle is dropped, or on a failure, and then it holds
//! nothing any more; a listener hears at most one event that is not a message, as the last one; one task reads a
//! bounded amount before others get their turn.

use super::buffer::Buffer;
use super::framing::{Event, Framing, Listener, Sink};
use super::ipc::Backend;
use super::limits::{LAST_WORDS_BYTES, READS_IN_A_ROW};
use super::line::Line;
use super::port::{Reader, write};
use super::stop::Stop;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a channel's task needs.
pub(super) struct Channeling {
    pub reader: OwnedFd,
    pub framing: Box<dyn Framing>,
    pub listener: Arc<dyn Listener>,
    pub line: Arc<Line>,
}

/// Serves a channel until its end.
pub(super) async fn channel(backend: Backend, channeling: Channeling) {
    let Channeling { reader, framing, listener, line } = channeling;
    let mut incoming = Incoming { framing, listener, line: line.clone(), messages: Vec::new() };
    let reading = async {
        let last = match Reader::new(backend, reader) {
            Ok(reader) => incoming.all(&reader).await,
            Err(error) => Some(Event::Failed { writing: false, error }),
        };
        incoming.line.end();
        if let Some(event) = last {
            incoming.tell(event);
        }
    };
    tokio::join!(reading, outgoing(backend, &line));
}

/// The reading half of a channel.
struct Incoming {
    framing: Box<dyn Framing>,
    listener: Arc<dyn Listener>,
    line: Arc<Line>,
    messages: Vec<Vec<u8>>,
}

impl Incoming {
    /// Reads to the end, and gives the last event.
    async fn all(&mut self, reader: &Reader) -> Option<Event> {
        let mut buffer = Buffer::new();
        let mut in_a_row = 0;
        loop {
            let (result, back) = reader.read(buffer, &self.line.reading).await;
            buffer = back;
            let Some(result) = result else { return self.stopped(reader, buffer) };
            let count = result.as_ref().copied().unwrap_or(0);
            if let Some(last) = self.take(&result, &buffer) {
                return Some(last);
            }
            buffer = buffer.fit(count);
            in_a_row += 1;
            if in_a_row == READS_IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reading was stopped: by its owner, who wants nothing more, or because writing has failed.
    fn stopped(&mut self, reader: &Reader, mut buffer: Buffer) -> Option<Event> {
        let error = self.line.take_failure()?;
        let mut left = LAST_WORDS_BYTES;
        while left > 0
            && let Some(result) = reader.read_now(&mut buffer)
        {
            left = left.saturating_sub(result.as_ref().copied().unwrap_or(0));
            match self.take(&result, &buffer) {
                // The end was to be expected; that writing failed says more.
                Some(Event::Closed | Event::Failed { .. }) => break,
                Some(last) => return Some(last),
                None => {}
            }
        }
        Some(Event::Failed { writing: true, error })
    }

    /// Tells of what a read gave; gives the last event, if it is that.
    fn take(&mut self, result: &io::Result<usize>, buffer: &Buffer) -> Option<Event> {
        let fed = match result {
            Ok(0) => return Some(self.framing.finish().map_or_else(Event::Broken, |()| Event::Closed)),
            Ok(count) => {
                self.framing.feed(buffer.bytes().get(..*count).unwrap_or_default(), &mut self.messages)
            }
            // How a socket says that the other end went without having read all.
            Err(why) => return Some(Event::Failed { writing: false, error: same(why) }),
        };
        // Before anybody hears of what was whole: who asks then is to know of the rest.
        self.line.set_inside(self.framing.is_inside());
        // What was whole before the fault still counts.
        for message in std::mem::take(&mut self.messages) {
            self.tell(Event::Message(message));
        }
        fed.err().map(Event::Broken)
    }

    fn tell(&self, event: Event) {
        if !self.line.is_hung_up() {
            self.listener.event(event);
        }
    }
}

fn same(why: &io::Error) -> io::Error {
    why.raw_os_error().map_or_else(|| io::Error::from(why.kind()), io::Error::from_raw_os_error)
}

/// The writing half of a channel: only what could not be written at once comes here.
async fn outgoing(backend: Backend, line: &Line) {
    while !line.writing.is_set() {
        let Some(batch) = line.take() else {
            tokio::select! {
                () = line.wake.notified() => {}
                () = line.writing.wait() => {}
            }
            continue;
        };
        let Some(writer) = line.writer() else { return };
        if let Some(Err(why)) = write_all(backend, &writer, batch, line).await {
            line.fail(why);
        }
    }
}

/// `None`: it was stopped before.
async fn write_all(
    backend: Backend,
    writer: &Arc<OwnedFd>,
    bytes: Vec<u8>,
    line: &Line,
) -> Option<io::Result<()>> {
    let mut buffer = Buffer::holding(bytes);
    let mut written = 0;
    while written < buffer.bytes().len() {
        let (result, back) = write(backend, writer, buffer, written, &line.writing).await;
        buffer = back;
        match result? {
            Ok(0) => return Some(Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                written += count;
                line.wrote(count);
            }
            Err(why) => return Some(Err(why)),
        }
    }
    Some(Ok(()))
}

/// Hands on all bytes until the end.
pub(super) async fn drain(backend: Backend, reader: OwnedFd, sink: Arc<dyn Sink>, stop: Arc<Stop>) {
    let result = match Reader::new(backend, reader) {
        Ok(reader) => drained(&reader, &*sink, &stop).await,
        Err(why) => Some(Err(why)),
    };
    if let (Some(result), false) = (result, stop.is_set()) {
        sink.ended(result);
    }
}

async fn drained(reader: &Reader, sink: &dyn Sink, stop: &Stop) -> Option<io::Result<()>> {
    let mut buffer = Buffer::new();
    let mut in_a_row = 0;
    loop {
        let (result, back) = reader.read(buffer, stop).await;
        match result? {
            Ok(0) => return Some(Ok(())),
            Ok(count) => {
                sink.bytes(back.bytes().get(..count).unwrap_or_default());
                buffer = back.fit(count);
            }
            Err(why) => return Some(Err(why)),
        }
        in_a_row += 1;
        if in_a_row == READS_IN_A_ROW {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Calls back when there is something to read, the end, or a failure.
pub(super) async fn readable(
    backend: Backend,
    descriptor: OwnedFd,
    callback: Box<dyn FnOnce() + Send>,
    stop: Arc<Stop>,
) {
    let happened = match Reader::new(backend, descriptor) {
        Ok(reader) => reader.wait(&stop).await.is_some(),
        // Whoever reads then finds out why.
        Err(_) => true,
    };
    if happened && !stop.is_set() {
        callback();
    }
}
