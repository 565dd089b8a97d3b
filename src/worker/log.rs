//! What a worker writes to its standard error: a bounded file, and its last bytes for messages.
//!
//! Invariants: the file is never larger than [`LOG_BYTES_MAX`] and a note; when it would be, it begins again. Logs of
//! an earlier start are removed by [`sweep`].

use super::junk::escaped;
use super::limits::{LOG_BYTES_MAX, LOG_EXCERPT_BYTES};
use crate::uring::Sink;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The log of one worker.
#[derive(Debug)]
pub struct WorkerLog {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    written: u64,
    last: VecDeque<u8>,
    more: bool,
}

impl WorkerLog {
    /// Begins a log `worker-<number>-<mnemonic>.log` in `dir`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(dir: &Path, number: u64, mnemonic: &str) -> std::io::Result<Self> {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        let mnemonic: String = mnemonic.chars().filter(|one| plain(*one)).take(60).collect();
        let path = dir.join(format!("worker-{number}-{mnemonic}.log"));
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        let state = State { file, written: 0, last: VecDeque::new(), more: false };
        Ok(WorkerLog { path, state: Mutex::new(state) })
    }

    /// Its last bytes between marks, as Bazel shows them.
    #[must_use]
    pub fn excerpt(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = state.last.iter().copied().collect();
        let text = escaped(&String::from_utf8_lossy(&bytes));
        let text = if text.is_empty() { "(empty)" } else { text.trim_end() };
        let cut = if state.more { "[... truncated ...]\n" } else { "" };
        let shown = self.path.display();
        format!(
            "---8<---8<--- Start of log, file at {shown} ---8<---8<---\n{cut}{text}\n\
             ---8<---8<--- End of log ---8<---8<---"
        )
    }
}

impl Sink for WorkerLog {
    fn bytes(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LOG_EXCERPT_BYTES.saturating_sub(bytes.len());
        let excess = state.last.len().saturating_sub(room);
        state.more |= excess > 0 || bytes.len() > LOG_EXCERPT_BYTES;
        state.last.drain(..excess);
        let tail = bytes.len().saturating_sub(LOG_EXCERPT_BYTES);
        state.last.extend(&bytes[tail..]);
        // A log that cannot be written for want of room is lost; its last bytes are not.
        if state.written.saturating_add(bytes.len() as u64) > LOG_BYTES_MAX {
            let _ = state.file.set_len(0).and_then(|()| state.file.seek(SeekFrom::Start(0)).map(drop));
            let _ = state.file.write_all(b"[what was here before is cut]\n");
            state.written = 0;
        }
        let _ = state.file.write_all(&bytes[tail..]);
        state.written += (bytes.len() - tail) as u64;
    }
}

/// Removes the logs of an earlier start.
///
/// # Errors
/// When the directory cannot be read.
pub fn sweep(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("worker-") && name.ends_with(".log") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_its_end_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = WorkerLog::create(dir.path(), 7, "Ja/vac").unwrap();
        assert!(log.excerpt().contains("(empty)"));
        log.bytes(b"first\n");
        assert!(log.excerpt().contains("\nfirst\n---8<---8<--- End"));
        for number in 0..20_000 {
            log.bytes(format!("line {number} {}\n", "x".repeat(100)).as_bytes());
        }
        log.bytes(b"\x1b[31mlast");
        let excerpt = log.excerpt();
        assert!(excerpt.contains("[... truncated ...]") && excerpt.contains("\\u{1b}[31mlast"), "{excerpt}");
        assert!(excerpt.len() < 2 * LOG_EXCERPT_BYTES);
        let path = dir.path().join("worker-7-Javac.log");
        assert!(std::fs::metadata(&path).unwrap().len() <= LOG_BYTES_MAX + 100);
        sweep(dir.path()).unwrap();
        assert!(!path.exists());
    }
}
