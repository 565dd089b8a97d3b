//! Outputs become visible: prepare all, then rename each. See [`super`] for the order and its guarantees.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;

use super::destination::{Destinations, There};
use super::error::PublishError;
use super::limits::TEMPORARY_TRIES_MAX;
use crate::action::ExecPath;
use crate::output::{Collected, CollectedOutput, OutputKind};
use crate::stage::beneath::{self, Way};
use crate::stage::limits::TreeLimits;
use crate::stage::replicate::{Replicator, permissions};
use crate::stage::{Fault, Owner, TreeError, remove_tree};

/// How outputs are published.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOptions {
    /// Who owns created directories and copies: the invoking user. `None` if that is this process.
    pub owner: Option<Owner>,
    /// How much may be copied.
    pub limits: TreeLimits,
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
    /// Replaced directories that could not be removed from beside their successor, and why.
    pub leftovers: Vec<String>,
}

/// Publishes sealed outputs below `root`.
pub fn publish(
    collected: Collected,
    root: BorrowedFd<'_>,
    options: &PublishOptions,
) -> Result<Published, PublishError> {
    let Some(first) = collected.outputs.first() else { return Ok(Published::default()) };
    let destinations = Destinations::new(root, collected.upper.as_fd(), options.owner)
        .map_err(|why| PublishError::Prepare { output: first.path.clone(), why: why.into() })?;
    let mut publication = Publication {
        upper: collected.upper.as_fd(),
        destinations,
        replicator: Replicator::new(false, options.owner, options.limits),
        temporaries: Vec::new(),
        next: 0,
        published: Published::default(),
    };
    let mut prepared = Vec::with_capacity(collected.outputs.len());
    for output in &collected.outputs {
        match publication.prepare(output) {
            Ok(ready) => prepared.push(ready),
            Err(error) => {
                publication.tidy();
                publication.destinations.undo();
                return Err(error);
            }
        }
    }
    let mut visible = Vec::new();
    for ready in prepared {
        let path = ready.output.path.clone();
        if let Err(why) = publication.put(ready) {
            publication.tidy();
            if visible.is_empty() {
                publication.destinations.undo();
            }
            return Err(PublishError::Torn { failed: path, why, published: visible });
        }
        visible.push(path);
    }
    publication.tidy();
    Ok(publication.published)
}

struct Publication<'a> {
    upper: BorrowedFd<'a>,
    destinations: Destinations<'a>,
    replicator: Replicator,
    /// Names beside destinations that are ours, or hold what was replaced: removed at the end, whatever the
    /// end is.
    temporaries: Vec<(ExecPath, CString)>,
    next: u64,
    published: Published,
}

/// An output that needs only a rename.
struct Ready<'a> {
    output: &'a CollectedOutput,
    name: CString,
    there: There,
    /// The name of its copy beside the destination, if it was copied.
    temporary: Option<CString>,
}

