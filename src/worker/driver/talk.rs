//! Talks to a worker of Buck2's protocol: a thread for each, on which its calls are made, one at a time.
//!
//! ```text
//!   worker's thread:  open ─► connecting ─┬─ connected ──► the worker is ready
//!                                         └─ it has ended, all is closing, or too late ──► it cannot be started
//!   any thread:       send ─► Run, Cancel ─► [a few places] ─► call ─┬─ answer ─► Inner::response
//!                                                                    └─ none ───► Order: the worker is ended
//!   worker's thread:  close ─► the call is dropped ─► the thread is joined
//! ```
//! Which call it is, is found out: `Exec` where a cancel may be wanted, then `Execute`, then `ExecuteStream`; a worker
//! that does not know one has not begun the command, which then goes to the next, and what it knows is remembered. One
//! that does not know `Exec` is not told of cancels, and the machine learns it.
//!
//! Invariants: a command is begun once; an answer belongs to the command that is out, for there is one at a time; the
//! thread has ended, and the connection and the directory of the socket with it, when `close` returns.
//! Limits: these bytes do not go through the thread of `uring`: HTTP/2 is a library's, which has its own sockets.

use super::Inner;
use super::process::Order;
use crate::uring::SendError;
use crate::worker::buck2::{self, Answer, Buck2Error, Client, Command, CommandStream, Socket};
use crate::worker::limits::BUCK2_SAID_MAX;
use crate::worker::machine::{Event, WorkerId};
use crate::worker::wire::{WorkRequest, WorkResponse};
use std::pin::Pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// Stack of the thread: messages are decoded on it.
const STACK_BYTES: usize = 1 << 20;
/// What a shell says of an interrupted command; nobody reads it.
const CANCELED: i32 = 130;

/// What the thread is told.
enum Say {
    Run(Command),
    Cancel,
}

/// What a thread begins with.
pub(super) struct Opening {
    pub id: WorkerId,
    pub inner: Arc<Inner>,
    pub orders: SyncSender<Order>,
    /// Where the worker will serve.
    pub socket: Socket,
    /// Ready when it has ended.
    pub ended: oneshot::Receiver<()>,
    /// Whether it may know cancels.
    pub cancels: bool,
}

/// The thread of a worker that is connected.
#[derive(Debug)]
pub(super) struct Talk {
    say: Mutex<Option<mpsc::Sender<Say>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Talk {
    /// Connects as soon as the worker serves. Blocks.
    ///
    /// # Errors
    /// When it ends first, does not serve in time, or there is no thread to be had.
    pub fn open(opening: Opening) -> Result<Talk, NotOpen> {
        let (say, said) = mpsc::channel(BUCK2_SAID_MAX);
        let (connected, answer) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{}-call", opening.id))
            .stack_size(STACK_BYTES)
            .spawn(move || run(opening, said, &connected))
            .map_err(|error| NotOpen::Failed(format!("cannot start a thread: {error}")))?;
        // Whatever becomes of it from here, it is joined.
        let talk = Talk { say: Mutex::new(Some(say)), thread: Mutex::new(Some(thread)) };
        let ended = || Err(NotOpen::Failed("the thread that connects to it has ended".to_owned()));
        answer.recv().unwrap_or_else(|_| ended()).map(|()| talk)
    }

    /// Passes on a request, or a cancel of the one that is out. Never blocks.
    pub fn send(&self, request: &WorkRequest) -> Result<(), SendError> {
        let say = if request.cancel { Say::Cancel } else { Say::Run(buck2::of_request(request)) };
        match &*self.say.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Err(SendError::Closed),
            Some(sender) => sender.try_send(say).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::Closed,
            }),
        }
    }

    /// Drops what is out, and waits until the thread has ended. Again does nothing.
    pub fn close(&self) {
        self.say.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A thread that panicked has nothing more to say.
        drop(thread.map(JoinHandle::join));
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why a worker is not connected.
#[derive(Debug)]
pub(super) enum NotOpen {
    /// It has ended.
    Ended,
    /// Anything else.
    Failed(String),
}

/// The thread.
fn run(opening: Opening, mut said: mpsc::Receiver<Say>, connected: &SyncSender<Result<(), NotOpen>>) {
    let Opening { id, inner, orders, socket, ended, cancels } = opening;
    let (within, mut closing) = (inner.options.connect_within, inner.closing.subscribe());
    let mouth = Mouth { id, inner: Arc::downgrade(&inner), orders };
    // Who waits for the end of the pool does not wait for this.
    drop(inner);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = connected.send(Err(NotOpen::Failed(format!("cannot start a runtime: {error}"))));
            return;
        }
    };
    runtime.block_on(async {
        let client = tokio::select! {
            biased;
            () = closes(&mut closing) => Err(NotOpen::Failed("all workers are stopped".to_owned())),
            client = Client::connect(&socket, within, gone(ended)) => client.map_err(|error| match error {
                Buck2Error::ExitedBeforeConnecting { .. } => NotOpen::Ended,
                error => NotOpen::Failed(error.to_string()),
            }),
        };
        match client {
            Ok(client) => {
                // Somebody waits for it, and then gives orders.
                let _ = connected.send(Ok(()));
                let way = if cancels { Way::Exec } else { Way::Execute };
                Caller { mouth, client, way, stream: None }.talk(&mut said).await;
            }
            Err(why) => drop(connected.send(Err(why))),
        }
    });
}

