//! What can be wrong with a configuration.

use super::origin::Origin;
use crate::failure::Failure;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("cannot read the configuration {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file that is not TOML.
    #[error("{origin}: {why}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser said.
        why: String,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no key `{key}`")]
    Unknown {
        /// Where.
        origin: Origin,
        /// The key, or the variable.
        key: String,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: `{key}`: {why}")]
    Value {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Values that do not fit each other.
    #[error("{origin}: `{key}`: {why} ({other})")]
    Conflict {
        /// Where one is.
        origin: Origin,
        /// Its key.
        key: String,
        /// What is wrong.
        why: &'static str,
        /// The other key, and where it is from.
        other: String,
    },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ConfigError::Unknown { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            ConfigError::Unknown { nearest: None, .. } => {
                Some("`fulgurite config` prints all keys".to_owned())
            }
            _ => None,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint();
        Failure::new(error.to_string()).hint(hint)
    }
}
