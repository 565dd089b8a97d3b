//! The walk over output directories: from the merged view to a tree in memory, files on their way to the store.
//!
//! ```text
//!   levels:  out ── a ── b        what is left to look at in each
//!   descent: out ── a             as deep as the layer goes; below that the inputs are known by digest
//! ```
//! Invariants: no recursion; descriptors, entries, levels and bytes are bounded, and counted before they are spent. A
//! directory is listed, and its own properties are read, before anything is taken out of it.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::HandoffError;
use super::file::Job;
use super::takers::Takers;
use super::view::{At, Here, Seen, View, c_name};
use crate::action::{Digest, Directory, NodeProperties, OutputProperty, SymlinkNode, Timestamp};
use crate::output::limits::HandoffLimits;
use crate::stage::descent::Descent;
use crate::stage::{Fault, beneath};

/// A directory among the outputs.
#[derive(Default)]
pub(super) struct Dir {
    pub files: Vec<TreeFile>,
    /// By their place among [`Walk::dirs`], which is after that of their parent.
    pub directories: Vec<(String, usize)>,
    pub symlinks: Vec<SymlinkNode>,
    pub properties: NodeProperties,
}

/// A file among the outputs.
#[derive(Clone)]
pub(super) struct TreeFile {
    /// Its last component; empty for an output that is a file.
    pub name: String,
    pub content: Content,
    pub executable: bool,
    pub properties: NodeProperties,
}

/// Where the digest of a file is.
#[derive(Clone, Copy)]
pub(super) enum Content {
    Known(Digest),
    /// Of the job with this index.
    Job(usize),
}

/// One directory that is being walked.
struct Level<'a> {
    dir: usize,
    /// Of the layer, the last one first.
    entries: Vec<beneath::Entry>,
    /// Only in the inputs.
    inputs: Vec<(String, &'a Digest)>,
    input: Option<&'a Directory>,
    through: bool,
    /// For jobs; `None` where the layer has nothing.
    opened: Option<Arc<OwnedFd>>,
}

/// Walks, and counts over all walks of one handoff.
pub(super) struct Walk<'a> {
    pub view: View<'a>,
    pub limits: HandoffLimits,
    pub wanted: &'a [OutputProperty],
    pub dirs: Vec<Dir>,
    /// Files sent on their way.
    pub jobs: usize,
    /// Files that the inputs have.
    pub known: u64,
    entries: u64,
    bytes: u64,
}

impl<'a> Walk<'a> {
    pub fn new(view: View<'a>, limits: HandoffLimits, wanted: &'a [OutputProperty]) -> Self {
        Walk { view, limits, wanted, dirs: Vec::new(), jobs: 0, known: 0, entries: 0, bytes: 0 }
    }

    /// Walks a directory; answers its place among the directories.
    pub fn directory(
        &mut self,
        here: Here<'a>,
        shown: PathBuf,
        takers: &mut Takers<'_, '_>,
    ) -> Result<usize, HandoffError> {
        let first = self.dirs.len();
        let Here { dir, input, through } = here;
        let mut descent = dir.map(|dir| Descent::new(dir, shown.clone()));
        let mut levels = vec![self.level(descent.as_ref(), input, through, &shown)?];
        while let Some(level) = levels.last_mut() {
            if takers.failed() {
                break;
            }
            if let Some((name, _)) = level.entries.pop() {
                let Some(descent) = &mut descent else { continue };
                if let Some(below) = self.entry(level, descent, &name, takers)? {
                    levels.push(self.enter(&levels, descent, &name, below, &shown)?);
                }
            } else if let Some((name, digest)) = level.inputs.pop() {
                let parent = level.dir;
                let known = self.view.inputs.directory(digest);
                let known = known.ok_or_else(|| HandoffError::UnknownInput { path: shown.join(&name) })?;
                self.check_depth(levels.len(), || shown.join(&name))?;
                let place = self.dirs.len();
                self.dirs[parent].directories.push((name, place));
                levels.push(self.level(None, Some(known), false, &shown)?);
            } else if let Some(level) = levels.pop() {
                self.sort(level.dir);
                if let (Some(descent), Some(_)) = (&mut descent, &level.opened) {
                    descent.leave()?;
                }
            }
        }
        Ok(first)
    }

    /// Goes into a directory of the layer.
    fn enter(
        &mut self,
        levels: &[Level<'a>],
        descent: &mut Descent,
        name: &CStr,
        below: Here<'a>,
        shown: &Path,
    ) -> Result<Level<'a>, HandoffError> {
        self.check_depth(levels.len(), || descent.path_of(name))?;
        let text = utf8(name, || descent.path_of(name))?;
        let place = self.dirs.len();
        if let Some(level) = levels.last() {
            self.dirs[level.dir].directories.push((text, place));
        }
        let Here { dir, input, through } = below;
        if let Some(dir) = dir {
            descent.enter(name, dir)?;
        }
        self.level(Some(descent), input, through, shown)
    }

