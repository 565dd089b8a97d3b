//! Why the demo could not be finished.
use crate::bench::BenchError;
use crate::commit::PublishError;
use crate::exec::view::ViewError;
use crate::output::OutputError;
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::runtime::SandboxError;
use std::path::PathBuf;

/// Why the demo could not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// No compiler, or no place for files.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A sandbox could not be had.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The directory does not hold zstd's sources.
    #[error("cannot find zstd's sources in {}: {why}", path.display())]
    NoSources {
        /// Where they should be.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A file could not be read or made.
    #[error("cannot {what}: {why}")]
    File {
        /// What was tried, on what.
        what: String,
        /// Why it failed.
        why: std::io::Error,
    },
    /// The view of an action could not be made.
    #[error("cannot stage {action}: {why}")]
    View {
        /// Which action.
        action: String,
        /// Why.
        why: ViewError,
    },
    /// An action failed.
    #[error("{action} ({strategy}) {end}: {said}")]
    Action {
        /// Which action.
        action: String,
        /// How it was run.
        strategy: &'static str,
        /// How it ended.
        end: End,
        /// The last line that it said.
        said: String,
    },
    /// A bare run failed.
    #[error("{action} ({strategy}) failed: {why}")]
    Bare {
        /// Which action.
        action: String,
        /// How it was run.
        strategy: &'static str,
        /// How it ended, and the last line that it said.
        why: String,
    },
    /// An output is missing or of a kind that no output can be.
    #[error("cannot collect what {action} wrote: {why}")]
    Output {
        /// Which action.
        action: String,
        /// Why.
        why: OutputError,
    },
    /// An output could not be brought to where it belongs.
    #[error("cannot publish what {action} wrote: {why}")]
    Publish {
        /// Which action.
        action: String,
        /// Why.
        why: PublishError,
    },
    /// Two strategies gave different objects.
    #[error("the object {object} differs between the bare build and the strategy {strategy}")]
    Differs {
        /// Which object.
        object: PathBuf,
        /// Which strategy.
        strategy: &'static str,
    },
    /// A source has a name that no action can have.
    #[error("cannot use {}: {why}", path.display())]
    Name {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: crate::action::PathError,
    },
}

impl DemoError {
    pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> DemoError {
        let what = what.into();
        move |why| DemoError::File { what, why }
    }

    /// What to do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            DemoError::Bench(error) => error.hint(),
            DemoError::Sandbox(error) => error.hint(),
            DemoError::View { why, .. } => why.hint(),
            DemoError::NoSources { .. } => Some("scripts/zstd-sources prints where they are".to_owned()),
            _ => None,
        }
    }
}
