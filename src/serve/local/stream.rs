//! The stream of a run: what is told, and the task that tells it.
//!
//! The task belongs to the stream: when the caller leaves, it is dropped, and the run with it. Publishing, once begun,
//! goes on to its end on a thread of its own.

use bytes::Bytes;
use fulgurite_proto::v1;
use fulgurite_proto::v1::run_event::Event;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::Status;

/// Events that may wait for a caller who reads slowly.
const EVENTS_MAX: usize = 16;
/// Most bytes of output in one event.
const PIECE_BYTES: usize = 1 << 20;

/// The telling end.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::Sender<Result<v1::RunEvent, Status>>);

/// What a command printed.
#[derive(Debug, Default)]
pub(super) struct Printed {
    pub(super) stdout: Bytes,
    pub(super) stderr: Bytes,
}

impl Events {
    async fn tell(&self, event: Event) {
        // Who has left needs nothing.
        let _ = self.0.send(Ok(v1::RunEvent { event: Some(event) })).await;
    }

    pub(super) async fn started(&self, action_id: String) {
        self.tell(Event::Started(v1::Started { action_id, sandbox: String::new() })).await;
    }

    pub(super) async fn print(&self, printed: &Printed) {
        for piece in printed.stdout.chunks(PIECE_BYTES) {
            self.tell(Event::Stdout(piece.to_vec())).await;
        }
        for piece in printed.stderr.chunks(PIECE_BYTES) {
            self.tell(Event::Stderr(piece.to_vec())).await;
        }
    }
}

/// The caller's end.
#[derive(Debug)]
pub(in crate::serve) struct RunStream {
    /// Ended when the stream is dropped.
    _task: JoinSet<()>,
    events: mpsc::Receiver<Result<v1::RunEvent, Status>>,
}

/// Starts a run, whose outcome is the last event.
pub(super) fn serve<F, R>(run: F) -> RunStream
where
    F: FnOnce(Events) -> R + Send + 'static,
    R: Future<Output = v1::ActionOutcome> + Send + 'static,
{
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let told = Events(sender);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let outcome = run(told.clone()).await;
        told.tell(Event::Outcome(outcome)).await;
    });
    RunStream { _task: task, events }
}

impl Stream for RunStream {
    type Item = Result<v1::RunEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}
