//! A path below the exec root.
//!
//! ```text
//!   "./a//b/"  ->  a/b        "a/../b", "/a", ".", "", "a\0b"  ->  PathError, saying which
//! ```
//!
//! Invariants: see [`super`]. Paths are bytes; no encoding is assumed, and errors quote them escaped.
//! Ordering is by component, so that everything below `a` directly follows `a` (`a`, `a/b`, `a-b`).
//!
//! Limits: lexical only; no symlink is known here.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// A normalized relative path: the only kind of path that an action may name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ExecPath(OsString);

/// Why a path is not an [`ExecPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The empty string.
    #[error("a path is empty")]
    Empty,
    /// Nothing but `.` and slashes.
    #[error("path {0:?} is the exec root itself")]
    Root(OsString),
    /// Starts with a slash, and does not lead below the exec root.
    #[error("path {0:?} is absolute and not below the exec root")]
    Absolute(OsString),
    /// Has a `..` component.
    #[error("path {0:?} has a `..` component")]
    Parent(OsString),
    /// Has a NUL byte.
    #[error("path {0:?} has a NUL byte")]
    Nul(OsString),
    /// Too many bytes in the path or in one component.
    #[error("path {} is too long ({bytes} bytes, at most {max})", Start(shown))]
    TooLong {
        /// The path.
        shown: OsString,
        /// Length of the path or of the component at fault.
        bytes: usize,
        /// The bound it exceeds.
        max: usize,
    },
}

impl PathError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty => "give a path relative to the exec root",
            Self::Root(_) => {
                "name files or directories below the exec root, or choose its parent with --exec-root"
            }
            Self::Absolute(_) => "give a path relative to the exec root, or another --exec-root",
            Self::Parent(_) => "write the path without `..`, or choose a wider --exec-root",
            Self::Nul(_) => {
                "remove the NUL byte; NUL separates entries of a list only if the list has no newlines"
            }
            Self::TooLong { .. } => "shorten the path, or choose an --exec-root closer to the file",
        }
    }
}

impl ExecPath {
    /// Checks and normalizes a relative path: repeated slashes, `.` components and a trailing slash go.
    pub fn new(raw: impl AsRef<OsStr>) -> Result<Self, PathError> {
        let raw = raw.as_ref();
        let bytes = raw.as_bytes();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul(raw.into()));
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute(raw.into()));
        }
        let mut normal = Vec::with_capacity(bytes.len());
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::Parent(raw.into())),
                _ => {}
            }
            check_length(raw, component.len(), NAME_BYTES_MAX)?;
            if !normal.is_empty() {
                normal.push(b'/');
            }
            normal.extend_from_slice(component);
        }
        if normal.is_empty() {
            return Err(PathError::Root(raw.into()));
        }
        check_length(raw, normal.len(), PATH_BYTES_MAX)?;
        Ok(Self(OsString::from_vec(normal)))
    }

    /// Like [`ExecPath::new`], but an absolute path that lies below `exec_root` word by word is accepted too.
    pub fn new_under(raw: impl AsRef<OsStr>, exec_root: &Path) -> Result<Self, PathError> {
        let raw = raw.as_ref();
        if raw.as_bytes().first() != Some(&b'/') {
            return Self::new(raw);
        }
        match Path::new(raw).strip_prefix(exec_root) {
            Ok(rest) if rest.as_os_str().is_empty() => Err(PathError::Root(raw.into())),
            Ok(rest) => Self::new(rest),
            Err(_) => Err(PathError::Absolute(raw.into())),
        }
    }

    /// The components, first to last; never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &OsStr> {
        self.0.as_bytes().split(|byte| *byte == b'/').map(OsStr::from_bytes)
    }

    /// The directory that holds it, or `None` if that is the exec root.
    pub fn parent(&self) -> Option<ExecPath> {
        let bytes = self.0.as_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(OsStr::from_bytes(&bytes[..slash]).into()))
    }

    /// The last component.
    pub fn file_name(&self) -> &OsStr {
        let bytes = self.0.as_bytes();
        let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&bytes[start..])
    }

    /// What follows `ancestor/`, or `None` if it does not lie below `ancestor`.
    pub fn below(&self, ancestor: &ExecPath) -> Option<ExecPath> {
        let rest = self.0.as_bytes().strip_prefix(ancestor.0.as_bytes())?.strip_prefix(b"/")?;
        Some(Self(OsStr::from_bytes(rest).into()))
    }

    /// The path `self/rest`.
    pub fn join(&self, rest: &ExecPath) -> ExecPath {
        let mut joined = self.0.clone();
        joined.push("/");
        joined.push(&rest.0);
        Self(joined)
    }

    /// As a string of the operating system.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// As a path, still relative.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Ord for ExecPath {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |path: &'_ Self| {
            path.0.as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
        };
        let (ours, theirs): (Vec<u8>, Vec<u8>) = (key(self), key(other));
        ours.cmp(&theirs)
    }
}

