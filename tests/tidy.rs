//! The house rules, checked over every source file of the repository.
//!
//! Each rule lives in one file of `tests/tidy/`, says what it wants instead of what it found, and carries samples that
//! it must catch and samples that it must let through: a rule that cannot fail does not get in. The rules read source
//! through a small lexer, so that a word in a comment or in a string is never taken for code.
//!
//! A finding is never silenced here. A function or file that is too long for now stands in
//! `tests/tidy/grandfathered.txt`, which may only shrink.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "tidy/calls.rs"]
mod calls;
#[path = "tidy/fences.rs"]
mod fences;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/lock.rs"]
mod lock;
#[path = "tidy/map.rs"]
mod map;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/rule.rs"]
mod rule;
#[path = "tidy/shape.rs"]
mod shape;
#[path = "tidy/size.rs"]
mod size;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

use rule::Rule;
use source::Tree;

/// Every rule, in the order in which a reader would want to hear of it.
fn rules() -> Vec<Rule> {
    let groups = [
        size::rules(),
        fences::rules(),
        layers::rules(),
        lock::rules(),
        calls::rules(),
        names::rules(),
        words::rules(),
        map::rules(),
    ];
    groups.into_iter().flatten().collect()
}

#[test]
fn the_tree_is_tidy() {
    let tree = Tree::of_the_repository();
    assert!(tree.rust().count() > 3, "found hardly any source: the walk over the repository is broken");
    let findings: Vec<String> =
        rules().iter().flat_map(|rule| (rule.check)(&tree)).map(|finding| finding.to_string()).collect();
    assert!(findings.is_empty(), "{} untidy places:\n\n{}\n", findings.len(), findings.join("\n"));
}

#[test]
fn every_rule_catches_its_bad_samples() {
    for rule in rules() {
        assert!(!rule.bad.is_empty(), "the rule {} has no sample that it must catch", rule.name);
        for sample in &rule.bad {
            let findings = (rule.check)(sample);
            assert!(
                findings.iter().all(|finding| finding.rule == rule.name),
                "{} reports under another name",
                rule.name
            );
            assert!(!findings.is_empty(), "the rule {} let this through:\n{}", rule.name, sample.shown());
        }
    }
}

#[test]
fn every_rule_passes_its_good_samples() {
    for rule in rules() {
        assert!(!rule.good.is_empty(), "the rule {} has no sample that it must let through", rule.name);
        for sample in &rule.good {
            let findings = (rule.check)(sample);
            let shown: Vec<String> = findings.iter().map(|finding| finding.to_string()).collect();
            assert!(shown.is_empty(), "the rule {} caught too much:\n{}", rule.name, shown.join("\n"));
        }
    }
}

#[test]
fn a_finding_names_file_line_rule_and_remedy() {
    let sample = rule::sample("src/race.rs", "//! Doc.\n\nfn f() { tokio::spawn(async {}); }\n");
    let findings: Vec<String> =
        rules().iter().flat_map(|rule| (rule.check)(&sample)).map(|finding| finding.to_string()).collect();
    let finding = findings
        .iter()
        .find(|finding| finding.contains("tokio::spawn"))
        .expect("tokio::spawn is a banned call");
    assert!(finding.starts_with("src/race.rs:3: [banned-call] "), "{finding}");
    assert!(finding.contains("instead: "), "{finding}");
}

#[test]
fn rule_names_are_unique() {
    let mut names: Vec<&str> = rules().iter().map(|rule| rule.name).collect();
    let before = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), before, "two rules share a name");
}
