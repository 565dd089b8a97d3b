//! A request of the local API, decoded: paths checked, limits as platform properties.

use super::worker::AskedWorker;
use crate::action::{Command, CommandOutput, ExecPath, InputSpec, OutputKind, OutputSpec, Outputs};
use crate::exec::executor::Placement;
use crate::stage::merkle::MerkleError;
use fulgurite_proto::v1;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Status;

/// Between a message and its hint, in one line.
const HINT: &str = " (hint: ";

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) exec_root: PathBuf,
    pub(super) inputs: Option<Vec<InputSpec>>,
    pub(super) outputs: Outputs,
    pub(super) outputs_on_failure: bool,
    pub(super) command: Command,
    pub(super) platform: Vec<(String, String)>,
    /// Files of a worker, among the inputs.
    pub(super) tools: Vec<ExecPath>,
    pub(super) timeout: Option<Duration>,
    pub(super) do_not_cache: bool,
    pub(super) fresh: bool,
    pub(super) invocation: String,
    /// What kind of action it is, and where it shall run: for the executor.
    pub(super) mnemonic: String,
    pub(super) placement: Placement,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// A path, an argument, or a set of outputs is at fault.
    #[error("{0}")]
    Value(String),
    /// What a daemon does not do.
    #[error("the daemon cannot {what} (hint: run `fulgurite run` without a daemon)")]
    WithoutDaemon {
        /// What was asked for.
        what: &'static str,
    },
}

fn value(error: impl std::fmt::Display) -> RequestError {
    RequestError::Value(error.to_string())
}

/// A string of the wire, which REAPI wants in UTF-8.
fn text(bytes: Vec<u8>, what: &str) -> Result<String, RequestError> {
    let failed = |error: std::string::FromUtf8Error| {
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        value(format!("{what} {shown:?} is not UTF-8"))
    };
    let text = String::from_utf8(bytes).map_err(failed)?;
    if text.contains('\0') {
        return Err(value(format!("{what} {text:?} has a NUL byte")));
    }
    Ok(text)
}

impl Asked {
    pub(super) fn decode(request: v1::RunRequest, invocation: String) -> Result<Asked, RequestError> {
        refuse_what_needs_no_daemon(&request)?;
        let exec_root = PathBuf::from(OsStr::from_bytes(&request.exec_root));
        if !exec_root.is_absolute() {
            return Err(value(format!("exec root {exec_root:?} is not absolute")));
        }
        if request.arguments.is_empty() {
            return Err(value("there is no command"));
        }
        let inputs = inputs(request.inputs, &exec_root)?;
        let outputs = outputs(request.outputs, &exec_root)?;
        let working_directory = match request.working_directory.as_slice() {
            b"" | b"." => None,
            path => Some(ExecPath::new_under(OsStr::from_bytes(path), &exec_root).map_err(value)?),
        };
        let command = command(request.arguments, request.environment, &outputs, working_directory)?;
        let mut platform: Vec<(String, String)> =
            request.platform.into_iter().map(|property| (property.name, property.value)).collect();
        let limits = request.limits.unwrap_or_default();
        platform.extend(properties(&limits, request.network));
        let worker = AskedWorker::decode(request.worker, &request.mnemonic, &exec_root)?;
        platform.extend(worker.properties);
        platform.sort();
        Ok(Asked {
            exec_root,
            inputs,
            outputs,
            outputs_on_failure: request.outputs_on_failure,
            command,
            platform,
            tools: worker.tools,
            timeout: limits.timeout_ms.map(Duration::from_millis).filter(|timeout| !timeout.is_zero()),
            do_not_cache: request.do_not_cache,
            fresh: request.fresh,
            invocation,
            placement: placement(request.exec_strategy),
            mnemonic: request.mnemonic,
        })
    }
}

fn refuse_what_needs_no_daemon(request: &v1::RunRequest) -> Result<(), RequestError> {
    let what = if !request.rootfs.is_empty() {
        "use another root"
    } else if !request.writable.is_empty() {
        "let a command write outside of its outputs"
    } else if request.keep_on_failure {
        "keep a sandbox for a look inside"
    } else if request.strategy == v1::Strategy::Standalone as i32 {
        "run a command straight in the exec root"
    } else {
        return Ok(());
    };
    Err(RequestError::WithoutDaemon { what })
}

fn inputs(sent: Vec<v1::Input>, exec_root: &Path) -> Result<Option<Vec<InputSpec>>, RequestError> {
    if sent.is_empty() {
        return Ok(None);
    }
    let spec = |input: v1::Input| {
        let mut raw = escape(&input.source);
        if !input.target.is_empty() {
            raw.push("=");
            raw.push(escape(&input.target));
        }
        InputSpec::parse(&raw, exec_root).map_err(value)
    };
    sent.into_iter().map(spec).collect::<Result<_, _>>().map(Some)
}

