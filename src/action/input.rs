//! Declared inputs: `PATH[=DEST]`, and lists of them.
//!
//! ```text
//!   include/a.h            relative to the exec root, appears at the same place
//!   ../gen/a.h=gen/a.h     refused: a source beneath the exec root has no `..`
//!   /opt/sdk=sdk           an absolute source needs a DEST
//!   odd\=name.c            `\=` is an equals sign in a name; every other backslash is itself
//! ```
//!
//! A list (`--inputs-from`) has one such entry per line, or per NUL if it has a NUL byte anywhere. Empty
//! entries are skipped; there are no comments and no quoting, so that any name can be written (with NUL, even
//! one with newlines).
//!
//! Limits: a source whose name ends in a backslash cannot be given a DEST.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::limits::{INPUTS_FROM_BYTES_MAX, INPUTS_MAX};
use super::path::{ExecPath, PathError};

/// Where an input is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Below the exec root; symlinks on the way are followed as long as they stay below it.
    Beneath(ExecPath),
    /// Anywhere on the host, named in full by the caller; symlinks are followed.
    Absolute(PathBuf),
}

/// One declared input: where it is, and where the action sees it below `/work`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Where it is on the host.
    pub source: Source,
    /// Where the action sees it.
    pub dest: ExecPath,
}

/// Why an input declaration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputSpecError {
    /// Source or destination is no valid path.
    #[error("cannot take {raw:?} as an input: {why}")]
    Path {
        /// The declaration.
        raw: OsString,
        /// What is wrong with its path.
        why: PathError,
    },
    /// An absolute source outside the exec root, without a place to appear at.
    #[error("cannot take {0:?} as an input: an absolute path outside the exec root needs a destination")]
    NoDest(OsString),
    /// More than one unescaped equals sign.
    #[error("cannot take {0:?} as an input: more than one `=`")]
    Ambiguous(OsString),
    /// An entry of a list is at fault.
    #[error("entry {number} of the list: {why}")]
    Entry {
        /// Its number, from 1, empty entries counted.
        number: usize,
        /// What is wrong with it.
        why: Box<InputSpecError>,
    },
    /// The list exceeds a bound.
    #[error("the list of inputs is too long: more than {max} {unit}")]
    ListTooLong {
        /// The bound.
        max: usize,
        /// What it counts.
        unit: &'static str,
    },
}

impl InputSpecError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Path { why, .. } => why.hint(),
            Self::NoDest(_) => "write PATH=DEST, with DEST relative to the exec root",
            Self::Ambiguous(_) => "write `\\=` for an equals sign that belongs to a name",
            Self::Entry { why, .. } => why.hint(),
            Self::ListTooLong { .. } => "declare directories instead of each of their files",
        }
    }
}

