//! From domain types to wire messages of REAPI.
//!
//! Everything here is deterministic: one value has one encoding, since encodings are digested. Source: REAPI v2.12.

use super::command::{ActionSpec, Command};
use super::digest::Digest;
use super::result::{ActionResult, OutputSymlink, RaceSummary, Timeline, Usage};
use super::tree::{Directory, NodeProperties, Timestamp};
use bytes::Bytes;
use fulgurite_proto::buildbarn::resourceusage::PosixResourceUsage;
use fulgurite_proto::{reapi, v1};
use prost::Message;
use std::time::Duration;

/// A digest.
#[must_use]
pub fn digest(digest: &Digest) -> reapi::Digest {
    // Sizes come from files, and those end at i64::MAX.
    reapi::Digest { hash: digest.hex(), size_bytes: digest.size_bytes.try_into().unwrap_or(i64::MAX) }
}

fn properties(of: &NodeProperties) -> Option<reapi::NodeProperties> {
    (!of.is_empty()).then(|| reapi::NodeProperties {
        properties: of
            .properties
            .iter()
            .map(|(name, value)| reapi::NodeProperty { name: name.clone(), value: value.clone() })
            .collect(),
        mtime: of.mtime.map(timestamp),
        unix_mode: of.unix_mode,
    })
}

/// A moment.
#[must_use]
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos.try_into().unwrap_or(999_999_999) }
}

fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: span.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().try_into().unwrap_or(0),
    }
}

/// An encoded Directory, whose lists must be sorted.
#[must_use]
pub fn directory(of: &Directory) -> Vec<u8> {
    let message = reapi::Directory {
        files: of
            .files
            .iter()
            .map(|file| reapi::FileNode {
                name: file.name.clone(),
                digest: Some(digest(&file.digest)),
                is_executable: file.executable,
                node_properties: properties(&file.properties),
            })
            .collect(),
        directories: of
            .directories
            .iter()
            .map(|child| reapi::DirectoryNode {
                name: child.name.clone(),
                digest: Some(digest(&child.digest)),
            })
            .collect(),
        symlinks: of
            .symlinks
            .iter()
            .map(|link| reapi::SymlinkNode {
                name: link.name.clone(),
                target: link.target.clone(),
                node_properties: properties(&link.properties),
            })
            .collect(),
        node_properties: properties(&of.properties),
    };
    message.encode_to_vec()
}

/// An encoded Tree of encoded directories, the root first. Topologically sorted if they are: every distinct directory
/// once, parents before children.
#[must_use]
pub fn tree<'a>(directories: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    /// Field 1 (`root`) and field 2 (`children`), length-delimited.
    const TAGS: [u8; 2] = [0x0a, 0x12];
    let mut encoded = Vec::new();
    for (index, directory) in directories.into_iter().enumerate() {
        encoded.push(TAGS[usize::from(index > 0)]);
        prost::encoding::encode_varint(directory.len() as u64, &mut encoded);
        encoded.extend_from_slice(directory);
    }
    encoded
}

fn symlink(of: &OutputSymlink) -> reapi::OutputSymlink {
    reapi::OutputSymlink {
        path: of.path.clone(),
        target: of.target.clone(),
        node_properties: properties(&of.properties),
    }
}

/// A result, as clients get it and the action cache keeps it. `older_fields`: the deprecated symlink lists are filled
/// too, which is what clients read that name their outputs by the older fields.
#[must_use]
pub fn action_result(of: &ActionResult, older_fields: bool) -> reapi::ActionResult {
    let mut message = reapi::ActionResult {
        output_files: of
            .files
            .iter()
            .map(|file| reapi::OutputFile {
                path: file.path.clone(),
                digest: Some(digest(&file.digest)),
                is_executable: file.executable,
                contents: Bytes::new(),
                node_properties: properties(&file.properties),
            })
            .collect(),
        output_symlinks: of.symlinks.iter().map(symlink).collect(),
        output_directories: of
            .directories
            .iter()
            .map(|directory| reapi::OutputDirectory {
                path: directory.path.clone(),
                tree_digest: directory.tree_digest.as_ref().map(digest),
                is_topologically_sorted: directory.tree_digest.is_some(),
                root_directory_digest: directory.root_directory_digest.as_ref().map(digest),
            })
            .collect(),
        exit_code: of.exit_code,
        stdout_digest: of.stdout.as_ref().map(digest),
        stderr_digest: of.stderr.as_ref().map(digest),
        execution_metadata: Some(metadata(&of.worker, &of.timeline, Some(&of.usage))),
        ..reapi::ActionResult::default()
    };
    if older_fields {
        let lists = |to_directory| {
            of.symlinks.iter().filter(move |link| link.to_directory == to_directory).map(symlink).collect()
        };
        #[allow(deprecated, reason = "clients before REAPI 2.1 read these alone")]
        {
            message.output_file_symlinks = lists(false);
            message.output_directory_symlinks = lists(true);
        }
    }
    message
}

