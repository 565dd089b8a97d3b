//! A system call that failed: what was tried, on what, why, and what can be done.
//!
//! ```text
//!   cannot create directory "out/a": no space left on device
//!   hint: free space there, or choose another place for the layer
//! ```
//!
//! Invariant: names are shown quoted, escaped and shortened; they come from trees that an action shaped.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::limits::SHOWN_BYTES_MAX;

/// One failed system call on one named thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {tried} {}: {}", Shown(.on), Reason(*.why))]
pub struct Fault {
    /// What was tried, as a verb: `open directory`.
    pub tried: &'static str,
    /// What it was tried on, relative to the tree that the caller knows.
    pub on: PathBuf,
    /// What the kernel said.
    pub why: Errno,
}

impl Fault {
    /// A fault of `tried` on `on`.
    pub fn new(tried: &'static str, on: impl Into<PathBuf>, why: Errno) -> Self {
        Self { tried, on: on.into(), why }
    }

    /// For `map_err`: `call(..).map_err(Fault::of("open", path))`.
    pub fn of<'a>(tried: &'static str, on: impl AsRef<Path> + 'a) -> impl FnOnce(Errno) -> Self + 'a {
        move |why| Self::new(tried, on.as_ref(), why)
    }

    /// What to do about it, or `None` if the message says all there is to say.
    pub fn hint(&self) -> Option<&'static str> {
        let hint = match self.why {
            Errno::NOSPC | Errno::DQUOT => "free space there, or choose another place for the layer",
            Errno::ROFS => "the filesystem is read-only; choose another place or remount it",
            Errno::ACCESS | Errno::PERM => "check owner and mode of it and of the directory that holds it",
            Errno::MFILE | Errno::NFILE => "raise the limit of open files (ulimit -n)",
            Errno::LOOP => "a symlink is in the way; name the place that it leads to",
            Errno::XDEV => {
                "another filesystem is mounted there, or the path leads out; name files below one root"
            }
            Errno::NOTDIR => "a file is where a directory is needed; remove it or choose another path",
            Errno::BUSY => "something is mounted there; unmount it first",
            Errno::NOSYS => {
                "openat2 and statx are needed: Linux 5.8 or newer, and a filter that lets them through"
            }
            _ => return None,
        };
        Some(hint)
    }
}

/// Why a tree cannot be walked, copied or taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A system call failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A FIFO, a socket or a device.
    #[error("cannot take {}: it is {kind}", Shown(.path))]
    Special {
        /// Where it is.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// The tree exceeds one of its [`super::limits::TreeLimits`].
    #[error("cannot take {}: more than {max} {unit}", Shown(.path))]
    TooLarge {
        /// Where the walk was.
        path: PathBuf,
        /// What is counted.
        unit: &'static str,
        /// The limit.
        max: u64,
    },
}

impl TreeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fault(fault) => fault.hint(),
            Self::Special { .. } => {
                Some("only regular files, directories and symlinks can be inputs or outputs")
            }
            Self::TooLarge { .. } => Some("declare a smaller tree, or split the action"),
        }
    }
}

/// A path as errors show it.
pub struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_os_str().as_bytes();
        if bytes.len() <= SHOWN_BYTES_MAX {
            return write!(f, "{:?}", self.0.as_os_str());
        }
        let (head, tail) = (&bytes[..SHOWN_BYTES_MAX / 2], &bytes[bytes.len() - SHOWN_BYTES_MAX / 2..]);
        write!(f, "{:?}…{:?} ({} bytes)", OsStr::from_bytes(head), OsStr::from_bytes(tail), bytes.len())
    }
}

/// An errno in the words of libc, without its number.
struct Reason(Errno);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from(self.0).to_string();
        let words = text.split(" (os error").next().unwrap_or_default();
        let mut letters = words.chars();
        match letters.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), letters.as_str()),
            None => write!(f, "error {}", self.0.raw_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_on_what_and_why() {
        let fault = Fault::new("open directory", "out/\u{1b}[0m", Errno::NOSPC);
        assert_eq!(fault.to_string(), r#"cannot open directory "out/\u{1b}[0m": no space left on device"#);
        assert!(fault.hint().unwrap().contains("free space"));
        assert!(Fault::new("open", "a/".repeat(9000), Errno::IO).to_string().len() < 700);
    }
}
