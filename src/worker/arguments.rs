//! An action's command line, split into what starts the worker and what one request asks of it; and the expansion of
//! the latter.
//!
//! ```text
//!   javac_worker  -Xfoo  @flags  --flagfile=more
//!   └──── startup ─────┘ └──── flag files ─────┘ ─ expand ─► the lines of `flags`, and `--flagfile=more` as it is
//! ```
//! The rules and the texts are Bazel's. Invariants: order is kept; an argument is expanded completely or there is an
//! error; every expansion ends within the bounds of [`limits`](super::limits). Pure: who calls reads the files.

use super::limits::{
    EXPANSION_ARGUMENTS_MAX, EXPANSION_BYTES_MAX, EXPANSION_DEPTH_MAX, EXPANSION_FILES_MAX,
    SHOWN_CHARACTERS_MAX,
};

/// Which arguments are flag files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Any number at any place, `@@x` among them.
    #[default]
    Legacy,
    /// Exactly one, the last; `@@x` is none.
    Strict,
}

/// A command line in its two parts; none is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The worker's own command, without `--persistent_worker`.
    pub startup: Vec<String>,
    /// Arguments that name flag files, as they were given; or all of one request's.
    pub flag_files: Vec<String>,
}

/// Why an action's arguments can't go to a worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// Nothing is left for a request.
    #[error("because the command-line arguments do not contain exactly one @flagfile or --flagfile=")]
    NoFlagFile,
    /// Strict mode: there is another one.
    #[error("because the command-line arguments has a @flagfile or --flagfile= argument before the end")]
    FlagFileBeforeEnd,
    /// Strict mode: there is one, and something after it.
    #[error("because the command-line arguments does not end with a @flagfile or --flagfile= argument")]
    FlagFileNotLast,
    /// Nothing is left to start.
    #[error("because the command-line arguments contain nothing but @flagfile or --flagfile= arguments")]
    NoStartup,
    /// There are fewer arguments than those that shall start the worker.
    #[error("because the command line has {there} arguments, and {asked} are said to start the worker")]
    TooFew {
        /// So many are said to.
        asked: usize,
        /// So many are there.
        there: usize,
    },
    /// A flag file is none of the action's inputs.
    #[error("Failed to read @-argument '{argument}': file is not a declared input")]
    NotDeclared {
        /// The argument without its `@`.
        argument: String,
    },
    /// A flag file can't be read.
    #[error("Failed to read @-argument '{argument}' from file '{file}'.: {why}")]
    Unreadable {
        /// The argument without its `@`.
        argument: String,
        /// Where the file is.
        file: String,
        /// Why not.
        why: String,
    },
    /// A flag file comes to itself.
    #[error("Failed to read @-argument '{argument}': it includes itself: {}", chain.join(" -> "))]
    Cycle {
        /// The argument without its `@`.
        argument: String,
        /// From the outermost file to where it closes.
        chain: Vec<String>,
    },
    /// The expansion does not end within its bounds.
    #[error(
        "Failed to read @-argument '{argument}': the expansion is beyond a bound: {depth} of at most \
         {EXPANSION_DEPTH_MAX} files deep, {bytes} of at most {EXPANSION_BYTES_MAX} bytes, {files} of at most \
         {EXPANSION_FILES_MAX} files, {arguments} of at most {EXPANSION_ARGUMENTS_MAX} arguments"
    )]
    TooLarge {
        /// The argument without its `@`.
        argument: String,
        /// Files within files.
        depth: usize,
        /// Bytes of all files.
        bytes: usize,
        /// Files.
        files: usize,
        /// Arguments.
        arguments: usize,
    },
}

impl ArgumentsError {
    /// Bazel's whole sentence.
    #[must_use]
    pub fn for_action(&self, mnemonic: &str) -> String {
        match self {
            Self::NoFlagFile
            | Self::FlagFileBeforeEnd
            | Self::FlagFileNotLast
            | Self::NoStartup
            | Self::TooFew { .. } => {
                format!("Worker strategy cannot execute this {mnemonic} action, {self}")
            }
            _ => self.to_string(),
        }
    }
}

/// Why a flag file could not be read; what the reader of [`expand`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpandError {
    /// No input of the action has this name.
    NotDeclared,
    /// It has, and reading it failed.
    Unreadable {
        /// Where it is.
        file: String,
        /// Why.
        why: String,
    },
}

/// Splits a command line.
///
/// # Errors
/// When one of the parts is empty, or in strict mode the flag file is not the one last argument.
pub fn split(arguments: &[String], mode: Mode) -> Result<Split, ArgumentsError> {
    let (flag_files, startup): (Vec<_>, Vec<_>) =
        arguments.iter().cloned().partition(|argument| names_flag_file(argument, mode));
    if flag_files.is_empty() {
        return Err(ArgumentsError::NoFlagFile);
    }
    if mode == Mode::Strict {
        if !arguments.last().is_some_and(|last| names_flag_file(last, mode)) {
            return Err(ArgumentsError::FlagFileNotLast);
        }
        if flag_files.len() > 1 {
            return Err(ArgumentsError::FlagFileBeforeEnd);
        }
    }
    match startup.is_empty() {
        true => Err(ArgumentsError::NoStartup),
        false => Ok(Split { startup, flag_files }),
    }
}