async fn closes(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        // Whoever would say so is gone with all else.
        std::future::pending::<()>().await;
    }
}

async fn gone(ended: oneshot::Receiver<()>) -> String {
    if ended.await.is_err() {
        // Nobody looks any more whether it ends.
        std::future::pending::<()>().await;
    }
    String::new()
}

/// By which call commands go to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Exec,
    Execute,
    Stream,
}

impl Way {
    /// What comes after one that the worker does not know.
    fn next(self) -> Option<Way> {
        match self {
            Way::Exec => Some(Way::Execute),
            Way::Execute => Some(Way::Stream),
            Way::Stream => None,
        }
    }
}

/// How what the worker says gets to the others.
struct Mouth {
    id: WorkerId,
    inner: Weak<Inner>,
    orders: SyncSender<Order>,
}

impl Mouth {
    fn answer(&self, answer: Answer) {
        let response = WorkResponse {
            exit_code: answer.exit_code,
            output: answer.stderr,
            timed_out: answer.timed_out_after_s.is_some(),
            ..WorkResponse::default()
        };
        let Some(inner) = self.inner.upgrade() else { return };
        if let Err(why) = inner.response(self.id, response) {
            self.order(Order::Fail(why));
        }
    }

    fn fail(&self, error: &Buck2Error) {
        self.order(match error {
            // Most likely it has ended, and how it did says more.
            Buck2Error::Gone { .. } => Order::HungUp(error.to_string()),
            error => Order::Fail(format!("Worker process did not return a WorkResponse: {error}")),
        });
    }

    fn order(&self, order: Order) {
        // Full: it has been told to end long before.
        let _ = self.orders.try_send(order);
    }
}

/// The stream, and what has to be polled for it.
struct Streaming {
    commands: CommandStream,
    talking: Pin<Box<dyn Future<Output = Buck2Error> + Send>>,
    /// Then there is nothing more to poll.
    end: Option<Buck2Error>,
}

impl Streaming {
    async fn ended(&mut self) {
        if self.end.is_none() {
            self.end = Some((&mut self.talking).await);
        }
    }
}

/// Makes the calls.
struct Caller {
    mouth: Mouth,
    client: Client,
    way: Way,
    stream: Option<Streaming>,
}

/// How a command ended.
enum Called {
    Answer(Answer),
    Failed(Buck2Error),
    Closed,
}

