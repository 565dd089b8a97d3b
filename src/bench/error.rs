//! Why something could not be measured.
use fulgurite_sandbox::runtime::SandboxError;
use std::path::PathBuf;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A sandbox could not be had.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A file could not be read or made.
    #[error("cannot {what}: {why}")]
    File {
        /// What was tried, on what.
        what: String,
        /// Why it failed.
        why: std::io::Error,
    },
    /// A program that is needed is not installed.
    #[error("cannot find the program `{name}` in /usr/local/bin, /usr/bin or /bin")]
    NoProgram {
        /// Its name.
        name: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// A case was asked for that does not exist.
    #[error("there is no case `{name}`; there are {known}")]
    NoCase {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The floor failed, without which there is nothing to compare to.
    #[error("the bare run of `{workload}` failed: {why}")]
    Floor {
        /// What was run.
        workload: &'static str,
        /// What happened.
        why: String,
    },
    /// The store or the stager could not be had.
    #[error(transparent)]
    Stage(#[from] crate::stage::root::StageRootError),
    /// A blob could not be stored.
    #[error(transparent)]
    Cas(#[from] crate::cas::CasError),
    /// Nothing, or too much, to simulate.
    #[error("cannot simulate: {why}")]
    Simulation {
        /// What is wrong.
        why: String,
    },
    /// Nothing, or nothing good, to build.
    #[error("cannot race: {why}")]
    Race {
        /// What is wrong.
        why: String,
    },
    /// There is no place for temporary files.
    #[error("cannot mount a tmpfs for temporary files: none of {tried} can be used")]
    NoScratch {
        /// The directories that were tried.
        tried: String,
    },
    /// What workers stand on could not be had.
    #[error("cannot measure workers: {why}")]
    Worker {
        /// What happened.
        why: String,
    },
    /// The daemon did not do what it should.
    #[error("the daemon: {why}")]
    Server {
        /// What happened.
        why: String,
    },
    /// A file was asked for whose directory hides it.
    #[error("cannot use {}: {why}", path.display())]
    Path {
        /// The file.
        path: PathBuf,
        /// Why it can't be used.
        why: &'static str,
    },
}

impl BenchError {
    pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BenchError {
        let what = what.into();
        move |why| BenchError::File { what, why }
    }

    /// What to do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            BenchError::Sandbox(error) => error.hint(),
            BenchError::Stage(error) => error.hint().map(str::to_owned),
            BenchError::NoProgram { remedy, .. } => Some((*remedy).to_owned()),
            BenchError::NoScratch { .. } => Some("choose a directory with --layer-dir".to_owned()),
            _ => None,
        }
    }
}
