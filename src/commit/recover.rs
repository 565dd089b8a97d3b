//! Recovery: what dead processes were publishing is finished, before anything else is published or swept.
//!
//! ```text
//!   slot locked                                         its process lives: left alone
//!   torn, or `prepared`                                 nothing was renamed: temporary names go
//!   `intent`, for each output:
//!       the new one is at its place                     done
//!       the new one still waits, and nothing or the old one is at its place
//!                                                       pending
//!       anything else                                   changed by somebody else
//!     ──► none changed: all pending ones are renamed    the tree is all new
//!     ──► any changed: the tree has moved on; nothing is touched, and it is said loudly
//!     ──► the layer is gone while outputs wait: said loudly
//!     ──► a rename fails: said, and kept with its layer for the next start
//! ```
//! Invariants: the decision ([`decide`]) is pure, and made for a whole record before its first rename; recovering
//! twice, or dying during it, is no harm. One recovery at a time works in a journal; another waits.
//!
//! Limits: what an action replaced is gone with its layer, whose sweep comes after this. Directories that were created
//! for outputs of a publication that was never claimed may stay, empty.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::destination::identity;
use super::in_place;
use super::journal::{DIRECTORY, Durability, SLOT_PREFIX, open_slot};
use super::limits::{RECORD_BYTES_MAX, RECOVER_MAX};
use super::record::{self, Anchor, Entry, Found, Identity, Phase, Record};
use super::renames::{self, aside_name, temporary_name};
use crate::failpoint::hit;
use crate::stage::beneath::{self, Way};
use crate::stage::{Fault, Places, StageError, existing_places, remove_tree};

/// What a recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Publications that were completed, or found complete.
    pub completed: usize,
    /// Outputs renamed for that.
    pub renamed: u64,
    /// Publications that had not begun, and never will.
    pub dropped: usize,
    /// Records that are no whole ones: nothing had been published for them.
    pub torn: Vec<String>,
    /// Commands in place that died with their process, and whose outputs were removed.
    pub cleared: Vec<String>,
    /// Publications whose process lives.
    pub alive: usize,
    /// What its user must know: publications that cannot be completed any more, and why.
    pub lost: Vec<String>,
    /// Publications that could not be completed now, and why; the next recovery tries again.
    pub failed: Vec<String>,
    /// Names of the layers that those need: not to be swept.
    pub needed: HashSet<OsString>,
}

impl Recovered {
    /// What its user is to be told, a line each.
    pub fn all_told(&self) -> impl Iterator<Item = &String> {
        self.lost.iter().chain(&self.cleared).chain(&self.torn).chain(&self.failed)
    }

    fn add(&mut self, other: Self) {
        self.completed += other.completed;
        self.renamed += other.renamed;
        self.dropped += other.dropped;
        self.torn.extend(other.torn);
        self.cleared.extend(other.cleared);
        self.alive += other.alive;
        self.lost.extend(other.lost);
        self.failed.extend(other.failed);
        self.needed.extend(other.needed);
    }
}

/// Recovers the journals of all places that exist. Call it before [`crate::stage::sweep_all_but`], with the layers that
/// are still needed.
///
/// # Errors
/// [`StageError`]: a journal cannot be listed.
pub fn recover_all(places: &Places, durability: Durability) -> Result<Recovered, StageError> {
    let mut all = Recovered::default();
    for place in existing_places(places) {
        all.add(recover(place.as_fd(), durability)?);
    }
    Ok(all)
}

