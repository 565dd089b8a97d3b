//! Outputs become visible: prepare all, claim, rename each. See [`super`] for the order and its guarantees.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::claim::{Claim, ClaimCell, Side};
use super::destination::Destinations;
use super::error::PublishError;
use super::journal::{Durability, Journal, Slot};
use super::limits::ACTION_BYTES_MAX;
use super::record::{Anchor, Entry, Record};
use super::renames::{self, aside_name, temporary_name};
use super::standalone::Cleared;
use crate::action::ExecPath;
use crate::failpoint::hit;
use crate::output::{Collected, CollectedOutput, OutputKind};
use crate::stage::beneath::{self, Way};
use crate::stage::limits::TreeLimits;
use crate::stage::replicate::Replicator;
use crate::stage::{Fault, Owner, TreeError, remove_tree};

/// How outputs are published.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOptions {
    /// Who owns created directories and copies: the invoking user. `None` if that is this process.
    pub owner: Option<Owner>,
    /// How much may be copied.
    pub limits: TreeLimits,
    /// The other branch runs straight in the tree: publishing needs a proof that it is over ([`Cleared`]).
    pub beside_standalone: bool,
    /// Of the race's cell, for messages of a recovery.
    pub epoch: u64,
}

/// The costliest way in which an output came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handoff {
    /// By rename, no byte touched.
    #[default]
    Rename,
    /// By sharing blocks.
    Reflink,
    /// By copying.
    Copy,
}

/// What was published, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Outputs renamed from the layer.
    pub renamed: u64,
    /// Outputs that had to be made a second time, on the destination's filesystem.
    pub copied: u64,
    /// Bytes written for those; what shares blocks does not count.
    pub bytes_copied: u64,
    /// Outputs that replaced something.
    pub replaced: u64,
    /// The costliest way used.
    pub handoff: Handoff,
    /// What could not be cleaned up, and why: replaced directories beside their successor, slots of the journal.
    pub leftovers: Vec<String>,
}

/// Outputs that need only a claim and renames. Call [`publish`] or [`Prepared::discard`]: what is merely dropped leaves
/// its temporary names to the next recovery.
#[derive(Debug)]
#[must_use = "prepared outputs are to be published, or discarded when another branch has won"]
pub struct Prepared {
    upper: OwnedFd,
    outputs: Vec<CollectedOutput>,
    names: Vec<CString>,
    destinations: Destinations,
    replicator: Replicator,
    /// Outputs with a temporary name, and those that stepped aside: removed at the end, whatever the end is.
    temporaries: Vec<(usize, CString)>,
    record: Record,
    /// `None` if there is nothing to publish, or it was published.
    slot: Option<Slot>,
    beside_standalone: bool,
    /// Something is visible, so that no directory that was created for it may go.
    visible: bool,
    published: Published,
}

/// Does all that can fail before there is a claim: opens and creates directories, checks what is there, copies what
/// cannot be renamed, and writes the record. `action` names it in messages of a recovery.
///
/// # Errors
/// [`PublishError`]; then the tree is as it was.
pub fn prepare(
    collected: Collected,
    root: BorrowedFd<'_>,
    journal: &Journal,
    action: &[u8],
    options: &PublishOptions,
) -> Result<Prepared, PublishError> {
    let count = collected.outputs.len();
    let first = collected.outputs.first().map(|output| output.path.clone());
    let unusable = |why: Fault| match &first {
        Some(output) => PublishError::Prepare { output: output.clone(), why: why.into() },
        None => PublishError::Journal { outputs: 0, why },
    };
    let upper = collected.upper;
    let destinations = Destinations::new(root, upper.as_fd(), options.owner).map_err(unusable)?;
    let slot = match count {
        0 => None,
        _ => Some(journal.take().map_err(|why| PublishError::Journal { outputs: count, why })?),
    };
    let record = Record {
        tag: slot.as_ref().map_or(0, |slot| slot.tag),
        epoch: options.epoch,
        action: action[..action.len().min(ACTION_BYTES_MAX)].to_vec(),
        layer: anchor(upper.as_fd(), "the layer").map_err(unusable)?,
        root: anchor(root, "the destination").map_err(unusable)?,
        outputs: Vec::with_capacity(count),
    };
    let mut prepared = Prepared {
        upper,
        names: Vec::with_capacity(count),
        outputs: collected.outputs,
        destinations,
        replicator: Replicator::new(false, options.owner, options.limits),
        temporaries: Vec::new(),
        record,
        slot,
        beside_standalone: options.beside_standalone,
        visible: false,
        published: Published::default(),
    };
    let ready = prepared
        .check_all()
        .and_then(|()| prepared.copy_all())
        .and_then(|()| prepared.sync_data())
        .and_then(|()| prepared.write_record());
    match ready {
        Ok(()) => Ok(prepared),
        Err(error) => {
            prepared.discard();
            Err(error)
        }
    }
}

