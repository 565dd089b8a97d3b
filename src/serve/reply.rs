//! What a client is told of its operation, at each stage.

use super::blobs::Blobs;
use super::instance::function_number;
use super::lookup::Inline;
use crate::action::{Digest, encode};
use bytes::Bytes;
use fulgurite_proto::google::longrunning::{Operation, operation};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::execution_stage::Value as Stage;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;

/// What is known of an operation from its beginning.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) action: Digest,
    pub(super) inline: Inline,
    pub(super) blobs: Blobs,
}

/// How far an operation is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// It waits, or its inputs are being staged.
    Queued,
    /// Its command runs.
    Executing(Arc<reapi::ExecutedActionMetadata>),
    /// It is over.
    Done(Arc<Done>),
}

/// How it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) status: rpc::Status,
    /// An encoded ActionResult, if there is one.
    pub(super) result: Option<Bytes>,
    pub(super) cached: bool,
    /// For people.
    pub(super) message: String,
    /// Shown to people on failure.
    pub(super) server_logs: HashMap<String, reapi::LogFile>,
    /// What is told of it to those who watch; `None` if its run was never made.
    pub(super) end: Option<crate::observe::events::ActionEnd>,
}

impl Progress {
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Progress::Done(_))
    }
}

fn any(name: &str, value: Vec<u8>) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/build.bazel.remote.execution.v2.{name}"),
        value,
    }
}

/// An operation as clients see it. Reads from the store what the client wants inline.
pub(super) fn operation(facts: &Facts, progress: &Progress) -> Operation {
    let mut operation = summary(facts, progress);
    if let Progress::Done(done) = progress {
        let response = any("ExecuteResponse", response(facts, done));
        operation.result = Some(operation::Result::Response(response));
    }
    operation
}

/// An operation without its result, which could be of any size.
pub(super) fn summary(facts: &Facts, progress: &Progress) -> Operation {
    let (stage, partial) = match progress {
        Progress::Queued => (Stage::Queued, None),
        Progress::Executing(partial) => (Stage::Executing, Some((**partial).clone())),
        Progress::Done(_) => (Stage::Completed, None),
    };
    let metadata = reapi::ExecuteOperationMetadata {
        stage: stage as i32,
        action_digest: Some(encode::digest(&facts.action)),
        partial_execution_metadata: partial,
        digest_function: function_number(facts.action.function),
        ..reapi::ExecuteOperationMetadata::default()
    };
    Operation {
        name: facts.name.clone(),
        metadata: Some(any("ExecuteOperationMetadata", metadata.encode_to_vec())),
        done: progress.is_done(),
        result: None,
    }
}

/// An encoded ExecuteResponse. The result is passed on as it is kept, unless something must be put into it.
fn response(facts: &Facts, done: &Done) -> Vec<u8> {
    let rest = reapi::ExecuteResponse {
        result: None,
        cached_result: done.cached,
        status: Some(done.status.clone()),
        server_logs: done.server_logs.clone(),
        message: done.message.clone(),
    };
    let mut encoded = Vec::new();
    if let Some(result) = &done.result {
        let result = with_inline(facts, result);
        // Field 1, length-delimited.
        encoded.reserve(result.len() + rest.encoded_len() + 12);
        encoded.push(0x0a);
        prost::encoding::encode_varint(result.len() as u64, &mut encoded);
        encoded.extend_from_slice(&result);
    }
    encoded.extend(rest.encode_to_vec());
    encoded
}

fn with_inline(facts: &Facts, result: &Bytes) -> Bytes {
    if facts.inline.is_empty() {
        return result.clone();
    }
    match reapi::ActionResult::decode(result.clone()) {
        Ok(mut decoded) => {
            facts.inline.apply(&facts.blobs, facts.action.function, &mut decoded);
            decoded.encode_to_vec().into()
        }
        // It is our own encoding; should it not be one after all, it is no worse without the extras.
        Err(_) => result.clone(),
    }
}