/// Splits a command line for a wire that takes arguments as they are: the first `startup` ones start the worker, the
/// rest is one request's. Without a number, arguments that name flag files are the request's, and are not expanded.
///
/// # Errors
/// As [`split`], and when there are not so many arguments.
pub fn split_at(arguments: &[String], startup: Option<usize>) -> Result<Split, ArgumentsError> {
    let Some(asked) = startup else { return split(arguments, Mode::Legacy) };
    let there = arguments.len();
    match arguments.split_at_checked(asked) {
        None => Err(ArgumentsError::TooFew { asked, there }),
        Some(([], _)) => Err(ArgumentsError::NoStartup),
        Some((startup, rest)) => Ok(Split { startup: startup.to_vec(), flag_files: rest.to_vec() }),
    }
}

/// `(?:@|--?flagfile=)(.+)` as a whole, where the dot means no end of a line.
fn names_flag_file(argument: &str, mode: Mode) -> bool {
    if mode == Mode::Strict && argument.starts_with("@@") {
        return false;
    }
    let rest = ["@", "-flagfile=", "--flagfile="].iter().find_map(|prefix| argument.strip_prefix(prefix));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(is_line_end))
}

/// What a dot does not mean in Java.
fn is_line_end(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// The file that an argument is replaced by: `@file`, but not `@@file`, nor a label like `@repository//package:name`.
fn included_file(argument: &str) -> Option<&str> {
    let file = argument.strip_prefix('@')?;
    (!file.starts_with('@') && !file.contains("//")).then_some(file)
}

/// Replaces each `@file` by the lines of the file, again and again; everything else stays as it is.
///
/// `read` gets the name after the `@`. What it gives is counted; it need not read on beyond [`EXPANSION_BYTES_MAX`].
///
/// # Errors
/// When a file can't be read, is no UTF-8, or includes itself, and when there is no end within the bounds.
pub fn expand(
    arguments: &[String],
    read: &mut dyn FnMut(&str) -> Result<Vec<u8>, ExpandError>,
) -> Result<Vec<String>, ArgumentsError> {
    let mut expansion = Expansion { read, chain: Vec::new(), bytes: 0, files: 0, expanded: Vec::new() };
    for argument in arguments {
        expansion.take(argument)?;
    }
    Ok(expansion.expanded)
}

struct Expansion<'a> {
    read: &'a mut dyn FnMut(&str) -> Result<Vec<u8>, ExpandError>,
    /// The files that are being expanded, outermost first.
    chain: Vec<String>,
    bytes: usize,
    files: usize,
    expanded: Vec<String>,
}

impl Expansion<'_> {
    /// Recursive, but never deeper than [`EXPANSION_DEPTH_MAX`].
    fn take(&mut self, argument: &str) -> Result<(), ArgumentsError> {
        let Some(file) = included_file(argument) else {
            if self.expanded.len() >= EXPANSION_ARGUMENTS_MAX {
                return Err(self.too_large(argument, 1, 0));
            }
            self.expanded.push(argument.to_owned());
            return Ok(());
        };
        if let Some(first) = self.chain.iter().position(|outer| outer == file) {
            let chain = self.chain[first..].iter().map(|outer| short(outer)).chain([short(file)]).collect();
            return Err(ArgumentsError::Cycle { argument: short(file), chain });
        }
        self.files += 1;
        if self.chain.len() >= EXPANSION_DEPTH_MAX || self.files > EXPANSION_FILES_MAX {
            return Err(self.too_large(file, 0, 1));
        }
        let text = self.text(file)?;
        self.chain.push(file.to_owned());
        for line in lines(&text) {
            self.take(line)?;
        }
        self.chain.pop();
        Ok(())
    }

    fn text(&mut self, file: &str) -> Result<String, ArgumentsError> {
        let argument = short(file);
        let bytes = match (self.read)(file) {
            Ok(bytes) => bytes,
            Err(ExpandError::NotDeclared) => return Err(ArgumentsError::NotDeclared { argument }),
            Err(ExpandError::Unreadable { file, why }) => {
                return Err(ArgumentsError::Unreadable { argument, file, why });
            }
        };
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > EXPANSION_BYTES_MAX {
            return Err(self.too_large(file, 0, 1));
        }
        String::from_utf8(bytes).map_err(|error| ArgumentsError::Unreadable {
            file: argument.clone(),
            why: format!("it is no UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            argument,
        })
    }

    /// The error for where the expansion is, and what it was about to add.
    fn too_large(&self, argument: &str, more_arguments: usize, more_depth: usize) -> ArgumentsError {
        ArgumentsError::TooLarge {
            argument: short(argument),
            depth: self.chain.len() + more_depth,
            bytes: self.bytes,
            files: self.files,
            arguments: self.expanded.len() + more_arguments,
        }
    }
}

/// A name in an error: a file that is no flag file may well be one long line.
fn short(name: &str) -> String {
    name.chars().take(SHOWN_CHARACTERS_MAX).collect()
}

/// Lines as Java reads them: ended by `\n`, `\r` or both, and none after the last end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let (line, end) = text.split_at(at);
        let next = end.strip_prefix("\r\n").unwrap_or_else(|| end.get(1..).unwrap_or_default());
        rest = Some(next).filter(|next| !next.is_empty());
        Some(line)
    })
}

#[cfg(test)]
mod tests;
