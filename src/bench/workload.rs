//! What is run: a command that does nothing, and one that does a little.
//!
//! Every case runs the same command line in a directory of its own that holds the source.
use super::command::find_program;
use super::error::BenchError;
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The source that is compiled: about a hundred lines, three headers.
const UNIT: &str = include_str!("unit.c");

/// Something to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// `/bin/true`.
    True,
    /// `cc -O1 -c` of a small C file.
    Compile,
}

impl Workload {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::True => "true",
            Workload::Compile => "compile",
        }
    }

    /// The command line; the first word is an absolute path.
    ///
    /// # Errors
    /// [`BenchError::NoProgram`] without a C compiler.
    pub fn arguments(self) -> Result<Vec<OsString>, BenchError> {
        match self {
            Workload::True => Ok(vec![find_program("true", "install coreutils")?.into()]),
            Workload::Compile => {
                let compiler = find_program("cc", "install a C compiler: apt-get install gcc libc6-dev")?;
                let rest = ["-O1", "-c", "-o", "unit.o", "unit.c"].map(OsString::from);
                Ok([compiler.into()].into_iter().chain(rest).collect())
            }
        }
    }

    /// What it writes, if anything.
    #[must_use]
    pub fn output(self) -> Option<&'static str> {
        match self {
            Workload::True => None,
            Workload::Compile => Some("unit.o"),
        }
    }

    /// Puts what it reads into `directory`.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn prepare(self, directory: &Path) -> Result<(), BenchError> {
        let path = directory.join("unit.c");
        fs::write(&path, UNIT).map_err(BenchError::file(format!("write {}", path.display())))
    }
}

/// As C strings, for a sandbox.
#[must_use]
pub fn c_strings(words: &[OsString]) -> Vec<CString> {
    words.iter().filter_map(|word| CString::new(word.as_bytes()).ok()).collect()
}
