//! Why outputs cannot be handed off.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::cas::CasError;
use crate::stage::{Fault, Shown};

/// Why outputs cannot be handed off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoffError {
    /// The action left something that no client can be given. The action's fault.
    #[error("cannot take output {}: {why}", Shown(.path))]
    Refused {
        /// Where it is, below the input root.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Declared as a file and is a directory, or the other way round. Only the older fields say which. The action's
    /// fault.
    #[error("cannot take output {}: it was declared as {declared} and is {found}", Shown(.path))]
    WrongKind {
        /// Where it is, below the input root.
        path: PathBuf,
        /// What it was declared as, with its article.
        declared: &'static str,
        /// What it is, with its article.
        found: &'static str,
    },
    /// The outputs exceed one of the limits. The action's fault.
    #[error("cannot take output {}: more than {max} {unit} in all outputs", Shown(.path))]
    TooMuch {
        /// Where the walk was.
        path: PathBuf,
        /// What is counted.
        unit: &'static str,
        /// The limit.
        max: u64,
    },
    /// The inputs are not what staging had: a directory of theirs is not known. Ours.
    #[error("cannot take output {}: the input directory there is not known any more", Shown(.path))]
    UnknownInput {
        /// Where it is, below the input root.
        path: PathBuf,
    },
    /// The store did not take a blob. Ours.
    #[error("cannot hand off outputs: {0}")]
    Cas(#[from] CasError),
    /// A system call failed. Ours.
    #[error("cannot hand off outputs: {0}")]
    Io(#[from] Fault),
}

impl HandoffError {
    /// True if the action is to blame, not this host: it will do the same again.
    #[must_use]
    pub fn is_the_actions(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::WrongKind { .. } | Self::TooMuch { .. })
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { .. } => Some(
                "outputs are files, directories and symlinks with names in UTF-8; declare their real place",
            ),
            Self::WrongKind { .. } => Some("declare it in output_paths, which takes what is there"),
            Self::TooMuch { .. } => Some("declare a smaller tree, or split the action"),
            Self::UnknownInput { .. } => None,
            Self::Cas(_) => None,
            Self::Io(fault) => fault.hint(),
        }
    }

    pub(in crate::output) fn io(tried: &'static str, on: impl Into<PathBuf>, why: Errno) -> Self {
        Fault::new(tried, on, why).into()
    }
}
