//! The stream of an operation: its state at once, each change, a sign of life in between, and the end.

use super::engine::Watcher;
use super::reply::{self, Facts, Progress};
use fulgurite_proto::google::longrunning::Operation;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

/// The stream.
pub(super) enum OperationStream {
    /// All there is to say is known: nothing is watched.
    Known(Option<Box<Operation>>),
    /// It is on its way.
    Live(Box<Live>),
}

/// An operation on its way.
pub(super) struct Live {
    watcher: Watcher,
    changes: WatchStream<Progress>,
    heartbeat: Interval,
    over: bool,
}

impl OperationStream {
    /// Of an operation that is over.
    pub(super) fn known(facts: &Facts, progress: &Progress) -> Self {
        OperationStream::Known(Some(Box::new(reply::operation(facts, progress))))
    }

    /// Of one that somebody watches.
    pub(super) fn live(watcher: Watcher, heartbeat: Duration) -> Self {
        let changes = WatchStream::new(watcher.progress.clone());
        let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        OperationStream::Live(Box::new(Live { watcher, changes, heartbeat, over: false }))
    }
}

impl Live {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Operation>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(change) = Pin::new(&mut self.changes).poll_next(context) {
            let Some(progress) = change else { return Poll::Ready(None) };
            self.over = progress.is_done();
            self.heartbeat.reset();
            return Poll::Ready(Some(reply::operation(&self.watcher.facts, &progress)));
        }
        if self.heartbeat.poll_tick(context).is_ready() {
            let progress = self.watcher.progress.borrow().clone();
            // Should it have ended just now, the change is told next.
            if !progress.is_done() {
                return Poll::Ready(Some(reply::operation(&self.watcher.facts, &progress)));
            }
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Stream for OperationStream {
    type Item = Result<Operation, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            OperationStream::Known(operation) => {
                Poll::Ready(operation.take().map(|operation| Ok(*operation)))
            }
            OperationStream::Live(live) => live.poll(context).map(|operation| operation.map(Ok)),
        }
    }
}
