//! The code map: ARCHITECTURE.md names every module that exists, and calls none of them planned.

use std::collections::BTreeSet;

use crate::rule::{Finding, Rule, samples};
use crate::source::Tree;

const MAP: &str = "ARCHITECTURE.md";
const CRATES: &[&str] = &["src/", "sandbox/src/", "proto/src/"];

pub fn rules() -> Vec<Rule> {
    let map = "# Architecture\n\n| `src/cas` | blobs |\n| `sandbox/src/pool` | sandboxes |\n\n\
               ### Planned\n\n| `src/join` | nodes |\n\n## Absences\n\n- Nobody but `src/uring`.\n";
    vec![Rule {
        name: "code-map",
        check: every_module_is_on_the_map,
        bad: vec![
            samples(&[(MAP, map), ("src/race/step.rs", "")]),
            samples(&[(MAP, map), ("sandbox/src/reset.rs", "")]),
            samples(&[(MAP, "| `src/casket` |"), ("src/cas.rs", "")]),
            samples(&[(MAP, map), ("src/join/buildgrid.rs", "")]),
        ],
        good: vec![
            samples(&[(MAP, map), ("src/cas/write.rs", ""), ("src/lib.rs", ""), ("sandbox/src/pool.rs", "")]),
            samples(&[(MAP, map), ("tests/it/main.rs", "")]),
        ],
    }]
}

fn every_module_is_on_the_map(tree: &Tree) -> Vec<Finding> {
    let Some(map) = tree.file(MAP) else { return Vec::new() };
    let (existing, planned) = halves(&map.text);
    let mut findings = Vec::new();
    for module in modules(tree) {
        let name = format!("`{module}`");
        if planned.contains(&name) {
            let what = format!("{name} is said to be planned, and exists");
            findings.push(Finding::new("code-map", map, 1, what, "move its line to the modules that exist"));
        } else if !existing.contains(&name) {
            let what = format!("{name} is not on the code map");
            let instead = "give it a line that says what it is for and what it must not know";
            findings.push(Finding::new("code-map", map, 1, what, instead));
        }
    }
    findings
}

/// The map without what is planned, and what is planned: the section of that heading, up to the next one.
fn halves(map: &str) -> (String, String) {
    let Some((before, rest)) = map.split_once("### Planned\n") else {
        return (map.to_owned(), String::new());
    };
    let end = rest.find("\n#").unwrap_or(rest.len());
    (format!("{before}{}", &rest[end..]), rest[..end].to_owned())
}

/// The top modules of all crates, as `src/cas`.
fn modules(tree: &Tree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (file, _) in tree.rust() {
        let Some(root) = CRATES.iter().find(|root| file.path.starts_with(*root)) else { continue };
        let first = file.path[root.len()..].split('/').next().unwrap_or("").trim_end_matches(".rs");
        if !matches!(first, "lib" | "main") {
            found.insert(format!("{root}{first}"));
        }
    }
    found
}
