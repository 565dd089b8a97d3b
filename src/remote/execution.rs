//! The action cache and executions of a cluster.
//!
//! ```text
//!   Execute ─► stream of the operation ─► done: response
//!                │ broken ─► WaitExecution(name) ─► stream …      NOT_FOUND ─► Execute again
//! ```
//! Invariants: a stream that breaks is followed again, at most [`STREAMS_MAX`] times in a row without news; an
//! operation that ends without a response, or with `error` set, is never a success; blobs that the cluster says are
//! missing are told by digest, so that they can be uploaded and the action be tried again.
//! An operation whose caller has left is canceled, also if its name comes only then, within [`GOODBYE_WITHIN`].
//! Limits: an operation has no deadline: the action's own timeout is the cluster's business. A stream that is silent
//! for as long as a call may take is asked for anew; a dead connection is noticed by pings.

use super::cluster::{Cluster, ClusterError};
use super::decode::{self, RemoteResult};
use super::limits::{GOODBYE_WITHIN, MESSAGE_BYTES_MAX, STREAMS_MAX};
use super::retry::is_transient;
use crate::action::{Digest, encode};
use fulgurite_proto::google::longrunning::operations_client::OperationsClient;
use fulgurite_proto::google::longrunning::{CancelOperationRequest, Operation, operation};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::action_cache_client::ActionCacheClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use prost::Message;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const CALL: &str = "Execute";

/// How far an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a machine.
    Queued,
    /// Its command runs.
    Executing,
}

/// How an execution ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// The command ended by itself, with whatever exit code.
    Result {
        /// It came out of the action cache.
        cached: bool,
        /// What there is.
        result: Box<RemoteResult>,
    },
    /// It was killed at the end of its time, or refused: the action's own fault.
    Action {
        /// As the cluster says it.
        code: Code,
        /// As the cluster says it.
        message: String,
    },
    /// Blobs that it needs are not there.
    Missing(Vec<Digest>),
}

/// Tells the cluster that nobody waits any more, unless that is not so.
struct Abandon {
    cluster: Cluster,
    operation: Mutex<Option<String>>,
}

impl Abandon {
    fn new(cluster: &Cluster, operation: Option<String>) -> Self {
        Abandon { cluster: cluster.clone(), operation: Mutex::new(operation) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(name) = self.lock().take() {
            self.cluster.cancel_in_background(name);
        }
    }
}

/// What a stream says next, unless it is silent for too long.
type Said = Result<Result<Option<Operation>, Status>, Elapsed>;

/// An operation's stream, with what it has said already.
struct Opened {
    stream: Streaming<Operation>,
    first: Option<Said>,
    abandon: Abandon,
}

impl Cluster {
    /// The result of an action, if the cluster has one.
    ///
    /// # Errors
    /// [`ClusterError`]; that there is none is none.
    pub async fn action_result(&self, action: &Digest) -> Result<Option<RemoteResult>, ClusterError> {
        const CALL: &str = "GetActionResult";
        let ask = || async {
            let request = reapi::GetActionResultRequest {
                instance_name: self.instance(),
                action_digest: Some(encode::digest(action)),
                digest_function: self.wire_function(),
                ..reapi::GetActionResultRequest::default()
            };
            let mut client =
                ActionCacheClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            match client.get_action_result(self.request(request)).await {
                Ok(answer) => Ok(Some(answer.into_inner())),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(status),
            }
        };
        let found = self.call(CALL, ask).await?;
        found.map(|result| decode::result(CALL, self.function(), result)).transpose()
    }

    /// Fills the cluster's action cache. Its blobs must be there.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn update_action_result(
        &self,
        action: &Digest,
        result: &crate::action::ActionResult,
        typed_outputs: bool,
    ) -> Result<(), ClusterError> {
        let send = || async {
            let request = reapi::UpdateActionResultRequest {
                instance_name: self.instance(),
                action_digest: Some(encode::digest(action)),
                action_result: Some(encode::action_result(result, typed_outputs)),
                digest_function: self.wire_function(),
                ..reapi::UpdateActionResultRequest::default()
            };
            ActionCacheClient::new(self.channel()).update_action_result(self.request(request)).await
        };
        self.call("UpdateActionResult", send).await.map(drop)
    }