/// Publishes: consumes the claim, writes the intent, renames, marks it done.
///
/// # Errors
/// [`PublishError`]: a rename failed, although all was prepared; the others were taken back.
pub fn publish(claim: Claim, prepared: Prepared) -> Result<Published, PublishError> {
    if prepared.beside_standalone {
        prepared.discard();
        return Err(PublishError::NotQuiet);
    }
    prepared.publish(claim)
}

/// Prepares and publishes what no other branch competes for.
///
/// # Errors
/// As [`prepare`] and [`publish`].
pub fn publish_unopposed(
    collected: Collected,
    root: BorrowedFd<'_>,
    journal: &Journal,
    action: &[u8],
    options: &PublishOptions,
) -> Result<Published, PublishError> {
    let prepared = prepare(collected, root, journal, action, options)?;
    let claim = ClaimCell::new(options.epoch).claim(Side::Local).map_err(|_| PublishError::NotQuiet)?;
    publish(claim, prepared)
}

/// Publishes where a command ran straight in the tree: with the proof that it is over and what it left is gone.
///
/// # Errors
/// As [`publish`].
pub fn publish_cleared(
    claim: Claim,
    mut prepared: Prepared,
    cleared: Cleared,
) -> Result<Published, PublishError> {
    let of_this_tree = cleared.root_inode == prepared.record.root.inode;
    if !of_this_tree {
        prepared.discard();
        return Err(PublishError::NotQuiet);
    }
    if let Err(error) = prepared.look_again() {
        prepared.discard();
        return Err(error);
    }
    prepared.publish(claim)
}

impl Prepared {
    /// The outputs, sorted.
    pub fn outputs(&self) -> &[CollectedOutput] {
        &self.outputs
    }

    /// Another branch has won: nothing of this one stays in the tree.
    pub fn discard(mut self) {
        self.clean_up();
    }

    /// What is there has changed since it was looked at.
    fn look_again(&mut self) -> Result<(), PublishError> {
        for index in 0..self.outputs.len() {
            let old = self.destinations.look(&self.outputs[index].path, &self.names[index])?;
            self.record.outputs[index].old = old;
        }
        self.write_record()
    }

    /// Opens or creates each parent, and sees what is there and what comes.
    fn check_all(&mut self) -> Result<(), PublishError> {
        for index in 0..self.outputs.len() {
            let path = self.outputs[index].path.clone();
            let fault = |tried, why| PublishError::Prepare {
                output: path.clone(),
                why: Fault::new(tried, path.as_path(), why).into(),
            };
            let name = CString::new(path.file_name().as_bytes()).unwrap_or_default();
            let same_mount = self.destinations.prepare(&path)?;
            let old = self.destinations.look(&path, &name)?;
            // The layer is ours and quiet, yet a missing source is better found now than between renames.
            let found =
                self.source(&path).and_then(|dir| beneath::look(dir.as_fd(), &name)?.ok_or(Errno::NOENT));
            let new = found.map_err(|why| fault("find in the layer", why))?.st_ino;
            let kind = self.outputs[index].kind;
            self.record.outputs.push(Entry { path, kind, temporary: !same_mount, new, old });
            self.names.push(name);
        }
        Ok(())
    }

    /// Copies what cannot be renamed; a record names the copies before they are there.
    fn copy_all(&mut self) -> Result<(), PublishError> {
        if !self.record.outputs.iter().any(|entry| entry.temporary) {
            return Ok(());
        }
        self.write_record()?;
        for index in 0..self.outputs.len() {
            if self.record.outputs[index].temporary {
                let failed = |why| PublishError::Prepare { output: self.outputs[index].path.clone(), why };
                hit("commit.copy").map_err(|why| failed(Fault::new("copy", "it", why).into()))?;
                match self.copy(index) {
                    Ok(inode) => self.record.outputs[index].new = inode,
                    Err(why) => {
                        return Err(PublishError::Prepare { output: self.outputs[index].path.clone(), why });
                    }
                }
            }
        }
        Ok(())
    }

    fn write_record(&mut self) -> Result<(), PublishError> {
        let outputs = self.outputs.len();
        let Some(slot) = &mut self.slot else { return Ok(()) };
        slot.prepare(&self.record).map_err(|why| {
            let why = Fault::new("write", "the record of what goes where", why);
            PublishError::Journal { outputs, why }
        })
    }

