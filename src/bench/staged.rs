//! The ways to make an input root visible: ours, and the farms of links that others make.
//!
//! | case | one operation is |
//! |---|---|
//! | `composefs`, `directory-cache`, `copy` | a layer, and the root staged and mounted over it |
//! | `hardlink-farm` | the floor: a directory for each directory, a hard link to its blob for each file |
//! | `symlink-farm` | the same with symlinks |
//!
//! All give a tree that an action may write to. What it costs to take it down again is the phase `remove`; `open` and
//! `reopen` are the time for each file to open, read and close it through the tree, the first and the second time;
//! `stage_cpu` is the CPU time of staging alone, without removal.
use super::case::{Case, Sample};
use super::cpu::{Reading, TreeCpu};
use crate::action::Digest;
use crate::cas::Cas;
use crate::stage::root::{StageRootError, Stager, StagerOptions, Way, WayChoice};
use crate::stage::{Layer, Owner, Places, remove_tree};
use fulgurite_sandbox::runtime::Runtime;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files that are opened through a tree; more say nothing more.
const OPENED_MAX: usize = 2000;
/// The id that the layers belong to, where ids can be given: one that no sandbox has now.
const ACTION: u32 = 0x7000_0001;

/// A root with the paths of its files.
#[derive(Debug)]
pub struct Tree {
    /// Its name.
    pub root: Digest,
    /// Its directories.
    pub directories: Vec<String>,
    /// Its files, and their blobs.
    pub files: Vec<(String, Digest)>,
}

/// What all cases share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Mounts and ids.
    pub runtime: Arc<Runtime>,
    /// The blobs.
    pub cas: Cas,
    /// The root to be staged.
    pub tree: Rc<Tree>,
    /// A directory on the filesystem that is measured.
    pub directory: PathBuf,
    /// Counts CPU time.
    pub cpu: Rc<TreeCpu>,
}

/// One of our ways.
#[derive(Debug)]
pub struct Staging {
    around: Surroundings,
    stager: Stager,
    places: Places,
    is_known: bool,
}

impl Staging {
    /// Prepares it. `is_known`: the root is staged already when an operation begins; else nothing of it is.
    ///
    /// # Errors
    /// [`StageRootError`], above all that this way cannot be had here.
    pub fn new(around: Surroundings, way: Way, is_known: bool) -> Result<Self, StageRootError> {
        let options = StagerOptions { way: WayChoice::Forced(way), ..StagerOptions::default() };
        let state = around.directory.join("stage");
        let stager = Stager::open(around.cas.clone(), &state, &around.runtime, options)?;
        let places = Places { explicit: Some(around.directory.clone()), ..Places::default() };
        Ok(Staging { around, stager, places, is_known })
    }

    fn once(&mut self) -> Result<Sample, StageRootError> {
        let Surroundings { runtime, tree, cpu, directory, .. } = &self.around;
        if self.is_known {
            self.stager.stage("bench", &tree.root)?;
        } else {
            self.stager.release_idle()?;
        }
        let destination = open_directory(directory)?;
        let owner = runtime.features().privileged.then_some(Owner { uid: ACTION, gid: ACTION });
        let begun = cpu.begin();
        let started = Instant::now();
        let layer = Layer::create(&self.places, destination.as_fd(), owner).map_err(other)?;
        let staged = self.stager.stage("bench", &tree.root)?;
        let view = staged.view(runtime, ACTION, &layer)?;
        let latency = started.elapsed();
        let staging = cpu.end(&begun, || {});
        let opened = opened(view.mount.as_fd(), tree)?;
        let begun = cpu.begin();
        let started = Instant::now();
        drop(view);
        drop(staged);
        layer.destroy().map_err(other)?;
        if !self.is_known {
            self.stager.release_idle()?;
        }
        let removed = started.elapsed();
        let removing = cpu.end(&begun, || {});
        Ok(sample(latency, [staging, removing], opened, removed))
    }
}

impl Case for Staging {
    fn run(&mut self) -> Result<Sample, String> {
        self.once().map_err(|error| error.to_string())
    }
}

