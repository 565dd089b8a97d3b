//! The renames that make an output visible, each atomic, and those that take it back.
//!
//! ```text
//!   nothing there            RENAME                 back: RENAME
//!   something there          EXCHANGE               back: EXCHANGE          the old one is now where the new one was
//!   no EXCHANGE here         a file: RENAME over it, which cannot be taken back
//!                            a directory: it steps aside to .fulgurite-old-<tag>-<n>, and comes back on failure
//! ```
//! Invariant: a file or symlink is at its name at all times, old or new; so is a directory where EXCHANGE is known.
//! Ext4, XFS, btrfs, tmpfs and f2fs know it.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, RenameFlags};
use rustix::io::Errno;

use crate::failpoint::hit;
use crate::stage::beneath;
use crate::stage::replicate::permissions;

/// A name in an open directory.
pub(super) type At<'a> = (BorrowedFd<'a>, &'a CStr);

/// How an output came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing was there.
    Moved,
    /// What was there is where the output came from.
    Exchanged,
    /// What was there is gone.
    Replaced,
    /// What was there is at the aside name.
    Aside,
}

/// The name that an output is copied to, beside its destination.
pub(super) fn temporary_name(tag: u64, index: usize) -> CString {
    CString::new(format!(".fulgurite-tmp-{tag:016x}-{index}")).unwrap_or_default()
}

/// The name that a replaced directory steps aside to where there is no EXCHANGE.
pub(super) fn aside_name(tag: u64, index: usize) -> CString {
    CString::new(format!(".fulgurite-old-{tag:016x}-{index}")).unwrap_or_default()
}

/// Renames `from` to `to`, whatever is there.
pub(super) fn put(from: At<'_>, to: At<'_>, aside: &CStr) -> Result<Way, Errno> {
    hit("commit.rename")?;
    let way = match rename(from, to, RenameFlags::NOREPLACE) {
        Ok(()) => Way::Moved,
        Err(Errno::EXIST | Errno::NOTEMPTY) => exchange(from, to, aside)?,
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if beneath::look(to.0, to.1)?.is_none() => {
            rename(from, to, RenameFlags::empty())?;
            Way::Moved
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => without_exchange(from, to, aside)?,
        Err(why) => return Err(why),
    };
    hit("commit.renamed")?;
    Ok(way)
}

fn exchange(from: At<'_>, to: At<'_>, aside: &CStr) -> Result<Way, Errno> {
    match rename(from, to, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Way::Exchanged),
        // It was removed since.
        Err(Errno::NOENT) => rename(from, to, RenameFlags::empty()).map(|()| Way::Moved),
        // To move a directory is to write to it (its `..` changes), and this one is read-only. It is on its way out.
        Err(Errno::ACCESS) => {
            let stat = beneath::look(to.0, to.1)?.ok_or(Errno::NOENT)?;
            beneath::change_mode(to.0, to.1, (beneath::mode(&stat) & permissions()) | Mode::RWXU)?;
            rename(from, to, RenameFlags::EXCHANGE).map(|()| Way::Exchanged)
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => without_exchange(from, to, aside),
        Err(why) => Err(why),
    }
}

fn without_exchange(from: At<'_>, to: At<'_>, aside: &CStr) -> Result<Way, Errno> {
    let is_directory = |at: At<'_>| -> Result<bool, Errno> {
        Ok(beneath::look(at.0, at.1)?.is_some_and(|stat| beneath::kind(&stat) == FileType::Directory))
    };
    if !is_directory(from)? && !is_directory(to)? {
        return rename(from, to, RenameFlags::empty()).map(|()| Way::Replaced);
    }
    rename(to, (to.0, aside), RenameFlags::empty())?;
    hit("commit.aside")?;
    match rename(from, to, RenameFlags::empty()) {
        Ok(()) => Ok(Way::Aside),
        Err(why) => {
            rename((to.0, aside), to, RenameFlags::empty())?;
            Err(why)
        }
    }
}

/// Takes an output back to where it came from. `false` if what was there cannot come back.
pub(super) fn take_back(from: At<'_>, to: At<'_>, aside: &CStr, way: Way) -> Result<bool, Errno> {
    match way {
        Way::Moved => rename(to, from, RenameFlags::empty())?,
        Way::Exchanged => rename(to, from, RenameFlags::EXCHANGE)?,
        Way::Aside => {
            rename(to, from, RenameFlags::empty())?;
            rename((to.0, aside), to, RenameFlags::empty())?;
        }
        Way::Replaced => return Ok(false),
    }
    Ok(true)
}

fn rename(from: At<'_>, to: At<'_>, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)
}
