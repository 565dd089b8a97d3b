//! Digests: the names of blobs.
//!
//! ```text
//!   (function, 32 bytes, size)      sha256 and blake3; the size is part of the identity (REAPI)
//! ```
//! Invariant: two digests are equal only if function, hash and size all are. Limits: functions with 32-byte hashes
//! only.

use sha2::Digest as _;
use std::fmt;

/// How blobs are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// BLAKE3 with its default output of 32 bytes.
    Blake3,
}

impl DigestFunction {
    /// Every function that this build knows, the default first.
    pub const ALL: [DigestFunction; 2] = [DigestFunction::Sha256, DigestFunction::Blake3];

    /// Its name in lower case, as resource names and directories have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DigestFunction::Sha256 => "sha256",
            DigestFunction::Blake3 => "blake3",
        }
    }
}

/// The name of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    /// How `hash` was made.
    pub function: DigestFunction,
    /// The hash itself.
    pub hash: [u8; 32],
    /// Size of the blob in bytes.
    pub size_bytes: u64,
}

/// Why a digest that somebody sent is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Wrong length, upper case, or no hexadecimal number.
    #[error("hash {0:?} is not 64 digits of lower-case hexadecimal")]
    Hash(String),
    /// A negative size.
    #[error("size {0} of a digest is negative")]
    Size(i64),
    /// A field that must hold a digest holds none.
    #[error("{0} has no digest")]
    Missing(&'static str),
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(function: DigestFunction, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(function);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of no bytes: a blob that is always there.
    #[must_use]
    pub fn empty(function: DigestFunction) -> Self {
        Digest::of(function, b"")
    }

    /// Reads the two fields of a digest as peers send them.
    ///
    /// # Errors
    /// [`DigestError`], quoting what was sent, cut to 80 characters.
    pub fn parse(function: DigestFunction, hash: &str, size_bytes: i64) -> Result<Self, DigestError> {
        let bad = || DigestError::Hash(hash.chars().take(80).collect());
        let size_bytes = u64::try_from(size_bytes).map_err(|_| DigestError::Size(size_bytes))?;
        let digits = hash.as_bytes();
        let mut parsed = [0; 32];
        if digits.len() != 64 {
            return Err(bad());
        }
        for (byte, pair) in parsed.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [nibble(pair[0]), nibble(pair[1])];
            *byte = high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(bad)?;
        }
        Ok(Digest { function, hash: parsed, size_bytes })
    }

    /// The hash in lower-case hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(64);
        for byte in self.hash {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }

    /// Whether this names the blob of no bytes (or claims to: the hash is not looked at).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    /// `hash/size`, with the function before it unless it is SHA-256, as in resource names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.function != DigestFunction::Sha256 {
            write!(f, "{}/", self.function.name())?;
        }
        write!(f, "{}/{}", self.hex(), self.size_bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes a digest of bytes that come in pieces.
#[derive(Clone, Debug)]
pub struct Hasher {
    state: State,
    size_bytes: u64,
}

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Of no bytes yet.
    #[must_use]
    pub fn new(function: DigestFunction) -> Self {
        let state = match function {
            DigestFunction::Sha256 => State::Sha256(sha2::Sha256::new()),
            DigestFunction::Blake3 => State::Blake3(Box::default()),
        };
        Hasher { state, size_bytes: 0 }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
        self.size_bytes += bytes.len() as u64;
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of all of them.
    #[must_use]
    pub fn finish(self) -> Digest {
        let size_bytes = self.size_bytes;
        let (function, hash) = match self.state {
            State::Sha256(state) => (DigestFunction::Sha256, state.finalize().into()),
            State::Blake3(state) => (DigestFunction::Blake3, state.finalize().into()),
        };
        Digest { function, hash, size_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 and the BLAKE3 paper's test vectors for no input.
    #[test]
    fn the_empty_blob_has_its_known_names() {
        assert_eq!(
            Digest::empty(DigestFunction::Sha256).to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/0"
        );
        assert_eq!(
            Digest::empty(DigestFunction::Blake3).to_string(),
            "blake3/af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262/0"
        );
    }

    #[test]
    fn what_was_printed_is_read_again() {
        for function in DigestFunction::ALL {
            let digest = Digest::of(function, b"fulgurite");
            assert_eq!(Digest::parse(function, &digest.hex(), 9), Ok(digest));
        }
    }

    #[test]
    fn odd_hashes_are_refused() {
        let hex = Digest::empty(DigestFunction::Sha256).hex();
        for bad in ["", "e3", &hex.to_uppercase(), &format!("{hex}0"), &hex.replace('e', "g"), &hex[1..]] {
            assert!(
                matches!(Digest::parse(DigestFunction::Sha256, bad, 0), Err(DigestError::Hash(_))),
                "{bad}"
            );
        }
        assert_eq!(Digest::parse(DigestFunction::Sha256, &hex, -1), Err(DigestError::Size(-1)));
    }

    #[test]
    fn pieces_and_the_whole_agree() {
        for function in DigestFunction::ALL {
            let mut hasher = Hasher::new(function);
            hasher.update(b"ful");
            hasher.update(b"");
            hasher.update(b"gurite");
            assert_eq!(hasher.size_bytes(), 9);
            assert_eq!(hasher.finish(), Digest::of(function, b"fulgurite"));
        }
    }
}
