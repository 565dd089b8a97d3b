//! Which blobs a result needs: read out of its encoded form, and out of the Trees and Directories that it names.
//!
//! ```text
//!   ActionResult ─ output_files ─────────────► blob
//!                ├ stdout_digest, stderr_digest ► blob
//!                └ output_directories
//!                    ├ tree_digest ───────────► Tree ─ root, children ─ files ─► blob
//!                    └ root_directory_digest ─► Directory ─ files ─► blob
//!                                                   └ directories ─► Directory …
//! ```
//! Messages are scanned where they lie, never built: a message of two bytes a node would become fifty times its size.
//! A digest is needed even where the contents stand beside it, since there are clients that read by the digest all the
//! same; contents without a digest need no blob.
//!
//! Invariant: no Directory is read twice, and what is read and found stays within [`super::limits`].
//! Limits: names and order of Directories are not checked: nothing is made of them here.

use super::limits::{ENCODED_BYTES_MAX, REFERENCES_MAX, TREE_BYTES_MAX, WALK_BYTES_MAX};
use crate::action::{Digest, DigestError, DigestFunction};
use crate::cas::{Cas, CasError};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::collections::HashSet;

/// Why the blobs of a result cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not an encoding of such a message.
    #[error("not an encoded {message}: {why}")]
    Malformed {
        /// What it should be.
        message: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A digest that is none.
    #[error("{message}: {why}")]
    Digest {
        /// In which message.
        message: &'static str,
        /// What is wrong.
        why: DigestError,
    },
    /// A result that is not worth its entry.
    #[error("the result names too much: {what} exceed {max}")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// A Tree or Directory is not in the store.
    #[error("blob {0}, which lists outputs, is not in the store")]
    Missing(Digest),
    /// A Tree or Directory could not be read.
    #[error(transparent)]
    Store(CasError),
}

/// Lists every blob that an encoded ActionResult needs, each once, in no order. Reads the Trees and Directories that it
/// names, which must be in the store.
///
/// # Errors
/// [`ReferenceError`]: such a result is not to be cached.
pub fn references(
    cas: &Cas,
    function: DigestFunction,
    encoded: &[u8],
) -> Result<Vec<Digest>, ReferenceError> {
    if encoded.len() > ENCODED_BYTES_MAX {
        let max = ENCODED_BYTES_MAX as u64;
        return Err(ReferenceError::TooLarge { what: "bytes of the result", max });
    }
    let mut walk = Walk {
        cas,
        function,
        found: HashSet::new(),
        trees: HashSet::new(),
        directories: HashSet::new(),
        unread: Vec::new(),
        read_bytes: 0,
    };
    walk.result(encoded)?;
    while let Some(directory) = walk.unread.pop() {
        let bytes = walk.read(&directory)?;
        walk.directory(&bytes, true)?;
    }
    Ok(walk.found.into_iter().collect())
}

struct Walk<'a> {
    cas: &'a Cas,
    function: DigestFunction,
    found: HashSet<Digest>,
    /// Trees that were read.
    trees: HashSet<Digest>,
    /// Directories that were read or will be.
    directories: HashSet<Digest>,
    unread: Vec<Digest>,
    read_bytes: u64,
}

