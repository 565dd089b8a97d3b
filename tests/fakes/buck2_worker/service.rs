//! The three calls of the protocol, and the faults that only a call can have.

use super::cancel::Cancel;
use super::command::{Worker, fault, hang, texts};
use fulgurite_proto::buck2::execute_event::Data;
use fulgurite_proto::buck2::worker_server::Worker as Single;
use fulgurite_proto::buck2::worker_streaming_server::WorkerStreaming;
use fulgurite_proto::buck2::{
    ExecuteCommand, ExecuteCommandStream, ExecuteEvent, ExecuteResponse, ExecuteResponseStream,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Answers that wait for a client that does not read.
const ANSWERS_MAX: usize = 64;
const UNKNOWN_ID: u64 = 7_000_001;

type Answer = Result<ExecuteResponseStream, Status>;

async fn execute(
    worker: Arc<Worker>,
    command: ExecuteCommand,
    via: &'static str,
    cancel: Arc<Cancel>,
) -> Result<ExecuteResponse, Status> {
    let task = tokio::task::spawn_blocking(move || worker.execute(&command, via, &cancel));
    task.await.map_err(|error| Status::internal(error.to_string()))?
}

/// The worker as both services.
#[derive(Clone)]
pub struct Service(pub Arc<Worker>);

#[tonic::async_trait]
impl Single for Service {
    async fn execute(&self, request: Request<ExecuteCommand>) -> Result<Response<ExecuteResponse>, Status> {
        if self.0.fault("no-execute").is_some() {
            return Err(Status::unimplemented("this worker has no Execute, as asked for"));
        }
        let cancel = Arc::new(Cancel::default());
        execute(self.0.clone(), request.into_inner(), "Execute", cancel).await.map(Response::new)
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecuteEvent>>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        if self.0.fault("no-exec").is_some() {
            return Err(Status::unimplemented("this worker has no Exec, as asked for"));
        }
        let mut events = request.into_inner();
        let Some(ExecuteEvent { data: Some(Data::Command(command)) }) = events.message().await? else {
            return Err(Status::invalid_argument("the first event is no command"));
        };
        let cancel = Arc::new(Cancel::default());
        let mut running = std::pin::pin!(execute(self.0.clone(), command, "Exec", cancel.clone()));
        let mut is_open = true;
        loop {
            tokio::select! {
                ended = &mut running => return ended.map(Response::new),
                event = events.message(), if is_open => match event {
                    Ok(Some(ExecuteEvent { data: Some(Data::Cancel(_)) })) => cancel.cancel(),
                    Ok(Some(_)) => return Err(Status::invalid_argument("a second command")),
                    // The client has nothing more to say, or is gone: then nobody waits for the command.
                    Ok(None) => is_open = false,
                    Err(_) => {
                        is_open = false;
                        cancel.cancel();
                    }
                },
            }
        }
    }
}

#[tonic::async_trait]
impl WorkerStreaming for Service {
    type ExecuteStreamStream = ReceiverStream<Answer>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<ExecuteCommandStream>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        if self.0.fault("no-stream").is_some() {
            return Err(Status::unimplemented("this worker has no ExecuteStream, as asked for"));
        }
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let (worker, mut commands) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(ExecuteCommandStream { request, id })) = commands.message().await {
                let Some(command) = request else { continue };
                if fault(&texts(&command), "close-stream").is_some() {
                    let _ = answers.send(Err(Status::aborted("as asked for"))).await;
                    return;
                }
                tokio::spawn(stream_one(worker.clone(), command, id, answers.clone()));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn stream_one(worker: Arc<Worker>, command: ExecuteCommand, id: u64, answers: mpsc::Sender<Answer>) {
    let arguments = texts(&command);
    let asked = |name: &str| fault(&arguments, name).or_else(|| worker.fault(name)).is_some();
    let response = execute(worker.clone(), command, "ExecuteStream", Arc::default()).await;
    let answer = response.map(|response| ExecuteResponseStream { response: Some(response), id });
    // Nobody listens any more where sending fails.
    if asked("unknown-id") {
        let foreign = answer.map(|answer| ExecuteResponseStream { id: UNKNOWN_ID, ..answer });
        let _ = answers.send(foreign).await;
        let _ = tokio::task::spawn_blocking(|| hang()).await;
    } else if asked("no-response") {
        let _ = answers.send(Ok(ExecuteResponseStream { response: None, id })).await;
    } else {
        let _ = answers.send(answer.clone()).await;
        if asked("double-reply") {
            let _ = answers.send(answer).await;
        }
    }
}
