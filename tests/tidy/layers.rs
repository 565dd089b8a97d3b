//! Layers: a module of the root crate may name modules of its own layer and of those before it, and no others.

use crate::rule::{Finding, Rule, sample};
use crate::source::{File, Rust, Tree};

/// The layers, lowest first. Before all of them come the crates `fulgurite-proto` and `fulgurite-sandbox`.
const LAYERS: &[&[&str]] = &[
    &["limits", "failure", "failpoint"],
    &["action", "uring", "config", "observe"],
    &["cas", "cache", "stage", "output", "sched"],
    &["worker", "exec", "remote"],
    &["commit"],
    &["race"],
    &["serve", "join"],
    &["bench", "demo", "cli"],
];

/// Modules that must not know a crate, though their layer comes after it: they decide, others do.
const BLIND: &[(&str, &[&str])] = &[
    ("race", &["fulgurite_sandbox", "tonic", "tokio_uring"]),
    ("commit", &["fulgurite_sandbox", "tonic", "tokio_uring"]),
];

/// The roots of the crate, which declare the modules and belong to no layer.
const ROOTS: &[&str] = &["src/lib.rs", "src/main.rs"];

pub fn rules() -> Vec<Rule> {
    vec![
        Rule {
            name: "layers",
            check: modules_look_down_only,
            bad: vec![
                sample("src/action/command.rs", "use crate::cas::Store;"),
                sample("src/commit/publish.rs", "use crate::{action::Outputs, race};"),
                sample(
                    "src/cas/write.rs",
                    "use crate::{\n    action::{Command, Outputs},\n    exec::{self, Outcome},\n};",
                ),
                sample("src/exec/local.rs", "fn f() { crate::serve::start() }"),
                sample("src/stage.rs", "use super::worker::Key;"),
                sample("src/stage/image.rs", "use super::super::worker::Key;"),
            ],
            good: vec![
                sample("src/cas/write.rs", "use crate::{action::Digest, cache::Entry, limits};"),
                sample("src/cli/run.rs", "use crate::{bench, commit::Claim, serve::{self, Door}};"),
                sample("src/lib.rs", "pub use crate::cli::main;"),
                sample(
                    "src/stage/image.rs",
                    "pub(crate) fn f() {} use super::layer::Layer; // crate::cli::run",
                ),
                sample("sandbox/src/pool.rs", "use crate::zygote::Client;"),
            ],
        },
        Rule {
            name: "layer-of-module",
            check: every_module_has_a_layer,
            bad: vec![sample("src/stuff/a.rs", ""), sample("src/stuff.rs", "")],
            good: vec![
                sample("src/race/step.rs", ""),
                sample("src/main.rs", ""),
                sample("sandbox/src/stuff.rs", ""),
            ],
        },
        Rule {
            name: "blind-module",
            check: deciders_know_no_doers,
            bad: vec![
                sample("src/race/step.rs", "use fulgurite_sandbox::Pool;"),
                sample("src/commit/claim.rs", "fn f(_: tonic::Status) {}"),
            ],
            good: vec![
                sample("src/exec/local.rs", "use fulgurite_sandbox::Pool;"),
                sample("src/race/step.rs", "//! Knows no fulgurite_sandbox.\n"),
            ],
        },
    ]
}

fn modules_look_down_only(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        let Some(module) = module_of(file) else { continue };
        let Some(own) = layer_of(module) else { continue };
        // A module's tests may go on to what comes after it.
        if file.path.contains("/tests/") {
            continue;
        }
        for (name, line) in modules_named(file, rust) {
            if name == "super" {
                let what = "a path climbs twice";
                findings.push(Finding::new("layers", file, line, what, "begin it at `crate::`"));
            } else if layer_of(&name).is_some_and(|layer| layer > own) {
                let what = format!(
                    "`{module}` (layer {own}) uses `{name}` (layer {})",
                    layer_of(&name).unwrap_or(0)
                );
                let instead = "pass in what is needed as a value or a small trait, or move the code up";
                findings.push(Finding::new("layers", file, line, what, instead));
            }
        }
    }
    findings
}

fn every_module_has_a_layer(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in tree.rust() {
        if let Some(module) = module_of(file)
            && layer_of(module).is_none()
        {
            let what = format!("the module `{module}` has no layer");
            let instead =
                "put the code into the module it belongs to, or the new module into LAYERS, DESIGN first";
            findings.push(Finding::new("layer-of-module", file, 1, what, instead));
        }
    }
    findings
}

fn deciders_know_no_doers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        let Some((module, unknown)) = BLIND.iter().find(|(module, _)| module_of(file) == Some(module)) else {
            continue;
        };
        for token in rust.tokens.iter().filter(|token| unknown.contains(&token.text.as_str())) {
            let what = format!("`{module}` names `{}`", token.text);
            let instead = "return an effect, and let the driver in `exec` or a door perform it";
            findings.push(Finding::new("blind-module", file, token.line, what, instead));
        }
    }
    findings
}

/// The top module of the root crate that a file belongs to.
fn module_of(file: &File) -> Option<&str> {
    if ROOTS.contains(&file.path.as_str()) {
        return None;
    }
    let first = file.path.strip_prefix("src/")?.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every top module that a file names by a path from the crate's root, with the line.
fn modules_named(file: &File, rust: &Rust) -> Vec<(String, usize)> {
    let is_top = file.path.matches('/').count() == 1 || file.path.ends_with("/mod.rs");
    let mut found = Vec::new();
    for at in 0..rust.tokens.len() {
        let from_root = rust.stands(at, &["crate", "::"]);
        let from_parent = is_top && rust.stands(at, &["super", "::"]) && !rust.is_test(rust.tokens[at].line);
        if rust.stands(at, &["super", "::", "super"]) {
            found.push(("super".to_owned(), rust.tokens[at].line));
        } else if from_root || from_parent {
            found.extend(heads(rust, at + 2));
        }
    }
    found
}

/// The first name of the path at `at`, or of each path of the group that stands there.
fn heads(rust: &Rust, at: usize) -> Vec<(String, usize)> {
    let head = |at: usize| rust.tokens.get(at).map(|token| (token.text.clone(), token.line));
    if !rust.stands(at, &["{"]) {
        return head(at).into_iter().collect();
    }
    let (mut found, mut depth) = (Vec::new(), 0usize);
    for (index, token) in rust.tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        let opens_a_path = (token.text == "{" || token.text == ",") && depth == 1;
        if opens_a_path {
            found.extend(head(index + 1));
        }
        if depth == 0 {
            break;
        }
    }
    found
}
