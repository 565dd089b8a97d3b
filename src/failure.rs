//! Failures at the edge: one line, a hint, an exit code. Inside, errors are typed; they become a [`Failure`] once.
//!
//! Exit codes follow env(1) and timeout(1): 125 for a failure of Fulgurite's own, 126 and 127 for a command that cannot
//! be executed or found, 124 for a timeout, 128 plus the signal for a command that a signal ended.
use std::fmt;
use std::io::{self, Write};

/// Exit code for a timeout.
pub const TIMED_OUT: u8 = 124;
/// Exit code for a failure of Fulgurite's own, as opposed to the command's.
pub const OWN_FAILURE: u8 = 125;
/// Exit code for a command that was found and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code for a command that was not found.
pub const NOT_FOUND: u8 = 127;
/// Added to the number of a signal.
pub const SIGNAL_BASE: u8 = 128;

/// Tells the user something on standard error, as one line after the program's name. If nobody listens any more,
/// because the terminal is closed, that is no reason to stop cleaning up: `eprintln!` would panic.
pub fn tell(line: impl fmt::Display) {
    let _ = io::stderr().write_all(format!("fulgurite: {line}\n").as_bytes());
}

/// Writes data to standard output. A reader that has seen enough is no failure.
///
/// # Errors
/// When standard output cannot be written to for any other reason.
pub fn put(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// What the user sees of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried, on what, and why it failed; without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// A failure of Fulgurite's own.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, code: OWN_FAILURE }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hint = hint.map(Into::into);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl From<fulgurite_sandbox::runtime::SandboxError> for Failure {
    fn from(error: fulgurite_sandbox::runtime::SandboxError) -> Self {
        let hint = error.hint();
        // A cgroup error prints its hint itself.
        let printed = matches!(error, fulgurite_sandbox::runtime::SandboxError::Cgroup(_));
        Failure::new(error.to_string()).hint(hint.filter(|_| !printed))
    }
}
