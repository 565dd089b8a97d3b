//! Words that do not belong in the repository: it speaks of the project alone, and is the same for everybody.

use crate::rule::{Finding, Rule, sample};
use crate::source::Tree;

/// Written in two halves, so that this file does not catch itself.
#[rustfmt::skip]
const FOREIGN: &[(&str, &str)] = &[
    (concat!("../", "shared"), "bring the fact into docs/, or leave it out"),
    (concat!("/work/", "shared"), "bring the fact into docs/, or leave it out"),
    (concat!("/work/", "main"), "write paths relative to the repository"),
    (concat!("/tmp/", "wt"), "write paths relative to the repository"),
    (concat!("/root/.", "cargo"), "write a path that exists for everybody"),
    (concat!("/root/.", "rustup"), "write a path that exists for everybody"),
    (concat!("bash_", "jobs"), "leave it out"),
    (concat!("index.crates", ".io"), "name packages, never the hosts that serve them"),
    (concat!("static.crates", ".io"), "name packages, never the hosts that serve them"),
    (concat!("crates", ".io/api"), "name packages, never the hosts that serve them"),
    (concat!("deb.debian", ".org"), "name packages, never the hosts that serve them"),
    (concat!("pypi", ".org"), "name packages, never the hosts that serve them"),
    (concat!("registry.npm", "js"), "name packages, never the hosts that serve them"),
    (concat!("as an ", "ai"), "speak of the project"),
    (concat!("assis", "tant"), "speak of the project"),
    (concat!("co-authored", "-by"), "speak of the project"),
];

pub fn rules() -> Vec<Rule> {
    vec![Rule {
        name: "foreign-word",
        check: no_foreign_words,
        bad: FOREIGN
            .iter()
            .map(|(word, _)| sample("docs/a.md", &format!("See {} there.\n", word.to_uppercase())))
            .collect(),
        good: vec![
            sample("src/a.rs", "const WORK: &str = \"/work/out\"; // the input root of an action\n"),
            sample("docs/a.md", "Said again; as an aid, from crates.io, in /tmp/out, shared by all.\n"),
        ],
    }]
}

fn no_foreign_words(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            let line_lower = line.to_lowercase();
            for (word, instead) in FOREIGN.iter().filter(|(word, _)| stands_alone(&line_lower, word)) {
                let what = format!("`{word}` does not belong in the repository");
                findings.push(Finding::new("foreign-word", file, index + 1, what, *instead));
            }
        }
    }
    findings
}

/// Whether the word stands in the line and no letter follows it.
fn stands_alone(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let goes_on = word.ends_with(char::is_alphabetic);
        !goes_on || !line[at + word.len()..].starts_with(char::is_alphabetic)
    })
}
