//! Resource names of blobs, as ByteStream has them.
//!
//! ```text
//!   read    {instance/}blobs/{function/}{hash}/{size}
//!           {instance/}compressed-blobs/zstd/{function/}{hash}/{uncompressed size}
//!   write   {instance/}uploads/{upload}/(either of the above){/anything}
//! ```
//! Instance names contain slashes, so a name is split at its first reserved segment. Pure; total for any string.

use super::limits::{NAME_BYTES_MAX, UPLOAD_NAME_BYTES_MAX};
use crate::action::{Digest, DigestError, DigestFunction};

/// Segments that no instance name has.
pub const RESERVED: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

/// Digest functions of REAPI that we know by name only.
const FOREIGN_FUNCTIONS: [&str; 8] =
    ["sha1", "md5", "vso", "sha384", "sha512", "murmur3", "sha256tree", "gitsha1"];

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    Identity,
    /// As zstd frames.
    Zstd,
}

/// What ByteStream.Read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadName {
    /// Whose blob; may be empty.
    pub instance: String,
    /// How it shall be sent.
    pub compression: Compression,
    /// Which.
    pub digest: Digest,
}

/// What ByteStream.Write announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteName {
    /// Whose blob; may be empty.
    pub instance: String,
    /// The client's own name for this upload.
    pub upload: String,
    /// How it will be sent.
    pub compression: Compression,
    /// Which.
    pub digest: Digest,
}

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than any real one.
    #[error("the resource name has {0} bytes, more than {NAME_BYTES_MAX}")]
    Long(usize),
    /// Not of the form that the call needs.
    #[error("the resource name is not of the form {0}")]
    Form(&'static str),
    /// An instance name with an empty segment.
    #[error("the instance name in the resource name has an empty segment")]
    Instance,
    /// A compressor that is not offered.
    #[error("compressor {0:?} is not supported: zstd is")]
    Compressor(String),
    /// A digest function that is not offered.
    #[error("digest function {0:?} is not supported: sha256 and blake3 are")]
    Function(String),
    /// The size is no number.
    #[error("size {0:?} is not a decimal number")]
    Size(String),
    /// The hash is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

const READ_FORM: &str = "{instance/}blobs/{hash}/{size}";
const WRITE_FORM: &str = "{instance/}uploads/{uuid}/blobs/{hash}/{size}";

/// Parses the name of a blob to read.
///
/// # Errors
/// [`NameError`].
pub fn parse_read(name: &str) -> Result<ReadName, NameError> {
    let (instance, segments) = split(name, READ_FORM)?;
    let (compression, digest, rest) = blob(&segments, READ_FORM)?;
    if !rest.is_empty() {
        return Err(NameError::Form(READ_FORM));
    }
    Ok(ReadName { instance, compression, digest })
}

/// Parses the name of a blob to write.
///
/// # Errors
/// [`NameError`].
pub fn parse_write(name: &str) -> Result<WriteName, NameError> {
    let (instance, segments) = split(name, WRITE_FORM)?;
    let ["uploads", upload, segments @ ..] = segments.as_slice() else {
        return Err(NameError::Form(WRITE_FORM));
    };
    if upload.is_empty() || upload.len() > UPLOAD_NAME_BYTES_MAX {
        return Err(NameError::Form(WRITE_FORM));
    }
    // What follows is the client's own business.
    let (compression, digest, _) = blob(segments, WRITE_FORM)?;
    Ok(WriteName { instance, upload: (*upload).to_owned(), compression, digest })
}

/// The instance, and the segments from the first reserved one on.
fn split<'a>(name: &'a str, form: &'static str) -> Result<(String, Vec<&'a str>), NameError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::Long(name.len()));
    }
    let segments: Vec<&str> = name.split('/').collect();
    let first =
        segments.iter().position(|segment| RESERVED.contains(segment)).ok_or(NameError::Form(form))?;
    let (instance, rest) = segments.split_at(first);
    if instance.iter().any(|segment| segment.is_empty()) {
        return Err(NameError::Instance);
    }
    Ok((instance.join("/"), rest.to_vec()))
}

fn blob<'s, 'a>(
    segments: &'s [&'a str],
    form: &'static str,
) -> Result<(Compression, Digest, &'s [&'a str]), NameError> {
    let (compression, segments) = match segments {
        ["blobs", rest @ ..] => (Compression::Identity, rest),
        ["compressed-blobs", "zstd", rest @ ..] => (Compression::Zstd, rest),
        ["compressed-blobs", other, ..] => return Err(NameError::Compressor(cut(other))),
        _ => return Err(NameError::Form(form)),
    };
    let (function, segments) = match segments {
        ["sha256", rest @ ..] => (DigestFunction::Sha256, rest),
        ["blake3", rest @ ..] => (DigestFunction::Blake3, rest),
        [other, ..] if FOREIGN_FUNCTIONS.contains(other) => return Err(NameError::Function(cut(other))),
        rest => (DigestFunction::Sha256, rest),
    };
    let [hash, size, rest @ ..] = segments else { return Err(NameError::Form(form)) };
    Ok((compression, Digest::parse(function, hash, number(size)?)?, rest))
}

