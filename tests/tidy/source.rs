//! The files that the rules read: found by walking the repository, not by asking git, so that a file is held to the
//! rules before it is ever added.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lexer::{self, Token};
use crate::shape;

/// Larger files are data, not text that somebody wrote.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Files in the repository, or in a sample.
pub struct Tree {
    pub files: Vec<File>,
}

/// One text file, and what the lexer made of it if it is Rust.
pub struct File {
    /// Relative to the repository, with `/`.
    pub path: String,
    pub text: String,
    pub rust: Option<Rust>,
}

/// The views of a Rust source file. The line numbers of all start at 1.
pub struct Rust {
    pub tokens: Vec<Token>,
    /// The text of the comments of each line; empty where there is none.
    pub comments: Vec<String>,
    /// Lines that belong to a test: of a test file, or of an item under `#[cfg(test)]` or `#[test]`.
    pub test_lines: Vec<bool>,
}

impl Tree {
    /// All text files of the repository that this test was built from.
    pub fn of_the_repository() -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths = Vec::new();
        walk(root, &mut paths);
        paths.sort();
        let files = paths.iter().filter_map(|path| {
            let text = String::from_utf8(fs::read(path).ok()?).ok()?;
            let relative = path.strip_prefix(root).ok()?.to_str()?;
            Some(File::new(relative, &text))
        });
        Tree { files: files.collect() }
    }

    pub fn rust(&self) -> impl Iterator<Item = (&File, &Rust)> {
        self.files.iter().filter_map(|file| file.rust.as_ref().map(|rust| (file, rust)))
    }

    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The whole tree as text, for the message of a failed check.
    pub fn shown(&self) -> String {
        self.files.iter().map(|file| format!("--- {}\n{}", file.path, file.text)).collect()
    }
}

impl File {
    pub fn new(path: &str, text: &str) -> File {
        let rust = path.ends_with(".rs").then(|| Rust::new(path, text));
        File { path: path.to_owned(), text: text.to_owned(), rust }
    }

    /// Whether the file is one of these files, or lies in one of these directories (which end in `/`).
    pub fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| match place.strip_suffix('/') {
            Some(module) => {
                self.path.starts_with(place)
                    || self.path.strip_suffix(".rs").is_some_and(|stem| stem == module)
            }
            None => self.path == *place,
        })
    }
}

impl Rust {
    fn new(path: &str, text: &str) -> Rust {
        let masked = lexer::mask(text);
        let tokens = lexer::tokens(&masked.code);
        let mut test_lines = vec![is_test_file(path); text.lines().count() + 2];
        for span in shape::spans_under(&tokens, shape::marks_a_test) {
            let last = (*span.end()).min(test_lines.len() - 1);
            test_lines[*span.start()..=last].fill(true);
        }
        let comments =
            std::iter::once(String::new()).chain(masked.comments.lines().map(|line| line.trim().to_owned()));
        Rust { tokens, comments: comments.collect(), test_lines }
    }

    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line).copied().unwrap_or(false)
    }

    /// Whether these tokens stand at `at`.
    pub fn stands(&self, at: usize, wanted: &[&str]) -> bool {
        self.tokens.len() >= at + wanted.len()
            && self.tokens[at..].iter().zip(wanted).all(|(token, text)| token.text == *text)
    }
}

/// Files that hold nothing but tests, fakes or benchmarks.
fn is_test_file(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or("");
    parts.iter().any(|part| matches!(*part, "tests" | "benches" | "examples"))
        || name == "tests.rs"
        || name.ends_with("_tests.rs")
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        let is_output = name == "target" || name == "demo-out" || path.join("CACHEDIR.TAG").exists();
        if name == ".git" {
            continue; // a directory, or in a linked work tree a file
        }
        if kind.is_dir() && !is_output {
            walk(&path, paths);
        } else if kind.is_file() && entry.metadata().is_ok_and(|metadata| metadata.len() <= FILE_BYTES_MAX) {
            paths.push(path);
        }
    }
}

#[test]
fn test_lines_are_those_of_test_items_only() {
    let text =
        "//! D.\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[test]\nfn d() {\n}\n";
    let file = File::new("src/a.rs", text);
    let rust = file.rust.expect("a Rust file");
    let test_lines: Vec<usize> = (1..=10).filter(|line| rust.is_test(*line)).collect();
    assert_eq!(test_lines, [3, 4, 5, 6, 8, 9, 10]);
}

#[test]
fn a_directory_place_also_means_the_file_of_that_module() {
    assert!(File::new("src/uring.rs", "").is_in(&["src/uring/"]));
    assert!(File::new("src/uring/ring.rs", "").is_in(&["src/uring/"]));
    assert!(!File::new("src/uring_like.rs", "").is_in(&["src/uring/"]));
}