impl Caller {
    async fn talk(&mut self, said: &mut mpsc::Receiver<Say>) {
        loop {
            let say = tokio::select! {
                biased;
                // A stream that ends, or breaks the protocol, while nothing is out costs no command.
                end = self.stream_ended() => return self.mouth.fail(&end),
                say = said.recv() => say,
            };
            let command = match say {
                Some(Say::Run(command)) => command,
                // Of what was answered meanwhile.
                Some(Say::Cancel) => continue,
                None => return,
            };
            match self.call(command, said).await {
                Called::Answer(answer) => self.mouth.answer(answer),
                Called::Failed(error) => return self.mouth.fail(&error),
                Called::Closed => return,
            }
        }
    }

    /// Ready when there was a stream and it has ended.
    async fn stream_ended(&mut self) -> Buck2Error {
        if let Some(streaming) = &mut self.stream {
            streaming.ended().await;
            if let Some(end) = &streaming.end {
                return end.clone();
            }
        }
        std::future::pending().await
    }

    /// One command, by the first call that the worker knows.
    async fn call(&mut self, command: Command, said: &mut mpsc::Receiver<Say>) -> Called {
        let mut is_canceled = false;
        loop {
            let (cancel, canceled) = oneshot::channel();
            let mut cancel = Some(cancel);
            let (way, next) = (self.way, self.way.next());
            let result = {
                let mut calling = std::pin::pin!(self.once(way, command.clone(), canceled));
                loop {
                    tokio::select! {
                        biased;
                        result = &mut calling => break result,
                        say = said.recv() => match say {
                            None => return Called::Closed,
                            Some(Say::Cancel) => {
                                is_canceled = true;
                                // A call that knows no cancel has dropped the other end.
                                let _ = cancel.take().map(|cancel| cancel.send(()));
                            }
                            Some(Say::Run(_)) => {
                                let why = "a second command while one is out".to_owned();
                                return Called::Failed(Buck2Error::Malformed { call: "Execute", why });
                            }
                        },
                    }
                }
            };
            match (result, next) {
                (Ok(answer), _) => return Called::Answer(answer),
                (Err(Buck2Error::NotImplemented { .. }), Some(next)) => self.goes_on_by(next),
                (Err(error), _) => return Called::Failed(error),
            }
            if is_canceled {
                // Nobody has begun it.
                return Called::Answer(Answer { exit_code: CANCELED, ..Answer::default() });
            }
        }
    }

    fn goes_on_by(&mut self, next: Way) {
        if let Some(inner) = self.mouth.inner.upgrade().filter(|_| self.way == Way::Exec) {
            inner.event(Event::KnowsNoCancel(self.mouth.id));
        }
        self.way = next;
    }

    async fn once(
        &mut self,
        way: Way,
        command: Command,
        canceled: oneshot::Receiver<()>,
    ) -> Result<Answer, Buck2Error> {
        let until_canceled = async {
            if canceled.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        match way {
            Way::Exec => self.client.exec(command, until_canceled).await,
            Way::Execute => self.client.execute(command).await,
            Way::Stream => {
                let streaming = self.stream.get_or_insert_with(|| {
                    let (commands, talking) = self.client.stream();
                    Streaming { commands, talking: Box::pin(talking), end: None }
                });
                let commands = streaming.commands.clone();
                let mut answering = std::pin::pin!(commands.execute(command));
                tokio::select! {
                    biased;
                    answer = &mut answering => answer,
                    // It may have answered before it did what ended the stream; else its answer is that end.
                    () = streaming.ended() => answering.await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

    #[test]
    fn every_call_is_tried_once_and_the_one_with_cancels_first() {
        let mut ways = vec![Way::Exec];
        while let Some(next) = ways.last().and_then(|way| way.next()) {
            ways.push(next);
        }
        assert_eq!(ways, [Way::Exec, Way::Execute, Way::Stream]);
    }
}