impl InputSpec {
    /// Parses `PATH[=DEST]`. An absolute PATH below `exec_root` is taken as the relative path it is.
    pub fn parse(raw: impl AsRef<OsStr>, exec_root: &Path) -> Result<Self, InputSpecError> {
        let raw = raw.as_ref();
        let path_error = |why| InputSpecError::Path { raw: raw.into(), why };
        let (source_raw, dest_raw) = split_unescaped(raw)?;
        let dest =
            dest_raw.map(|dest| ExecPath::new_under(dest, exec_root)).transpose().map_err(path_error)?;
        match (ExecPath::new_under(&source_raw, exec_root), dest) {
            (Ok(source), Some(dest)) => Ok(Self { source: Source::Beneath(source), dest }),
            (Ok(source), None) => Ok(Self { source: Source::Beneath(source.clone()), dest: source }),
            (Err(PathError::Absolute(absolute)), Some(dest)) => {
                Ok(Self { source: Source::Absolute(PathBuf::from(absolute)), dest })
            }
            (Err(PathError::Absolute(_)), None) => Err(InputSpecError::NoDest(raw.into())),
            (Err(why), _) => Err(path_error(why)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beneath(path) => path.fmt(f),
            Self::Absolute(path) => write!(f, "{path:?}"),
        }
    }
}

/// Parses a list of inputs: NUL-separated if it has a NUL byte, else one a line.
pub fn parse_inputs_from(list: &[u8], exec_root: &Path) -> Result<Vec<InputSpec>, InputSpecError> {
    if list.len() > INPUTS_FROM_BYTES_MAX {
        return Err(InputSpecError::ListTooLong { max: INPUTS_FROM_BYTES_MAX, unit: "bytes" });
    }
    let separator = if list.contains(&0) { 0 } else { b'\n' };
    let mut inputs = Vec::new();
    for (index, entry) in list.split(|byte| *byte == separator).enumerate() {
        if entry.is_empty() {
            continue;
        }
        if inputs.len() == INPUTS_MAX {
            return Err(InputSpecError::ListTooLong { max: INPUTS_MAX, unit: "entries" });
        }
        let input = InputSpec::parse(OsStr::from_bytes(entry), exec_root)
            .map_err(|why| InputSpecError::Entry { number: index + 1, why: Box::new(why) })?;
        inputs.push(input);
    }
    Ok(inputs)
}

/// Splits at the one unescaped `=`, and unescapes `\=` on both sides.
fn split_unescaped(raw: &OsStr) -> Result<(OsString, Option<OsString>), InputSpecError> {
    let mut sides: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = raw.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = byte == b'\\' && bytes.next_if_eq(&b'=').is_some();
        if byte == b'=' {
            sides.push(Vec::new());
        } else if let Some(side) = sides.last_mut() {
            side.push(if escaped { b'=' } else { byte });
        }
    }
    let mut sides = sides.into_iter().map(OsString::from_vec);
    let source = sides.next().unwrap_or_default();
    let dest = sides.next();
    if sides.next().is_some() {
        return Err(InputSpecError::Ambiguous(raw.into()));
    }
    Ok((source, dest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<(&str, &str), &str>) {
        let got = InputSpec::parse(raw, Path::new("/srv/tree"));
        match expected {
            Ok((source, dest)) => {
                let input = got.unwrap();
                let shown = match &input.source {
                    Source::Beneath(path) => path.as_os_str().to_os_string(),
                    Source::Absolute(path) => path.clone().into_os_string(),
                };
                assert_eq!(
                    (shown.to_str().unwrap(), input.dest.as_os_str().to_str().unwrap()),
                    (source, dest)
                );
            }
            Err(part) => {
                let error = got.unwrap_err();
                assert!(error.to_string().contains(part), "{error}");
                assert!(!error.hint().is_empty());
            }
        }
    }

    #[test]
    fn declarations() {
        check("a.c", Ok(("a.c", "a.c")));
        check("./src//a.c", Ok(("src/a.c", "src/a.c")));
        check("a.c=b/c.c", Ok(("a.c", "b/c.c")));
        check("/srv/tree/a.c", Ok(("a.c", "a.c")));
        check("/opt/sdk=sdk", Ok(("/opt/sdk", "sdk")));
        check(r"odd\=name", Ok(("odd=name", "odd=name")));
        check(r"odd\=name=x\=y", Ok(("odd=name", "x=y")));
        check(r"back\slash", Ok((r"back\slash", r"back\slash")));
        check("/opt/sdk", Err("needs a destination"));
        check("a=b=c", Err("more than one"));
        check("a=", Err("empty"));
        check("=a", Err("empty"));
        check("", Err("empty"));
        check("../a", Err("`..`"));
        check("a=../b", Err("`..`"));
        check("a=/etc/b", Err("absolute"));
        check(".", Err("exec root itself"));
    }

    #[test]
    fn lists() {
        let root = Path::new("/srv/tree");
        assert_eq!(parse_inputs_from(b"", root).unwrap(), []);
        assert_eq!(parse_inputs_from(b"a\n\nb=c\n", root).unwrap().len(), 2);
        let with_newline = parse_inputs_from(b"a\nb\0c\0", root).unwrap();
        assert_eq!(with_newline[0].dest.as_os_str(), "a\nb");
        assert_eq!(with_newline.len(), 2);
        let error = parse_inputs_from(b"a\n\n../x\n", root).unwrap_err();
        assert!(error.to_string().starts_with("entry 3 of the list"), "{error}");
        let same = parse_inputs_from(b"# not a comment", root).unwrap();
        assert_eq!(same[0].dest.as_os_str(), "# not a comment");
    }
}
