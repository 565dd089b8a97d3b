//! Why an input root cannot be staged.

use crate::action::Digest;
use crate::cas::CasError;
use fulgurite_sandbox::runtime::SandboxError;
use rustix::io::Errno;

/// See the module's documentation.
#[derive(Debug, thiserror::Error)]
pub enum StageRootError {
    /// Blobs of the closure are not in the store: all that can be known to be missing.
    #[error("{} of the blobs of the input root are not in the store, {} first", .0.len(), Shown(.0.first()))]
    Missing(Vec<Digest>),
    /// The client's fault: the tree is none that can be staged.
    #[error("directory {directory} of the input root cannot be staged: {why}")]
    Malformed {
        /// Which directory.
        directory: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// The tree exceeds one of its [`super::RootLimits`].
    #[error("the input root has {what} {found}, and at most {max} are possible here")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are, or more.
        found: u64,
        /// The bound.
        max: u64,
    },
    /// The store failed.
    #[error("cannot stage the input root: {0}")]
    Cas(#[from] CasError),
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The sandbox could not help.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The way that was asked for cannot be had on this host.
    #[error("cannot stage by {way}: {why}")]
    NoWay {
        /// Which way.
        way: super::Way,
        /// Why not.
        why: String,
    },
}

impl StageRootError {
    /// For `map_err`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |errno| StageRootError::Io { what, errno }
    }

    /// For `map_err` of what `std` tried.
    pub(super) fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| StageRootError::Io { what, errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StageRootError::Missing(_) => Some("upload them and try again"),
            StageRootError::TooLarge { .. } => Some("declare fewer inputs, or split the action"),
            StageRootError::Io { errno: Errno::NOSPC | Errno::DQUOT, .. } => {
                Some("free space in the state directory")
            }
            StageRootError::Io { errno: Errno::MFILE | Errno::NFILE, .. } => {
                Some("raise the limit of open files (ulimit -n)")
            }
            StageRootError::NoWay { .. } => {
                Some("let the way be chosen (auto); `fulgurite doctor` says more")
            }
            _ => None,
        }
    }
}

struct Shown<'a>(Option<&'a Digest>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |digest| digest.fmt(f))
    }
}
