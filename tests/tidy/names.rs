//! Names of modules, and what stands first in each file.

use crate::rule::{Finding, Rule, sample};
use crate::source::{File, Tree};

/// Words that say nothing about what is in a module.
const EMPTY_WORDS: &[&str] =
    &["util", "utils", "helper", "helpers", "manager", "common", "base", "misc", "impl"];

pub fn rules() -> Vec<Rule> {
    vec![
        Rule {
            name: "module-name",
            check: modules_have_true_names,
            bad: vec![
                sample("src/cas/util.rs", ""),
                sample("src/pool_manager.rs", ""),
                sample("tests/common/mod.rs", ""),
                sample("src/cas.rs", "mod helpers { }"),
            ],
            good: vec![
                sample("src/cas/write.rs", "mod baseline;\n// mod util;"),
                sample("docs/common.md", ""),
                sample("sandbox/src/manage.rs", ""),
            ],
        },
        Rule {
            name: "module-doc",
            check: module_doc_first,
            bad: vec![
                sample("src/a.rs", "use std::fs;\n\n//! Too late.\n"),
                sample("src/a.rs", "// A comment.\n"),
                sample("src/a.rs", "//!\n//!\n"),
                sample("src/a.rs", "#![allow(dead_code)]\n//! After an attribute.\n"),
                sample("tests/a.rs", ""),
            ],
            good: vec![sample("src/a.rs", "//! What it is.\nuse std::fs;\n"), sample("README.md", "")],
        },
    ]
}

fn modules_have_true_names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut complain = |file: &File, line: usize, name: &str| {
        let what = format!("the module name `{name}` says nothing");
        findings.push(Finding::new(
            "module-name",
            file,
            line,
            what,
            "name it after the noun that it defines",
        ));
    };
    for (file, rust) in tree.rust() {
        for part in file.path.trim_end_matches(".rs").split('/').filter(|part| is_empty(part)) {
            complain(file, 1, part);
        }
        for pair in rust.tokens.windows(2) {
            if pair[0].text == "mod" && is_empty(&pair[1].text) {
                complain(file, pair[1].line, &pair[1].text);
            }
        }
    }
    findings
}

fn is_empty(name: &str) -> bool {
    name.split(['_', '-']).any(|word| EMPTY_WORDS.contains(&word))
}

fn module_doc_first(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in tree.rust() {
        let first = file.text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
        let says_something = first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty());
        if !says_something {
            let what = "the file does not begin with a module doc";
            let instead = "say in `//!` what it is for, its invariants and its limits, before anything else";
            findings.push(Finding::new("module-doc", file, 1, what, instead));
        }
    }
    findings
}
