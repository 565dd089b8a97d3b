//! Bearer tokens: a file with one a line.
//!
//! ```text
//!   # who    what the client sends, or its SHA-256
//!   ci     = sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//!   laptop = 7Qx0mJ2v…
//! ```
//! Invariants: a file that others can read is refused; tokens are held as hashes, so that comparing takes no time that
//! would tell of them, and none is ever printed.

use super::limits::{TOKEN_CHARACTERS_MIN, TOKENS_BYTES_MAX};
use sha2::Digest as _;
use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a file of tokens cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read the tokens {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Others can read or change it.
    #[error("the tokens {} have mode {mode:04o}: others can read or change them", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line that is none.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl TokensError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            TokensError::Open { path, .. } => Some(format!("chmod 0600 {}", path.display())),
            _ => None,
        }
    }
}

/// Who may connect.
#[derive(Clone, Default)]
pub struct Tokens {
    names: HashMap<[u8; 32], String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("count", &self.names.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn load(path: &Path) -> Result<Tokens, TokensError> {
        let failed = |why: String| TokensError::Read { path: path.to_owned(), why };
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let mode = file.metadata().map_err(|error| failed(error.to_string()))?.mode() & 0o7777;
        // Group members may read, which is how a daemon of its own user gets it; nobody but the owner may write.
        if mode & 0o027 != 0 {
            return Err(TokensError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(TOKENS_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| failed(error.to_string()))?;
        if text.len() as u64 > TOKENS_BYTES_MAX {
            return Err(failed(format!("they are larger than {TOKENS_BYTES_MAX} bytes")));
        }
        Tokens::parse(&text).map_err(|(line, why)| TokensError::Line { path: path.to_owned(), line, why })
    }

    fn parse(text: &str) -> Result<Tokens, (usize, &'static str)> {
        let mut names = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, token) = line.split_once('=').ok_or((number, "a line is `name = token`"))?;
            let (name, token) = (name.trim(), token.trim());
            if name.is_empty() {
                return Err((number, "the name is empty"));
            }
            let hash = match token.strip_prefix("sha256:") {
                Some(hex) => unhex(hex).ok_or((number, "after `sha256:` stand 64 hexadecimal digits"))?,
                None if token.len() < TOKEN_CHARACTERS_MIN => {
                    return Err((number, "the token is shorter than 16 characters"));
                }
                None => hash_of(token),
            };
            if names.insert(hash, name.to_owned()).is_some() {
                return Err((number, "another line has the same token"));
            }
        }
        Ok(Tokens { names })
    }

    /// Whose token this is.
    #[must_use]
    pub fn name_of(&self, token: &str) -> Option<&str> {
        self.names.get(&hash_of(token)).map(String::as_str)
    }

    /// The hashes of all tokens, by SHA-256.
    pub fn hashes(&self) -> impl Iterator<Item = [u8; 32]> {
        self.names.keys().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nobody may connect.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

fn hash_of(token: &str) -> [u8; 32] {
    sha2::Sha256::digest(token.as_bytes()).into()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn tokens_in_plain_text_and_as_hashes() {
        let tokens = Tokens::parse(
            "# comment\n\n ci = sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n\
             laptop = 0123456789abcdef=\n",
        )
        .unwrap();
        assert_eq!(tokens.name_of("test"), Some("ci"));
        assert_eq!(tokens.name_of("0123456789abcdef="), Some("laptop"));
        assert_eq!(tokens.name_of("0123456789abcdef"), None);
        assert_eq!((tokens.len(), tokens.is_empty()), (2, false));
        assert_eq!(format!("{tokens:?}"), "Tokens { count: 2, .. }");
    }

    #[test]
    fn lines_that_are_none() {
        let check = |text: &str, line: usize, why: &str| {
            let error = Tokens::parse(text).unwrap_err();
            assert!(error.0 == line && error.1.contains(why), "{text}: {error:?}");
        };
        check("\nno", 2, "name = token");
        check(" = 0123456789abcdef", 1, "empty");
        check("a = short", 1, "16 characters");
        check("a = sha256:12", 1, "64");
        check(&format!("a = sha256:{}", "é".repeat(32)), 1, "64");
        check("a = 0123456789abcdef\nb = 0123456789abcdef", 2, "same token");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        assert!(matches!(Tokens::load(&path), Err(TokensError::Read { .. })));
        std::fs::write(&path, "a = 0123456789abcdef\n").unwrap();
        for (mode, fits) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let expected = TokensError::Open { path: path.clone(), mode };
            assert_eq!(Tokens::load(&path).err(), (!fits).then_some(expected), "{mode:o}");
        }
    }
}