/// As a declaration has it, where `=` stands between source and destination.
fn escape(path: &[u8]) -> OsString {
    let mut escaped = Vec::with_capacity(path.len());
    for byte in path {
        if *byte == b'=' {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    OsStr::from_bytes(&escaped).to_owned()
}

fn outputs(sent: Vec<Vec<u8>>, exec_root: &Path) -> Result<Outputs, RequestError> {
    let spec = |path: Vec<u8>| OutputSpec::parse(OsStr::from_bytes(&path), exec_root).map_err(value);
    let specs: Vec<OutputSpec> = sent.into_iter().map(spec).collect::<Result<_, _>>()?;
    Outputs::new(specs).map_err(value)
}

fn command(
    arguments: Vec<Vec<u8>>,
    environment: Vec<v1::EnvironmentVariable>,
    outputs: &Outputs,
    working_directory: Option<ExecPath>,
) -> Result<Command, RequestError> {
    let arguments: Vec<String> =
        arguments.into_iter().map(|bytes| text(bytes, "argument")).collect::<Result<_, _>>()?;
    let variable = |variable: v1::EnvironmentVariable| {
        let name = text(variable.name, "variable")?;
        if name.is_empty() || name.contains('=') {
            return Err(value(format!("{name:?} is no name of a variable")));
        }
        Ok((name, text(variable.value, "the value of a variable")?))
    };
    let mut environment: Vec<(String, String)> =
        environment.into_iter().map(variable).collect::<Result<_, _>>()?;
    environment.sort();
    let above = working_directory.as_ref().map_or(0, |directory| directory.components().count());
    let declared = |output: &OutputSpec| {
        // Outputs are named relative to the working directory, and the caller's to the exec root.
        let path = text(output.path.as_os_str().as_bytes().to_vec(), "output")?;
        let declared = match &working_directory {
            None => path,
            Some(directory) => match output.path.below(directory) {
                Some(below) => below.as_path().display().to_string(),
                None => format!("{}{path}", "../".repeat(above)),
            },
        };
        Ok(CommandOutput { declared, path: Some(output.path.clone()), kind: OutputKind::Any })
    };
    Ok(Command {
        arguments,
        environment,
        outputs: outputs.iter().map(declared).collect::<Result<_, _>>()?,
        outputs_are_typed: false,
        working_directory,
        platform: Vec::new(),
        output_properties: Vec::new(),
        output_directory_format: crate::action::OutputDirectoryFormat::TreeOnly,
    })
}

fn placement(strategy: i32) -> Placement {
    match v1::ExecStrategy::try_from(strategy) {
        Ok(v1::ExecStrategy::Local) => Placement::Local,
        Ok(v1::ExecStrategy::Remote) => Placement::Remote,
        Ok(v1::ExecStrategy::RemoteLocalFallback) => Placement::RemoteLocalFallback,
        Ok(v1::ExecStrategy::Racing) => Placement::Racing,
        _ => Placement::Configured,
    }
}

fn properties(limits: &v1::Limits, network: i32) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    let mut limit = |name: &str, value: Option<String>| {
        properties.extend(value.map(|value| (name.to_owned(), value)));
    };
    limit("fulgurite-memory-bytes", limits.memory_bytes_max.map(|value| value.to_string()));
    limit("fulgurite-cpu-milli", limits.cpu_milli_max.map(|value| value.to_string()));
    limit("fulgurite-pids", limits.pids_max.map(|value| value.to_string()));
    let network = match v1::Network::try_from(network) {
        Ok(v1::Network::None) => Some("nothing"),
        Ok(v1::Network::Loopback) => Some("off"),
        Ok(v1::Network::Host) => Some("standard"),
        _ => None,
    };
    limit("network", network.map(str::to_owned));
    properties
}

/// What an import's failure is to a caller.
pub(super) fn of_merkle(error: &MerkleError) -> Status {
    let text = match error.hint() {
        Some(hint) => format!("{error}{HINT}{hint})"),
        None => error.to_string(),
    };
    match error {
        MerkleError::Store { why, .. } => {
            let status = crate::serve::status::of_blob(why);
            Status::new(status.code(), text)
        }
        _ => Status::invalid_argument(text),
    }
}

/// A message and the hint at its end.
pub(super) fn split_hint(message: &str) -> (String, Option<String>) {
    match message.strip_suffix(')').and_then(|rest| rest.rsplit_once(HINT)) {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (message.to_owned(), None),
    }
}
