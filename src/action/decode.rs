//! From wire messages of REAPI to domain types: the door where everything that a client sent is checked.
//!
//! Canonical form is enforced as far as a tree is turned into paths: single-segment names, sorted, unique over all
//! lists. Source: REAPI v2.12, `remote_execution.proto`. Limits: message sizes are bounded before they come here;
//! unknown fields are passed over, since newer clients may send them.

use super::command::{ActionSpec, Command, CommandOutput, OutputDirectoryFormat, OutputKind, OutputProperty};
use super::digest::{Digest, DigestError, DigestFunction};
use super::limits::NAME_BYTES_MAX;
use super::path::{ExecPath, PathError};
use super::tree::{Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode, Timestamp};
use fulgurite_proto::reapi;
use prost::Message;
use std::time::Duration;

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not an encoding of such a message.
    #[error("not an encoded {message}: {why}")]
    Malformed {
        /// What it should be.
        message: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// A digest that is none.
    #[error("{message}: {why}")]
    Digest {
        /// In which message.
        message: &'static str,
        /// What is wrong.
        why: DigestError,
    },
    /// A path that leaves the input root, or is none.
    #[error("{field}: {why}")]
    Path {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: PathError,
    },
    /// A name that is not one path segment.
    #[error("a directory has an entry named {name:?}, which is not one path segment")]
    Name {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// Two entries of one name, or entries out of order.
    #[error("the entries of a directory are not sorted and unique: {name:?} comes after {before:?}")]
    Order {
        /// The earlier one.
        before: String,
        /// The later one.
        name: String,
    },
    /// Any other rule.
    #[error("{field}: {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn message<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|why| DecodeError::Malformed { message: what, why: why.to_string() })
}

/// Reads a digest out of a message that must have one.
///
/// # Errors
/// [`DecodeError::Digest`].
pub fn digest(
    function: DigestFunction,
    what: &'static str,
    sent: Option<&reapi::Digest>,
) -> Result<Digest, DecodeError> {
    let parsed = match sent {
        None => Err(DigestError::Missing(what)),
        Some(sent) => Digest::parse(function, &sent.hash, sent.size_bytes),
    };
    parsed.map_err(|why| DecodeError::Digest { message: what, why })
}

/// Decodes a Directory. Checks its names; the directories below it are not known here.
///
/// # Errors
/// [`DecodeError`].
pub fn directory(function: DigestFunction, bytes: &[u8]) -> Result<Directory, DecodeError> {
    directory_message(function, message("Directory", bytes)?)
}

/// As [`directory`], of a message that is decoded already.
///
/// # Errors
/// [`DecodeError`].
pub fn directory_message(function: DigestFunction, sent: reapi::Directory) -> Result<Directory, DecodeError> {
    check_names(&sent)?;
    let mut decoded = Directory {
        files: Vec::with_capacity(sent.files.len()),
        directories: Vec::with_capacity(sent.directories.len()),
        symlinks: Vec::with_capacity(sent.symlinks.len()),
        properties: properties(sent.node_properties)?,
    };
    for file in sent.files {
        decoded.files.push(FileNode {
            digest: digest(function, "FileNode", file.digest.as_ref())?,
            name: file.name,
            executable: file.is_executable,
            properties: properties(file.node_properties)?,
        });
    }
    for child in sent.directories {
        let digest = digest(function, "DirectoryNode", child.digest.as_ref())?;
        decoded.directories.push(DirectoryNode { name: child.name, digest });
    }
    for link in sent.symlinks {
        if link.target.is_empty() || link.target.contains('\0') || link.target.len() > 4095 {
            let why =
                format!("the target of symlink {:?} is empty, too long or has a NUL byte", cut(&link.name));
            return Err(DecodeError::Field { field: "SymlinkNode.target", why });
        }
        let properties = properties(link.node_properties)?;
        decoded.symlinks.push(SymlinkNode { name: link.name, target: link.target, properties });
    }
    Ok(decoded)
}

fn check_names(sent: &reapi::Directory) -> Result<(), DecodeError> {
    let files = || sent.files.iter().map(|node| node.name.as_str());
    let directories = || sent.directories.iter().map(|node| node.name.as_str());
    let symlinks = || sent.symlinks.iter().map(|node| node.name.as_str());
    sorted(files())?;
    sorted(directories())?;
    sorted(symlinks())?;
    let mut all: Vec<&str> = files().chain(directories()).chain(symlinks()).collect();
    all.sort_unstable();
    sorted(all.into_iter())
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), DecodeError> {
    let mut before: Option<&str> = None;
    for name in names {
        let is_segment = !name.is_empty()
            && name != "."
            && name != ".."
            && name.len() <= NAME_BYTES_MAX
            && !name.bytes().any(|byte| byte == b'/' || byte == 0);
        if !is_segment {
            return Err(DecodeError::Name { name: cut(name) });
        }
        if let Some(before) = before.filter(|before| *before >= name) {
            return Err(DecodeError::Order { before: cut(before), name: cut(name) });
        }
        before = Some(name);
    }
    Ok(())
}

fn properties(sent: Option<reapi::NodeProperties>) -> Result<NodeProperties, DecodeError> {
    let Some(sent) = sent else { return Ok(NodeProperties::default()) };
    let mtime = match sent.mtime {
        None => None,
        Some(time) => {
            let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
            let nanos = nanos.ok_or_else(|| DecodeError::Field {
                field: "NodeProperties.mtime",
                why: format!("{} nanoseconds are not a part of a second", time.nanos),
            })?;
            Some(Timestamp { seconds: time.seconds, nanos })
        }
    };
    // Set-id bits and the sticky bit are nothing that an input may ask for.
    let unix_mode = sent.unix_mode.map(|mode| mode & 0o777);
    let properties = sent.properties.into_iter().map(|pair| (pair.name, pair.value)).collect();
    Ok(NodeProperties { properties, mtime, unix_mode })
}

fn platform(sent: Option<reapi::Platform>) -> Vec<(String, String)> {
    sent.map(|sent| sent.properties.into_iter().map(|pair| (pair.name, pair.value)).collect())
        .unwrap_or_default()
}

/// Decodes an Action.
///
/// # Errors
/// [`DecodeError`].
pub fn action(function: DigestFunction, bytes: &[u8]) -> Result<ActionSpec, DecodeError> {
    let sent: reapi::Action = message("Action", bytes)?;
    let timeout = match sent.timeout {
        None => None,
        Some(span) => {
            let bad = || DecodeError::Field {
                field: "Action.timeout",
                why: format!("{} s and {} ns are no duration", span.seconds, span.nanos),
            };
            let seconds = u64::try_from(span.seconds).map_err(|_| bad())?;
            let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
            Some(Duration::new(seconds, nanos.ok_or_else(bad)?))
        }
    };
    Ok(ActionSpec {
        command_digest: digest(function, "Action.command_digest", sent.command_digest.as_ref())?,
        input_root_digest: digest(function, "Action.input_root_digest", sent.input_root_digest.as_ref())?,
        timeout,
        do_not_cache: sent.do_not_cache,
        platform: platform(sent.platform),
    })
}

/// Decodes a Command.
///
/// # Errors
/// [`DecodeError`].
pub fn command(bytes: &[u8]) -> Result<Command, DecodeError> {
    let sent: reapi::Command = message("Command", bytes)?;
    let field = |field, why: &str| DecodeError::Field { field, why: why.to_owned() };
    if sent.arguments.first().is_none_or(String::is_empty) {
        return Err(field("Command.arguments", "there is no command to run"));
    }
    if sent.arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(field("Command.arguments", "an argument has a NUL byte"));
    }
    let environment: Vec<(String, String)> =
        sent.environment_variables.into_iter().map(|pair| (pair.name, pair.value)).collect();
    for (name, value) in &environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let why = format!("{:?} is no environment variable", cut(name));
            return Err(DecodeError::Field { field: "Command.environment_variables", why });
        }
    }
    let working_directory = match sent.working_directory.as_str() {
        "" => None,
        path => path_or_root("Command.working_directory", path)?,
    };
    let typed = sent.output_paths.is_empty();
    let mut outputs = Vec::new();
    let mut declare = |paths: Vec<String>, kind, field| -> Result<(), DecodeError> {
        for declared in paths {
            let path = beneath(working_directory.as_ref(), &declared, kind, field)?;
            outputs.push(CommandOutput { declared, path, kind });
        }
        Ok(())
    };
    declare(sent.output_paths, OutputKind::Any, "Command.output_paths")?;
    if typed {
        #[allow(deprecated, reason = "clients before REAPI 2.1 name their outputs so")]
        let (files, directories) = (sent.output_files, sent.output_directories);
        declare(files, OutputKind::File, "Command.output_files")?;
        declare(directories, OutputKind::Directory, "Command.output_directories")?;
    }
    if outputs.len() > super::limits::OUTPUTS_MAX {
        return Err(field("Command", "too many outputs are declared"));
    }
    #[allow(deprecated, reason = "clients before REAPI 2.2 describe the platform here")]
    let platform = platform(sent.platform);
    Ok(Command {
        arguments: sent.arguments,
        environment,
        outputs,
        outputs_are_typed: typed,
        working_directory,
        platform,
        output_properties: sent
            .output_node_properties
            .iter()
            .map(|name| property(name))
            .collect::<Result<_, _>>()?,
        output_directory_format: match sent.output_directory_format {
            1 => OutputDirectoryFormat::DirectoryOnly,
            2 => OutputDirectoryFormat::TreeAndDirectory,
            _ => OutputDirectoryFormat::TreeOnly,
        },
    })
}

