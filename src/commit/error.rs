//! Why outputs cannot be published, and what became of them.

use crate::action::ExecPath;
use crate::stage::{Fault, TreeError};

/// Why outputs cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// What is at the destination, or on the way to it, may not be replaced or followed. Nothing was
    /// published.
    #[error("cannot publish output {output}: {why}")]
    Destination {
        /// The output.
        output: ExecPath,
        /// What is in its way.
        why: String,
    },
    /// Preparing failed. Nothing was published.
    #[error("cannot publish output {output}: {why}")]
    Prepare {
        /// The output.
        output: ExecPath,
        /// What failed.
        why: TreeError,
    },
    /// What is to be done cannot be written down. Nothing was published.
    #[error("cannot publish {outputs} outputs: {why}")]
    Journal {
        /// How many outputs wait.
        outputs: usize,
        /// What failed.
        #[source]
        why: Fault,
    },
    /// Outputs were published beside a command that ran straight in the tree, with no proof that it has ended and what
    /// it left is gone. Nothing was published.
    #[error("cannot publish into a tree that a standalone command may still write to")]
    NotQuiet,
    /// A rename failed, and what had been renamed before was taken back, as far as that was possible.
    #[error("cannot publish output {failed}: {why}; {}", torn(.published))]
    Torn {
        /// The output at fault.
        failed: ExecPath,
        /// What failed.
        why: Fault,
        /// The outputs that are visible all the same.
        published: Vec<ExecPath>,
    },
}

impl PublishError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Destination { .. } => Some("remove what is there, or declare another path"),
            Self::Prepare { why, .. } => why.hint(),
            Self::Journal { why, .. } | Self::Torn { why, .. } => why.hint(),
            Self::NotQuiet => None,
        }
    }

    /// True if the tree is as it was before.
    pub fn left_untouched(&self) -> bool {
        match self {
            Self::Destination { .. } | Self::Prepare { .. } | Self::Journal { .. } | Self::NotQuiet => true,
            Self::Torn { published, .. } => published.is_empty(),
        }
    }
}

fn torn(published: &[ExecPath]) -> String {
    match published {
        [] => "no output was published".to_owned(),
        [one] => format!("already published: {one}"),
        [first, .., last] => format!("already published: {} outputs, {first} to {last}", published.len()),
    }
}