    /// Has an action run, and waits for its end. Dropping the call cancels the operation.
    ///
    /// # Errors
    /// [`ClusterError`], when nobody can say how it ended.
    pub async fn execute(
        &self,
        action: &Digest,
        skip_cache_lookup: bool,
        mut on: impl FnMut(Stage),
    ) -> Result<Ended, ClusterError> {
        let abandon = Abandon::new(self, None);
        let (mut without_news, mut tries) = (0, 1);
        loop {
            let named = abandon.lock().clone();
            let opened = match &named {
                Some(name) => self.resume(name).await,
                None => self.begin(action, skip_cache_lookup).await,
            };
            let (error, pause) = match opened {
                Ok(opened) => match self.follow(opened, &abandon, &mut without_news, &mut on).await {
                    Ok(operation) => {
                        *abandon.lock() = None;
                        let Unended { error, asked } = match self.ended(operation) {
                            Ok(ended) => return Ok(ended),
                            Err(unended) => unended,
                        };
                        tries += 1;
                        let pause = self.pause_for(&error, tries, asked);
                        tokio::time::sleep(pause.ok_or(error)?).await;
                        continue;
                    }
                    Err(Broken { error, is_silent }) => {
                        without_news += 1;
                        (error, self.pause_of_stream(is_silent, without_news))
                    }
                },
                // It was tried again already, as often as that makes sense.
                Err(error) => (error, None),
            };
            match error {
                ClusterError::Missing(missing) => return Ok(Ended::Missing(missing)),
                ClusterError::Status { code: Code::NotFound, .. } if named.is_some() => {
                    // It does not know the operation any more: it is begun again.
                    *abandon.lock() = None;
                    without_news += 1;
                    if without_news > STREAMS_MAX {
                        return Err(broken(CALL, "it forgets its operations"));
                    }
                }
                ClusterError::Status { code: Code::FailedPrecondition, message, .. } => {
                    return Ok(precondition(message));
                }
                ClusterError::Status { code, .. } if breaks(code) && pause.is_some() => {
                    tokio::time::sleep(pause.unwrap_or_default()).await;
                }
                error => return Err(error),
            }
        }
    }

    /// Follows a stream to the operation's end.
    async fn follow(
        &self,
        opened: Opened,
        abandon: &Abandon,
        without_news: &mut u32,
        on: &mut impl FnMut(Stage),
    ) -> Result<Operation, Broken> {
        let Opened { mut stream, mut first, abandon: until_here } = opened;
        if let Some(name) = until_here.lock().take() {
            *abandon.lock() = Some(name);
        }
        let mut is_silent = false;
        let status = loop {
            let said = match first.take() {
                Some(said) => said,
                None => self.next(&mut stream).await,
            };
            match said {
                Ok(Ok(Some(operation))) => {
                    *without_news = 0;
                    if operation.done {
                        return Ok(operation);
                    }
                    if !operation.name.is_empty() {
                        *abandon.lock() = Some(operation.name.clone());
                    }
                    on(stage(&operation));
                }
                Ok(Ok(None)) => break Status::unavailable("the stream ended before the operation did"),
                Ok(Err(status)) => break status,
                Err(_) => {
                    is_silent = true;
                    break Status::deadline_exceeded("nothing more is said of the operation");
                }
            }
        };
        // Whether it is there at all, the next call will tell; two in a row without a word tell it too.
        if *without_news > 0 {
            self.stream_broke(status.code());
        }
        Err(Broken { error: self.failed(CALL, &status), is_silent })
    }

    /// How long an operation's stream may be silent: then it is asked for anew, which costs a healthy cluster nothing.
    fn silence_within(&self) -> Duration {
        self.shared.options.call_within
    }

    /// The pause before a broken stream is followed again. Silence is none of the cluster's failures, as long as it
    /// still answers when it is asked.
    fn pause_of_stream(&self, is_silent: bool, without_news: u32) -> Option<Duration> {
        if without_news > STREAMS_MAX {
            return None;
        }
        if is_silent {
            return Some(Duration::ZERO);
        }
        self.pause_as_asked(without_news + 1, Code::Unavailable, None)
    }

