//! Everything about a publication that can fail, done before there is a claim. See [`super`].

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::destination::Destinations;
use super::error::PublishError;
use super::journal::{Durability, Journal, Slot};
use super::limits::ACTION_BYTES_MAX;
use super::publish::{Handoff, PublishOptions, Published};
use super::record::{Anchor, Entry, Record};
use super::renames::temporary_name;
use crate::action::ExecPath;
use crate::failpoint::hit;
use crate::output::{Collected, CollectedOutput, OutputKind};
use crate::stage::beneath::{self, Way};
use crate::stage::replicate::Replicator;
use crate::stage::{Fault, TreeError};

/// Outputs that need only a claim and renames. Call [`publish`](super::publish) or [`Prepared::discard`]: what is
/// merely dropped leaves its temporary names to the next recovery.
#[derive(Debug)]
#[must_use = "prepared outputs are to be published, or discarded when another branch has won"]
pub struct Prepared {
    pub(super) upper: OwnedFd,
    pub(super) outputs: Vec<CollectedOutput>,
    pub(super) names: Vec<CString>,
    pub(super) destinations: Destinations,
    pub(super) replicator: Replicator,
    /// Outputs with a temporary name, and those that stepped aside: removed at the end, whatever the end is.
    pub(super) temporaries: Vec<(usize, CString)>,
    pub(super) record: Record,
    /// `None` if there is nothing to publish, or it was published.
    pub(super) slot: Option<Slot>,
    pub(super) beside_standalone: bool,
    /// Something is visible, so that no directory that was created for it may go.
    pub(super) visible: bool,
    pub(super) published: Published,
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

impl Prepared {
    /// The outputs, sorted.
    pub fn outputs(&self) -> &[CollectedOutput] {
        &self.outputs
    }

    /// The other branch runs in place, and never began: nothing needs a proof.
    pub fn alone(mut self) -> Self {
        self.beside_standalone = false;
        self
    }

    /// What is there has changed since it was looked at.
    pub(super) fn look_again(&mut self) -> Result<(), PublishError> {
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
            hit("commit.sync").map_err(fault)?;
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
        hit("commit.sync")?;
        rustix::fs::fsync(&file)
    }

    /// The directory of the upper layer that holds `path`.
    pub(super) fn source(&self, path: &ExecPath) -> Result<OwnedFd, Errno> {
        let parent = path.parent();
        let parent = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
        beneath::open_dir_at(self.upper.as_fd(), parent, Way::Strict)
    }

    /// Copies an output from the layer to a temporary name beside its destination; gives the copy's inode.
    pub(super) fn copy(&mut self, index: usize) -> Result<u64, TreeError> {
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
}

/// Where a directory is, for those who come after us.
pub(super) fn anchor(fd: BorrowedFd<'_>, what: &'static str) -> Result<Anchor, Fault> {
    let inode = rustix::fs::fstat(fd).map_err(Fault::of("inspect", what))?.st_ino;
    let path = rustix::fs::readlink(beneath::own_path(fd), Vec::new())
        .map_err(Fault::of("find the path of", what))?;
    Ok(Anchor { path: PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())), inode })
}