impl PartialOrd for ExecPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for ExecPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Quoted and escaped: a path is bytes that somebody else chose, and may hold terminal escapes.
impl fmt::Display for ExecPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn check_length(raw: &OsStr, bytes: usize, max: usize) -> Result<(), PathError> {
    if bytes > max {
        return Err(PathError::TooLong { shown: raw.into(), bytes, max });
    }
    Ok(())
}

/// The first bytes of a path that is too long to be shown.
struct Start<'a>(&'a OsStr);

impl fmt::Display for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_bytes();
        let shown = OsStr::from_bytes(&bytes[..bytes.len().min(64)]);
        write!(f, "{shown:?}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &[u8], expected: Result<&[u8], &str>) {
        let got = ExecPath::new(OsStr::from_bytes(raw));
        match expected {
            Ok(normal) => assert_eq!(got.unwrap().as_os_str().as_bytes(), normal),
            Err(part) => {
                let error = got.unwrap_err();
                assert!(error.to_string().contains(part), "{error}");
                assert!(!error.hint().is_empty());
            }
        }
    }

    #[test]
    fn paths_are_normalized_or_refused_by_reason() {
        check(b"a", Ok(b"a"));
        check(b"./a//b/./c/", Ok(b"a/b/c"));
        check(b"...", Ok(b"..."));
        check(b"-rf", Ok(b"-rf"));
        check(b" a\n\xff", Ok(b" a\n\xff"));
        check(&[b'n'; 255], Ok(&[b'n'; 255]));
        check(b"", Err("empty"));
        check(b".", Err("exec root itself"));
        check(b".//./", Err("exec root itself"));
        check(b"/etc/passwd", Err("absolute"));
        check(b"a/../../b", Err("`..`"));
        check(b"..", Err("`..`"));
        check(b"a\0b", Err("NUL"));
        check(&[b'n'; 256], Err("too long (256 bytes, at most 255)"));
        check(&b"ab/".repeat(2000), Err("at most 4095"));
    }

    #[test]
    fn order_is_by_component() {
        let mut paths: Vec<_> = ["a-b", "a/b", "a", "a/b/c", "b"].map(|p| ExecPath::new(p).unwrap()).into();
        paths.sort();
        let shown: Vec<_> = paths.iter().map(|p| p.as_os_str().to_str().unwrap()).collect();
        assert_eq!(shown, ["a", "a/b", "a/b/c", "a-b", "b"]);
    }

    #[test]
    fn absolute_paths_below_the_exec_root_are_relative_paths() {
        let root = Path::new("/srv/tree");
        assert_eq!(ExecPath::new_under("/srv/tree/a/b", root).unwrap().as_os_str(), "a/b");
        assert!(matches!(ExecPath::new_under("/srv/tree/", root), Err(PathError::Root(_))));
        assert!(matches!(ExecPath::new_under("/srv/tree2/a", root), Err(PathError::Absolute(_))));
        assert!(matches!(ExecPath::new_under("/srv/tree/../x", root), Err(PathError::Parent(_))));
    }

    #[test]
    fn parts_of_a_path() {
        let path = ExecPath::new("a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_os_str(), "a/b");
        assert_eq!(path.file_name(), "c");
        assert_eq!(path.below(&ExecPath::new("a").unwrap()).unwrap().as_os_str(), "b/c");
        assert_eq!(path.below(&ExecPath::new("a/b/c").unwrap()), None);
        assert_eq!(ExecPath::new("ab").unwrap().below(&ExecPath::new("a").unwrap()), None);
        assert_eq!(ExecPath::new("a").unwrap().parent(), None);
    }

    #[test]
    fn errors_escape_what_they_quote() {
        let error = ExecPath::new("/\u{1b}[31m\u{202e}").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}') && !error.contains('\u{202e}'), "{error}");
    }
}