impl<'a> Publication<'a> {
    fn prepare(&mut self, output: &'a CollectedOutput) -> Result<Ready<'a>, PublishError> {
        let path = &output.path;
        let failed = |why| PublishError::Prepare { output: path.clone(), why };
        let name = CString::new(path.file_name().as_bytes()).unwrap_or_default();
        let same_mount = self.destinations.prepare(path)?;
        let there = self.destinations.look(path, &name)?;
        let temporary = match same_mount {
            true => {
                // The layer is ours and quiet, yet a missing source is better found now than between renames.
                let fault = |why| failed(Fault::new("find in the layer", path.as_path(), why).into());
                let source = self.source(path).map_err(fault)?;
                beneath::look(source.as_fd(), &name).map_err(fault)?.ok_or(Errno::NOENT).map_err(fault)?;
                None
            }
            false => Some(self.copy(path, &name).map_err(failed)?),
        };
        Ok(Ready { output, name, there, temporary })
    }

    /// The directory of the upper layer that holds `path`.
    fn source(&self, path: &ExecPath) -> Result<OwnedFd, Errno> {
        let parent = path.parent();
        let parent = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
        beneath::open_dir_at(self.upper, parent, Way::Strict)
    }

    /// Copies an output from the layer to a temporary name beside its destination.
    fn copy(&mut self, path: &ExecPath, name: &CStr) -> Result<CString, TreeError> {
        let fault = |why| Fault::new("copy", path.as_path(), why);
        let temporary = self.free_name(path).map_err(fault)?;
        let source = self.source(path).map_err(fault)?;
        let target = self.destinations.directory(path).map_err(fault)?;
        self.temporaries.push((path.clone(), temporary.clone()));
        let (before, shared) = (self.replicator.done.bytes_copied, self.replicator.done.shared);
        let shown = path.as_path().to_path_buf();
        self.replicator.replicate((source.as_fd(), name), (target.as_fd(), &temporary), shown)?;
        let copied = self.replicator.done.bytes_copied - before;
        let handoff = match (copied, self.replicator.done.shared - shared) {
            (0, 1..) => Handoff::Reflink,
            _ => Handoff::Copy,
        };
        self.published.bytes_copied += copied;
        self.published.handoff = self.published.handoff.max(handoff);
        Ok(temporary)
    }

    fn free_name(&mut self, path: &ExecPath) -> Result<CString, Errno> {
        let dir = self.destinations.directory(path)?;
        for _ in 0..TEMPORARY_TRIES_MAX {
            let name = format!(".fulgurite-tmp-{}-{}", std::process::id(), self.next);
            self.next += 1;
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            if beneath::look(dir.as_fd(), &name)?.is_none() {
                return Ok(name);
            }
        }
        Err(Errno::EXIST)
    }

    /// Makes one output visible.
    fn put(&mut self, mut ready: Ready<'_>) -> Result<(), Fault> {
        let path = &ready.output.path;
        if ready.temporary.is_none() {
            match self.put_from_layer(&ready) {
                Ok(()) => {
                    self.published.renamed += 1;
                    self.published.replaced += u64::from(ready.there != There::Nothing);
                    return Ok(());
                }
                // One filesystem and one mount, and still not one rename: a project quota, for instance.
                Err(Errno::XDEV) => {
                    let copied = self.copy(path, &ready.name).map_err(|error| match error {
                        TreeError::Fault(fault) => fault,
                        TreeError::Special { path, .. } => Fault::new("copy", path, Errno::INVAL),
                        TreeError::TooLarge { path, .. } => Fault::new("copy", path, Errno::FBIG),
                    })?;
                    ready.temporary = Some(copied);
                }
                Err(why) => return Err(Fault::new("rename", path.as_path(), why)),
            }
        }
        let fault = |why| Fault::new("rename", path.as_path(), why);
        let target = self.destinations.directory(path).map_err(fault)?;
        let from = ready.temporary.as_deref().unwrap_or(&ready.name);
        // After an exchange the temporary name holds what was replaced; `tidy` removes it.
        rename_over((target.as_fd(), from), (target.as_fd(), &ready.name), wanted(&ready)).map_err(fault)?;
        self.published.copied += 1;
        self.published.replaced += u64::from(ready.there != There::Nothing);
        Ok(())
    }

    fn put_from_layer(&mut self, ready: &Ready<'_>) -> Result<(), Errno> {
        let path = &ready.output.path;
        let source = self.source(path)?;
        let target = self.destinations.directory(path)?;
        let from = (source.as_fd(), ready.name.as_c_str());
        match rename_over(from, (target.as_fd(), &ready.name), wanted(ready)) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if wanted(ready) == Step::Exchange => {}
            answer => return answer,
        }
        // A filesystem without EXCHANGE: the old one steps aside, and comes back if the new one cannot take
        // its place.
        drop(target);
        let aside = self.free_name(path)?;
        let target = self.destinations.directory(path)?;
        rustix::fs::renameat(&target, &ready.name, &target, &aside)?;
        if let Err(why) = rustix::fs::renameat(&source, &ready.name, &target, &ready.name) {
            rustix::fs::renameat(&target, &aside, &target, &ready.name)?;
            return Err(why);
        }
        drop(target);
        self.temporaries.push((path.clone(), aside));
        Ok(())
    }

    /// Removes what is left of temporary names: unused copies, and directories that were exchanged.
    fn tidy(&mut self) {
        for (path, name) in std::mem::take(&mut self.temporaries) {
            let removed = match self.destinations.directory(&path) {
                Ok(dir) => remove_tree(dir.as_fd(), &name, u64::MAX),
                Err(why) => Err(Fault::new("open the directory of", path.as_path(), why).into()),
            };
            if let Err(error) = removed {
                self.published.leftovers.push(error.to_string());
            }
        }
    }
}

/// The rename that an output needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Plain,
    Exchange,
}

fn wanted(ready: &Ready<'_>) -> Step {
    match (ready.there, ready.output.kind) {
        (There::Nothing, _) | (There::Other, OutputKind::File | OutputKind::Symlink) => Step::Plain,
        (There::Directory, _) | (There::Other, OutputKind::Directory) => Step::Exchange,
    }
}

/// Renames `from` to `to`. What is at `to` may have changed since it was looked at; then the other step is
/// tried.
fn rename_over(from: (BorrowedFd<'_>, &CStr), to: (BorrowedFd<'_>, &CStr), step: Step) -> Result<(), Errno> {
    let rename = |flags| rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags);
    match step {
        Step::Plain => match rename(RenameFlags::empty()) {
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                rename(RenameFlags::EXCHANGE)
            }
            answer => answer,
        },
        Step::Exchange => match rename(RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => rename(RenameFlags::empty()),
            // To move a directory is to write to it (its `..` changes), and this one is read-only. It is on
            // its way out.
            Err(Errno::ACCESS) => {
                let stat = beneath::look(to.0, to.1)?.ok_or(Errno::NOENT)?;
                beneath::change_mode(to.0, to.1, (beneath::mode(&stat) & permissions()) | Mode::RWXU)?;
                rename(RenameFlags::EXCHANGE)
            }
            answer => answer,
        },
    }
}
