//! Operations on io_uring, by the reactor of tokio-uring.
//!
//! The operations are built here rather than taken from tokio-uring's file and socket types, because those cannot be
//! cancelled: a read from a worker that says nothing would stay in the kernel for good.
//!
//! Invariants: an operation that was begun is waited for, after a cancel if need be; where even the task that waits is
//! dropped, the reactor keeps the operation's [`Lent`] until the kernel is done. Pipes and sockets have no position, so
//! the offset is said to be the current one.

use super::buffer::Buffer;
use super::limits::{CANCEL_AGAIN, PROBE_PATIENCE, RING_ENTRIES, RING_RESULTS};
use super::parcel::Parcel;
use super::stop::Stop;
use io_uring::{cqueue, opcode, squeue, types};
use rustix::event::PollFlags;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use tokio::time::timeout;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, Runtime, UnsubmittedOneshot};

/// "Where the file stands", which is the only place that pipes and sockets have.
const CURRENT_POSITION: u64 = u64::MAX;

/// Gives back the result of an operation with what was lent to it.
struct Done<D>(PhantomData<D>);

impl<D: Unpin + 'static> OneshotOutputTransform for Done<D> {
    type Output = (io::Result<usize>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Self::Output {
        let result = entry.result();
        // Negative: an error number.
        (usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg())), data)
    }
}

type Operation<D> = InFlightOneshot<D, Done<D>>;

fn submit<D: Unpin + 'static>(lent: D, entry: squeue::Entry) -> Operation<D> {
    UnsubmittedOneshot::new(lent, Done(PhantomData), entry).submit()
}

/// Makes the ring and its reactor, on this thread.
///
/// # Errors
/// The kernel's.
pub(super) fn runtime() -> io::Result<Runtime> {
    let mut ring = tokio_uring::uring_builder();
    // No interrupts by other cores: before the thread sleeps it asks the kernel anyway.
    ring.setup_cqsize(RING_RESULTS).setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    Runtime::new(builder.entries(RING_ENTRIES).uring_builder(&ring))
}

/// Reads, once there is something. `None` if it was stopped before.
pub(super) async fn read(
    descriptor: &Arc<OwnedFd>,
    buffer: Buffer,
    stop: &Stop,
) -> (Option<io::Result<usize>>, Buffer) {
    let mut lent = buffer.lend(descriptor);
    let (to, length) = lent.place_mut();
    let entry = opcode::Read::new(types::Fd(descriptor.as_raw_fd()), to, length);
    let operation = submit(lent, entry.offset(CURRENT_POSITION).build());
    let (result, lent) = finish(descriptor, operation, stop).await;
    (outcome(result, stop), lent.back())
}

/// Writes some of the bytes after the first `from`.
pub(super) async fn write(
    descriptor: &Arc<OwnedFd>,
    buffer: Buffer,
    from: usize,
    stop: &Stop,
) -> (Option<io::Result<usize>>, Buffer) {
    let lent = buffer.lend(descriptor);
    let (at, length) = lent.place(from);
    let entry = opcode::Write::new(types::Fd(descriptor.as_raw_fd()), at, length);
    let operation = submit(lent, entry.offset(CURRENT_POSITION).build());
    let (result, lent) = finish(descriptor, operation, stop).await;
    (outcome(result, stop), lent.back())
}

/// Receives a message with its descriptors. `None` if it was stopped before.
pub(super) async fn receive(
    socket: &Arc<OwnedFd>,
    mut parcel: Parcel,
    stop: &Stop,
) -> (Option<io::Result<usize>>, Parcel) {
    let entry = opcode::RecvMsg::new(types::Fd(parcel.socket()), parcel.header());
    let entry = entry.flags(libc::MSG_CMSG_CLOEXEC.cast_unsigned()).build();
    let (result, parcel) = finish(socket, submit(parcel, entry), stop).await;
    (outcome(result, stop), parcel)
}

/// Sends a message with its descriptors, once there is room.
pub(super) async fn send(
    socket: &Arc<OwnedFd>,
    mut parcel: Parcel,
    stop: &Stop,
) -> (Option<io::Result<usize>>, Parcel) {
    let entry = opcode::SendMsg::new(types::Fd(parcel.socket()), parcel.header());
    let entry = entry.flags(libc::MSG_NOSIGNAL.cast_unsigned()).build();
    let (result, parcel) = finish(socket, submit(parcel, entry), stop).await;
    (outcome(result, stop), parcel)
}