/// A farm of links.
#[derive(Debug)]
pub struct Farm {
    around: Surroundings,
    objects: PathBuf,
    is_symbolic: bool,
}

impl Farm {
    /// Prepares it. `objects` is the path of the store's objects.
    #[must_use]
    pub fn new(around: Surroundings, objects: PathBuf, is_symbolic: bool) -> Self {
        Farm { around, objects, is_symbolic }
    }

    fn once(&mut self) -> Result<Sample, StageRootError> {
        let Surroundings { tree, cpu, directory, .. } = &self.around;
        let parent = open_directory(directory)?;
        let begun = cpu.begin();
        let started = Instant::now();
        let farm = self.make(parent.as_fd(), tree)?;
        let latency = started.elapsed();
        let staging = cpu.end(&begun, || {});
        let opened = opened(farm.as_fd(), tree)?;
        drop(farm);
        let begun = cpu.begin();
        let started = Instant::now();
        remove_tree(parent.as_fd(), c"farm", u64::MAX).map_err(other)?;
        let removed = started.elapsed();
        let removing = cpu.end(&begun, || {});
        Ok(sample(latency, [staging, removing], opened, removed))
    }

    fn make(&self, parent: BorrowedFd<'_>, tree: &Tree) -> Result<OwnedFd, StageRootError> {
        let failed = |errno| StageRootError::Io { what: "make a farm of links".to_owned(), errno };
        let directory = |at: BorrowedFd<'_>, name: &str| {
            rustix::fs::mkdirat(at, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(at, name, flags, Mode::empty())
        };
        let farm = directory(parent, "farm").map_err(failed)?;
        for name in &tree.directories {
            drop(directory(farm.as_fd(), name).map_err(failed)?);
        }
        for (path, digest) in &tree.files {
            let object = Cas::object_path(digest);
            let made = if self.is_symbolic {
                rustix::fs::symlinkat(self.objects.join(object), &farm, path.as_str())
            } else {
                let objects = self.around.cas.objects();
                rustix::fs::linkat(objects, object.as_str(), &farm, path.as_str(), AtFlags::empty())
            };
            made.map_err(failed)?;
        }
        Ok(farm)
    }
}

impl Case for Farm {
    fn run(&mut self) -> Result<Sample, String> {
        self.once().map_err(|error| error.to_string())
    }
}

fn sample(latency: Duration, cpu: [Reading; 2], opened: [Duration; 2], removed: Duration) -> Sample {
    let ([staging, removing], [open, reopen]) = (cpu, opened);
    // On a machine that others use as well, this says more than the latency.
    let staging_cpu = Duration::from_nanos(staging.total_ns());
    let phases = vec![
        ("stage", latency),
        ("stage_cpu", staging_cpu),
        ("open", open),
        ("reopen", reopen),
        ("remove", removed),
    ];
    Sample { latency, cpu: staging.plus(&removing), phases }
}

/// The time for each file to open, read and close it, the first time and the second.
fn opened(root: BorrowedFd<'_>, tree: &Tree) -> Result<[Duration; 2], StageRootError> {
    let files: Vec<CString> = tree
        .files
        .iter()
        .step_by(tree.files.len().div_ceil(OPENED_MAX).max(1))
        .map(|(path, _)| CString::new(path.as_str()).unwrap_or_default())
        .collect();
    let mut buffer = [0; 64];
    let mut times = [Duration::ZERO; 2];
    for time in &mut times {
        let started = Instant::now();
        for path in &files {
            let read = rustix::fs::openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|file| rustix::io::read(file, &mut buffer));
            read.map_err(|errno| StageRootError::Io { what: format!("read {path:?}"), errno })?;
        }
        *time = started.elapsed() / u32::try_from(files.len().max(1)).unwrap_or(1);
    }
    Ok(times)
}

fn open_directory(path: &Path) -> Result<OwnedFd, StageRootError> {
    super::scratch::open_directory(path).map_err(other)
}

fn other(error: impl std::fmt::Display) -> StageRootError {
    StageRootError::Io { what: error.to_string(), errno: rustix::io::Errno::IO }
}
