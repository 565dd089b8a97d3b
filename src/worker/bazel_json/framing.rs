//! The stream of a worker, cut into objects.
//!
//! ```text
//!   Between ─ { ─► Object ─ } ─► a message, Between     spaces and line ends between objects are skipped
//! ```
//! A string that is longer than what is kept of an output loses its end and says so; the object around it has a bound
//! that makes the rest an error.

use super::grammar::{Grammar, Taken};
use crate::uring::{Framing, FramingError};
use crate::worker::junk::{Seen, cut_note};
use crate::worker::limits::{JSON_REST_BYTES_MAX, MESSAGE_BYTES_MAX, OUTPUT_KEPT_BYTES_MAX};

/// The object that is being read.
#[derive(Debug)]
struct Object {
    grammar: Grammar,
    /// What is kept of it.
    kept: Vec<u8>,
    /// What has come of it.
    came: u64,
    /// Bytes of the open string that are kept.
    text: usize,
    /// The open string is being dropped up to its quote.
    is_cutting: bool,
}

/// Cuts a worker's standard output into objects; what comes out of it is for [`decode`](super::decode).
#[derive(Debug, Default)]
pub struct JsonFraming {
    object: Option<Object>,
    seen: Seen,
}

impl JsonFraming {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes at least one of the bytes, of which there is at least one, and says how many.
    fn step(&mut self, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<usize, String> {
        let byte = bytes.first().copied().unwrap_or_default();
        let Some(object) = &mut self.object else {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'{' => self.object = Some(Object::new()),
                _ => return Err(format!("it is no JSON object: it begins with {:?}", char::from(byte))),
            }
            return Ok(1);
        };
        let (taken, is_end) = object.take(byte, bytes)?;
        if is_end && let Some(object) = self.object.take() {
            messages.push(object.kept);
            self.seen.clear();
        }
        Ok(taken)
    }
}

impl Object {
    fn new() -> Self {
        Object { grammar: Grammar::new(), kept: vec![b'{'], came: 1, text: 0, is_cutting: false }
    }

    /// How many bytes were taken, and whether the object has ended.
    fn take(&mut self, byte: u8, bytes: &[u8]) -> Result<(usize, bool), String> {
        // Up to where the string is cut in one piece: within ASCII every byte is a character.
        let room = match self.is_cutting {
            true => bytes.len(),
            false => OUTPUT_KEPT_BYTES_MAX.saturating_sub(self.text),
        };
        let plain = self.grammar.plain(&bytes[..bytes.len().min(room)]);
        if plain > 0 {
            if !self.is_cutting {
                self.kept.extend_from_slice(&bytes[..plain]);
                self.text += plain;
            }
            self.count(plain)?;
            return Ok((plain, false));
        }
        let what = self.grammar.take(byte)?;
        match what {
            Taken::TextEnd => self.end_text(),
            Taken::Character if self.text >= OUTPUT_KEPT_BYTES_MAX => self.is_cutting = true,
            Taken::Character | Taken::MoreOfIt => {}
            Taken::Structure | Taken::End => self.text = 0,
        }
        if !self.is_cutting {
            self.kept.push(byte);
            self.text += usize::from(matches!(what, Taken::Character | Taken::MoreOfIt));
        }
        self.count(1)?;
        Ok((1, what == Taken::End))
    }

    fn end_text(&mut self) {
        if self.is_cutting {
            self.kept.extend_from_slice(b"\\n");
            self.kept.extend_from_slice(cut_note().as_bytes());
            self.is_cutting = false;
        }
        self.text = 0;
    }

    fn count(&mut self, taken: usize) -> Result<(), String> {
        self.came += taken as u64;
        if self.came > MESSAGE_BYTES_MAX {
            return Err(format!("it goes on after {MESSAGE_BYTES_MAX} bytes"));
        }
        // Of the bytes that are kept, one text may have its bound.
        if self.kept.len() > OUTPUT_KEPT_BYTES_MAX + JSON_REST_BYTES_MAX {
            return Err(format!(
                "it holds more than an output of {OUTPUT_KEPT_BYTES_MAX} bytes and {JSON_REST_BYTES_MAX} bytes of \
                 other things"
            ));
        }
        Ok(())
    }
}

impl Framing for JsonFraming {
    fn feed(&mut self, mut bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), FramingError> {
        while !bytes.is_empty() {
            match self.step(bytes, messages) {
                Ok(taken) => {
                    let (done, rest) = bytes.split_at(taken);
                    if self.object.is_some() {
                        self.seen.add(done);
                    }
                    bytes = rest;
                }
                Err(why) => {
                    self.seen.add(bytes);
                    return Err(self.seen.error(why));
                }
            }
        }
        Ok(())
    }

    fn is_inside(&self) -> bool {
        self.object.is_some()
    }

    fn finish(&mut self) -> Result<(), FramingError> {
        match self.object {
            None => Ok(()),
            Some(_) => Err(self.seen.error("the stream ended within an object")),
        }
    }
}