/// Waits until the descriptor is as asked for, or has failed. `None` if it was stopped before.
pub(super) async fn wait(
    descriptor: &Arc<OwnedFd>,
    flags: PollFlags,
    stop: &Stop,
) -> Option<io::Result<usize>> {
    let lent = Buffer::holding(Vec::new()).lend(descriptor);
    let entry = opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), u32::from(flags.bits()));
    let (result, _) = finish(descriptor, submit(lent, entry.build()), stop).await;
    outcome(result, stop)
}

/// A cancel may come from whoever shares the open file; that is no error of the file's.
fn outcome(result: io::Result<usize>, stop: &Stop) -> Option<io::Result<usize>> {
    match result {
        Err(why) if why.raw_os_error() == Some(libc::ECANCELED) => {
            (!stop.is_set()).then(|| Err(io::ErrorKind::Interrupted.into()))
        }
        other => Some(other),
    }
}

/// Waits for the end of an operation, and when it shall stop, makes it end.
async fn finish<D: Unpin + 'static>(
    descriptor: &Arc<OwnedFd>,
    operation: Operation<D>,
    stop: &Stop,
) -> (io::Result<usize>, D) {
    let mut operation = pin!(operation);
    tokio::select! {
        biased;
        done = operation.as_mut() => return done,
        () = stop.wait() => {}
    }
    loop {
        let _ = cancel(descriptor).await;
        if let Ok(done) = timeout(CANCEL_AGAIN, operation.as_mut()).await {
            return done;
        }
    }
}

/// Cancels all that is under way on the descriptor.
async fn cancel(descriptor: &Arc<OwnedFd>) -> io::Result<usize> {
    let which = types::CancelBuilder::fd(types::Fd(descriptor.as_raw_fd())).all();
    let lent = Buffer::holding(Vec::new()).lend(descriptor);
    let (result, _) = submit(lent, opcode::AsyncCancel2::new(which).build()).await;
    result
}

/// Tries, within the runtime, all that is needed: a read that waits is cancelled, and bytes come through a pipe.
///
/// # Errors
/// What does not work, in words.
pub(super) async fn probe() -> Result<(), String> {
    within(probe_cancel(), "did not end a read that was cancelled").await?;
    within(probe_bytes(), "did not carry a byte through a pipe").await
}

async fn within(part: impl Future<Output = Result<(), String>>, what: &str) -> Result<(), String> {
    timeout(PROBE_PATIENCE, part).await.unwrap_or_else(|_| Err(format!("the ring {what}")))
}

async fn probe_cancel() -> Result<(), String> {
    let (reader, _writer) = std::io::pipe().map_err(|why| format!("no pipe to try it with: {why}"))?;
    let reader = Arc::new(OwnedFd::from(reader));
    let mut lent = Buffer::new().lend(&reader);
    let (to, length) = lent.place_mut();
    let entry = opcode::Read::new(types::Fd(reader.as_raw_fd()), to, length).build();
    let operation = submit(lent, entry);
    let cancelled = cancel(&reader).await;
    if let Err(why) = cancelled {
        return Err(format!("the kernel cannot cancel by descriptor (Linux 5.19 and later can): {why}"));
    }
    match operation.await.0 {
        Err(why) if why.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        other => Err(format!("a read that was cancelled ended as {other:?}")),
    }
}

async fn probe_bytes() -> Result<(), String> {
    let (reader, writer) = std::io::pipe().map_err(|why| format!("no pipe to try it with: {why}"))?;
    let (reader, writer) = (Arc::new(OwnedFd::from(reader)), Arc::new(OwnedFd::from(writer)));
    let stop = Stop::default();
    let said = |what: &str, result: Option<io::Result<usize>>| match result {
        Some(Ok(_)) => Ok(()),
        Some(Err(why)) => Err(format!("cannot {what} a pipe: {why}")),
        None => Err(format!("cannot {what} a pipe")),
    };
    said("wait for", wait(&writer, PollFlags::OUT, &stop).await)?;
    said("write to", write(&writer, Buffer::holding(b"x".to_vec()), 0, &stop).await.0)?;
    let (result, buffer) = read(&reader, Buffer::new(), &stop).await;
    let came = matches!(result, Some(Ok(1))) && buffer.bytes().first() == Some(&b'x');
    said("read from", result)?;
    if came { Ok(()) } else { Err("a pipe gave other bytes than it took".to_owned()) }
}
