//! From the store onward: a blob as a file in a tree.
//!
//! ```text
//!   auto       reflink, else copy         a tree that a user can write never shares an inode with the store
//!   reflink    reflink, else an error
//!   hardlink   a link, read-only, if the caller asks for it and the file is not executable; else an error
//!   copy       copy, always
//! ```
//! Invariants: a name appears with all of its bytes or not at all; what is there already is never replaced; no inode of
//! the store is changed. Limits: the blob must be pinned; nothing is synced.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::handoff::HandoffError;
use crate::action::Digest;
use crate::cas::{Blob, Cas};
use crate::stage::beneath;
use crate::stage::contents::{self, Transfer};

/// How a blob comes into a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandoffWay {
    /// Shared blocks where the filesystem can, else a copy.
    #[default]
    Auto,
    /// Shared blocks.
    Reflink,
    /// The very inode of the store, which nobody may write to.
    Hardlink,
    /// Bytes of its own.
    Copy,
}

/// How it came there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It shares blocks with the blob.
    Reflinked,
    /// It is the blob.
    Hardlinked,
    /// This many bytes were written; holes do not count.
    Copied(u64),
}

impl Placed {
    /// Bytes that had to be copied.
    #[must_use]
    pub fn bytes_copied(self) -> u64 {
        match self {
            Placed::Reflinked | Placed::Hardlinked => 0,
            Placed::Copied(bytes) => bytes,
        }
    }
}

impl HandoffWay {
    /// All of them, by the names that people use.
    pub const NAMES: [(&'static str, HandoffWay); 4] = [
        ("auto", HandoffWay::Auto),
        ("reflink", HandoffWay::Reflink),
        ("hardlink", HandoffWay::Hardlink),
        ("copy", HandoffWay::Copy),
    ];
}

impl fmt::Display for HandoffWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = HandoffWay::NAMES.iter().find(|(_, way)| way == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for HandoffWay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = HandoffWay::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, way)| *way).ok_or_else(|| {
            let names = HandoffWay::NAMES.map(|(name, _)| name).join(", ");
            format!("no way of handing off is called {text:?}: there are {names}")
        })
    }
}

/// Makes `name` in `dir` a file with the bytes of a blob; its mode is 0644 or 0755, or 0444 for a hard link.
///
/// # Errors
/// [`HandoffError::Cas`] if the blob is not there, [`HandoffError::Io`] if the way is not possible there
/// (`OPNOTSUPP`, `XDEV`; `INVAL` for an executable hard link) or `name` exists.
pub fn place(
    cas: &Cas,
    digest: &Digest,
    (dir, name): (BorrowedFd<'_>, &CStr),
    executable: bool,
    way: HandoffWay,
) -> Result<Placed, HandoffError> {
    let shown = || name.to_string_lossy().into_owned();
    let fault = |tried| move |why| HandoffError::io(tried, shown(), why);
    if way == HandoffWay::Hardlink {
        if executable {
            // One inode has one mode, and the blob's is 0444.
            return Err(HandoffError::io("link as an executable", shown(), Errno::INVAL));
        }
        // A missing blob is told as that.
        let _blob = cas.open_blob(digest)?;
        let path = Cas::object_path(digest);
        rustix::fs::linkat(cas.objects(), path.as_str(), dir, name, AtFlags::empty())
            .map_err(fault("link"))?;
        return Ok(Placed::Hardlinked);
    }
    let blob = cas.open_blob(digest)?;
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    // Without a name until it is whole.
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, c".", flags, mode).map_err(fault("create"))?;
    let placed = fill(&blob, file.as_fd(), way).map_err(fault(match way {
        HandoffWay::Reflink => "reflink",
        _ => "write",
    }))?;
    rustix::fs::fchmod(&file, mode).map_err(fault("change the mode of"))?;
    beneath::name_file(file.as_fd(), dir, name).map_err(fault("name"))?;
    Ok(placed)
}

fn fill(blob: &Blob, file: BorrowedFd<'_>, way: HandoffWay) -> Result<Placed, Errno> {
    let size = blob.size_bytes;
    let source = blob.file.as_fd();
    match way {
        // Of no bytes there is nothing to share.
        HandoffWay::Reflink if size > 0 => {
            rustix::fs::ioctl_ficlone(file, source)?;
            Ok(Placed::Reflinked)
        }
        HandoffWay::Copy => contents::copy(source, file, size, size).map(Placed::Copied),
        _ => Ok(match contents::transfer(source, file, size, size)? {
            Transfer::Shared => Placed::Reflinked,
            Transfer::Copied(bytes) => Placed::Copied(bytes),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::DigestFunction;
    use crate::cas::CasOptions;
    use crate::stage::tests::open;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_blob_becomes_a_file_and_stays_what_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let cas = Cas::open(&CasOptions { dir: temp.path().join("store"), size_bytes_max: 1 << 30 }).unwrap();
        let digest = cas.put_bytes(DigestFunction::Sha256, b"bytes").unwrap();
        let dir = open(temp.path());
        let put = |name: &CStr, executable, way| place(&cas, &digest, (dir.as_fd(), name), executable, way);
        let blob = fs::metadata(temp.path().join("store/objects").join(Cas::object_path(&digest))).unwrap();
        assert!(matches!(put(c"a", true, HandoffWay::Auto), Ok(Placed::Reflinked | Placed::Copied(5))));
        assert_eq!(put(c"c", false, HandoffWay::Copy), Ok(Placed::Copied(5)));
        assert_eq!(put(c"h", false, HandoffWay::Hardlink), Ok(Placed::Hardlinked));
        for (name, mode, shared) in [("a", 0o755, false), ("c", 0o644, false), ("h", 0o444, true)] {
            let path = temp.path().join(name);
            let stat = fs::metadata(&path).unwrap();
            assert_eq!((stat.permissions().mode() & 0o7777, stat.ino() == blob.ino()), (mode, shared));
            assert_eq!(fs::read(path).unwrap(), b"bytes");
        }
        let why = |answer: Result<Placed, HandoffError>| answer.unwrap_err().to_string();
        assert!(why(put(c"c", false, HandoffWay::Auto)).contains("\"c\": file exists"));
        assert!(why(put(c"x", true, HandoffWay::Hardlink)).contains("as an executable"));
        let gone = Digest::of(DigestFunction::Sha256, b"gone");
        let missing = place(&cas, &gone, (dir.as_fd(), c"g"), false, HandoffWay::Hardlink);
        assert!(why(missing).contains("not in the store"));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 4);
    }

    #[test]
    fn ways_have_names() {
        for (name, way) in HandoffWay::NAMES {
            assert_eq!((name.parse(), way.to_string().as_str()), (Ok(way), name));
        }
        assert!("move".parse::<HandoffWay>().unwrap_err().contains("auto, reflink"));
    }
}
