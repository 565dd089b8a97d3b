//! An action as a worker gets it: what starts the worker, its key, and what one request says.
//!
//! ```text
//!   arguments ─ split ─► startup + --persistent_worker ─► launch, key
//!                   └──► flag files ─ expand, from the input root ─► request
//!   input root ─ one walk ─► all files with digests ─► request; those that are marked ─► key
//! ```
//! On Buck2's wire nothing is appended or expanded, `WORKER_SOCKET` says that it is a worker, and a request has the
//! environment and no list of inputs.
//!
//! Invariants: a request lists every file of the input root or is not made at all; flag files are read from the input
//! root by digest, never from a disk by name.

use super::arguments::{self, ArgumentsError, ExpandError, Mode};
use super::key::{KeyParts, KeyQuality, WorkerKey};
use super::limits::{EXPANSION_BYTES_MAX, REQUEST_BYTES_MAX};
use super::wanted::Wanted;
use super::wire::{Protocol, WorkInput, WorkRequest};
use super::{bazel_proto, buck2};
use crate::action::{Command, Digest, ExecPath, TOOL_INPUT};
use crate::cas::Cas;
use crate::exec::executor::Job;
use crate::stage::root::{Node, StagedRoot};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::hosted::Hosted;
use fulgurite_sandbox::spec::SandboxSpec;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

/// Where input roots are, inside.
const WORK: &str = "/work";
/// Below that, in a worker's own view: the directory of its socket, which has no other use where requests are not
/// beside each other; and the socket in it.
pub(super) const SOCKET_DIR: &str = "_w";
pub(super) const SOCKET_NAME: &str = "socket";

/// What starts a worker.
#[derive(Debug)]
pub(super) struct Launch {
    pub key: WorkerKey,
    pub quality: KeyQuality,
    pub tools: Arc<[(String, String)]>,
    pub mnemonic: String,
    pub spec: SandboxSpec,
    pub limits: Limits,
    pub arguments: Vec<CString>,
    pub variables: Vec<CString>,
    pub directory: CString,
    pub protocol: Protocol,
    pub multiplex: bool,
    pub cancels: bool,
    /// Whether it keeps one view for all requests.
    pub shares: bool,
    /// The build that it may serve, if it may not serve all.
    pub build: Option<String>,
    pub staged: Arc<StagedRoot>,
}

/// An action that wants a worker.
#[derive(Debug)]
pub struct WorkerJob<'a> {
    /// The action.
    pub job: &'a Job,
    /// Its inputs.
    pub staged: Arc<StagedRoot>,
    /// The worker.
    pub wanted: Wanted,
    /// Whether the worker keeps one view for all requests, into which their inputs come.
    pub shares: bool,
    /// Its sandbox.
    pub spec: SandboxSpec,
    /// Its limits.
    pub limits: Limits,
    /// Of one request.
    pub timeout: Duration,
}

/// An action in its two parts.
#[derive(Debug)]
pub(super) struct Prepared {
    pub launch: Arc<Launch>,
    /// Complete but for its id and directory.
    pub request: WorkRequest,
}

/// Why an action runs without a worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWorker {
    /// Its arguments do not fit.
    #[error("{}", why.for_action(mnemonic))]
    Arguments {
        /// The action's kind.
        mnemonic: String,
        /// Why.
        why: ArgumentsError,
    },
    /// Its inputs do not fit into one message.
    #[error("a request with {inputs} inputs is {bytes} bytes, more than {REQUEST_BYTES_MAX}")]
    TooLarge {
        /// How many.
        inputs: usize,
        /// How large.
        bytes: usize,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// How actions become requests.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// 10 for much.
    pub verbosity: i32,
    /// Which arguments are flag files.
    pub mode: Mode,
    /// More arguments for workers of a mnemonic, after `--persistent_worker`.
    pub extra_flags: BTreeMap<String, Vec<String>>,
    /// Whether no worker serves two builds.
    pub by_build: bool,
}

/// The action's kind: what it says of its workers, else what it says of itself, else its program.
pub fn mnemonic(job: &Job, wanted: &Wanted) -> String {
    let program = job.command.arguments.first().map_or("", String::as_str);
    let program = program.rsplit('/').next().unwrap_or(program);
    let own = Some(&job.mnemonic).filter(|mnemonic| !mnemonic.is_empty());
    wanted.mnemonic.as_ref().or(own).map_or_else(|| program.to_owned(), Clone::clone)
}

