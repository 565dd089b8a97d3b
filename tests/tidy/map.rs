//! The code map: ARCHITECTURE.md names every module that exists.

use std::collections::BTreeSet;

use crate::rule::{Finding, Rule, samples};
use crate::source::Tree;

const MAP: &str = "ARCHITECTURE.md";
const CRATES: &[&str] = &["src/", "sandbox/src/", "proto/src/"];

pub fn rules() -> Vec<Rule> {
    let map = "# Architecture\n\n| `src/cas` | blobs |\n| `sandbox/src/pool` | sandboxes |\n";
    vec![Rule {
        name: "code-map",
        check: every_module_is_on_the_map,
        bad: vec![
            samples(&[(MAP, map), ("src/race/step.rs", "")]),
            samples(&[(MAP, map), ("sandbox/src/reset.rs", "")]),
            samples(&[(MAP, "| `src/casket` |"), ("src/cas.rs", "")]),
        ],
        good: vec![
            samples(&[(MAP, map), ("src/cas/write.rs", ""), ("src/lib.rs", ""), ("sandbox/src/pool.rs", "")]),
            samples(&[(MAP, map), ("tests/it/main.rs", "")]),
        ],
    }]
}

fn every_module_is_on_the_map(tree: &Tree) -> Vec<Finding> {
    let Some(map) = tree.file(MAP) else { return Vec::new() };
    let missing = modules(tree).into_iter().filter(|module| !map.text.contains(&format!("`{module}`")));
    let finding = |module: String| {
        let what = format!("`{module}` is not on the code map");
        Finding::new(
            "code-map",
            map,
            1,
            what,
            "give it a line that says what it is for and what it must not know",
        )
    };
    missing.map(finding).collect()
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