/// Metadata of an execution, whole or on its way.
#[must_use]
pub fn metadata(worker: &str, timeline: &Timeline, usage: Option<&Usage>) -> reapi::ExecutedActionMetadata {
    let ran = timeline.execution_start.zip(timeline.execution_completed);
    let any = |name: &str, value: Vec<u8>| prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value,
    };
    let auxiliary = usage.map(|usage| {
        [
            any("buildbarn.resourceusage.POSIXResourceUsage", posix(usage).encode_to_vec()),
            any("fulgurite.v1.ExecutionDetails", details(usage).encode_to_vec()),
        ]
    });
    reapi::ExecutedActionMetadata {
        worker: worker.to_owned(),
        queued_timestamp: timeline.queued.map(timestamp),
        worker_start_timestamp: timeline.worker_start.map(timestamp),
        worker_completed_timestamp: timeline.worker_completed.map(timestamp),
        input_fetch_start_timestamp: timeline.input_fetch_start.map(timestamp),
        input_fetch_completed_timestamp: timeline.input_fetch_completed.map(timestamp),
        execution_start_timestamp: timeline.execution_start.map(timestamp),
        execution_completed_timestamp: timeline.execution_completed.map(timestamp),
        virtual_execution_duration: ran.and_then(|(start, end)| between(start, end)).map(duration),
        output_upload_start_timestamp: timeline.output_upload_start.map(timestamp),
        output_upload_completed_timestamp: timeline.output_upload_completed.map(timestamp),
        auxiliary_metadata: auxiliary.into_iter().flatten().collect(),
    }
}

fn posix(usage: &Usage) -> PosixResourceUsage {
    PosixResourceUsage {
        user_time: Some(duration(usage.user)),
        system_time: Some(duration(usage.system)),
        maximum_resident_set_size: usage.peak_bytes.try_into().unwrap_or(i64::MAX),
        termination_signal: usage.termination_signal.clone().unwrap_or_default(),
        ..PosixResourceUsage::default()
    }
}

fn details(usage: &Usage) -> v1::ExecutionDetails {
    let handoff = usage.handoff;
    v1::ExecutionDetails {
        enforced: usage.enforced.iter().cloned().collect(),
        staging: usage.staging.clone().unwrap_or_default(),
        handoff: Some(v1::HandoffCounts {
            renamed: handoff.renamed,
            known: handoff.known,
            copied: handoff.copied,
            bytes_copied: handoff.bytes_copied,
        }),
        memory_peak_bytes: usage.peak_bytes,
        stragglers: usage.stragglers,
        persistent_worker: usage.persistent.as_ref().map(|worker| v1::PersistentWorker {
            number: worker.number,
            key: worker.key.clone(),
            key_quality: worker.key_quality.clone(),
            request: worker.request,
            sealed: worker.sealed,
        }),
        one_shot_because: usage.one_shot_because.clone().unwrap_or_default(),
        race: usage.race.as_ref().map(race),
    }
}

fn race(of: &RaceSummary) -> v1::RaceSummary {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    v1::RaceSummary {
        winner: of.winner.clone(),
        remote_hit: of.remote_hit,
        local_why: of.local_why.clone().unwrap_or_default(),
        local_started_us: of.local_started.map(micros),
        remote_why: of.remote_why.clone().unwrap_or_default(),
        remote_started_us: of.remote_started.map(micros),
        margin_us: of.margin.map(micros),
        wasted_wall_us: micros(of.wasted_wall),
        wasted_cpu_us: micros(of.wasted_cpu),
    }
}

/// The time from `start` to `end`; `None` if the clock was set back between them.
fn between(start: Timestamp, end: Timestamp) -> Option<Duration> {
    let nanos = |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    u64::try_from(nanos(end) - nanos(start)).ok().map(Duration::from_nanos)
}

/// An encoded Command. Outputs are named by `output_paths`.
#[must_use]
pub fn command(of: &Command) -> Vec<u8> {
    let pair = |(name, value): &(String, String)| reapi::command::EnvironmentVariable {
        name: name.clone(),
        value: value.clone(),
    };
    let mut outputs: Vec<String> = of.outputs.iter().map(|output| output.declared.clone()).collect();
    outputs.sort();
    let directory = of.working_directory.as_ref();
    let message = reapi::Command {
        arguments: of.arguments.clone(),
        environment_variables: of.environment.iter().map(pair).collect(),
        output_paths: outputs,
        working_directory: directory.map(|path| path.as_path().display().to_string()).unwrap_or_default(),
        ..reapi::Command::default()
    };
    message.encode_to_vec()
}

/// An encoded Action. `salt` sets it apart from others that are the same.
#[must_use]
pub fn action(of: &ActionSpec, salt: &[u8]) -> Vec<u8> {
    let property = |(name, value): &(String, String)| reapi::platform::Property {
        name: name.clone(),
        value: value.clone(),
    };
    let message = reapi::Action {
        command_digest: Some(digest(&of.command_digest)),
        input_root_digest: Some(digest(&of.input_root_digest)),
        timeout: of.timeout.map(duration),
        do_not_cache: of.do_not_cache,
        salt: Bytes::copy_from_slice(salt),
        platform: (!of.platform.is_empty())
            .then(|| reapi::Platform { properties: of.platform.iter().map(property).collect() }),
    };
    message.encode_to_vec()
}