/// Splits an action.
pub(super) fn prepare(work: &WorkerJob<'_>, cas: &Cas, manner: &Manner) -> Result<Prepared, NoWorker> {
    let command = &work.job.command;
    let mnemonic = mnemonic(work.job, &work.wanted);
    let failed = |why| NoWorker::Arguments { mnemonic: mnemonic.clone(), why };
    let verbosity = manner.verbosity;
    let Wanted { protocol, declared, cancels, .. } = &work.wanted;
    let is_buck2 = *protocol == Protocol::Buck2;
    let (inputs, marked) = inputs(&work.staged, command);
    let (mut startup, request) = if is_buck2 {
        of_buck2(work).map_err(failed)?
    } else {
        let (startup, arguments) = of_bazel(work, cas, manner.mode).map_err(failed)?;
        (startup, WorkRequest { arguments, inputs, verbosity, ..WorkRequest::default() })
    };
    let (tools, quality) = tools(work, marked, &startup);
    // Buck2's workers know by a variable that they are some.
    startup.extend((!is_buck2).then(|| "--persistent_worker".to_owned()));
    startup.extend(manner.extra_flags.get(&mnemonic).into_iter().flatten().cloned());
    let bytes = if is_buck2 { buck2::encoded_len(&request) } else { bazel_proto::encoded_len(&request) };
    if bytes > REQUEST_BYTES_MAX {
        return Err(NoWorker::TooLarge { inputs: request.inputs.len(), bytes });
    }
    let shares = work.shares;
    // In one directory, one request at a time.
    let multiplex = work.wanted.multiplex && !shares;
    let directory = directory(command);
    let parts = KeyParts {
        tenant: work.job.tenant.clone(),
        startup,
        environment: command.environment.clone(),
        directory: directory.clone(),
        protocol: *protocol,
        modes: [multiplex, multiplex, *cancels, shares],
        sandbox: Hosted::spec(&work.spec),
        limits: work.limits.clone(),
        declared: declared.clone(),
        build: manner.by_build.then(|| work.job.invocation.clone()),
        tools,
        quality,
    };
    let key = WorkerKey::of(&parts);
    let c_string =
        |text: String| CString::new(text).map_err(|_| NoWorker::Other("a NUL byte in it".to_owned()));
    let inside = if directory.is_empty() { WORK.to_owned() } else { format!("{WORK}/{directory}") };
    let variables = variables(&parts.environment, is_buck2.then_some(inside.as_str()));
    let launch = Launch {
        key,
        quality,
        variables: variables.into_iter().map(c_string).collect::<Result<_, _>>()?,
        arguments: parts.startup.into_iter().map(c_string).collect::<Result<_, _>>()?,
        directory: c_string(inside)?,
        tools: parts.tools.into(),
        mnemonic,
        spec: parts.sandbox,
        limits: parts.limits,
        protocol: *protocol,
        multiplex,
        shares,
        build: parts.build,
        cancels: *cancels,
        staged: work.staged.clone(),
    };
    Ok(Prepared { launch: Arc::new(launch), request })
}

type Words = Vec<String>;

/// What starts a worker of Bazel's protocol, and a request's arguments.
fn of_bazel(work: &WorkerJob<'_>, cas: &Cas, mode: Mode) -> Result<(Words, Words), ArgumentsError> {
    let split = arguments::split(&work.job.command.arguments, mode)?;
    let mut read = |name: &str| read_input(work, cas, name);
    Ok((split.startup, arguments::expand(&split.flag_files, &mut read)?))
}

/// What starts a worker of Buck2's protocol, and a request.
fn of_buck2(work: &WorkerJob<'_>) -> Result<(Words, WorkRequest), ArgumentsError> {
    let command = &work.job.command;
    let split = arguments::split_at(&command.arguments, work.wanted.startup)?;
    let (environment, timeout) = (command.environment.clone(), Some(work.timeout));
    let arguments = split.flag_files;
    Ok((split.startup, WorkRequest { arguments, environment, timeout, ..WorkRequest::default() }))
}