/// Recovers the journal in the place `home`.
///
/// # Errors
/// [`Fault`]: it cannot be opened, locked or listed.
pub fn recover(home: BorrowedFd<'_>, durability: Durability) -> Result<Recovered, Fault> {
    let mut recovered = Recovered::default();
    let dir = match beneath::open_dir(home, DIRECTORY) {
        Err(Errno::NOENT) => return Ok(recovered),
        dir => dir.map_err(Fault::of("open", "the journal"))?,
    };
    rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(Fault::of("lock", "the journal"))?;
    let (entries, _) = beneath::list(dir.as_fd(), RECOVER_MAX).map_err(Fault::of("list", "the journal"))?;
    for (name, _) in entries {
        if name.to_bytes().starts_with(SLOT_PREFIX.as_bytes()) {
            recover_slot(dir.as_fd(), &name, durability, &mut recovered);
        }
    }
    let _ = rustix::fs::unlinkat(home, DIRECTORY, AtFlags::REMOVEDIR);
    Ok(recovered)
}

fn recover_slot(dir: BorrowedFd<'_>, name: &CStr, durability: Durability, recovered: &mut Recovered) {
    let opened = open_slot(dir, name).and_then(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        read_all(&file).map(|bytes| (file, bytes))
    });
    let (held, bytes) = match opened {
        Err(Errno::NOENT) => return,
        Err(Errno::WOULDBLOCK) => return recovered.alive += 1,
        Err(why) => {
            let why = Fault::new("read a slot of the journal", name.to_string_lossy().as_ref(), why);
            return recovered.failed.push(why.to_string());
        }
        Ok(opened) => opened,
    };
    match record::decode(&bytes) {
        Found::Nothing => {}
        Found::Torn(why) => {
            let name = name.to_string_lossy();
            recovered.torn.push(format!("the record {name} of the journal counts for nothing: {why}"));
        }
        Found::Whole(Phase::Intent, record) => match finish(&record, durability) {
            Ok(End::Complete { renamed }) => {
                recovered.completed += 1;
                recovered.renamed += renamed;
            }
            Ok(End::Lost(why)) => recovered.lost.push(say(&record, &why)),
            Err(why) => {
                recovered.failed.push(say(&record, &why.to_string()));
                recovered.needed.extend(layer_name(&record.layer));
                return;
            }
        },
        Found::Whole(Phase::InPlace, record) => {
            let beat = in_place::last_beat(&held);
            match open_anchor(&record.root).map_err(Fault::of("open", &record.root.path)) {
                Ok(None) => {}
                Ok(Some(root)) => match in_place::end(&record, root.as_fd(), beat) {
                    Ok(in_place::Ended::Untouched) => {}
                    Ok(in_place::Ended::Cleared) => {
                        recovered.cleared.push(say_in_place(&record, "were removed"))
                    }
                    Ok(in_place::Ended::MovedOn(output)) => {
                        let why = format!("stay, for {output} was changed later by somebody else");
                        recovered.lost.push(say_in_place(&record, &why));
                    }
                    Err(why) => return recovered.failed.push(say_in_place(&record, &format!("stay: {why}"))),
                },
                Err(why) => return recovered.failed.push(say_in_place(&record, &format!("stay: {why}"))),
            }
        }
        Found::Whole(_, record) => {
            recovered.dropped += 1;
            if let Ok(Some(root)) = open_anchor(&record.root) {
                tidy(root.as_fd(), &record);
            }
        }
    }
    if let Err(why) = rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        let why = Fault::new("remove a slot of the journal", name.to_string_lossy().as_ref(), why);
        recovered.failed.push(why.to_string());
    }
}

fn say(record: &Record, why: &str) -> String {
    let action = String::from_utf8_lossy(&record.action);
    let count = record.outputs.len();
    format!(
        "a publication of {count} outputs below {} by a process that died (action {action:?}, {:x}) was not \
         completed: {why}",
        record.root.path.display(),
        record.epoch,
    )
}

fn say_in_place(record: &Record, what: &str) -> String {
    let action = String::from_utf8_lossy(&record.action);
    let root = record.root.path.display();
    format!("the outputs below {root} of a command that ran there ({action:?}) and died half way {what}")
}

/// The name of the directory that holds the upper one.
fn layer_name(layer: &Anchor) -> Option<OsString> {
    layer.path.parent()?.file_name().map(OsStr::to_os_string)
}

