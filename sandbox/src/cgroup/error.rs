//! What can go wrong with a cgroup: each message says what was tried, on what, and why.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// A failure of the cgroup layer.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A limit that no kernel could honor, found before anything is written.
    #[error("invalid limit {limit}: {why}")]
    InvalidLimit {
        /// Field of [`super::Limits`].
        limit: &'static str,
        /// What is wrong with the value.
        why: String,
    },
    /// A limit was asked for whose controller (or file) this host does not give us.
    #[error("cannot apply {limit}: {why}{}", hint_tail(.hint))]
    LimitUnavailable {
        /// Field of [`super::Limits`].
        limit: &'static str,
        /// Why it is missing.
        why: String,
        /// What the operator could do.
        hint: Option<String>,
    },
    /// No place for a tree of our own.
    #[error("cannot make a cgroup tree: {why}{}", hint_tail(.hint))]
    NoPlace {
        /// Why there is none.
        why: String,
        /// What the operator could do.
        hint: Option<String>,
    },
    /// A system call failed.
    #[error("cannot {tried} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb phrase that ends before the path.
        tried: String,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel took a value and then showed another one.
    #[error("wrote {wrote:?} to {}, but it reads back {found:?}", .path.display())]
    ReadBack {
        /// The control file.
        path: PathBuf,
        /// What was written.
        wrote: String,
        /// What was read afterwards.
        found: String,
    },
    /// A control file without the field that was needed.
    #[error("cannot find {field} in {}", .path.display())]
    Parse {
        /// The control file.
        path: PathBuf,
        /// The field that is missing or not a number.
        field: &'static str,
    },
    /// Directories that could not be removed in bounded time: keep them on a list and try again later.
    #[error("cannot remove {} yet: {source}", list(.paths))]
    Quarantined {
        /// What remains, children before parents.
        paths: Vec<PathBuf>,
        /// The last refusal.
        source: io::Error,
    },
}

impl CgroupError {
    pub(super) fn io(tried: impl Into<String>, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { tried: tried.into(), path: path.to_path_buf(), source: source.into() }
    }
}

fn hint_tail(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default()
}

fn list(paths: &[PathBuf]) -> String {
    let mut text = String::new();
    for (index, path) in paths.iter().enumerate() {
        let _ = write!(text, "{}{}", if index == 0 { "" } else { ", " }, path.display());
    }
    text
}
