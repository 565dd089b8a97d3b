//! Why an action cannot be staged.
//!
//! Invariant: every variant names the input, output or directory that is at fault, and has a hint where one
//! helps.

use std::path::PathBuf;

use super::fault::{Fault, Shown, TreeError};
use crate::action::ExecPath;

/// Why an action cannot be staged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// A declared input is not there.
    #[error("cannot find input {input}: no such file or directory")]
    MissingInput {
        /// Its source, as declared.
        input: String,
    },
    /// A declared input leads out of the exec root.
    #[error("cannot take input {input}: a symlink on the way leads out of the exec root")]
    InputEscapes {
        /// Its source, as declared.
        input: String,
    },
    /// Two inputs want the same place, or one lies below another that is no directory.
    #[error("cannot place input {input} at {dest}: {why}")]
    Conflict {
        /// Its source, as declared.
        input: String,
        /// Where it should appear.
        dest: ExecPath,
        /// What is there already.
        why: &'static str,
    },
    /// What should be the parent directory of an output is something else.
    #[error("cannot create the directory of output {output}: {component} is {kind} in the inputs")]
    OutputParent {
        /// The output.
        output: ExecPath,
        /// The component of its path.
        component: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// No candidate can hold the layer.
    #[error("cannot find a place for the layer: {}", .tried.join("; "))]
    NoPlace {
        /// Each candidate and why not.
        tried: Vec<String>,
    },
    /// A directory that must be private is not.
    #[error("cannot use {} for layers: {why}", Shown(.path))]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A tree cannot be walked or made.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl From<Fault> for StageError {
    fn from(fault: Fault) -> Self {
        Self::Tree(fault.into())
    }
}

impl StageError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MissingInput { .. } => Some("inputs are relative to --exec-root; check the spelling"),
            Self::InputEscapes { .. } => Some("declare the place that it leads to, as /ABSOLUTE/PATH=DEST"),
            Self::Conflict { .. } => {
                Some("declare each destination once, and nothing below a file or symlink")
            }
            Self::OutputParent { .. } => Some("declare the output at the place that really holds it"),
            Self::NoPlace { .. } => Some("name a directory on a local filesystem with --layer-dir"),
            Self::NotPrivate { .. } => Some("remove it, or name another directory with --layer-dir"),
            Self::Tree(error) => error.hint(),
        }
    }
}
