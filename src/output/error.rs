//! Why outputs cannot be collected.

use super::limits::MISSING_SHOWN_MAX;
use crate::action::ExecPath;
use crate::stage::{Fault, TreeError};

/// Why outputs cannot be collected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// The action did not leave these.
    #[error("{}", missing(.outputs))]
    Missing {
        /// All of them.
        outputs: Vec<ExecPath>,
    },
    /// Something on the way to an output is no directory.
    #[error("cannot take output {output}: {component} on the way to it is {kind}")]
    OnTheWay {
        /// The output.
        output: ExecPath,
        /// The component, quoted.
        component: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// Declared with a trailing slash, and is something else.
    #[error("cannot take output {output}: it was declared as a directory and is {kind}")]
    NotDirectory {
        /// The output.
        output: ExecPath,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A tree cannot be walked or sealed.
    #[error("cannot collect outputs: {0}")]
    Tree(#[from] TreeError),
}

impl From<Fault> for OutputError {
    fn from(fault: Fault) -> Self {
        Self::Tree(fault.into())
    }
}

impl OutputError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("the command succeeded without writing them; check their spelling"),
            Self::OnTheWay { .. } => {
                Some("outputs are never looked for through symlinks; declare the real place")
            }
            Self::NotDirectory { .. } => Some("declare it without the trailing slash"),
            Self::Tree(error) => error.hint(),
        }
    }
}

fn missing(outputs: &[ExecPath]) -> String {
    let names: Vec<String> = outputs.iter().take(MISSING_SHOWN_MAX).map(ToString::to_string).collect();
    let more = match outputs.len().saturating_sub(MISSING_SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let noun = if outputs.len() == 1 { "output" } else { "outputs" };
    format!("missing declared {noun} {}{more}", names.join(", "))
}
