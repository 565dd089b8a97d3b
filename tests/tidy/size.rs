//! Sizes: of files, functions and lines.

use std::collections::BTreeMap;

use crate::rule::{Finding, Rule, sample, samples};
use crate::shape;
use crate::source::{File, Tree};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 120;

/// What is too long for now: one `path lines` or `path::function lines` a line. Entries shrink and go; none comes.
const GRANDFATHERED: &str = "tests/tidy/grandfathered.txt";

/// How many entries the list may have. To be lowered whenever one goes, never raised.
const GRANDFATHERED_MAX: usize = 0;

pub fn rules() -> Vec<Rule> {
    let long_function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
    let fitting_function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX - 2));
    let long_line = format!("// {}\n", "é".repeat(LINE_CHARS_MAX - 2));
    let fitting_line = format!("// {}\n", "é".repeat(LINE_CHARS_MAX - 3));
    vec![
        Rule {
            name: "file-length",
            check: file_length,
            bad: vec![sample("src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1))],
            good: vec![sample("src/a.rs", &"\n".repeat(FILE_LINES_MAX))],
        },
        Rule {
            name: "function-length",
            check: function_length,
            bad: vec![sample("src/a.rs", &long_function), sample("tests/it/a.rs", &long_function)],
            good: vec![
                sample("src/a.rs", &fitting_function),
                samples(&[("src/a.rs", &long_function), (GRANDFATHERED, "src/a.rs::f 72\n")]),
            ],
        },
        Rule {
            name: "line-length",
            check: line_length,
            bad: vec![sample("src/a.rs", &long_line)],
            good: vec![sample("src/a.rs", &fitting_line)],
        },
        Rule {
            name: "grandfathered",
            check: grandfathered_only_shrinks,
            bad: vec![
                samples(&[("src/a.rs", &fitting_function), (GRANDFATHERED, "src/a.rs::f 72\n")]),
                samples(&[("src/a.rs", &long_function), (GRANDFATHERED, "src/a.rs::f 90\n")]),
                samples(&[("src/a.rs", &long_function), (GRANDFATHERED, "src/a.rs::gone 80\n")]),
                samples(&[(GRANDFATHERED, "src/a.rs::f\n")]),
                samples(&[("src/a.rs", &long_function), (GRANDFATHERED, "src/a.rs::f 72\n")]),
            ],
            good: vec![sample(GRANDFATHERED, "# A comment.\n\n")],
        },
    ]
}

fn file_length(tree: &Tree) -> Vec<Finding> {
    let allowed = allowances(tree);
    let mut findings = Vec::new();
    for (file, _) in tree.rust() {
        let lines = file.text.lines().count();
        if lines > allowed.get(&file.path).copied().unwrap_or(FILE_LINES_MAX) {
            let what = format!("the file has {lines} lines, {FILE_LINES_MAX} are allowed");
            findings.push(Finding::new(
                "file-length",
                file,
                lines,
                what,
                "give each noun in it a file of its own",
            ));
        }
    }
    findings
}

fn function_length(tree: &Tree) -> Vec<Finding> {
    let allowed = allowances(tree);
    let mut findings = Vec::new();
    for (file, rust) in tree.rust() {
        for function in shape::functions(&rust.tokens) {
            let key = format!("{}::{}", file.path, function.name);
            if function.lines > allowed.get(&key).copied().unwrap_or(FUNCTION_LINES_MAX) {
                let what = format!(
                    "`{}` has {} lines, {FUNCTION_LINES_MAX} are allowed",
                    function.name, function.lines
                );
                let instead = "keep the decisions here and move each step into a function with a name";
                findings.push(Finding::new("function-length", file, function.line, what, instead));
            }
        }
    }
    findings
}

fn line_length(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, _) in tree.rust() {
        for (index, line) in file.text.lines().enumerate() {
            let chars = line.chars().count();
            if chars > LINE_CHARS_MAX {
                let what = format!("the line has {chars} characters, {LINE_CHARS_MAX} are allowed");
                let instead = "break it; cargo fmt does code, sentences are broken by hand";
                findings.push(Finding::new("line-length", file, index + 1, what, instead));
            }
        }
    }
    findings
}

fn grandfathered_only_shrinks(tree: &Tree) -> Vec<Finding> {
    let Some(list) = tree.file(GRANDFATHERED) else { return Vec::new() };
    let longest = longest(tree);
    let mut findings = Vec::new();
    let mut complain = |line: usize, what: String, instead: &str| {
        findings.push(Finding::new("grandfathered", list, line, what, instead));
    };
    for (line, entry) in entries(list) {
        let Some((key, allowed)) = parse(entry) else {
            complain(line, format!("cannot read `{entry}`"), "write `path::function lines` or `path lines`");
            continue;
        };
        let limit = if key.contains("::") { FUNCTION_LINES_MAX } else { FILE_LINES_MAX };
        match longest.get(key) {
            Some(lines) if *lines <= limit => complain(
                line,
                format!("`{key}` fits by now"),
                "remove the entry, and lower GRANDFATHERED_MAX",
            ),
            Some(lines) if *lines < allowed => {
                complain(line, format!("`{key}` has only {lines} lines by now"), "write that number")
            }
            Some(_) => {}
            None => complain(
                line,
                format!("`{key}` is not there"),
                "remove the entry, and lower GRANDFATHERED_MAX",
            ),
        }
    }
    let count = entries(list).count();
    if count > GRANDFATHERED_MAX {
        let what = format!("the list has {count} entries, {GRANDFATHERED_MAX} are allowed");
        complain(1, what, "split what is too long; the list only shrinks");
    }
    findings
}

/// The lines that each entry of the list allows.
fn allowances(tree: &Tree) -> BTreeMap<String, usize> {
    let list = tree.file(GRANDFATHERED).into_iter();
    list.flat_map(entries)
        .filter_map(|(_, entry)| parse(entry))
        .map(|(key, lines)| (key.to_owned(), lines))
        .collect()
}

fn entries(list: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = list.text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn parse(entry: &str) -> Option<(&str, usize)> {
    let (key, lines) = entry.rsplit_once(' ')?;
    Some((key.trim(), lines.parse().ok()?))
}

/// The length of every file, and of the longest function of each name in it.
fn longest(tree: &Tree) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for (file, rust) in tree.rust() {
        found.insert(file.path.clone(), file.text.lines().count());
        for function in shape::functions(&rust.tokens) {
            let lines = found.entry(format!("{}::{}", file.path, function.name)).or_insert(0);
            *lines = function.lines.max(*lines);
        }
    }
    found
}