    /// The pause before an execution that the cluster could not bring to its end is begun again: if it says so.
    fn pause_for(&self, error: &ClusterError, next: u32, asked: Option<Duration>) -> Option<Duration> {
        match error {
            ClusterError::Status { code, .. } if *code == Code::Unavailable || asked.is_some() => {
                self.pause_as_asked(next, *code, asked)
            }
            _ => None,
        }
    }

    async fn next(&self, stream: &mut Streaming<Operation>) -> Said {
        tokio::time::timeout(self.silence_within(), stream.message()).await
    }

    fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Follows an operation that was begun before.
    async fn resume(&self, name: &str) -> Result<Opened, ClusterError> {
        let wait = || async {
            let request = reapi::WaitExecutionRequest { name: name.to_owned() };
            self.execution().wait_execution(self.request(request)).await
        };
        let stream = self.call("WaitExecution", wait).await?.into_inner();
        Ok(Opened { stream, first: None, abandon: Abandon::new(self, None) })
    }

    /// Begins an operation. Whoever leaves before its name is known could not cancel it: so this goes on until it is,
    /// for a moment.
    async fn begin(&self, action: &Digest, skip_cache_lookup: bool) -> Result<Opened, ClusterError> {
        let (mut sender, receiver) = oneshot::channel();
        let (cluster, action) = (self.clone(), *action);
        self.shared.transfers.spawn_cancel(&self.shared.handle, async move {
            let mut opening = std::pin::pin!(cluster.open(&action, skip_cache_lookup));
            let opened = tokio::select! {
                opened = &mut opening => Ok(opened),
                () = sender.closed() => tokio::time::timeout(GOODBYE_WITHIN, opening).await,
            };
            if let Ok(opened) = opened {
                // What nobody takes is abandoned with its name.
                drop(sender.send(opened));
            }
        });
        receiver.await.map_err(|_| broken(CALL, "this program ends"))?
    }

    /// The stream of a new operation, with the first that it says.
    async fn open(&self, action: &Digest, skip_cache_lookup: bool) -> Result<Opened, ClusterError> {
        let execute = || async {
            let request = reapi::ExecuteRequest {
                instance_name: self.instance(),
                action_digest: Some(encode::digest(action)),
                skip_cache_lookup,
                digest_function: self.wire_function(),
                ..reapi::ExecuteRequest::default()
            };
            self.execution().execute(self.request(request)).await
        };
        let mut stream = self.call(CALL, execute).await?.into_inner();
        let first = self.next(&mut stream).await;
        let name = match &first {
            Ok(Ok(Some(operation))) if !operation.done => Some(operation.name.clone()),
            _ => None,
        };
        let abandon = Abandon::new(self, name.filter(|name| !name.is_empty()));
        Ok(Opened { stream, first: Some(first), abandon })
    }

    fn ended(&self, operation: Operation) -> Result<Ended, Unended> {
        let malformed = |why: &str| ClusterError::Malformed { call: CALL, why: why.to_owned() };
        let any = match operation.result {
            Some(operation::Result::Response(any)) => any,
            Some(operation::Result::Error(status)) => return Err(unended(status)),
            None => return Err(malformed("the operation is done and has no response").into()),
        };
        let response = reapi::ExecuteResponse::decode(any.value.as_slice());
        let response = response.map_err(|error| malformed(&error.to_string()))?;
        let status = response.status.unwrap_or_default();
        match Code::from_i32(status.code) {
            Code::Ok => {
                let result = response.result.ok_or_else(|| malformed("there is no result"))?;
                let result = decode::result(CALL, self.function(), result)?;
                Ok(Ended::Result { cached: response.cached_result, result: Box::new(result) })
            }
            Code::FailedPrecondition => {
                let missing = decode::missing(self.function(), &status);
                if missing.is_empty() {
                    Ok(precondition(status.message))
                } else {
                    Ok(Ended::Missing(missing))
                }
            }
            code @ (Code::DeadlineExceeded | Code::InvalidArgument | Code::PermissionDenied) => {
                Ok(Ended::Action { code, message: status.message })
            }
            _ => Err(unended(status)),
        }
    }

