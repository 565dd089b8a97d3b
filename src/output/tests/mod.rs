//! Tests of collecting: plain directories as layers, and real overlays as root.

mod leaves;
mod overlay;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::output::{CollectOptions, Collected, Marks, OutputError, collect};
use crate::stage::limits::TreeLimits;
use crate::stage::tests::{open, outputs};

/// Options of these tests.
fn options() -> CollectOptions {
    CollectOptions {
        marks: Marks::Trusted,
        owner: None,
        limits: TreeLimits::DEFAULT,
        missing_allowed: false,
        lower_is_destination: false,
    }
}

/// An upper and a lower directory.
struct Layers {
    temp: tempfile::TempDir,
    upper: PathBuf,
    lower: PathBuf,
}

impl Layers {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (upper, lower) = (temp.path().join("upper"), temp.path().join("lower"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&lower).unwrap();
        Self { temp, upper, lower }
    }

    fn collect_with(&self, declared: &[&str], options: &CollectOptions) -> Result<Collected, OutputError> {
        let (upper, lower) = (open(&self.upper), open(&self.lower));
        collect(upper.as_fd(), Some(lower.as_fd()), &outputs(declared), options)
    }

    fn collect(&self, declared: &[&str]) -> Result<Collected, OutputError> {
        self.collect_with(declared, &options())
    }

    fn refused(&self, declared: &[&str], part: &str) {
        let error = self.collect(declared).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
