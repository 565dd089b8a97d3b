//! Declared outputs: paths below the exec root whose kind is not known until the action has run.
//!
//! ```text
//!   out.o     a file, a directory or a symlink, whatever the action leaves there
//!   docs/     must be a directory
//! ```
//!
//! Invariant of [`Outputs`]: sorted by component, no duplicates, and no output lies below another.

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::limits::OUTPUTS_MAX;
use super::path::{ExecPath, PathError};

/// One declared output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// Where the action leaves it, and where it is published.
    pub path: ExecPath,
    /// Declared with a trailing slash: anything but a directory is an error.
    pub must_be_directory: bool,
}

/// Why an output declaration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot take {raw:?} as an output: {why}")]
pub struct OutputSpecError {
    /// The declaration.
    pub raw: OsString,
    /// What is wrong with it.
    pub why: PathError,
}

impl OutputSpecError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        self.why.hint()
    }
}

/// Why a set of outputs is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputConflict {
    /// Declared twice.
    #[error("output {0} is declared twice")]
    Duplicate(ExecPath),
    /// One output would hold the other.
    #[error("output {below} lies below output {above}")]
    Nested {
        /// The outer output.
        above: ExecPath,
        /// The output below it.
        below: ExecPath,
    },
    /// More than [`OUTPUTS_MAX`].
    #[error("{count} outputs are declared, at most {OUTPUTS_MAX} are possible")]
    TooMany {
        /// How many were declared.
        count: usize,
    },
}

impl OutputConflict {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Duplicate(_) => "declare each output once; `a` and `a/` are the same path",
            Self::Nested { .. } => "declare the outer directory, or only what is below it",
            Self::TooMany { .. } => "declare directories instead of each of their files",
        }
    }
}

impl OutputSpec {
    /// Parses a declaration; a trailing slash says that it must be a directory. An absolute path below
    /// `exec_root` is taken as the relative path it is.
    pub fn parse(raw: impl AsRef<OsStr>, exec_root: &Path) -> Result<Self, OutputSpecError> {
        let raw = raw.as_ref();
        let path =
            ExecPath::new_under(raw, exec_root).map_err(|why| OutputSpecError { raw: raw.into(), why })?;
        let bytes = raw.as_bytes();
        let must_be_directory = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        Ok(Self { path, must_be_directory })
    }
}

/// The declared outputs of one action, checked against each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs(Vec<OutputSpec>);

impl Outputs {
    /// Sorts and checks.
    pub fn new(mut specs: Vec<OutputSpec>) -> Result<Self, OutputConflict> {
        if specs.len() > OUTPUTS_MAX {
            return Err(OutputConflict::TooMany { count: specs.len() });
        }
        specs.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in specs.windows(2) {
            let (above, below) = (&pair[0].path, &pair[1].path);
            if above == below {
                return Err(OutputConflict::Duplicate(above.clone()));
            }
            if below.below(above).is_some() {
                return Err(OutputConflict::Nested { above: above.clone(), below: below.clone() });
            }
        }
        Ok(Self(specs))
    }

    /// True if `path` is an output or lies below one.
    pub fn cover(&self, path: &ExecPath) -> bool {
        let after = self.0.partition_point(|spec| spec.path <= *path);
        match after.checked_sub(1).map(|index| &self.0[index].path) {
            Some(before) => before == path || path.below(before).is_some(),
            None => false,
        }
    }
}

impl Deref for Outputs {
    type Target = [OutputSpec];

    fn deref(&self) -> &[OutputSpec] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(raw: &[&str]) -> Result<Outputs, String> {
        let root = Path::new("/srv/tree");
        let specs: Result<Vec<_>, _> = raw.iter().map(|raw| OutputSpec::parse(raw, root)).collect();
        Outputs::new(specs.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }

    fn refused(raw: &[&str], part: &str) {
        let error = outputs(raw).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn conflicts_are_refused() {
        refused(&["a", "./a/"], "declared twice");
        refused(&["a", "a-b", "a/b"], "lies below");
        refused(&["a/b/c/d", "a/b"], "lies below");
        refused(&["/etc/passwd"], "absolute");
        refused(&["../a"], "`..`");
        refused(&["."], "exec root itself");
        refused(&["/srv/tree"], "exec root itself");
        refused(&[""], "empty");
        assert_eq!(outputs(&["b", "a/c", "a/b", "ab"]).unwrap().len(), 4);
    }

    #[test]
    fn trailing_slash_means_directory() {
        let outputs = outputs(&["a/", "b", "c/."]).unwrap();
        assert_eq!(outputs.iter().map(|o| o.must_be_directory).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn cover_is_by_component() {
        let outputs = outputs(&["a/b", "c"]).unwrap();
        for (path, expected) in
            [("a/b", true), ("a/b/c", true), ("a", false), ("a/bc", false), ("c/d", true), ("d", false)]
        {
            assert_eq!(outputs.cover(&ExecPath::new(path).unwrap()), expected, "{path}");
        }
    }
}
