//! ActionCache: results by action. Who may write is a policy of the instance; what is served is whole.

use super::complete;
use super::context::Context;
use super::instance::{Instance, digest, function};
use super::limits::{ACTION_BYTES_MAX, COMMAND_BYTES_MAX, RESULT_BYTES_MAX};
use super::lookup::{self, Inline};
use super::options::ActionCacheWriters;
use super::result_paths;
use super::status;
use crate::action::{Digest, decode};
use crate::cas::CasError;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::action_cache_server::ActionCache;
use prost::Message;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone)]
pub(super) struct ActionCacheService {
    pub(super) context: Arc<Context>,
}

/// What a client's result needs in the store and does not find: its action, its command, all that it names.
fn missing_for(
    instance: &Instance,
    action: &Digest,
    result: &reapi::ActionResult,
) -> Result<Vec<Digest>, Status> {
    let mut missing = complete::missing(&instance.blobs, action.function, result)?;
    match instance.blobs.read(action, ACTION_BYTES_MAX) {
        Ok(encoded) => {
            let spec =
                decode::action(action.function, &encoded).map_err(|error| status::of_message(&error))?;
            if spec.command_digest.size_bytes > COMMAND_BYTES_MAX {
                return Err(Status::invalid_argument("the command is too large"));
            }
            let lacking = instance.blobs.missing([spec.command_digest]);
            if lacking.is_empty() {
                check_paths(instance, &spec.command_digest, result)?;
            }
            missing.extend(lacking);
        }
        Err(CasError::Missing(action)) => missing.push(action),
        Err(error) => return Err(status::of_blob(&error)),
    }
    Ok(missing)
}

/// Refuses outputs outside the input root. The command is looked at for those alone that leave its working directory.
fn check_paths(instance: &Instance, command: &Digest, result: &reapi::ActionResult) -> Result<(), Status> {
    let highest = result_paths::highest(result)?;
    if highest == 0 {
        return Ok(());
    }
    let encoded = match instance.blobs.read(command, COMMAND_BYTES_MAX) {
        Ok(encoded) => encoded,
        Err(error) => return Err(status::of_blob(&error)),
    };
    let command = reapi::Command::decode(encoded)
        .map_err(|error| Status::invalid_argument(format!("not an encoded Command: {error}")))?;
    if highest > result_paths::depth(&command.working_directory) {
        return Err(Status::invalid_argument("an output path leads out of the input root"));
    }
    Ok(())
}

#[tonic::async_trait]
impl ActionCache for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let (_, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        let action =
            digest(function(request.digest_function)?, "action_digest", request.action_digest.as_ref())?;
        let Some(hit) = lookup::find_async(&instance, &action, &self.context.disk).await? else {
            self.context.metrics.cache_misses.count();
            return Err(Status::not_found(format!("there is no result of action {action}")));
        };
        self.context.metrics.cache_hits.count();
        let mut result = hit.result;
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files,
        };
        inline.apply(&instance.blobs, action.function, &mut result);
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let (_, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        if instance.writers != ActionCacheWriters::Clients {
            return Err(Status::permission_denied(
                "only the executor writes the action cache of this instance",
            ));
        }
        let action =
            digest(function(request.digest_function)?, "action_digest", request.action_digest.as_ref())?;
        let result =
            request.action_result.ok_or_else(|| Status::invalid_argument("action_result is not set"))?;
        if result.encoded_len() > RESULT_BYTES_MAX {
            return Err(Status::invalid_argument("action_result is too large"));
        }
        let work = move || {
            let missing = missing_for(&instance, &action, &result)?;
            if !missing.is_empty() {
                let status = status::missing(&missing[..missing.len().min(VIOLATIONS)]);
                return Err(status::to_call(&status));
            }
            let encoded = result.encode_to_vec().into();
            instance
                .results
                .put(&instance.name, &action, encoded)
                .map_err(|error| Status::internal(format!("cannot keep the result: {error}")))?;
            Ok(result)
        };
        self.context.disk.run(work).await?.map(Response::new)
    }
}

/// They stand in headers.
const VIOLATIONS: usize = super::limits::VIOLATIONS_IN_HEADERS_MAX;