/// Digits only: no sign, and no space, which `parse` alone would take or refuse by its own rules.
fn number(text: &str) -> Result<i64, NameError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = text.parse().ok().filter(|_| digits);
    parsed.ok_or_else(|| NameError::Size(cut(text)))
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The name under which a blob is read, without the instance: what a violation of kind MISSING calls its subject.
#[must_use]
pub fn subject(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn digest(function: DigestFunction, size: i64) -> Digest {
        Digest::parse(function, HASH, size).unwrap()
    }

    #[test]
    fn names_of_blobs_to_read() {
        let check = |name: &str, instance: &str, compression, function, size| {
            let expected =
                ReadName { instance: instance.to_owned(), compression, digest: digest(function, size) };
            assert_eq!(parse_read(name), Ok(expected), "{name}");
        };
        use Compression::{Identity, Zstd};
        use DigestFunction::{Blake3, Sha256};
        check(&format!("blobs/{HASH}/0"), "", Identity, Sha256, 0);
        check(&format!("a/b/c/blobs/{HASH}/7"), "a/b/c", Identity, Sha256, 7);
        check(&format!("a/blobs/blake3/{HASH}/7"), "a", Identity, Blake3, 7);
        check(&format!("blobs/sha256/{HASH}/7"), "", Identity, Sha256, 7);
        check(&format!("compressed-blobs/zstd/{HASH}/7"), "", Zstd, Sha256, 7);
        check(&format!("a/compressed-blobs/zstd/blake3/{HASH}/7"), "a", Zstd, Blake3, 7);
    }

    #[test]
    fn names_of_blobs_to_write() {
        let check = |name: &str, instance: &str, compression, function| {
            let expected = WriteName {
                instance: instance.to_owned(),
                upload: "u-1".to_owned(),
                compression,
                digest: digest(function, 5),
            };
            assert_eq!(parse_write(name), Ok(expected), "{name}");
        };
        use Compression::{Identity, Zstd};
        use DigestFunction::{Blake3, Sha256};
        check(&format!("uploads/u-1/blobs/{HASH}/5"), "", Identity, Sha256);
        check(&format!("a/b/uploads/u-1/blobs/{HASH}/5/any/thing/blobs"), "a/b", Identity, Sha256);
        check(&format!("a/uploads/u-1/compressed-blobs/zstd/blake3/{HASH}/5"), "a", Zstd, Blake3);
    }

    #[test]
    fn other_names_are_refused() {
        let bad = [
            String::new(),
            "/".to_owned(),
            "blobs".to_owned(),
            format!("/blobs/{HASH}/0"),
            format!("a//blobs/{HASH}/0"),
            format!("blobs/{HASH}"),
            format!("blobs/{HASH}/"),
            format!("blobs/{HASH}/-1"),
            format!("blobs/{HASH}/+1"),
            format!("blobs/{HASH}/ 1"),
            format!("blobs/{HASH}/99999999999999999999"),
            format!("blobs/{HASH}/1/more"),
            format!("blobs/{}/1", HASH.to_uppercase()),
            format!("blobs/gitsha1/{HASH}/1"),
            format!("compressed-blobs/{HASH}/1"),
            format!("compressed-blobs/brotli/{HASH}/1"),
            format!("actions/blobs/{HASH}/1"),
            format!("uploads/u/blobs/{HASH}/1"),
            format!("{}/blobs/{HASH}/1", "a".repeat(5000)),
        ];
        for name in &bad {
            assert!(parse_read(name).is_err(), "{name}");
        }
        for name in
            [format!("blobs/{HASH}/1"), format!("uploads//blobs/{HASH}/1"), "uploads/u/blobs".to_owned()]
        {
            assert!(parse_write(&name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_string_is_too_odd(name in ".*") {
            let _ = parse_read(&name);
            let _ = parse_write(&name);
        }

        #[test]
        fn no_sequence_of_segments_is_too_odd(
            segments in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(RESERVED.to_vec()).prop_map(str::to_owned),
                    Just(HASH.to_owned()),
                    Just("zstd".to_owned()),
                    Just("blake3".to_owned()),
                    "[0-9]{0,20}",
                    "[a-z./ %]{0,4}",
                ],
                0..8,
            ),
        ) {
            let name = segments.join("/");
            if let Ok(read) = parse_read(&name) {
                prop_assert!(read.instance.split('/').all(|segment| !RESERVED.contains(&segment)));
                prop_assert!(!read.instance.starts_with('/'));
            }
            if let Ok(write) = parse_write(&name) {
                prop_assert!(write.instance.split('/').all(|segment| !RESERVED.contains(&segment)));
            }
        }

        #[test]
        fn what_is_printed_is_parsed(
            instance in proptest::collection::vec("[a-zA-Z0-9_-]{1,8}", 0..4),
            content in any::<Vec<u8>>(),
            blake in any::<bool>(),
        ) {
            let instance = instance.join("/");
            prop_assume!(instance.split('/').all(|segment| !RESERVED.contains(&segment)));
            let function = if blake { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
            let digest = Digest::of(function, &content);
            let slash = if instance.is_empty() { "" } else { "/" };
            let read = parse_read(&format!("{instance}{slash}{}", subject(&digest))).unwrap();
            prop_assert_eq!(read, ReadName { instance, compression: Compression::Identity, digest });
        }
    }
}
