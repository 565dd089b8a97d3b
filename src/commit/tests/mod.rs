//! Tests of publishing: collected from a plain directory that stands for an upper layer.

mod crossing;
mod replacing;
mod whole;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::commit::{PublishError, PublishOptions, Published, publish};
use crate::output::{CollectOptions, Marks, collect};
use crate::stage::limits::TreeLimits;
use crate::stage::tests::{open, outputs};

/// A layer and a destination.
struct Fixture {
    _temp: tempfile::TempDir,
    upper: PathBuf,
    dest: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (upper, dest) = (temp.path().join("upper"), temp.path().join("dest"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&dest).unwrap();
        Self { _temp: temp, upper, dest }
    }

    /// Writes `contents` to `path` of the layer.
    fn wrote(&self, path: &str, contents: &str) -> &Self {
        let path = self.upper.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
        self
    }

    /// Writes `contents` to `path` of the destination.
    fn had(&self, path: &str, contents: &str) -> &Self {
        let path = self.dest.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
        self
    }

    fn publish(&self, declared: &[&str]) -> Result<Published, PublishError> {
        self.publish_to(&self.dest, declared)
    }

    fn publish_to(&self, dest: &Path, declared: &[&str]) -> Result<Published, PublishError> {
        let options = CollectOptions {
            marks: Marks::Trusted,
            owner: None,
            limits: TreeLimits::DEFAULT,
            missing_allowed: false,
            lower_is_destination: false,
        };
        let upper = open(&self.upper);
        let collected = collect(upper.as_fd(), None, &outputs(declared), &options).unwrap();
        publish(collected, open(dest).as_fd(), &PublishOptions::default())
    }

    fn refused(&self, declared: &[&str], part: &str) {
        let before = listing(&self.dest);
        let error = self.publish(declared).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.hint().is_some() && error.left_untouched(), "{error}");
        assert_eq!(listing(&self.dest), before, "a failure to prepare leaves the tree as it was");
    }
}

/// Every path below `dir` with its contents or link text, sorted.
fn listing(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let contents = if kind.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if kind.is_file() {
                fs::read(&path).unwrap()
            } else {
                b"special".to_vec()
            };
            found.push((path, contents));
        }
    }
    found.sort();
    found
}
