//! Execution: from a request to an operation.
//!
//! ```text
//!   validate ─► action cache ─► Action, Command ─► timeout, platform ─► queue ─► stream of the operation
//!                  │ whole hit: answered at once, nothing is queued
//! ```
//! What is wrong with the request ends the call; what goes wrong later is told in `ExecuteResponse.status`.

use super::capabilities::PRIORITIES;
use super::context::Context;
use super::drive;
use super::engine::{Engine, Task};
use super::instance::{Caller, Instance, digest, function};
use super::limits::{
    ACTION_BYTES_MAX, COMMAND_BYTES_MAX, INLINE_READ_BYTES, INVOCATION_BYTES_MAX, VIOLATIONS_IN_HEADERS_MAX,
};
use super::lookup::{self, Inline};
use super::platform::PlatformError;
use super::reply::{Done, Facts, Progress};
use super::socket::Line;
use super::status;
use super::walk;
use super::watching::OperationStream;
use crate::action::{ActionSpec, Command, Digest, decode};
use crate::cas::CasError;
use crate::exec::executor::{Cancel, Job, Placement};
use crate::observe;
use crate::sched::{OperationId, Submission};
use bytes::Bytes;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::execution_server::Execution;
use prost::Message;
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

/// Who asks, and for what build.
pub(super) const METADATA_HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// The service.
#[derive(Clone)]
pub(super) struct ExecutionService {
    pub(super) context: Arc<Context>,
}

/// What an action says, decoded.
enum Read {
    Whole(Box<(ActionSpec, Command)>),
    /// These blobs are missing.
    Missing(Vec<Digest>),
}

/// The name of an operation.
fn name(operation: OperationId) -> String {
    format!("operations/{:032x}", operation.0)
}

/// The operation of a name; `None` if it is none of ours.
pub(super) fn parse_name(name: &str) -> Option<OperationId> {
    let digits = name.strip_prefix("operations/")?;
    let is_ours = digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u128::from_str_radix(digits, 16).ok()).flatten().map(OperationId)
}

/// What a call is a part of.
#[derive(Clone, Debug, Default)]
pub(super) struct PartOf {
    /// The build.
    pub(super) invocation: String,
    /// The kind of action.
    pub(super) mnemonic: String,
}

/// What a call is a part of, if it says so.
pub(super) fn part_of(headers: &MetadataMap) -> Result<PartOf, Status> {
    let Some(header) = headers.get_bin(METADATA_HEADER) else { return Ok(PartOf::default()) };
    let garbage = |why: String| Status::invalid_argument(format!("the header {METADATA_HEADER}: {why}"));
    let bytes = header.to_bytes().map_err(|error| garbage(error.to_string()))?;
    let metadata = reapi::RequestMetadata::decode(bytes).map_err(|error| garbage(error.to_string()))?;
    let mut part_of = PartOf { invocation: metadata.tool_invocation_id, mnemonic: metadata.action_mnemonic };
    for (field, text) in
        [("tool_invocation_id", &mut part_of.invocation), ("action_mnemonic", &mut part_of.mnemonic)]
    {
        if text.len() > INVOCATION_BYTES_MAX {
            return Err(garbage(format!("{field} is too long")));
        }
        text.shrink_to_fit();
    }
    Ok(part_of)
}

/// Reads an action; `None` if it is missing.
fn read_action(instance: &Instance, digest: &Digest) -> Result<Option<ActionSpec>, Status> {
    let Some(encoded) = read(instance, digest, ACTION_BYTES_MAX)? else { return Ok(None) };
    let mut action = decode::action(digest.function, &encoded).map_err(|error| status::of_message(&error))?;
    // No time at all is no limit that anybody means.
    action.timeout = action.timeout.filter(|timeout| !timeout.is_zero());
    Ok(Some(action))
}

/// Reads a command; `None` if it is missing.
fn read_command(instance: &Instance, digest: &Digest) -> Result<Option<Command>, Status> {
    let Some(encoded) = read(instance, digest, COMMAND_BYTES_MAX)? else { return Ok(None) };
    decode::command(&encoded).map(Some).map_err(|error| status::of_message(&error))
}

fn read(instance: &Instance, digest: &Digest, bytes_max: u64) -> Result<Option<Bytes>, Status> {
    match instance.blobs.read(digest, bytes_max) {
        Ok(encoded) => Ok(Some(encoded)),
        Err(CasError::Missing(_)) => Ok(None),
        Err(error) => Err(status::of_blob(&error)),
    }
}

fn of_platform(error: &PlatformError) -> Status {
    match error {
        PlatformError::Unknown { .. } => Status::invalid_argument(error.to_string()),
        PlatformError::Unmet { .. } => Status::failed_precondition(error.to_string()),
    }
}

/// A request that was understood.
struct Asked {
    instance: Arc<Instance>,
    line: Line,
    action: Digest,
    priority: i32,
    part_of: PartOf,
    fresh: bool,
    inline: Inline,
}

impl ExecutionService {
    fn engine(&self, instance: &Instance) -> Result<&Engine, Status> {
        let engine = self.context.engine.as_ref().filter(|_| instance.execution);
        engine.ok_or_else(|| {
            Status::permission_denied(format!("instance {:?} is a cache: it executes nothing", instance.name))
        })
    }

