//! What a worker wrote and nobody can read: errors that carry its first bytes, and how those are shown.
//!
//! Invariant: what is shown is at most [`JUNK_BYTES_MAX`] bytes of the worker's, and no control character of it
//! reaches a terminal or a log.

use crate::uring::FramingError;
use crate::worker::limits::{JUNK_BYTES_MAX, OUTPUT_KEPT_BYTES_MAX};
use std::fmt::Write;

/// A whole message that is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", unparseable(why, seen))]
pub struct WireError {
    /// What is wrong with it.
    pub why: String,
    /// The request that it answers, if that could be read. Only then the other requests of the worker may go on.
    pub request_id: Option<i32>,
    /// Its first bytes, at most [`JUNK_BYTES_MAX`].
    pub seen: Vec<u8>,
}

impl WireError {
    pub(super) fn new(why: impl Into<String>, request_id: Option<i32>, message: &[u8]) -> Self {
        let seen = message.get(..JUNK_BYTES_MAX).unwrap_or(message).to_vec();
        WireError { why: why.into(), request_id, seen }
    }
}

/// Bazel's text for a response that can't be read, with what is wrong and the first bytes, escaped.
#[must_use]
pub fn unparseable(why: &str, seen: &[u8]) -> String {
    format!(
        "Worker process returned an unparseable WorkResponse!\n\n\
         Did you try to print something to stdout? Workers aren't allowed to do this, as it breaks the protocol \
         between Fulgurite and the worker process.\n\n\
         {why}\n\n\
         ---8<---8<--- Start of what the worker wrote ---8<---8<---\n\
         {}\n\
         ---8<---8<--- End of what the worker wrote ---8<---8<---",
        shown(seen)
    )
}

/// Bytes of a worker for people: text with control characters escaped, or hexadecimal if it is no UTF-8.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let bytes = bytes.get(..JUNK_BYTES_MAX).unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // A character that the bound, or the piece that was read, cut in two.
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return hexadecimal(bytes),
    };
    match text {
        "" => "(empty)".to_owned(),
        text => escaped(text),
    }
}

/// Text with everything escaped that would do more than stand there; lines stay lines.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            // What reorders text, or is not seen at all, misleads whoever reads it.
            _ if character.is_control() || is_invisible(character) => {
                shown.extend(character.escape_default())
            }
            _ => shown.push(character),
        }
    }
    shown
}

fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut shown = String::from("Not UTF-8, printed as hex:");
    for (index, byte) in bytes.iter().enumerate() {
        shown.push(if index % 32 == 0 { '\n' } else { ' ' });
        // Writing to a string can't fail.
        let _ = write!(shown, "{byte:02x}");
    }
    shown
}

/// Collects the first bytes of a message, for the error if it is none.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<u8>);

impl Seen {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let room = JUNK_BYTES_MAX - self.0.len();
        self.0.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn error(&self, why: impl Into<String>) -> FramingError {
        FramingError { why: why.into(), seen: self.0.clone() }
    }
}

/// What stands after a text of which not everything is kept. No character in it needs an escape in JSON but the lines.
pub(super) fn cut_note() -> String {
    format!("[the worker wrote more: output cut after {} MiB]", OUTPUT_KEPT_BYTES_MAX >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_can_be_read_and_escapes_the_rest() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(shown(bytes), expected);
        check(b"", "(empty)");
        check(b"warning: unsafe\n\tat A", "warning: unsafe\n\tat A");
        check(b"\x1b[2Jgone\r\0", "\\u{1b}[2Jgone\\r\\u{0}");
        check("a\u{202e}b\u{85}".as_bytes(), "a\\u{202e}b\\u{85}");
        check("é".as_bytes(), "é");
        check(&"aé".as_bytes()[..2], "a");
        check(b"\xff\x00", "Not UTF-8, printed as hex:\nff 00");
    }

    #[test]
    fn shows_no_more_than_the_bound() {
        assert_eq!(shown(&[b'a'; JUNK_BYTES_MAX + 5]).len(), JUNK_BYTES_MAX);
        let text = "é".repeat(JUNK_BYTES_MAX);
        assert_eq!(shown(format!("a{text}").as_bytes()).len(), JUNK_BYTES_MAX - 1);
        let error = WireError::new("no", None, &[0xff; 5000]);
        assert_eq!(error.seen.len(), JUNK_BYTES_MAX);
        assert!(error.to_string().contains("Worker process returned an unparseable WorkResponse!"));
        assert!(error.to_string().len() < 5 * JUNK_BYTES_MAX);
    }
}
