//! A stream of answers that are made one at a time, when the client has room for them, on a thread that may wait.

use super::blobs::Disk;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio_stream::Stream;
use tonic::Status;

/// Makes the answers.
pub(super) trait Source: Send + 'static {
    /// What an answer is.
    type Item: Send + 'static;

    /// The next one; `None` after the last. After an error nothing follows.
    fn next(&mut self) -> Option<Result<Self::Item, Status>>;
}

type Made<S> = (S, Option<Result<<S as Source>::Item, Status>>);
type Making<S> = Pin<Box<dyn Future<Output = Result<Made<S>, Status>> + Send>>;

/// The stream.
pub(super) struct Pull<S: Source> {
    disk: Disk,
    state: State<S>,
}

enum State<S: Source> {
    /// Known before it was asked for: nobody needs to wait for it.
    Known(Option<S::Item>),
    Idle(S),
    Making(Making<S>),
    Over,
}

impl<S: Source> Pull<S> {
    pub(super) fn new(disk: Disk, source: S) -> Self {
        Pull { disk, state: State::Idle(source) }
    }

    /// A single answer, or none, that is known already.
    pub(super) fn known(disk: Disk, item: Option<S::Item>) -> Self {
        Pull { disk, state: State::Known(item) }
    }
}

// Nothing in it is pinned by position: the future is boxed.
impl<S: Source> Unpin for Pull<S> {}

impl<S: Source> Stream for Pull<S> {
    type Item = Result<S::Item, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Known(item) => return Poll::Ready(item.map(Ok)),
                State::Over => return Poll::Ready(None),
                State::Idle(mut source) => {
                    let disk = self.disk.clone();
                    self.state = State::Making(Box::pin(async move {
                        disk.run(move || {
                            let item = source.next();
                            (source, item)
                        })
                        .await
                    }));
                }
                State::Making(mut making) => {
                    let polled = making.as_mut().poll(context);
                    if polled.is_pending() {
                        self.state = State::Making(making);
                    }
                    match ready!(polled) {
                        Ok((source, Some(Ok(item)))) => {
                            self.state = State::Idle(source);
                            return Poll::Ready(Some(Ok(item)));
                        }
                        Ok((_, end)) => return Poll::Ready(end),
                        Err(status) => return Poll::Ready(Some(Err(status))),
                    }
                }
            }
        }
    }
}