enum End {
    Complete { renamed: u64 },
    Lost(String),
}

/// What is seen of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// At its place.
    there: Option<Identity>,
    /// Where it waits; `None` too if the layer is gone.
    waits: Option<u64>,
}

/// What is to be done for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// These outputs are to be renamed; the others have been.
    Forward(Vec<usize>),
    /// This one was changed by somebody else.
    MovedOn(usize),
    /// This one waits for a layer that is gone.
    LayerGone(usize),
}

fn decide(outputs: &[Entry], seen: &[Seen], layer_is_there: bool) -> Decision {
    let mut pending = Vec::new();
    for (index, (entry, seen)) in outputs.iter().zip(seen).enumerate() {
        if seen.there.is_some_and(|there| there.inode == entry.new) {
            continue;
        }
        let untouched = seen.there.is_none() || seen.there == entry.old;
        match (seen.waits == Some(entry.new), untouched) {
            (true, true) => pending.push(index),
            (false, true) if !layer_is_there && !entry.temporary => return Decision::LayerGone(index),
            _ => return Decision::MovedOn(index),
        }
    }
    Decision::Forward(pending)
}

fn finish(record: &Record, durability: Durability) -> Result<End, Fault> {
    let root = match open_anchor(&record.root).map_err(Fault::of("open", &record.root.path))? {
        Some(root) => root,
        // Its filesystem may not be mounted yet.
        None if record.root.path.exists() => {
            return Err(Fault::new("find the same directory at", &record.root.path, Errno::STALE));
        }
        None => return Ok(End::Lost("the directory is gone".to_owned())),
    };
    let layer = open_anchor(&record.layer).map_err(Fault::of("open", &record.layer.path))?;
    let layer = layer.as_ref().map(AsFd::as_fd);
    let mut seen = Vec::with_capacity(record.outputs.len());
    for index in 0..record.outputs.len() {
        let fault = |why| Fault::new("inspect", record.outputs[index].path.as_path(), why);
        seen.push(see(root.as_fd(), layer, record, index).map_err(fault)?);
    }
    let shown = |index: usize| record.outputs[index].path.to_string();
    let pending = match decide(&record.outputs, &seen, layer.is_some()) {
        Decision::Forward(pending) => pending,
        Decision::MovedOn(index) => {
            return Ok(End::Lost(format!("{} was changed since; nothing was touched", shown(index))));
        }
        Decision::LayerGone(index) => {
            let layer = record.layer.path.display();
            return Ok(End::Lost(format!("{} is missing: its layer {layer} is gone", shown(index))));
        }
    };
    let renamed = pending.len() as u64;
    for index in pending {
        let fault = |why| Fault::new("rename", record.outputs[index].path.as_path(), why);
        hit("commit.recover").map_err(fault)?;
        forward(root.as_fd(), layer, record, index, durability).map_err(fault)?;
    }
    tidy(root.as_fd(), record);
    Ok(End::Complete { renamed })
}

fn see(
    root: BorrowedFd<'_>,
    layer: Option<BorrowedFd<'_>>,
    record: &Record,
    index: usize,
) -> Result<Seen, Errno> {
    let entry = &record.outputs[index];
    let name = name_of(entry);
    let inode = |dir: &Option<OwnedFd>, name: &CStr| match dir {
        Some(dir) => beneath::look(dir.as_fd(), name),
        None => Ok(None),
    };
    let target = parent_of(root, entry)?;
    let there = inode(&target, &name)?.map(|stat| identity(&stat));
    let waits = if entry.temporary {
        inode(&target, &temporary_name(record.tag, index))?
    } else {
        match layer {
            Some(layer) => inode(&parent_of(layer, entry)?, &name)?,
            None => None,
        }
    };
    Ok(Seen { there, waits: waits.map(|stat| stat.st_ino) })
}