/// The variables of a worker. One of Buck2's protocol is told where to serve, and where it starts; a path of a socket
/// has at most 107 bytes.
fn variables(environment: &[(String, String)], of_buck2: Option<&str>) -> Words {
    let own = of_buck2.map(|directory| {
        let socket = format!("{WORK}/{SOCKET_DIR}/{SOCKET_NAME}");
        [("WORKER_SOCKET", socket), ("PWD", directory.to_owned())]
    });
    let own = own.as_slice().as_flattened();
    let is_own = |name: &str| own.iter().any(|(known, _)| *known == name);
    let given = environment.iter().filter(|(name, _)| !is_own(name));
    let given = given.map(|(name, value)| format!("{name}={value}"));
    given.chain(own.iter().map(|(name, value)| format!("{name}={value}"))).collect()
}

/// The working directory below the input root; empty: the root itself.
pub(super) fn directory(command: &Command) -> String {
    command.working_directory.as_ref().map_or_else(String::new, |path| path.as_path().display().to_string())
}

/// The way from the working directory to the input root: nothing, or `../` for each level.
fn upwards(command: &Command) -> String {
    command
        .working_directory
        .as_ref()
        .map_or_else(String::new, |path| "../".repeat(path.components().count()))
}

/// What the worker is to put before the paths of a request.
pub(super) fn sandbox_dir(command: &Command, slot: u32) -> String {
    let dir = format!("{}{}", upwards(command), Hosted::slot_dir(slot));
    match directory(command) {
        below if below.is_empty() => dir,
        below => format!("{dir}/{below}"),
    }
}

/// What is at a path that is relative to the working directory.
fn input<'a>(work: &'a WorkerJob<'_>, name: &str) -> Option<Node<'a>> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let name = name.strip_prefix("/work/").map(str::to_owned).unwrap_or_else(|| {
        match directory(&work.job.command) {
            below if below.is_empty() => name.to_owned(),
            below => format!("{below}/{name}"),
        }
    });
    work.staged.lookup(&ExecPath::new(name).ok()?)
}

fn read_input(work: &WorkerJob<'_>, cas: &Cas, name: &str) -> Result<Vec<u8>, ExpandError> {
    let unreadable = |why: String| ExpandError::Unreadable { file: name.to_owned(), why };
    match input(work, name) {
        None => Err(ExpandError::NotDeclared),
        Some(Node::File { digest, .. }) => {
            cas.read(digest, EXPANSION_BYTES_MAX as u64).map_err(|error| unreadable(error.to_string()))
        }
        Some(Node::Directory { .. }) => Err(unreadable("it is a directory".to_owned())),
        Some(Node::Symlink { .. }) => Err(unreadable("it is a symlink".to_owned())),
    }
}

type Pairs = Vec<(String, String)>;

/// All files of the root, as the worker sees them from where it stands; and those that are marked, by their path.
fn inputs(staged: &StagedRoot, command: &Command) -> (Vec<WorkInput>, Pairs) {
    let below = directory(command);
    let up = upwards(command);
    let seen = |path: &str| match path.strip_prefix(below.as_str()) {
        _ if below.is_empty() => path.to_owned(),
        Some(rest) if rest.starts_with('/') => rest[1..].to_owned(),
        _ => format!("{up}{path}"),
    };
    let (mut inputs, mut marked) = (Vec::new(), Vec::new());
    let mut open: Vec<(String, &Digest)> = vec![(String::new(), staged.root())];
    while let Some((prefix, digest)) = open.pop() {
        let Some(directory) = staged.directory(digest) else { continue };
        for file in &directory.files {
            let (path, digest) = (format!("{prefix}{}", file.name), file.digest.hex());
            if file.properties.properties.iter().any(|(name, _)| name == TOOL_INPUT) {
                marked.push((path.clone(), digest.clone()));
            }
            inputs.push(WorkInput { path: seen(&path), digest });
        }
        for child in directory.directories.iter().rev() {
            open.push((format!("{prefix}{}/", child.name), &child.digest));
        }
    }
    inputs.sort_by(|one, other| one.path.cmp(&other.path));
    (inputs, marked)
}

/// What stands for the worker's files.
fn tools(work: &WorkerJob<'_>, marked: Pairs, startup: &[String]) -> (Pairs, KeyQuality) {
    if !marked.is_empty() {
        return (marked, KeyQuality::Marked);
    }
    if work.wanted.declared.is_some() {
        return (Vec::new(), KeyQuality::Declared);
    }
    let named = startup.iter().filter_map(|argument| match input(work, argument)? {
        Node::File { digest, .. } | Node::Directory { digest, .. } => Some((argument.clone(), digest.hex())),
        Node::Symlink { .. } => None,
    });
    (named.collect(), KeyQuality::Weak)
}
