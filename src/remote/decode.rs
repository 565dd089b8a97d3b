//! From answers to domain types.

use super::cluster::ClusterError;
use super::error::RemoteError;
use super::limits::{CPU_TIME_MAX, MISSING_MAX, TARGET_BYTES_MAX};
use crate::action::{
    ActionResult, Digest, DigestFunction, NodeProperties, OutputDirectory, OutputFile, OutputSymlink,
    Timeline, Timestamp, Usage,
};
use bytes::Bytes;
use fulgurite_proto::buildbarn::resourceusage::PosixResourceUsage;
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use prost::Message;
use std::collections::HashSet;
use std::time::Duration;

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
    /// CPU time of the command, as far as the server tells it.
    pub cpu: Duration,
}

/// A result as a cluster tells it: nothing of it is verified yet.
#[derive(Clone, Debug)]
pub struct RemoteResult {
    /// What it names.
    pub result: ActionResult,
    /// What came with it.
    pub inline: Inline,
}

/// Contents that came with a result.
#[derive(Clone, Debug, Default)]
pub struct Inline {
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// Files.
    pub files: Vec<(Digest, Bytes)>,
}

pub(super) fn malformed(error: RemoteError) -> ClusterError {
    ClusterError::Malformed { call: "an answer", why: error.to_string() }
}

/// A result.
pub(super) fn result(
    call: &'static str,
    function: DigestFunction,
    sent: reapi::ActionResult,
) -> Result<RemoteResult, ClusterError> {
    let named = |sent: Option<&reapi::Digest>| digest(call, function, sent).map_err(malformed);
    let maybe = |sent: Option<&reapi::Digest>| sent.map(|sent| named(Some(sent))).transpose();
    let mut inline = Inline { stdout: sent.stdout_raw, stderr: sent.stderr_raw, files: Vec::new() };
    let mut files = Vec::with_capacity(sent.output_files.len());
    for file in sent.output_files {
        let digest = named(file.digest.as_ref())?;
        if !file.contents.is_empty() {
            inline.files.push((digest, file.contents));
        }
        let properties = NodeProperties::default();
        files.push(OutputFile { path: file.path, digest, executable: file.is_executable, properties });
    }
    let mut directories = Vec::with_capacity(sent.output_directories.len());
    for directory in sent.output_directories {
        directories.push(OutputDirectory {
            path: directory.path,
            tree_digest: maybe(directory.tree_digest.as_ref())?,
            root_directory_digest: maybe(directory.root_directory_digest.as_ref())?,
        });
    }
    #[allow(deprecated, reason = "clusters before REAPI 2.1 fill these alone")]
    let older = sent.output_file_symlinks.into_iter().chain(sent.output_directory_symlinks);
    let mut symlinks: Vec<OutputSymlink> = Vec::new();
    let mut linked = HashSet::new();
    for link in sent.output_symlinks.into_iter().chain(older) {
        if linked.insert(link.path.clone()) {
            let (path, target) = (link.path, link.target);
            if target.is_empty() || target.contains('\0') || target.len() > TARGET_BYTES_MAX {
                let why = format!("the target of symlink {path:?} is empty, too long or has a NUL byte");
                return Err(ClusterError::Malformed { call, why });
            }
            let properties = NodeProperties::default();
            symlinks.push(OutputSymlink { path, target, to_directory: false, properties });
        }
    }
    let metadata = sent.execution_metadata.unwrap_or_default();
    let usage = usage(&metadata);
    let time = |sent: Option<prost_types::Timestamp>| {
        let sent = sent?;
        Some(Timestamp { seconds: sent.seconds, nanos: u32::try_from(sent.nanos).ok()? })
    };
    let result = ActionResult {
        files,
        directories,
        symlinks,
        exit_code: sent.exit_code,
        stdout: maybe(sent.stdout_digest.as_ref())?,
        stderr: maybe(sent.stderr_digest.as_ref())?,
        worker: metadata.worker,
        usage,
        timeline: Timeline {
            queued: time(metadata.queued_timestamp),
            worker_start: time(metadata.worker_start_timestamp),
            worker_completed: time(metadata.worker_completed_timestamp),
            execution_start: time(metadata.execution_start_timestamp),
            execution_completed: time(metadata.execution_completed_timestamp),
            ..Timeline::default()
        },
    };
    Ok(RemoteResult { result, inline })
}

/// What the command used, if the cluster tells it as Buildbarn does: CPU time and the peak of memory.
fn usage(metadata: &reapi::ExecutedActionMetadata) -> Usage {
    let mut all = metadata.auxiliary_metadata.iter();
    let told = all.find(|any| any.type_url.ends_with("buildbarn.resourceusage.POSIXResourceUsage"));
    let told = told.and_then(|any| PosixResourceUsage::decode(any.value.as_slice()).ok()).unwrap_or_default();
    // A duration that is negative or beyond all bounds is none.
    let time = |sent: Option<prost_types::Duration>| {
        let sent = sent.and_then(|sent| Duration::try_from(sent).ok());
        sent.filter(|time| *time <= CPU_TIME_MAX).unwrap_or_default()
    };
    Usage {
        user: time(told.user_time),
        system: time(told.system_time),
        peak_bytes: u64::try_from(told.maximum_resident_set_size).unwrap_or(0),
        ..Usage::default()
    }
}

pub(super) fn digest(
    call: &'static str,
    function: DigestFunction,
    sent: Option<&reapi::Digest>,
) -> Result<Digest, RemoteError> {
    let sent = sent.ok_or_else(|| RemoteError::Malformed { call, why: "a digest is missing".to_owned() })?;
    Digest::parse(function, &sent.hash, sent.size_bytes).map_err(|why| RemoteError::digest(call, &why))
}

/// The blobs that a failed precondition names, each once.
pub(super) fn missing(function: DigestFunction, status: &rpc::Status) -> Vec<Digest> {
    let failures =
        status.details.iter().filter(|any| any.type_url.ends_with("google.rpc.PreconditionFailure"));
    let failures = failures.filter_map(|any| rpc::PreconditionFailure::decode(any.value.as_slice()).ok());
    let violations = failures.flat_map(|failure| failure.violations);
    let subjects = violations.filter(|violation| violation.r#type == "MISSING");
    let digests = subjects.filter_map(|violation| {
        let mut parts = violation.subject.rsplit('/');
        let size = parts.next()?.parse().ok()?;
        Digest::parse(function, parts.next()?, size).ok()
    });
    let mut seen = HashSet::new();
    digests.filter(|digest| seen.insert(*digest)).take(MISSING_MAX).collect()
}

/// The pause that a server asks for.
pub(super) fn retry_delay(status: &rpc::Status) -> Option<Duration> {
    let info = status.details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = rpc::RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999)))
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
    let used = result.execution_metadata.as_ref().map(usage).unwrap_or_default();
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
        cpu: used.user + used.system,
    })
}
