//! The stream of a worker, cut into responses.
//!
//! ```text
//!   Length ─ varint ─► Key ─ varint, wire type 0 ─► Number ─┐
//!     ▲                 ▲ ├─ wire type 1, 5 ──────► Skip ───┤
//!     │ nothing left    │ └─ wire type 2 ─► TextLength ─► Text or Skip
//!     └─────────────────┴────────────────────────────────────┘
//! ```
//! Everything that can't be a response ends it at once: a field of the four with a wire type that it does not have, a
//! field that reaches beyond its message, a wire type that nobody uses, a first field whose number is above
//! [`FIRST_FIELD_MAX`] or whose type the protocol does not use: a letter where a field should be is a field from 8 to
//! 15.

use super::encode::encode_response;
use crate::uring::{Framing, FramingError};
use crate::worker::junk::{Seen, cut_note};
use crate::worker::limits::{MESSAGE_BYTES_MAX, OUTPUT_KEPT_BYTES_MAX, VARINT_BYTES_MAX};

/// Highest number of the field that a response begins with. Writers go by number and the protocol has four; a fifth
/// may come one day. Unknown fields after the first are skipped.
const FIRST_FIELD_MAX: u64 = 5;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The length of a response.
    Length,
    /// A field's number and wire type, or the response's end.
    Key,
    /// The value of a number.
    Number { field: u64 },
    /// How long a field of text is.
    TextLength { field: u64 },
    /// So many bytes of the output, which has `length`.
    Text { left: u64, length: u64 },
    /// So many bytes that nobody wants.
    Skip { left: u64 },
}

/// A varint that is being read.
#[derive(Debug, Default)]
struct Varint {
    value: u64,
    bytes: u32,
}

impl Varint {
    /// The value, if this byte ends it.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, String> {
        let group = u64::from(byte & 0x7f);
        // The tenth byte has one bit to give.
        if self.bytes == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(format!("a varint does not end after {VARINT_BYTES_MAX} bytes"));
        }
        self.value |= group << (7 * self.bytes);
        self.bytes += 1;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        let value = self.value;
        *self = Varint::default();
        Ok(Some(value))
    }
}

/// The response that is being read.
#[derive(Debug, Default)]
struct Response {
    exit_code: i32,
    output: Vec<u8>,
    request_id: i32,
    is_cancelled: bool,
    /// Whether a field has come.
    has_begun: bool,
}

/// Cuts a worker's standard output into responses; what comes out of it is for [`decode`](super::decode).
#[derive(Debug)]
pub struct ProtoFraming {
    state: State,
    varint: Varint,
    /// Bytes of this response that are still to come.
    left: u64,
    response: Response,
    seen: Seen,
}

impl Default for ProtoFraming {
    fn default() -> Self {
        Self::new()
    }
}