fn forward(
    root: BorrowedFd<'_>,
    layer: Option<BorrowedFd<'_>>,
    record: &Record,
    index: usize,
    durability: Durability,
) -> Result<(), Errno> {
    let entry = &record.outputs[index];
    let (name, aside) = (name_of(entry), aside_name(record.tag, index));
    let target = parent_of(root, entry)?.ok_or(Errno::NOENT)?;
    let to = (target.as_fd(), name.as_c_str());
    if entry.temporary {
        let temporary = temporary_name(record.tag, index);
        renames::put((target.as_fd(), &temporary), to, &aside)?;
    } else {
        let source = parent_of(layer.ok_or(Errno::NOENT)?, entry)?.ok_or(Errno::NOENT)?;
        renames::put((source.as_fd(), &name), to, &aside)?;
    }
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => rustix::fs::fsync(&target),
    }
}

/// Removes temporary names and what was replaced. Best effort: such a name is hidden, and tells whose it is.
fn tidy(root: BorrowedFd<'_>, record: &Record) {
    for (index, entry) in record.outputs.iter().enumerate() {
        if let Ok(Some(dir)) = parent_of(root, entry) {
            for name in [temporary_name(record.tag, index), aside_name(record.tag, index)] {
                let _ = remove_tree(dir.as_fd(), &name, u64::MAX);
            }
        }
    }
}

fn name_of(entry: &Entry) -> CString {
    CString::new(entry.path.file_name().as_bytes()).unwrap_or_default()
}

/// The directory below `top` that holds the output, if it is there.
fn parent_of(top: BorrowedFd<'_>, entry: &Entry) -> Result<Option<OwnedFd>, Errno> {
    let parent = entry.path.parent();
    let parent = parent.as_ref().map_or(Path::new("."), |parent| parent.as_path());
    match beneath::open_dir_at(top, parent, Way::NoSymlinks) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Opens a directory of a record; `None` if it is not there, or another one is.
fn open_anchor(anchor: &Anchor) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(&anchor.path, flags, Mode::empty()) {
        Ok(dir) => Ok((rustix::fs::fstat(&dir)?.st_ino == anchor.inode).then_some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(why) => Err(why),
    }
}

fn read_all(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let length = rustix::fs::fstat(file)?.st_size;
    let max = RECORD_BYTES_MAX as i64 * 2;
    let mut bytes = vec![0; usize::try_from(length.min(max)).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(file, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ExecPath;
    use crate::output::OutputKind;

    const OLD: Identity = Identity { inode: 1, mtime: 9 };
    const NEW: u64 = 2;

    /// What is there, what waits, whether the layer is there, and what follows.
    fn check(there: Option<Identity>, waits: Option<u64>, layer_is_there: bool, expected: &Decision) {
        let path = ExecPath::new("a").unwrap();
        let entry = Entry { path, kind: OutputKind::File, temporary: false, new: NEW, old: Some(OLD) };
        let decision = decide(&[entry], &[Seen { there, waits }], layer_is_there);
        assert_eq!(decision, *expected, "{there:?} {waits:?} {layer_is_there}");
    }

    #[test]
    fn every_case_of_one_output() {
        let new = Identity { inode: NEW, mtime: 10 };
        let touched = Identity { mtime: 8, ..OLD };
        let (nothing, pending) = (Decision::Forward(vec![]), Decision::Forward(vec![0]));
        check(Some(new), None, true, &nothing);
        check(Some(new), Some(1), true, &nothing);
        check(Some(new), None, false, &nothing);
        check(Some(OLD), Some(NEW), true, &pending);
        check(None, Some(NEW), true, &pending);
        check(Some(touched), Some(NEW), true, &Decision::MovedOn(0));
        check(Some(OLD), None, true, &Decision::MovedOn(0));
        check(None, Some(3), true, &Decision::MovedOn(0));
        check(Some(OLD), None, false, &Decision::LayerGone(0));
        check(None, None, false, &Decision::LayerGone(0));
    }
}