    fn understand(&self, request: Request<reapi::ExecuteRequest>) -> Result<Asked, Status> {
        let (headers, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        let function = function(request.digest_function)?;
        let priority = request.execution_policy.map_or(0, |policy| policy.priority);
        if !PRIORITIES.contains(&priority) {
            return Err(Status::invalid_argument(format!(
                "priority {priority} is not within {} and {}",
                PRIORITIES.start(),
                PRIORITIES.end()
            )));
        }
        Ok(Asked {
            instance,
            line: line(&call),
            action: digest(function, "action_digest", request.action_digest.as_ref())?,
            priority,
            part_of: part_of(&headers)?,
            fresh: request.skip_cache_lookup,
            inline: Inline {
                stdout: request.inline_stdout,
                stderr: request.inline_stderr,
                files: request.inline_output_files,
            },
        })
    }

    /// An operation that is over: with a name, since it must have one, that nobody will ask for.
    fn at_once(asked: Asked, done: Done) -> Result<OperationStream, Status> {
        let facts = facts(&asked.instance, asked.action, asked.inline, draw()?);
        Ok(OperationStream::known(&facts, &Progress::Done(Arc::new(done))))
    }

    /// Reads an action and its command; if one is missing, all that is missing of the closure. What is small is read
    /// at once.
    async fn read(&self, instance: &Arc<Instance>, digest: Digest) -> Result<Read, Status> {
        let Some(action) = read_action(instance, &digest)? else { return Ok(Read::Missing(vec![digest])) };
        let command_digest = action.command_digest;
        if command_digest.size_bytes <= INLINE_READ_BYTES
            && let Some(command) = read_command(instance, &command_digest)?
        {
            return Ok(Read::Whole(Box::new((action, command))));
        }
        let instance = instance.clone();
        let rest = move || match read_command(&instance, &command_digest)? {
            Some(command) => Ok(Read::Whole(Box::new((action, command)))),
            None => {
                let mut missing = vec![command_digest];
                missing.extend(walk::missing(&instance.blobs, action.input_root_digest)?);
                Ok(Read::Missing(missing))
            }
        };
        self.context.disk.run(rest).await?
    }

    fn check(&self, instance: &Instance, action: &ActionSpec, command: &Command) -> Result<(), Status> {
        let max = self.context.limits.timeout_max;
        if let Some(timeout) = action.timeout.filter(|timeout| *timeout > max) {
            return Err(Status::invalid_argument(format!(
                "a timeout of {} s is too long: at most {} s are possible here",
                timeout.as_secs(),
                max.as_secs()
            )));
        }
        let platform = if action.platform.is_empty() { &command.platform } else { &action.platform };
        instance.platform.check(platform).map_err(|error| of_platform(&error))
    }

    fn enqueue(&self, asked: Asked, action: ActionSpec, command: Command) -> Result<OperationStream, Status> {
        let engine = self.engine(&asked.instance)?;
        let operation = draw()?;
        let Asked { instance, line, action: action_digest, priority, part_of, fresh, inline } = asked;
        let PartOf { invocation, mnemonic } = part_of;
        let submission = Submission {
            operation,
            tenant: instance.name.clone(),
            invocation: invocation.clone(),
            priority,
            key: (!action.do_not_cache).then_some(action_digest),
            fresh,
        };
        let facts = facts(&instance, action_digest, inline, operation);
        let task = || {
            let job = Job {
                tenant: instance.name.clone(),
                function: action_digest.function,
                action_digest,
                action,
                command,
                queued: drive::now(),
                mnemonic,
                invocation,
                placement: Placement::default(),
                fresh,
            };
            Task { instance, job, cancel: Cancel::default() }
        };
        let watcher = engine.submit(line, submission, facts, task)?;
        Ok(OperationStream::live(watcher, self.context.limits.heartbeat))
    }
}

/// The line by which a call came.
fn line(call: &Extensions) -> Line {
    call.get::<Caller>().map(|caller| caller.line.clone()).unwrap_or_default()
}

fn facts(instance: &Instance, action: Digest, inline: Inline, operation: OperationId) -> Facts {
    Facts { name: name(operation), action, inline, blobs: instance.blobs.clone() }
}

pub(super) fn draw() -> Result<OperationId, Status> {
    let drawn = drive::random();
    drawn.map(OperationId).map_err(|errno| Status::internal(format!("cannot draw a name: {errno}")))
}

#[tonic::async_trait]
impl Execution for ExecutionService {
    type ExecuteStream = OperationStream;

    async fn execute(
        &self,
        request: Request<reapi::ExecuteRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let asked = self.understand(request)?;
        self.engine(&asked.instance)?;
        if !asked.fresh {
            let hit = lookup::find_async(&asked.instance, &asked.action, &self.context.disk).await?;
            // A failure that a client put there is no reason not to try.
            if let Some(hit) = hit.filter(|hit| hit.result.exit_code == 0) {
                self.context.metrics.cache_hits.count();
                observe::cached(&asked.instance.name, &asked.action, &asked.part_of.mnemonic);
                let done = Done { result: Some(hit.encoded), cached: true, ..Done::default() };
                return Self::at_once(asked, done).map(Response::new);
            }
            self.context.metrics.cache_misses.count();
        }
        match self.read(&asked.instance, asked.action).await? {
            Read::Whole(whole) => {
                let (action, command) = *whole;
                self.check(&asked.instance, &action, &command)?;
                self.enqueue(asked, action, command).map(Response::new)
            }
            Read::Missing(missing) => {
                let status = status::missing(&missing);
                if missing.len() <= VIOLATIONS_IN_HEADERS_MAX {
                    return Err(status::to_call(&status));
                }
                let done = Done { message: status.message.clone(), status, ..Done::default() };
                Self::at_once(asked, done).map(Response::new)
            }
        }
    }

    type WaitExecutionStream = OperationStream;

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let operation =
            super::operations::find(&self.context, request.extensions(), &request.get_ref().name)?;
        let watcher = self
            .context
            .engine
            .as_ref()
            .and_then(|engine| engine.watch(line(request.extensions()), operation));
        let watcher = watcher.ok_or_else(super::operations::unknown)?;
        Ok(Response::new(OperationStream::live(watcher, self.context.limits.heartbeat)))
    }
}
