//! An action as a client of REAPI describes it: what to run, on what, within which bounds.
//!
//! Invariants of values that came through [`super::decode`]: output paths are [`ExecPath`]s relative to the working
//! directory, or the working directory itself; no string has a NUL byte; variable names have no `=`.
//! Limits: see `limits`.

use super::digest::Digest;
use super::path::ExecPath;
use std::time::Duration;

/// What an action says of itself (REAPI `Action`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionSpec {
    /// Its [`Command`].
    pub command_digest: Digest,
    /// The root of its inputs.
    pub input_root_digest: Digest,
    /// How long it may run; `None`: the server's default.
    pub timeout: Option<Duration>,
    /// Neither cached nor merged with a run that is on its way.
    pub do_not_cache: bool,
    /// Platform properties, name and value; empty: those of the command count.
    pub platform: Vec<(String, String)>,
}

/// Which message an output directory is described by (REAPI `OutputDirectoryFormat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputDirectoryFormat {
    /// A Tree alone.
    #[default]
    TreeOnly,
    /// A Directory for each directory.
    DirectoryOnly,
    /// Both.
    TreeAndDirectory,
}

/// What a declared output must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// Whatever the command leaves there (`output_paths`).
    Any,
    /// A file, or a symlink to one (`output_files`, before REAPI 2.1).
    File,
    /// A directory, or a symlink to one (`output_directories`, before REAPI 2.1).
    Directory,
}

/// One declared output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// As the client wrote it, which is how the result names it: relative to the working directory, possibly empty.
    pub declared: String,
    /// Relative to the input root; `None`: the input root itself.
    pub path: Option<ExecPath>,
    /// What it must be.
    pub kind: OutputKind,
}

/// A node property that a client wants for its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputProperty {
    /// Time of last modification.
    Mtime,
    /// Permission bits.
    UnixMode,
}

/// What to run (REAPI `Command`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; never empty.
    pub arguments: Vec<String>,
    /// The whole environment, in the order in which it was sent.
    pub environment: Vec<(String, String)>,
    /// The declared outputs.
    pub outputs: Vec<CommandOutput>,
    /// Whether the older fields named the outputs, so that the older result fields are filled as well.
    pub outputs_are_typed: bool,
    /// Where the command starts, below the input root; `None`: the input root itself.
    pub working_directory: Option<ExecPath>,
    /// Platform properties, name and value, for clients before REAPI 2.2.
    pub platform: Vec<(String, String)>,
    /// Properties wanted of outputs.
    pub output_properties: Vec<OutputProperty>,
    /// How output directories are described.
    pub output_directory_format: OutputDirectoryFormat,
}
