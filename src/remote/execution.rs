//! The action cache and executions of a cluster.
//!
//! ```text
//!   Execute ─► stream of the operation ─► done: response
//!                │ broken ─► WaitExecution(name) ─► stream …      NOT_FOUND ─► Execute again
//! ```
//! Invariants: a stream that breaks is followed again, at most [`STREAMS_MAX`] times in a row without news; an
//! operation that ends without a response, or with `error` set, is malformed and never a success; blobs that the cluster says are
//! missing are told by digest, so that they can be uploaded and the action be tried again.
//! Limits: the stream itself has no deadline: the action's own timeout is the cluster's business, and a dead connection
//! is noticed by pings.

use super::cluster::{Cluster, ClusterError, failed};
use super::decode::{self, RemoteResult};
use super::limits::{MESSAGE_BYTES_MAX, STREAMS_MAX};
use super::retry::without_answer;
use crate::action::{Digest, encode};
use fulgurite_proto::google::longrunning::operations_client::OperationsClient;
use fulgurite_proto::google::longrunning::{CancelOperationRequest, Operation, operation};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::action_cache_client::ActionCacheClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use prost::Message;
use std::sync::{Mutex, PoisonError};
use tonic::{Code, Status, Streaming};

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
struct Abandon<'a> {
    cluster: &'a Cluster,
    operation: Mutex<Option<String>>,
}

impl Abandon<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.lock().take() {
            self.cluster.cancel_in_background(name);
        }
    }
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
        const CALL: &str = "Execute";
        let abandon = Abandon { cluster: self, operation: Mutex::new(None) };
        let mut without_news = 0;
        loop {
            let named = abandon.lock().clone();
            let opened = self.open(action, skip_cache_lookup, named.as_deref()).await;
            let mut stream = match opened {
                Ok(stream) => stream,
                Err(ClusterError::Status { code: Code::NotFound, .. }) if named.is_some() => {
                    // It does not know the operation any more: it is begun again.
                    *abandon.lock() = None;
                    without_news += 1;
                    if without_news > STREAMS_MAX {
                        return Err(broken(CALL, "it forgets its operations"));
                    }
                    continue;
                }
                Err(ClusterError::Status { code: Code::FailedPrecondition, message, .. }) => {
                    return self.precondition(message);
                }
                Err(error) => return Err(error),
            };
            let status = loop {
                match stream.message().await {
                    Ok(Some(operation)) => {
                        without_news = 0;
                        if operation.done {
                            *abandon.lock() = None;
                            return self.ended(operation);
                        }
                        on(stage(&operation));
                        *abandon.lock() = Some(operation.name).filter(|name| !name.is_empty());
                    }
                    Ok(None) => break Status::unavailable("the stream ended before the operation did"),
                    Err(status) => break without_answer(status),
                }
            };
            without_news += 1;
            self.stream_broke(&status);
            let pause = self.pause(without_news + 1, &status);
            match pause.filter(|_| without_news <= STREAMS_MAX) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failed(CALL, &status)),
            }
        }
    }

    async fn open(
        &self,
        action: &Digest,
        skip_cache_lookup: bool,
        named: Option<&str>,
    ) -> Result<Streaming<Operation>, ClusterError> {
        let client = || ExecutionClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        if let Some(name) = named {
            let wait = || async {
                let request = reapi::WaitExecutionRequest { name: name.to_owned() };
                client().wait_execution(self.request(request)).await
            };
            return self.call("WaitExecution", wait).await.map(tonic::Response::into_inner);
        }
        let execute = || async {
            let request = reapi::ExecuteRequest {
                instance_name: self.instance(),
                action_digest: Some(encode::digest(action)),
                skip_cache_lookup,
                digest_function: self.wire_function(),
                ..reapi::ExecuteRequest::default()
            };
            client().execute(self.request(request)).await
        };
        self.call("Execute", execute).await.map(tonic::Response::into_inner)
    }

    /// A precondition that failed before there was an operation; which blobs are missing is in its details, which the
    /// transport keeps in the message no more: the caller asks with FindMissingBlobs.
    #[expect(clippy::unused_self, reason = "beside `ended`")]
    fn precondition(&self, message: String) -> Result<Ended, ClusterError> {
        if message.contains("missing") || message.contains("MISSING") {
            return Ok(Ended::Missing(Vec::new()));
        }
        Ok(Ended::Action { code: Code::FailedPrecondition, message })
    }

    fn ended(&self, operation: Operation) -> Result<Ended, ClusterError> {
        const CALL: &str = "Execute";
        let malformed = |why: String| ClusterError::Malformed { call: CALL, why };
        let any = match operation.result {
            Some(operation::Result::Response(any)) => any,
            Some(operation::Result::Error(status)) => {
                let (code, message) = (Code::from_i32(status.code), status.message);
                return Err(ClusterError::Status { call: CALL, code, message });
            }
            None => return Err(malformed("the operation is done and has no response".to_owned())),
        };
        let response = reapi::ExecuteResponse::decode(any.value.as_slice());
        let response = response.map_err(|error| malformed(error.to_string()))?;
        let status = response.status.unwrap_or_default();
        match Code::from_i32(status.code) {
            Code::Ok => {
                let result = response.result.ok_or_else(|| malformed("there is no result".to_owned()))?;
                let result = decode::result(CALL, self.function(), result)?;
                Ok(Ended::Result { cached: response.cached_result, result: Box::new(result) })
            }
            Code::FailedPrecondition => {
                let missing = self.missing(&status);
                if missing.is_empty() && !status.message.contains("missing") {
                    return Ok(Ended::Action { code: Code::FailedPrecondition, message: status.message });
                }
                Ok(Ended::Missing(missing))
            }
            code @ (Code::DeadlineExceeded | Code::InvalidArgument | Code::PermissionDenied) => {
                Ok(Ended::Action { code, message: status.message })
            }
            code => Err(ClusterError::Status { call: CALL, code, message: status.message }),
        }
    }

    /// The blobs that a failed precondition names.
    fn missing(&self, status: &rpc::Status) -> Vec<Digest> {
        let failures = status.details.iter().filter(|any| any.type_url.ends_with("PreconditionFailure"));
        let failures = failures.filter_map(|any| rpc::PreconditionFailure::decode(any.value.as_slice()).ok());
        let violations = failures.flat_map(|failure| failure.violations);
        let subjects = violations.filter(|violation| violation.r#type == "MISSING");
        let digests = subjects.filter_map(|violation| {
            let mut parts = violation.subject.rsplit('/');
            let size = parts.next()?.parse().ok()?;
            Digest::parse(self.function(), parts.next()?, size).ok()
        });
        digests.take(super::limits::MISSING_MAX).collect()
    }

    /// Uploads a result of ours with all that it names and what it is a result of, while nobody waits for it. Must be called within a runtime.
    pub fn fill_in_background(
        &self,
        from: crate::cas::Cas,
        (action, command): (Digest, Digest),
        result: crate::action::ActionResult,
        typed_outputs: bool,
    ) {
        let cluster = self.clone();
        self.shared.transfers.spawn(async move {
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

    /// Cancels an operation for a caller who has left; nobody waits for the answer.
    fn cancel_in_background(&self, name: String) {
        let cluster = self.clone();
        self.shared.transfers.spawn(async move {
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
