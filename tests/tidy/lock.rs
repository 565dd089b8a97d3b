//! The lock file: what the tree of dependencies may hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::rule::{Finding, Rule, sample};
use crate::source::{File, Tree};

const LOCK: &str = "Cargo.lock";

/// Runtimes and wires that a user of the sandbox crate alone must not have to build.
const NOT_BELOW_THE_SANDBOX: &[&str] =
    &["tokio", "tokio-uring", "mio", "async-std", "async-executor", "smol", "tonic", "prost", "hyper", "h2"];

/// The io_uring that the reactor is built on; a second version would be a second ring.
const IO_URING: (&str, &str) = ("io-uring", "0.6.");

pub fn rules() -> Vec<Rule> {
    let package = |name: &str, version: &str, dependencies: &str| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\ndependencies = [\n{dependencies}]\n\n"
        )
    };
    let sandbox = package("fulgurite-sandbox", "0.1.0", " \"libc\",\n \"nice 1.0.0\",\n");
    let with = |rest: String| sample(LOCK, &format!("version = 4\n\n{sandbox}{rest}"));
    let one = package("io-uring", "0.6.4", "");
    vec![
        Rule {
            name: "sandbox-runtime",
            check: no_runtime_below_the_sandbox,
            bad: vec![
                with(package("nice", "1.0.0", " \"tokio\",\n") + &package("tokio", "1.0.0", "")),
                sample(LOCK, &package("fulgurite-sandbox", "0.1.0", " \"mio\",\n")),
            ],
            good: vec![with(
                package("nice", "1.0.0", " \"libc\",\n") + &package("other", "1.0.0", " \"tokio\",\n"),
            )],
        },
        Rule {
            name: "one-io-uring",
            check: one_io_uring,
            bad: vec![
                with(one.clone() + &package("io-uring", "0.7.1", "")),
                with(package("io-uring", "0.7.1", "")),
            ],
            good: vec![with(one), with(String::new())],
        },
    ]
}

fn no_runtime_below_the_sandbox(tree: &Tree) -> Vec<Finding> {
    let Some(lock) = tree.file(LOCK) else { return Vec::new() };
    let packages = packages(lock);
    let (mut seen, mut open) = (BTreeSet::new(), vec!["fulgurite-sandbox"]);
    let mut findings = Vec::new();
    while let Some(name) = open.pop() {
        for dependency in
            packages.iter().filter(|package| package.name == name).flat_map(|package| &package.needs)
        {
            if seen.insert(*dependency) {
                open.push(dependency);
            }
            if NOT_BELOW_THE_SANDBOX.contains(dependency) {
                let line =
                    packages.iter().find(|package| package.name == name).map_or(1, |package| package.line);
                let what = format!("fulgurite-sandbox needs `{dependency}`, through `{name}`");
                let instead = "find a synchronous crate, or turn the feature off that brings it in";
                findings.push(Finding::new("sandbox-runtime", lock, line, what, instead));
            }
        }
    }
    findings
}

fn one_io_uring(tree: &Tree) -> Vec<Finding> {
    let Some(lock) = tree.file(LOCK) else { return Vec::new() };
    let (name, prefix) = IO_URING;
    let mut versions = BTreeMap::new();
    for package in packages(lock).into_iter().filter(|package| package.name == name) {
        versions.insert(package.version, package.line);
    }
    let instead = format!("depend on {name} {prefix}x, as docs/decisions/0003-one-io-uring.md says");
    let too_many = versions.len() > 1;
    let wrong = versions.iter().filter(|(version, _)| too_many || !version.starts_with(prefix));
    wrong
        .map(|(version, line)| {
            Finding::new("one-io-uring", lock, *line, format!("{name} {version} is in the tree"), &instead)
        })
        .collect()
}

struct Package<'a> {
    name: &'a str,
    version: &'a str,
    line: usize,
    needs: Vec<&'a str>,
}

/// The packages of a lock file. Its form is Cargo's own: one key or one dependency a line.
fn packages(lock: &File) -> Vec<Package<'_>> {
    let mut packages: Vec<Package<'_>> = Vec::new();
    for (index, line) in lock.text.lines().enumerate() {
        if line == "[[package]]" {
            packages.push(Package { name: "", version: "", line: index + 2, needs: Vec::new() });
        }
        let Some(package) = packages.last_mut() else { continue };
        let value = |key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        if let Some(name) = value("name") {
            package.name = name;
        } else if let Some(version) = value("version") {
            package.version = version;
        } else if let Some(need) = line.strip_prefix(" \"") {
            package.needs.extend(need.split(['"', ' ']).next());
        }
    }
    packages
}
