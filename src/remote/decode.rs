//! From answers to domain types.

use super::error::RemoteError;
use crate::action::{Digest, DigestFunction};
use fulgurite_proto::reapi;
use prost::Message;

/// What an execution gave.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The result came from the action cache.
    pub cached: bool,
    /// gRPC code of the execution: 0 if it ended by itself, whatever its exit code.
    pub code: i32,
    /// What the server says beside the code.
    pub message: String,
    /// The command's exit code.
    pub exit_code: i32,
    /// Output files: path as declared, and content.
    pub files: Vec<(String, Digest)>,
}

pub(super) fn digest(
    call: &'static str,
    function: DigestFunction,
    sent: Option<&reapi::Digest>,
) -> Result<Digest, RemoteError> {
    let sent = sent.ok_or_else(|| RemoteError::Malformed { call, why: "a digest is missing".to_owned() })?;
    Digest::parse(function, &sent.hash, sent.size_bytes).map_err(|why| RemoteError::digest(call, &why))
}

/// The response within a finished operation.
pub(super) fn executed(
    function: DigestFunction,
    operation: fulgurite_proto::google::longrunning::Operation,
) -> Result<Executed, RemoteError> {
    use fulgurite_proto::google::longrunning::operation::Result as Ended;
    const CALL: &str = "Execute";
    let malformed = |why: &str| RemoteError::Malformed { call: CALL, why: why.to_owned() };
    let any = match operation.result {
        Some(Ended::Response(any)) => any,
        Some(Ended::Error(status)) => {
            return Err(malformed(&format!("an operation error: {}", status.message)));
        }
        None => return Err(malformed("the operation is done and has no response")),
    };
    let response =
        reapi::ExecuteResponse::decode(any.value.as_slice()).map_err(|why| malformed(&why.to_string()))?;
    let status = response.status.unwrap_or_default();
    let result = response.result.unwrap_or_default();
    let files = result
        .output_files
        .into_iter()
        .map(|file| digest(CALL, function, file.digest.as_ref()).map(|digest| (file.path, digest)));
    Ok(Executed {
        cached: response.cached_result,
        code: status.code,
        message: [status.message, response.message]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default(),
        exit_code: result.exit_code,
        files: files.collect::<Result<_, _>>()?,
    })
}