    /// What is published must be on disk before a record says that it is complete.
    fn sync_data(&mut self) -> Result<(), PublishError> {
        if !self.slot.as_ref().is_some_and(|slot| slot.durability() == Durability::Power) {
            return Ok(());
        }
        if self.outputs.iter().any(|output| output.kind != OutputKind::File) {
            let fault = |why| PublishError::Journal {
                outputs: self.outputs.len(),
                why: Fault::new("sync", "the outputs", why),
            };
            rustix::fs::syncfs(&self.upper).map_err(fault)?;
            return rustix::fs::syncfs(self.destinations.root()).map_err(fault);
        }
        for (index, output) in self.outputs.iter().enumerate() {
            self.sync_file(index).map_err(|why| PublishError::Prepare {
                output: output.path.clone(),
                why: Fault::new("sync", output.path.as_path(), why).into(),
            })?;
        }
        Ok(())
    }

    fn sync_file(&self, index: usize) -> Result<(), Errno> {
        let path = &self.outputs[index].path;
        let file = if self.record.outputs[index].temporary {
            let dir = self.destinations.directory(path)?;
            beneath::open_file(dir.as_fd(), &temporary_name(self.record.tag, index))?
        } else {
            beneath::open_file(self.source(path)?.as_fd(), &self.names[index])?
        };
        rustix::fs::fsync(&file)
    }

    /// The directory of the upper layer that holds `path`.
    fn source(&self, path: &ExecPath) -> Result<OwnedFd, Errno> {
        let parent = path.parent();
        let parent = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
        beneath::open_dir_at(self.upper.as_fd(), parent, Way::Strict)
    }

    /// Copies an output from the layer to a temporary name beside its destination; gives the copy's inode.
    fn copy(&mut self, index: usize) -> Result<u64, TreeError> {
        let path = self.outputs[index].path.clone();
        let fault = |why| Fault::new("copy", path.as_path(), why);
        let temporary = temporary_name(self.record.tag, index);
        let source = self.source(&path).map_err(fault)?;
        let target = self.destinations.directory(&path).map_err(fault)?;
        self.temporaries.push((index, temporary.clone()));
        let (before, shared) = (self.replicator.done.bytes_copied, self.replicator.done.shared);
        let shown = path.as_path().to_path_buf();
        let name = self.names[index].as_c_str();
        self.replicator.replicate((source.as_fd(), name), (target.as_fd(), &temporary), shown)?;
        let copied = self.replicator.done.bytes_copied - before;
        let handoff = match (copied, self.replicator.done.shared - shared) {
            (0, 1..) => Handoff::Reflink,
            _ => Handoff::Copy,
        };
        self.published.bytes_copied += copied;
        self.published.handoff = self.published.handoff.max(handoff);
        let made =
            beneath::look(target.as_fd(), &temporary).map_err(fault)?.ok_or(Errno::NOENT).map_err(fault)?;
        Ok(made.st_ino)
    }

    fn publish(mut self, claim: Claim) -> Result<Published, PublishError> {
        let answer = self.rename_all(claim);
        self.clean_up();
        answer.map(|()| self.published)
    }

    fn rename_all(&mut self, claim: Claim) -> Result<(), PublishError> {
        let Some(mut slot) = self.slot.take() else {
            claim.settle();
            return Ok(());
        };
        let journal = |why| PublishError::Journal {
            outputs: self.outputs.len(),
            why: Fault::new("write", "the intent to publish", why),
        };
        if let Err(why) = slot.intend() {
            let why = journal(why);
            // Cleaning up marks the record as done, whatever became of the intent.
            self.slot = Some(slot);
            return Err(why);
        }
        let mut ways = Vec::with_capacity(self.outputs.len());
        for index in 0..self.outputs.len() {
            match self.put(index, &mut slot) {
                Ok(way) => ways.push(way),
                Err(why) => return Err(self.take_all_back(index, why, &ways, slot)),
            }
            self.visible = true;
        }
        if slot.durability() == Durability::Power
            && let Err(why) = self.destinations.sync()
        {
            // The record stays, and the next start publishes again what did not get to the disk.
            let why = Fault::new("sync", "the directories of the outputs", why);
            return Err(PublishError::Journal { outputs: self.outputs.len(), why });
        }
        claim.settle();
        if let Err(why) = slot.finish() {
            let why = Fault::new("mark as done", "the record of a publication", why);
            self.published.leftovers.push(why.to_string());
        }
        Ok(())
    }