    /// Takes one entry of the layer; a directory is opened and answered.
    fn entry(
        &mut self,
        level: &Level<'a>,
        descent: &Descent,
        name: &CStr,
        takers: &mut Takers<'_, '_>,
    ) -> Result<Option<Here<'a>>, HandoffError> {
        let path = || descent.path_of(name);
        let at = At { dir: Some(descent.dir()?), input: level.input, through: level.through };
        let seen = self.view.see(at, name).map_err(|why| Fault::new("inspect", path(), why))?;
        if matches!(seen, Seen::Nothing) {
            return Ok(None);
        }
        if seen.kind() == Some(FileType::Directory) {
            return self.view.enter(at, name, &seen, &path).map(Some);
        }
        match self.leaf(at, level.opened.as_ref(), (name, seen), &path, takers)? {
            Leaf::File(file) => self.dirs[level.dir].files.push(file),
            Leaf::Symlink(link) => self.dirs[level.dir].symlinks.push(link),
        }
        Ok(None)
    }

    /// Takes what is no directory.
    pub fn leaf(
        &mut self,
        at: At<'a, '_>,
        opened: Option<&Arc<OwnedFd>>,
        (name, seen): (&CStr, Seen<'a>),
        path: &dyn Fn() -> PathBuf,
        takers: &mut Takers<'_, '_>,
    ) -> Result<Leaf, HandoffError> {
        self.count(1, path)?;
        let text = utf8(name, path)?;
        let stat = match seen {
            Seen::There(stat) => stat,
            Seen::File(file) => return Ok(Leaf::File(self.known_file(file))),
            Seen::Symlink(link) => return Ok(Leaf::Symlink(self.known_symlink(link))),
            Seen::Nothing | Seen::Directory(_) => {
                return Err(HandoffError::Refused { path: path(), why: "it is a directory" });
            }
        };
        let properties = self.properties(&stat);
        let kind = beneath::kind(&stat);
        if let Some(why) = refused(kind) {
            return Err(HandoffError::Refused { path: path(), why });
        }
        let fault = |tried| move |why| HandoffError::io(tried, path(), why);
        let dir = at.dir.ok_or(rustix::io::Errno::BADF).map_err(fault("find"))?;
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(fault("read symlink"))?;
            let refused = |_| HandoffError::Refused { path: path(), why: "what it says is not UTF-8" };
            let target = target.into_string().map_err(refused)?;
            return Ok(Leaf::Symlink(SymlinkNode { name: text, target, properties }));
        }
        self.bytes = self.bytes.saturating_add(stat.st_size.unsigned_abs());
        if self.bytes > self.limits.bytes_max {
            return Err(HandoffError::TooMuch { path: path(), unit: "bytes", max: self.limits.bytes_max });
        }
        let dir = match opened {
            Some(dir) => dir.clone(),
            None => Arc::new(beneath::open_dir(dir, c".").map_err(fault("open the directory of"))?),
        };
        let index = self.jobs;
        self.jobs += 1;
        takers.put(Job { index, dir, name: name.to_owned(), stat, path: path(), through: at.through });
        let executable = stat.st_mode & 0o100 != 0;
        Ok(Leaf::File(TreeFile { name: text, content: Content::Job(index), executable, properties }))
    }

    /// Begins a directory: the last one of `descent`, over `input`.
    fn level(
        &mut self,
        descent: Option<&Descent>,
        input: Option<&'a Directory>,
        through: bool,
        shown: &Path,
    ) -> Result<Level<'a>, HandoffError> {
        let path = || descent.map_or_else(|| shown.to_path_buf(), Descent::path);
        let fault = |tried| move |why| HandoffError::io(tried, path(), why);
        self.count(1, &path)?;
        let (mut entries, mut opened, mut made) = (Vec::new(), None, Dir::default());
        if let Some(descent) = descent {
            let dir = descent.dir()?;
            let stat = rustix::fs::fstat(dir).map_err(fault("inspect"))?;
            made.properties = self.properties(&stat);
            let left = usize::try_from(self.limits.entries_max - self.entries).unwrap_or(usize::MAX);
            let (listed, more) = beneath::list(dir, left).map_err(fault("list"))?;
            if more {
                self.count(self.limits.entries_max, &path)?;
            }
            entries = listed;
            entries.sort_unstable_by(|one, other| other.0.cmp(&one.0));
            let copy = dir.as_fd().try_clone_to_owned().map_err(|error| {
                fault("keep open")(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
            })?;
            opened = Some(Arc::new(copy));
        } else if let Some(input) = input {
            made.properties = self.wanted_of(&input.properties);
        }
        let mut inputs = Vec::new();
        if let Some(input) = input {
            self.untouched(input, &entries, &mut made, &mut inputs, &path)?;
        }
        let dir = self.dirs.len();
        self.dirs.push(made);
        Ok(Level { dir, entries, inputs, input, through, opened })
    }

    /// What only the inputs have: files and symlinks at once, directories for later.
    fn untouched(
        &mut self,
        input: &'a Directory,
        entries: &[beneath::Entry],
        made: &mut Dir,
        later: &mut Vec<(String, &'a Digest)>,
        path: &dyn Fn() -> PathBuf,
    ) -> Result<(), HandoffError> {
        let ours: HashSet<&CStr> = entries.iter().map(|(name, _)| name.as_c_str()).collect();
        let only = |name: &str| -> bool {
            let name: CString = c_name(name.as_ref());
            !ours.contains(name.as_c_str())
        };
        for file in input.files.iter().filter(|file| only(&file.name)) {
            self.count(1, path)?;
            made.files.push(self.known_file(file));
        }
        for link in input.symlinks.iter().filter(|link| only(&link.name)) {
            self.count(1, path)?;
            made.symlinks.push(self.known_symlink(link));
        }
        let below = input.directories.iter().rev().filter(|child| only(&child.name));
        later.extend(below.map(|child| (child.name.clone(), &child.digest)));
        Ok(())
    }

    fn known_file(&mut self, file: &crate::action::FileNode) -> TreeFile {
        self.known += 1;
        TreeFile {
            name: file.name.clone(),
            content: Content::Known(file.digest),
            executable: file.executable,
            properties: self.wanted_of(&file.properties),
        }
    }

    fn known_symlink(&self, link: &SymlinkNode) -> SymlinkNode {
        let properties = self.wanted_of(&link.properties);
        SymlinkNode { name: link.name.clone(), target: link.target.clone(), properties }
    }

    /// The properties of an input that were asked for of outputs.
    fn wanted_of(&self, of: &NodeProperties) -> NodeProperties {
        let wants = |property| self.wanted.contains(&property);
        NodeProperties {
            properties: Vec::new(),
            mtime: of.mtime.filter(|_| wants(OutputProperty::Mtime)),
            unix_mode: of.unix_mode.filter(|_| wants(OutputProperty::UnixMode)),
        }
    }

    /// The properties that were asked for.
    fn properties(&self, stat: &Stat) -> NodeProperties {
        let wants = |property| self.wanted.contains(&property);
        let mtime = wants(OutputProperty::Mtime).then(|| Timestamp {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        });
        let unix_mode = wants(OutputProperty::UnixMode).then_some(stat.st_mode & 0o777);
        NodeProperties { properties: Vec::new(), mtime, unix_mode }
    }

    fn sort(&mut self, dir: usize) {
        let dir = &mut self.dirs[dir];
        dir.files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        dir.directories.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        dir.symlinks.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }

    fn count(&mut self, entries: u64, path: &dyn Fn() -> PathBuf) -> Result<(), HandoffError> {
        let max = self.limits.entries_max;
        if entries > max - self.entries {
            return Err(HandoffError::TooMuch { path: path(), unit: "entries", max });
        }
        self.entries += entries;
        Ok(())
    }

    fn check_depth(&self, levels: usize, path: impl Fn() -> PathBuf) -> Result<(), HandoffError> {
        if levels <= self.limits.depth_max {
            return Ok(());
        }
        let max = self.limits.depth_max as u64;
        Err(HandoffError::TooMuch { path: path(), unit: "levels of directories", max })
    }
}

/// What is no directory.
pub(super) enum Leaf {
    File(TreeFile),
    Symlink(SymlinkNode),
}

/// Why this kind of file is refused.
fn refused(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::Fifo => Some("it is a FIFO"),
        FileType::Socket => Some("it is a socket"),
        FileType::CharacterDevice => Some("it is a character device"),
        FileType::BlockDevice => Some("it is a block device"),
        FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
        FileType::Unknown => Some("it is of unknown type"),
    }
}

fn utf8(name: &CStr, path: impl Fn() -> PathBuf) -> Result<String, HandoffError> {
    let text = name.to_str().map(str::to_owned);
    text.map_err(|_| HandoffError::Refused { path: path(), why: "its name is not UTF-8" })
}
