//! Calls for one command each.

use super::connect::{Socket, connect};
use super::error::Buck2Error;
use super::stream::{CommandStream, open};
use super::{Answer, Command, decode, encode};
use crate::worker::limits::{BUCK2_ANSWER_BYTES_MAX, REQUEST_BYTES_MAX};
use fulgurite_proto::buck2::worker_client::WorkerClient;
use fulgurite_proto::buck2::worker_streaming_client::WorkerStreamingClient;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// A connection to one worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects as soon as the worker serves its socket, which is all that it says about being ready.
    ///
    /// `ended` is ready, with how it ended, when the worker has.
    ///
    /// # Errors
    /// When the worker ends first, or does not serve within the limit.
    pub async fn connect(
        socket: &Socket,
        within: Duration,
        ended: impl Future<Output = String>,
    ) -> Result<Self, Buck2Error> {
        Ok(Client { channel: connect(socket, within, ended).await? })
    }

    /// Runs a command that can't be canceled: who drops the future loses the answer, and the worker goes on.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn execute(&self, command: Command) -> Result<Answer, Buck2Error> {
        let answered = self.worker().execute(encode::command(command)).await;
        let response = answered.map_err(|status| Buck2Error::from_status("Execute", &status))?;
        Ok(decode::answer(response.into_inner()))
    }

    /// Runs a command, and tells the worker to give it up when `cancel` is ready. The answer comes from the worker in
    /// both cases; how long to wait for it after a cancel is for the caller.
    ///
    /// # Errors
    /// When there is no answer. [`Buck2Error::NotImplemented`] says that the worker's commands can't be canceled and
    /// that this one was not begun: it can go to [`execute`](Self::execute).
    pub async fn exec(
        &self,
        command: Command,
        cancel: impl Future<Output = ()>,
    ) -> Result<Answer, Buck2Error> {
        let from_status = |status| Buck2Error::from_status("Exec", &status);
        // The command and its end; neither has to wait.
        let (events, receiver) = mpsc::channel(2);
        let mut worker = self.worker();
        let send = |event| {
            events.try_send(event).map_err(|_| Buck2Error::Gone {
                call: "Exec",
                why: "the call ended while it was sent".to_owned(),
            })
        };
        send(encode::first_event(command))?;
        let answering = worker.exec(ReceiverStream::new(receiver));
        tokio::pin!(answering);
        let answered = tokio::select! {
            biased;
            answered = &mut answering => answered,
            () = cancel => {
                // Our half of the call stays open as long as the worker may still want to read from it. If the call is
                // over already, its answer says more than that the cancel did not go out.
                let _ = send(encode::cancel_event());
                answering.await
            }
        };
        answered.map(|response| decode::answer(response.into_inner())).map_err(from_status)
    }

    /// Opens a stream of commands. The future beside it does the talking: it has to be polled for as long as there are
    /// commands, and ends with why the stream did; when it is dropped every command fails.
    pub fn stream(&self) -> (CommandStream, impl Future<Output = Buck2Error> + Send + use<>) {
        let client = WorkerStreamingClient::new(self.channel.clone())
            .max_decoding_message_size(BUCK2_ANSWER_BYTES_MAX)
            .max_encoding_message_size(REQUEST_BYTES_MAX);
        open(client)
    }

    fn worker(&self) -> WorkerClient<Channel> {
        WorkerClient::new(self.channel.clone())
            .max_decoding_message_size(BUCK2_ANSWER_BYTES_MAX)
            .max_encoding_message_size(REQUEST_BYTES_MAX)
    }
}
