//! Many commands over one call.
//!
//! ```text
//!   execute ─ id ─► Waiting ─ answer ─► taken out, handed over
//!                     │ └─ caller gone ─► Abandoned ─ answer ─► taken out, nobody told
//!                     └─ the stream ends ─► every one of them fails
//! ```
//! Invariants: an id is given once; an answer without a command that waits for it, abandoned or not, ends the stream,
//! so that no answer ever reaches another command; commands that are not answered are at most
//! [`BUCK2_IN_FLIGHT_MAX`], those that nobody waits for included, because the worker still holds them.

use super::error::Buck2Error;
use super::{Answer, Command, decode, encode};
use crate::worker::limits::BUCK2_IN_FLIGHT_MAX;
use fulgurite_proto::buck2::worker_streaming_client::WorkerStreamingClient;
use fulgurite_proto::buck2::{ExecuteCommandStream, ExecuteResponseStream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const CALL: &str = "ExecuteStream";

type Waiting = oneshot::Sender<Result<Answer, Buck2Error>>;
type Answered = oneshot::Receiver<Result<Answer, Buck2Error>>;

/// The commands of a stream.
#[derive(Debug, Default)]
struct Commands {
    last_id: u64,
    /// By id. Whose receiver is gone is abandoned.
    waiting: HashMap<u64, Waiting>,
    /// Why the stream has ended.
    end: Option<Buck2Error>,
}

impl Commands {
    fn begin(&mut self) -> Result<(u64, Answered), Buck2Error> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        if self.waiting.len() >= BUCK2_IN_FLIGHT_MAX {
            return Err(Buck2Error::Full { in_flight: self.waiting.len() });
        }
        self.last_id += 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(self.last_id, sender);
        Ok((self.last_id, receiver))
    }

    fn answer(&mut self, message: ExecuteResponseStream) -> Result<(), Buck2Error> {
        let malformed = |why| Buck2Error::Malformed { call: CALL, why };
        let id = message.id;
        let Some(response) = message.response else {
            return Err(malformed(format!("the answer to command {id} is empty")));
        };
        let Some(waiting) = self.waiting.remove(&id) else {
            return Err(malformed(format!(
                "the worker answers command {id}, which does not wait for an answer"
            )));
        };
        // Whoever does not wait any more has to be told nothing.
        let _ = waiting.send(Ok(decode::answer(response)));
        Ok(())
    }

    fn fail(&mut self, end: &Buck2Error) {
        self.end.get_or_insert_with(|| end.clone());
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting.send(Err(end.clone()));
        }
    }
}

/// Sends commands to one worker over one call. Clones share it.
#[derive(Clone, Debug)]
pub struct CommandStream {
    commands: Arc<Mutex<Commands>>,
    sender: mpsc::Sender<ExecuteCommandStream>,
}

impl CommandStream {
    /// Runs a command; others may be answered first. Who drops the future loses the answer, and the worker goes on.
    ///
    /// # Errors
    /// When there is no answer, and when too many commands have none yet.
    pub async fn execute(&self, command: Command) -> Result<Answer, Buck2Error> {
        let answer = self.send(command)?;
        answer.await.unwrap_or_else(|_| Err(self.end()))
    }

    /// Under one lock, so that ids increase on the wire too.
    fn send(&self, command: Command) -> Result<Answered, Buck2Error> {
        let mut commands = lock(&self.commands);
        let (id, answer) = commands.begin()?;
        // The queue has a place for each command that is not answered, so that it is full only if the worker answers
        // what it has not got; and closed when the call is over, which the talking is about to say.
        if self.sender.try_send(encode::in_stream(command, id)).is_err() {
            commands.waiting.remove(&id);
            return Err(commands.end.clone().unwrap_or_else(dropped));
        }
        Ok(answer)
    }

    /// Commands that the worker has not answered, those that nobody waits for included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.commands).waiting.len()
    }

    fn end(&self) -> Buck2Error {
        lock(&self.commands).end.clone().unwrap_or_else(dropped)
    }
}

fn dropped() -> Buck2Error {
    Buck2Error::Gone { call: CALL, why: "the stream was given up".to_owned() }
}

/// No code that holds the lock can panic halfway through a change.
fn lock(commands: &Mutex<Commands>) -> MutexGuard<'_, Commands> {
    commands.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails what still waits when the talking ends, however it ends.
struct Ending(Arc<Mutex<Commands>>);

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.0).fail(&dropped());
    }
}

pub(super) fn open(
    client: WorkerStreamingClient<Channel>,
) -> (CommandStream, impl Future<Output = Buck2Error> + Send + use<>) {
    let (sender, receiver) = mpsc::channel(BUCK2_IN_FLIGHT_MAX);
    let commands = Arc::<Mutex<Commands>>::default();
    let ending = Ending(commands.clone());
    let talking = async move {
        let end = talk(client, receiver, &ending.0).await;
        lock(&ending.0).fail(&end);
        end
    };
    (CommandStream { commands, sender }, talking)
}

/// Begins the call and takes answers to its end. Some servers send no header before their first answer, so that the
/// call itself may last until then; commands go out meanwhile.
async fn talk(
    mut client: WorkerStreamingClient<Channel>,
    receiver: mpsc::Receiver<ExecuteCommandStream>,
    commands: &Mutex<Commands>,
) -> Buck2Error {
    let mut answers = match client.execute_stream(ReceiverStream::new(receiver)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Buck2Error::from_status(CALL, &status),
    };
    loop {
        match answers.message().await {
            Ok(Some(message)) => {
                if let Err(error) = lock(commands).answer(message) {
                    return error;
                }
            }
            Ok(None) => {
                let why = "it ended the stream".to_owned();
                return Buck2Error::Gone { call: CALL, why };
            }
            Err(status) => return Buck2Error::from_status(CALL, &status),
        }
    }
}
