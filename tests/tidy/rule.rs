//! What a rule is, and what it reports.

use std::fmt;

use crate::source::{File, Tree};

/// One rule of the house, with the samples that prove that it can fail and can pass.
pub struct Rule {
    pub name: &'static str,
    pub check: fn(&Tree) -> Vec<Finding>,
    /// Each of these must give at least one finding.
    pub bad: Vec<Tree>,
    /// Each of these must give none.
    pub good: Vec<Tree>,
}

/// One untidy place.
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub rule: &'static str,
    pub what: String,
    pub instead: String,
}

impl Finding {
    pub fn new(
        rule: &'static str,
        file: &File,
        line: usize,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) -> Finding {
        Finding { path: file.path.clone(), line, rule, what: what.into(), instead: instead.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: [{}] {}; instead: {}", self.path, self.line, self.rule, self.what, self.instead)
    }
}

/// A tree of one file.
pub fn sample(path: &str, text: &str) -> Tree {
    samples(&[(path, text)])
}

/// A tree of several files.
pub fn samples(files: &[(&str, &str)]) -> Tree {
    Tree { files: files.iter().map(|(path, text)| File::new(path, text)).collect() }
}
