//! Outputs become visible: claimed, written down, renamed each. See [`super`] for the order and its guarantees.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::claim::{Claim, ClaimCell, Side};
use super::error::PublishError;
use super::journal::{Durability, Journal, Slot};
use super::prepare::{Prepared, prepare};
use super::renames::{self, aside_name, temporary_name};
use super::standalone::Cleared;
use crate::failpoint::hit;
use crate::output::Collected;
use crate::stage::limits::TreeLimits;
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
    /// Another branch has won: nothing of this one stays in the tree.
    pub fn discard(mut self) {
        self.clean_up();
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
