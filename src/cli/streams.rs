//! Standard streams of a command: passed on as they are, except that it never gets hold of a terminal.
//!
//! A terminal is replaced by a pipe, which a thread empties, or fills in the case of standard input; files, pipes and
//! sockets are handed over. Standard input is empty unless it was asked for.
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{self, Read, Write};
use std::thread::JoinHandle;

/// The three streams, as the command gets them.
#[derive(Debug)]
pub struct Streams {
    descriptors: [OwnedFd; 3],
    copiers: Vec<JoinHandle<()>>,
}

impl Streams {
    /// Prepares the streams.
    ///
    /// # Errors
    /// When a descriptor, a pipe or a thread cannot be had.
    pub fn open(with_stdin: bool) -> io::Result<Self> {
        let stdin = if with_stdin {
            input()?
        } else {
            rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        };
        let mut copiers = Vec::new();
        let stdout = output(io::stdout().as_fd(), &mut copiers, io::stdout)?;
        let stderr = output(io::stderr().as_fd(), &mut copiers, io::stderr)?;
        Ok(Streams { descriptors: [stdin, stdout, stderr], copiers })
    }

    /// The descriptors to hand over.
    #[must_use]
    pub fn borrowed(&self) -> [BorrowedFd<'_>; 3] {
        let [stdin, stdout, stderr] = &self.descriptors;
        [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
    }

    /// Closes our ends and waits until everything that was written is on the terminal. Call it when all is quiet.
    pub fn finish(self) {
        drop(self.descriptors);
        for copier in self.copiers {
            // A copier that panicked has nothing to add.
            let _ = copier.join();
        }
    }
}

fn input() -> io::Result<OwnedFd> {
    let own = io::stdin();
    if !rustix::termios::isatty(&own) {
        return own.as_fd().try_clone_to_owned();
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // Nobody waits for the thread: it ends with the command's end of the pipe, or waits for a key when the process
    // ends.
    let copy = move || {
        let _ = io::copy(&mut own.lock(), &mut std::fs::File::from(writer));
    };
    std::thread::Builder::new().name("fulgurite-keys".to_owned()).spawn(copy)?;
    Ok(reader)
}

fn output<W: Write + Send + 'static>(
    own: BorrowedFd<'_>,
    copiers: &mut Vec<JoinHandle<()>>,
    target: fn() -> W,
) -> io::Result<OwnedFd> {
    if !rustix::termios::isatty(own) {
        return own.try_clone_to_owned();
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let copy = move || {
        let (mut reader, mut target) = (std::fs::File::from(reader), target());
        let mut buffer = [0u8; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            // A terminal that is gone is not the command's concern.
            let _ = buffer.get(..count).map(|bytes| target.write_all(bytes).and_then(|()| target.flush()));
        }
    };
    copiers.push(std::thread::Builder::new().name("fulgurite-copy".to_owned()).spawn(copy)?);
    Ok(writer)
}