    /// Makes one output visible.
    fn put(&mut self, index: usize, slot: &mut Slot) -> Result<renames::Way, Fault> {
        let path = self.outputs[index].path.clone();
        let fault = |why| Fault::new("rename", path.as_path(), why);
        let way = match self.put_from(index) {
            // One filesystem and one mount, and still not one rename: a project quota, for instance.
            Err(Errno::XDEV) if !self.record.outputs[index].temporary => {
                let inode = self.copy(index).map_err(|error| match error {
                    TreeError::Fault(fault) => fault,
                    TreeError::Special { path, .. } => Fault::new("copy", path, Errno::INVAL),
                    TreeError::TooLarge { path, .. } => Fault::new("copy", path, Errno::FBIG),
                })?;
                let entry = &mut self.record.outputs[index];
                (entry.temporary, entry.new) = (true, inode);
                if slot.durability() == Durability::Power {
                    rustix::fs::syncfs(self.destinations.root()).map_err(fault)?;
                }
                slot.amend(index, inode).map_err(fault)?;
                self.put_from(index).map_err(fault)?
            }
            answer => answer.map_err(fault)?,
        };
        match self.record.outputs[index].temporary {
            true => self.published.copied += 1,
            false => self.published.renamed += 1,
        }
        self.published.replaced += u64::from(way != renames::Way::Moved);
        if way == renames::Way::Aside {
            self.temporaries.push((index, aside_name(self.record.tag, index)));
        }
        Ok(way)
    }

    fn put_from(&self, index: usize) -> Result<renames::Way, Errno> {
        self.with_names(index, renames::put)
    }

    fn with_names<T>(
        &self,
        index: usize,
        act: impl FnOnce(renames::At<'_>, renames::At<'_>, &CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (path, name) = (&self.outputs[index].path, self.names[index].as_c_str());
        let target = self.destinations.directory(path)?;
        let aside = aside_name(self.record.tag, index);
        if self.record.outputs[index].temporary {
            let temporary = temporary_name(self.record.tag, index);
            return act((target.as_fd(), &temporary), (target.as_fd(), name), &aside);
        }
        let source = self.source(path)?;
        act((source.as_fd(), name), (target.as_fd(), name), &aside)
    }

    /// After a rename that failed: the outputs before it go back, so that the tree is as it was. Dying meanwhile is no
    /// harm: the record still says that all are to be published.
    fn take_all_back(
        &mut self,
        failed: usize,
        why: Fault,
        ways: &[renames::Way],
        slot: Slot,
    ) -> PublishError {
        let mut published = Vec::new();
        for (index, way) in ways.iter().enumerate().rev() {
            let taken = self.with_names(index, |from, to, aside| renames::take_back(from, to, aside, *way));
            match taken {
                Ok(true) => self
                    .temporaries
                    .retain(|(of, name)| *of != index || *name != aside_name(self.record.tag, index)),
                Ok(false) | Err(_) => published.push(self.outputs[index].path.clone()),
            }
        }
        published.reverse();
        self.visible = !published.is_empty();
        let failed = self.outputs[failed].path.clone();
        // It is told here; a recovery has nothing to add.
        let _ = slot.finish();
        PublishError::Torn { failed, why, published }
    }

    /// Publishes the first outputs, and then does as the death of the process does: nothing more.
    #[cfg(test)]
    pub(super) fn die_after(mut self, count: usize) {
        let mut slot = self.slot.take().unwrap();
        slot.intend().unwrap();
        for index in 0..count {
            self.put(index, &mut slot).unwrap();
        }
    }

    fn clean_up(&mut self) {
        self.tidy();
        if !self.visible {
            self.destinations.undo();
        }
        if let Some(slot) = self.slot.take() {
            // What it says is harmless: a recovery finds nothing of it.
            let _ = slot.finish();
        }
    }

    /// Removes what is left of temporary names: unused copies, and directories that were exchanged.
    fn tidy(&mut self) {
        for (index, name) in std::mem::take(&mut self.temporaries) {
            let path = &self.outputs[index].path;
            let removed = match self.destinations.directory(path) {
                Ok(dir) => hit("commit.tidy")
                    .map_err(|why| Fault::new("remove", path.as_path(), why).into())
                    .and_then(|()| remove_tree(dir.as_fd(), &name, u64::MAX)),
                Err(why) => Err(Fault::new("open the directory of", path.as_path(), why).into()),
            };
            if let Err(error) = removed {
                self.published.leftovers.push(error.to_string());
            }
        }
    }
}

/// Where a directory is, for those who come after us.
fn anchor(fd: BorrowedFd<'_>, what: &'static str) -> Result<Anchor, Fault> {
    let inode = rustix::fs::fstat(fd).map_err(Fault::of("inspect", what))?.st_ino;
    let path = rustix::fs::readlink(beneath::own_path(fd), Vec::new())
        .map_err(Fault::of("find the path of", what))?;
    Ok(Anchor { path: PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())), inode })
}