impl Walk<'_> {
    fn result(&mut self, encoded: &[u8]) -> Result<(), ReferenceError> {
        let (mut stdout, mut stderr) = (Sent::default(), Sent::default());
        for field in Fields::of("ActionResult", encoded) {
            match field? {
                (2, Value::Bytes(file)) => self.output_file(file)?,
                (3, Value::Bytes(directory)) => self.output_directory(directory)?,
                (6, Value::Bytes(digest)) => stdout.merge(digest)?,
                (8, Value::Bytes(digest)) => stderr.merge(digest)?,
                _ => {}
            }
        }
        for (message, sent) in
            [("ActionResult.stdout_digest", stdout), ("ActionResult.stderr_digest", stderr)]
        {
            if let Some(digest) = sent.digest(self.function, message)? {
                self.add(digest)?;
            }
        }
        Ok(())
    }

    fn output_file(&mut self, encoded: &[u8]) -> Result<(), ReferenceError> {
        let (mut sent, mut inline) = (Sent::default(), false);
        for field in Fields::of("OutputFile", encoded) {
            match field? {
                (2, Value::Bytes(digest)) => sent.merge(digest)?,
                (5, Value::Bytes(contents)) => inline = !contents.is_empty(),
                _ => {}
            }
        }
        match sent.digest(self.function, "OutputFile")? {
            Some(digest) => self.add(digest),
            None if inline => Ok(()),
            None => Err(missing_digest("OutputFile")),
        }
    }

    fn output_directory(&mut self, encoded: &[u8]) -> Result<(), ReferenceError> {
        let (mut tree, mut root) = (Sent::default(), Sent::default());
        for field in Fields::of("OutputDirectory", encoded) {
            match field? {
                (3, Value::Bytes(digest)) => tree.merge(digest)?,
                (5, Value::Bytes(digest)) => root.merge(digest)?,
                _ => {}
            }
        }
        let tree = tree.digest(self.function, "OutputDirectory.tree_digest")?;
        let root = root.digest(self.function, "OutputDirectory.root_directory_digest")?;
        if tree.is_none() && root.is_none() {
            return Err(missing_digest("OutputDirectory"));
        }
        if let Some(root) = root {
            self.add_directory(root)?;
        }
        match tree {
            // A blob can be a file among the outputs and a Tree: that it was found says nothing.
            Some(tree) if self.trees.insert(tree) => {
                self.add(tree)?;
                let bytes = self.read(&tree)?;
                self.tree(&bytes)
            }
            _ => Ok(()),
        }
    }

    fn tree(&mut self, encoded: &[u8]) -> Result<(), ReferenceError> {
        for field in Fields::of("Tree", encoded) {
            if let (1 | 2, Value::Bytes(directory)) = field? {
                // The directories below it are in the Tree, and need not be blobs.
                self.directory(directory, false)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, encoded: &[u8], descend: bool) -> Result<(), ReferenceError> {
        for field in Fields::of("Directory", encoded) {
            match field? {
                (1, Value::Bytes(node)) => {
                    let digest = self.node("FileNode", node)?;
                    self.add(digest)?;
                }
                (2, Value::Bytes(node)) if descend => {
                    let digest = self.node("DirectoryNode", node)?;
                    self.add_directory(digest)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&self, message: &'static str, encoded: &[u8]) -> Result<Digest, ReferenceError> {
        let mut sent = Sent::default();
        for field in Fields::of(message, encoded) {
            if let (2, Value::Bytes(digest)) = field? {
                sent.merge(digest)?;
            }
        }
        sent.digest(self.function, message)?.ok_or_else(|| missing_digest(message))
    }

    fn add(&mut self, digest: Digest) -> Result<(), ReferenceError> {
        self.found.insert(digest);
        let max = REFERENCES_MAX as u64;
        let fits = self.found.len() <= REFERENCES_MAX;
        if fits { Ok(()) } else { Err(ReferenceError::TooLarge { what: "blobs", max }) }
    }

    fn add_directory(&mut self, digest: Digest) -> Result<(), ReferenceError> {
        self.add(digest)?;
        if self.directories.insert(digest) {
            self.unread.push(digest);
        }
        Ok(())
    }

    fn read(&mut self, digest: &Digest) -> Result<Vec<u8>, ReferenceError> {
        if *digest == Digest::empty(self.function) {
            return Ok(Vec::new());
        }
        self.read_bytes = self.read_bytes.saturating_add(digest.size_bytes);
        if digest.size_bytes > TREE_BYTES_MAX {
            return Err(ReferenceError::TooLarge { what: "bytes of a Tree", max: TREE_BYTES_MAX });
        }
        if self.read_bytes > WALK_BYTES_MAX {
            return Err(ReferenceError::TooLarge { what: "bytes of Trees", max: WALK_BYTES_MAX });
        }
        self.cas.read(digest, TREE_BYTES_MAX).map_err(|error| match error {
            CasError::Missing(digest) => ReferenceError::Missing(digest),
            error => ReferenceError::Store(error),
        })
    }
}

fn missing_digest(message: &'static str) -> ReferenceError {
    ReferenceError::Digest { message, why: DigestError::Missing(message) }
}

/// A Digest message, which may come in parts: later ones are merged into earlier ones.
#[derive(Default)]
struct Sent<'a> {
    there: bool,
    hash: &'a [u8],
    size_bytes: i64,
}

impl<'a> Sent<'a> {
    fn merge(&mut self, encoded: &'a [u8]) -> Result<(), ReferenceError> {
        self.there = true;
        for field in Fields::of("Digest", encoded) {
            match field? {
                (1, Value::Bytes(hash)) => self.hash = hash,
                (2, Value::Number(size)) => self.size_bytes = size.cast_signed(),
                _ => {}
            }
        }
        Ok(())
    }

    fn digest(
        &self,
        function: DigestFunction,
        message: &'static str,
    ) -> Result<Option<Digest>, ReferenceError> {
        if !self.there {
            return Ok(None);
        }
        let hash = String::from_utf8_lossy(self.hash);
        Digest::parse(function, &hash, self.size_bytes)
            .map(Some)
            .map_err(|why| ReferenceError::Digest { message, why })
    }
}

enum Value<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    Other,
}

/// The fields of an encoded message, in order.
struct Fields<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'static str, encoded: &'a [u8]) -> Self {
        Fields { message, rest: encoded }
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), prost::DecodeError> {
        let (number, wire_type) = decode_key(&mut self.rest)?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut self.rest)?),
            WireType::LengthDelimited => {
                let mut after = self.rest;
                let length = usize::try_from(decode_varint(&mut after)?).unwrap_or(usize::MAX);
                match after.split_at_checked(length) {
                    Some((bytes, rest)) => {
                        self.rest = rest;
                        Value::Bytes(bytes)
                    }
                    // Says what is wrong in prost's words.
                    None => {
                        skip_field(wire_type, number, &mut self.rest, DecodeContext::default())?;
                        Value::Other
                    }
                }
            }
            other => {
                skip_field(other, number, &mut self.rest, DecodeContext::default())?;
                Value::Other
            }
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), ReferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.message;
        let field = self.field();
        Some(field.map_err(|why| {
            self.rest = &[];
            ReferenceError::Malformed { message, why: why.to_string() }
        }))
    }
}