    /// Uploads a result of ours with all that it names, while nobody waits for it. Must be called within a runtime.
    pub fn fill_in_background(
        &self,
        from: crate::cas::Cas,
        (action, command): (Digest, Digest),
        result: crate::action::ActionResult,
        typed_outputs: bool,
    ) {
        let cluster = self.clone();
        self.shared.transfers.spawn(&self.shared.handle, async move {
            let fill = async {
                if !cluster.capabilities().await?.may_update {
                    return Ok(());
                }
                let mut blobs = super::fetch::blobs_of(&from, &result)?;
                // A cache that has never run it has neither, and may not take a result without them.
                blobs.extend([action, command]);
                cluster.upload(&from, &blobs).await?;
                cluster.update_action_result(&action, &result, typed_outputs).await
            };
            if let Err(error) = fill.await {
                tracing::debug!(%error, %action, "a result of ours is not in the cluster's cache");
            }
        });
    }

    /// Waits until the cluster knows which operations nobody waits for any more, for a moment: else it would run them
    /// until it finds out by itself. Blocks.
    pub fn say_goodbye(&self) {
        let mut cancels = self.shared.transfers.take_cancels();
        let (told, heard) = sync_channel(1);
        self.shared.handle.spawn(async move {
            while cancels.join_next().await.is_some() {}
            // Nobody listens if it took too long.
            let _ = told.send(());
        });
        // Too long, or a runtime that is gone: the cluster will notice.
        let _ = heard.recv_timeout(GOODBYE_WITHIN);
    }

    /// Cancels an operation for a caller who has left; nobody waits for the answer.
    fn cancel_in_background(&self, name: String) {
        let cluster = self.clone();
        self.shared.transfers.spawn_cancel(&self.shared.handle, async move {
            let cancel = || async {
                let request = CancelOperationRequest { name: name.clone() };
                OperationsClient::new(cluster.channel()).cancel_operation(cluster.request(request)).await
            };
            if let Err(error) = cluster.call("CancelOperation", cancel).await {
                tracing::debug!(%error, "an operation could not be canceled");
            }
        });
    }
}

/// A stream that ended before its operation.
struct Broken {
    error: ClusterError,
    /// It did not even break.
    is_silent: bool,
}

/// An operation that ended without an end of the action's.
struct Unended {
    error: ClusterError,
    /// When the cluster wants to be asked again.
    asked: Option<Duration>,
}

impl From<ClusterError> for Unended {
    fn from(error: ClusterError) -> Self {
        Unended { error, asked: None }
    }
}

fn unended(status: rpc::Status) -> Unended {
    let (asked, code) = (decode::retry_delay(&status), Code::from_i32(status.code));
    Unended { error: ClusterError::Status { call: CALL, code, message: status.message }, asked }
}

/// A failed precondition whose details name no blobs: by its text it may still be one of missing blobs, and then all
/// are asked for again.
fn precondition(message: String) -> Ended {
    if message.contains("missing") || message.contains("MISSING") {
        return Ended::Missing(Vec::new());
    }
    Ended::Action { code: Code::FailedPrecondition, message }
}

/// Codes with which a stream ends that broke on its way, and not because of what it is about.
fn breaks(code: Code) -> bool {
    matches!(code, Code::DeadlineExceeded | Code::Cancelled) || is_transient(code)
}

fn broken(call: &'static str, why: &str) -> ClusterError {
    ClusterError::Status { call, code: Code::Unavailable, message: why.to_owned() }
}

fn stage(operation: &Operation) -> Stage {
    let metadata = operation.metadata.as_ref();
    let decoded = metadata
        .and_then(|any| reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).ok())
        .unwrap_or_default();
    match decoded.stage() {
        reapi::execution_stage::Value::Executing | reapi::execution_stage::Value::Completed => {
            Stage::Executing
        }
        _ => Stage::Queued,
    }
}