impl ProtoFraming {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        ProtoFraming {
            state: State::Length,
            varint: Varint::default(),
            left: 0,
            response: Response::default(),
            seen: Seen::default(),
        }
    }

    /// Takes at least one of the bytes, of which there is at least one, and says how many.
    fn step(&mut self, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<usize, String> {
        let taken = match self.state {
            State::Text { left, length } => self.text(bytes, left, length),
            State::Skip { left } => {
                let taken = within(left, bytes.len());
                self.after(taken, |left| State::Skip { left }, left);
                taken
            }
            State::Length => {
                if let Some(length) = self.varint.push(first(bytes)).map_err(not_a_length)? {
                    self.begin(length)?;
                }
                1
            }
            State::Key | State::Number { .. } | State::TextLength { .. } => {
                // Counted before it is judged: the end of the response may be within a varint.
                self.left -= 1;
                if let Some(value) = self.varint.push(first(bytes))? {
                    self.value(value)?;
                } else if self.left == 0 {
                    return Err("the response ends within a field".to_owned());
                }
                1
            }
        };
        if self.left == 0 && self.state == State::Key {
            self.end(messages);
        } else if self.left == 0 && self.state != State::Length {
            return Err("the response ends within a field".to_owned());
        }
        Ok(taken)
    }

    fn begin(&mut self, length: u64) -> Result<(), String> {
        if length > MESSAGE_BYTES_MAX {
            return Err(format!("it claims {length} bytes, and at most {MESSAGE_BYTES_MAX} are read"));
        }
        self.left = length;
        self.state = State::Key;
        Ok(())
    }

    fn end(&mut self, messages: &mut Vec<Vec<u8>>) {
        let Response { exit_code, output, request_id, is_cancelled, .. } = std::mem::take(&mut self.response);
        messages.push(encode_response(exit_code, &output, request_id, is_cancelled));
        self.state = State::Length;
        self.seen.clear();
    }

    /// A varint within the response has ended.
    fn value(&mut self, value: u64) -> Result<(), String> {
        match self.state {
            State::Number { field } => {
                match field {
                    // Negative numbers come as 64 bits; the low ones count, as everywhere.
                    1 => self.response.exit_code = value as i32,
                    3 => self.response.request_id = value as i32,
                    4 if value > 1 => return Err(format!("was_cancelled is {value}")),
                    4 => self.response.is_cancelled = value == 1,
                    _ => {}
                }
                self.state = State::Key;
            }
            State::TextLength { field } => {
                if value > self.left {
                    let left = self.left;
                    return Err(format!("field {field} has {value} bytes, and the response has {left} more"));
                }
                if field == 2 {
                    // Of several the last counts.
                    self.response.output = Vec::new();
                }
                self.state = match (field, value) {
                    (_, 0) => State::Key,
                    (2, length) => State::Text { left: length, length },
                    (_, left) => State::Skip { left },
                };
            }
            _ => self.key(value)?,
        }
        Ok(())
    }

    fn key(&mut self, key: u64) -> Result<(), String> {
        let (field, wire_type) = (key >> 3, key & 7);
        if field == 0 || key > u64::from(u32::MAX) {
            return Err(format!("there is no field {field}"));
        }
        if !self.response.has_begun && (field > FIRST_FIELD_MAX || matches!(wire_type, 1 | 5)) {
            return Err(format!(
                "it begins with field {field} of wire type {wire_type}, and a WorkResponse has fields 1 to 4 of types \
                 0 and 2"
            ));
        }
        self.response.has_begun = true;
        self.state = match (field, wire_type) {
            (1 | 3 | 4, 0) | (5.., 0) => State::Number { field },
            (2 | 5.., 2) => State::TextLength { field },
            (5.., 1) => self.skip(8)?,
            (5.., 5) => self.skip(4)?,
            _ => return Err(format!("field {field} has wire type {wire_type}")),
        };
        Ok(())
    }

    fn skip(&self, left: u64) -> Result<State, String> {
        match left > self.left {
            true => Err("the response ends within a field".to_owned()),
            false => Ok(State::Skip { left }),
        }
    }

    /// Output: what is above the bound is dropped.
    fn text(&mut self, bytes: &[u8], left: u64, length: u64) -> usize {
        let taken = within(left, bytes.len());
        let output = &mut self.response.output;
        if output.capacity() == 0 {
            // One allocation for what is short; what is long has to come first.
            output.reserve_exact(within(length, bytes.len().max(4096)));
        }
        let room = OUTPUT_KEPT_BYTES_MAX - output.len();
        output.extend_from_slice(&bytes[..taken.min(room)]);
        self.after(taken, |left| State::Text { left, length }, left);
        if self.state == State::Key && length > OUTPUT_KEPT_BYTES_MAX as u64 {
            let output = &mut self.response.output;
            cut_to_character(output);
            output.push(b'\n');
            output.extend_from_slice(cut_note().as_bytes());
        }
        taken
    }

    /// `taken` bytes of a field that had `left` have been taken.
    fn after(&mut self, taken: usize, more: impl Fn(u64) -> State, left: u64) {
        self.left -= taken as u64;
        self.state = match left - taken as u64 {
            0 => State::Key,
            left => more(left),
        };
    }
}

impl Framing for ProtoFraming {
    fn feed(&mut self, mut bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), FramingError> {
        while !bytes.is_empty() {
            match self.step(bytes, messages) {
                Ok(taken) => {
                    let (done, rest) = bytes.split_at(taken);
                    // A response that has just ended is not what the next error is about.
                    if self.is_inside() {
                        self.seen.add(done);
                    }
                    bytes = rest;
                }
                Err(why) => {
                    // With what else came: the line is more telling than its first letters.
                    self.seen.add(bytes);
                    return Err(self.seen.error(why));
                }
            }
        }
        Ok(())
    }

    fn is_inside(&self) -> bool {
        self.state != State::Length || self.varint.bytes > 0
    }

    fn finish(&mut self) -> Result<(), FramingError> {
        match self.state {
            State::Length if self.varint.bytes == 0 => Ok(()),
            State::Length => Err(self.seen.error("the stream ended within the length of a response")),
            _ => {
                let left = self.left;
                Err(self.seen.error(format!("the stream ended within a response: {left} bytes are missing")))
            }
        }
    }
}

fn first(bytes: &[u8]) -> u8 {
    bytes.first().copied().unwrap_or_default()
}

fn within(left: u64, length: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(length)
}

fn not_a_length(why: String) -> String {
    format!("it has no length: {why}")
}

/// Drops the first bytes of a character whose last ones were not kept. What was no text before is none afterwards.
fn cut_to_character(text: &mut Vec<u8>) {
    let tail = text.len().saturating_sub(3);
    let start = text.iter().skip(tail).rposition(|byte| byte & 0xc0 == 0xc0).map(|at| tail + at);
    if let Some(start) = start
        && std::str::from_utf8(&text[start..]).is_err_and(|error| error.error_len().is_none())
    {
        text.truncate(start);
    }
}