fn property(name: &str) -> Result<OutputProperty, DecodeError> {
    match name {
        "mtime" => Ok(OutputProperty::Mtime),
        "unix_mode" => Ok(OutputProperty::UnixMode),
        other => {
            let why = format!("there is no property {:?}: mtime and unix_mode are supported", cut(other));
            Err(DecodeError::Field { field: "Command.output_node_properties", why })
        }
    }
}

fn path_or_root(field: &'static str, path: &str) -> Result<Option<ExecPath>, DecodeError> {
    match ExecPath::new(path) {
        Ok(path) => Ok(Some(path)),
        Err(PathError::Root(_) | PathError::Empty) => Ok(None),
        Err(why) => Err(DecodeError::Path { field, why }),
    }
}

/// Where a declared output lies below the input root; `None`: it is the input root. REAPI wants paths to be
/// relative to the working directory, and not below it: leading `..` may lead as far as the input root.
fn beneath(
    directory: Option<&ExecPath>,
    declared: &str,
    kind: OutputKind,
    field: &'static str,
) -> Result<Option<ExecPath>, DecodeError> {
    if declared.is_empty() && kind == OutputKind::File {
        return Err(DecodeError::Path { field, why: PathError::Empty });
    }
    // Two spellings of one path would be two outputs in one place, and a slash at the end no two servers read alike.
    if !declared.is_empty() && declared.split('/').skip(1).any(str::is_empty)
        || declared.split('/').any(|segment| segment == ".")
    {
        let why = format!("{:?} has a slash too many or a `.` segment", cut(declared));
        return Err(DecodeError::Field { field, why });
    }
    let (mut directory, mut rest) = (directory.cloned(), declared);
    while let Some(inner) = directory.take_if(|_| rest == ".." || rest.starts_with("../")) {
        directory = inner.parent();
        rest = rest.get(3..).unwrap_or("");
    }
    let path = path_or_root(field, rest)?;
    Ok(match (directory, path) {
        (Some(directory), Some(path)) => Some(directory.join(&path)),
        (Some(directory), None) => Some(directory),
        (None, path) => path,
    })
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
