//! Tests of publishing: collected from a plain directory that stands for an upper layer.

mod claims;
mod crash;
mod crossing;
mod power;
mod recovering;
mod replacing;
mod whole;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::commit::{
    Durability, Journal, Prepared, PublishError, PublishOptions, Published, Recovered, prepare,
    publish_unopposed, recover,
};
use crate::output::{CollectOptions, Marks, collect};
use crate::stage::limits::TreeLimits;
use crate::stage::tests::{open, outputs};

/// A layer and a destination.
struct Fixture {
    /// What holds all of it, and the journal; goes with the fixture unless it is somebody else's.
    home: PathBuf,
    _temp: Option<tempfile::TempDir>,
    upper: PathBuf,
    dest: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(dir: &Path) -> Self {
        let temp = tempfile::tempdir_in(dir).unwrap();
        let fixture = Self::at(temp.path().to_path_buf());
        fs::create_dir(&fixture.upper).unwrap();
        fs::create_dir(&fixture.dest).unwrap();
        Self { _temp: Some(temp), ..fixture }
    }

    /// One that another process made.
    fn at(home: PathBuf) -> Self {
        // As a layer has it, so that a recovery can name it.
        Self { upper: home.join("upper"), dest: home.join("dest"), home, _temp: None }
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

    fn collect(&self, declared: &[&str]) -> crate::output::Collected {
        let options = CollectOptions {
            marks: Marks::Trusted,
            owner: None,
            limits: TreeLimits::DEFAULT,
            missing_allowed: false,
            lower_is_destination: false,
        };
        let upper = open(&self.upper);
        collect(upper.as_fd(), None, &outputs(declared), &options).unwrap()
    }

    fn journal(&self) -> Journal {
        Journal::open(open(&self.home).as_fd(), Durability::Process).unwrap()
    }

    fn publish_to(&self, dest: &Path, declared: &[&str]) -> Result<Published, PublishError> {
        let collected = self.collect(declared);
        let journal = self.journal();
        let dest = open(dest);
        let answer = publish_unopposed(collected, dest.as_fd(), &journal, b"t", &PublishOptions::default());
        journal.close();
        answer
    }

    fn prepare(&self, journal: &Journal, declared: &[&str]) -> Prepared {
        let collected = self.collect(declared);
        prepare(collected, open(&self.dest).as_fd(), journal, b"//a:b", &PublishOptions::default()).unwrap()
    }

    fn recover(&self) -> Recovered {
        let _none_starts = crate::stage::tests::STARTING_CHILDREN.read().unwrap();
        recover(open(&self.home).as_fd(), Durability::Process).unwrap()
    }

    /// Nothing of the journal is left.
    fn no_journal(&self) -> bool {
        !self.home.join("journal").exists()
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
