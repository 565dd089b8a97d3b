//! What may follow in an object of JSON, byte by byte: enough to see where it ends and that it can't be one.
//!
//! Literals are only checked for their letters, and keys not for coming twice: that is for the decoder.

use crate::worker::limits::JSON_DEPTH_MAX;

/// Where in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A value, or in a fresh array its end.
    Value { or_end: bool },
    /// A key, or in a fresh object its end.
    Key { or_end: bool },
    /// The colon after a key.
    Colon,
    /// A comma, or the end of what is open.
    Next,
    /// In a number, `true`, `false` or `null`.
    Literal,
    /// In a string.
    Text { is_key: bool, escape: Escape },
}

/// Where in an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Slash,
    /// `\u` with this many digits still to come.
    Unicode {
        digits: u8,
        value: u16,
    },
    /// The first half of a pair has come; the second one begins with a backslash.
    Half,
}

/// What a byte was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A part of the object, and not of a string.
    Structure,
    /// The first byte of a character in a string, where the string may be cut.
    Character,
    /// Another byte of a character.
    MoreOfIt,
    /// The quote that ends a string.
    TextEnd,
    /// The brace that ends the object.
    End,
}

/// An object that has begun with its brace.
#[derive(Debug)]
pub(super) struct Grammar {
    place: Place,
    depth: u32,
    /// What is open, the innermost in the lowest bit: 1 for an object.
    objects: u64,
}

impl Grammar {
    /// After the first brace.
    pub(super) fn new() -> Self {
        Grammar { place: Place::Key { or_end: true }, depth: 1, objects: 1 }
    }

    /// How many of these bytes are plain characters of a string that is open, so that they need no more judging.
    pub(super) fn plain(&self, bytes: &[u8]) -> usize {
        match self.place {
            Place::Text { escape: Escape::No, .. } => {
                bytes.iter().position(|&byte| !is_plain(byte)).unwrap_or(bytes.len())
            }
            _ => 0,
        }
    }

    pub(super) fn take(&mut self, byte: u8) -> Result<Taken, String> {
        if let Place::Text { is_key, escape } = self.place {
            return self.text(byte, is_key, escape);
        }
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            if self.place == Place::Literal {
                self.place = Place::Next;
            }
            return Ok(Taken::Structure);
        }
        match (self.place, byte) {
            (Place::Key { .. }, b'"') => self.place = Place::Text { is_key: true, escape: Escape::No },
            (Place::Value { .. }, b'"') => self.place = Place::Text { is_key: false, escape: Escape::No },
            (Place::Colon, b':') => self.place = Place::Value { or_end: false },
            (Place::Value { .. }, b'{') => self.open(true)?,
            (Place::Value { .. }, b'[') => self.open(false)?,
            (Place::Value { .. }, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => self.place = Place::Literal,
            (Place::Literal, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E') => {}
            (Place::Next | Place::Literal, b',') => {
                self.place = match self.is_object() {
                    true => Place::Key { or_end: false },
                    false => Place::Value { or_end: false },
                };
            }
            (Place::Next | Place::Literal | Place::Key { or_end: true }, b'}') if self.is_object() => {
                return Ok(self.close());
            }
            (Place::Next | Place::Literal | Place::Value { or_end: true }, b']') if !self.is_object() => {
                return Ok(self.close());
            }
            _ => return Err(self.surprise(byte)),
        }
        Ok(Taken::Structure)
    }

    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn open(&mut self, is_object: bool) -> Result<(), String> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(format!("it is nested deeper than {JSON_DEPTH_MAX} levels"));
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(is_object);
        self.place = match is_object {
            true => Place::Key { or_end: true },
            false => Place::Value { or_end: true },
        };
        Ok(())
    }

    fn close(&mut self) -> Taken {
        self.depth -= 1;
        self.objects >>= 1;
        self.place = Place::Next;
        if self.depth == 0 { Taken::End } else { Taken::Structure }
    }

    fn text(&mut self, byte: u8, is_key: bool, escape: Escape) -> Result<Taken, String> {
        let (escape, taken) = match (escape, byte) {
            (Escape::No, b'"') => {
                self.place = if is_key { Place::Colon } else { Place::Next };
                return Ok(Taken::TextEnd);
            }
            (Escape::No, b'\\') => (Escape::Slash, Taken::Character),
            (Escape::No, 0..=0x1f) => return Err(self.surprise(byte)),
            (Escape::No, 0x80..=0xbf) => (Escape::No, Taken::MoreOfIt),
            (Escape::No, _) => (Escape::No, Taken::Character),
            (Escape::Half, b'\\') => (Escape::Slash, Taken::MoreOfIt),
            (Escape::Half, _) => return Err("a string has half a character".to_owned()),
            (Escape::Slash, b'u') => (Escape::Unicode { digits: 4, value: 0 }, Taken::MoreOfIt),
            (Escape::Slash, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                (Escape::No, Taken::MoreOfIt)
            }
            (Escape::Unicode { digits, value }, _) => {
                let Some(digit) = char::from(byte).to_digit(16) else { return Err(self.surprise(byte)) };
                // Four digits fit.
                let value = value << 4 | digit as u16;
                let escape = match (digits, value) {
                    (1, 0xd800..=0xdbff) => Escape::Half,
                    (1, _) => Escape::No,
                    _ => Escape::Unicode { digits: digits - 1, value },
                };
                (escape, Taken::MoreOfIt)
            }
            (Escape::Slash, _) => return Err(self.surprise(byte)),
        };
        self.place = Place::Text { is_key, escape };
        Ok(taken)
    }

    fn surprise(&self, byte: u8) -> String {
        let place = match self.place {
            Place::Value { .. } => "where a value should be",
            Place::Key { .. } => "where a field should be",
            Place::Colon => "where a colon should be",
            Place::Next => "where a comma or the end should be",
            Place::Literal => "in a number or word",
            Place::Text { .. } => "in a string",
        };
        format!("it is no JSON: {:?} {place}", char::from(byte))
    }
}

fn is_plain(byte: u8) -> bool {
    !matches!(byte, b'"' | b'\\' | 0..=0x1f)
}
