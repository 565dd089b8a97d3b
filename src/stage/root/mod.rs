//! Input roots that are named by a digest, as one detached mount.
//!
//! ```text
//!   (tenant, root) ─ warm? ─► StagedRoot                                         known: one look, nothing per file
//!        └ no ─► closure: read, checked, counted, pinned ─► composefs: an image    new: no link and no copy per file
//!                                                            (a tiny root: marks or copies, made for each action)
//!                                                          directory cache: a tree
//!                                                          copy: nothing yet
//!   StagedRoot + layer + the action's id ─► view: overlay(lower, its owner mapped; layer) ─► /work
//! ```
//! Invariants: nothing is mounted or made of a tree that was refused; the blobs of a staged root stay in the store as
//! long as it is held or warm; what an action writes goes to its layer and nowhere else. Warm roots are bounded by
//! their number, paths, pins and bytes; those that nobody uses go, the least recently used first. A root is staged once
//! however many ask for it at the same time. Roots are not shared between tenants: whether another tenant has staged
//! one could be seen in `known` and in the time that it takes.
//!
//! Limits: what is put out is taken apart by [`Stager::tidy`], since that can block; call it off the path of an action.

mod closure;
mod composefs;
mod error;
pub mod limits;
mod paths;
pub mod priority;
mod staged;
#[cfg(test)]
mod tests;
mod trees;

pub use closure::Size;
pub use error::StageRootError;
pub use limits::RootLimits;
pub use priority::LowPriority;
pub use staged::{Node, RootView, StagedRoot};

use crate::action::Digest;
use crate::cas::Cas;
use closure::Closure;
use fulgurite_sandbox::runtime::Runtime;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;
use staged::{Kept, Lower};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use trees::TreeCache;

/// How roots are staged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WayChoice {
    /// The best that this host has.
    #[default]
    Auto,
    /// This one or none.
    Forced(Way),
}

/// The ways to stage, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An EROFS image over the store.
    Composefs,
    /// A tree of links, made once for each root.
    DirectoryCache,
    /// A copy for each action.
    Copy,
}

impl Way {
    /// All of them, best first.
    pub const ALL: [Way; 3] = [Way::Composefs, Way::DirectoryCache, Way::Copy];

    /// Its name in configuration and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Way::Composefs => "composefs",
            Way::DirectoryCache => "directory-cache",
            Way::Copy => "copy",
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a stager is opened.
#[derive(Clone, Copy, Debug)]
pub struct StagerOptions {
    /// Which way.
    pub way: WayChoice,
    /// What an input root may be.
    pub limits: RootLimits,
    /// Roots that stay staged although nobody uses them.
    pub warm_roots_max: usize,
    /// Paths of all of them together.
    pub warm_paths_max: u64,
    /// Blobs that they keep from eviction together.
    pub warm_pins_max: u64,
}

impl Default for StagerOptions {
    fn default() -> Self {
        StagerOptions {
            way: WayChoice::Auto,
            limits: RootLimits::DEFAULT,
            warm_roots_max: limits::WARM_ROOTS_MAX,
            warm_paths_max: limits::WARM_PATHS_MAX,
            warm_pins_max: limits::WARM_PINS_MAX,
        }
    }
}

/// Stages input roots. Clones share what is warm.
#[derive(Clone, Debug)]
pub struct Stager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cas: Cas,
    options: StagerOptions,
    way: Way,
    passed_over: Vec<(Way, String)>,
    /// Bytes of the blobs that warm roots keep from eviction together.
    warm_bytes_max: u64,
    dir: OwnedFd,
    trees: Option<Arc<TreeCache>>,
    state: Mutex<State>,
}

type Key = (String, Digest);

#[derive(Debug, Default)]
struct State {
    warm: HashMap<Key, Warm>,
    paths: u64,
    pins: u64,
    bytes: u64,
    uses: u64,
    retired: Vec<Arc<Kept>>,
}

/// One root, warm or being staged.
#[derive(Debug)]
struct Warm {
    slot: Arc<Mutex<Option<Arc<Kept>>>>,
    used: u64,
    /// Of what is in the slot, counted in the state.
    paths: u64,
    pins: u64,
    bytes: u64,
}

impl Stager {
    /// Opens it over a state directory of its own, which must not be on tmpfs for composefs. What a killed daemon left
    /// there goes.
    ///
    /// # Errors
    /// [`StageRootError::Io`]; [`StageRootError::NoWay`] if the way that is forced cannot be had.
    pub fn open(
        cas: Cas,
        dir: &Path,
        runtime: &Runtime,
        options: StagerOptions,
    ) -> Result<Stager, StageRootError> {
        let shown = dir.display().to_string();
        std::fs::create_dir_all(dir).map_err(StageRootError::file(format!("make the directory {shown}")))?;
        let dir = fulgurite_sandbox::layer::open_directory(rustix::fs::CWD, &path_of(dir)?)
            .map_err(StageRootError::io(format!("open the directory {shown}")))?;
        // Nobody but us looks at images and trees by their path: their modes are those of the action's view.
        rustix::fs::fchmod(&dir, Mode::RWXU)
            .map_err(StageRootError::io(format!("close the directory {shown} to others")))?;
        let mut passed_over = Vec::new();
        for way in Way::ALL {
            let forced = match options.way {
                WayChoice::Forced(forced) if forced != way => continue,
                WayChoice::Forced(_) => true,
                WayChoice::Auto => false,
            };
            match prepare(way, &dir, runtime)? {
                Ok(trees) => {
                    let state = Mutex::default();
                    let warm_bytes_max = cas.stats().bytes_max / limits::WARM_STORE_PART;
                    let inner = Inner { cas, options, way, passed_over, warm_bytes_max, dir, trees, state };
                    return Ok(Stager { inner: Arc::new(inner) });
                }
                Err(why) if forced => return Err(StageRootError::NoWay { way, why }),
                Err(why) => passed_over.push((way, why)),
            }
        }
        let why = "no way works on this host".to_owned();
        Err(StageRootError::NoWay { way: Way::Copy, why })
    }

    /// The way that roots are staged.
    #[must_use]
    pub fn way(&self) -> Way {
        self.inner.way
    }

    /// The better ways that this host does not have, and why.
    #[must_use]
    pub fn passed_over(&self) -> &[(Way, String)] {
        &self.inner.passed_over
    }

    /// Stages an input root, or finds it staged.
    ///
    /// # Errors
    /// [`StageRootError`]. Nothing is left of a root that could not be staged.
    pub fn stage(&self, tenant: &str, root: &Digest) -> Result<Arc<StagedRoot>, StageRootError> {
        let key = (tenant.to_owned(), *root);
        let slot = {
            let mut state = self.state();
            state.uses += 1;
            let used = state.uses;
            let warm = state.warm.entry(key.clone()).or_insert_with(|| Warm {
                slot: Arc::default(),
                used,
                paths: 0,
                pins: 0,
                bytes: 0,
            });
            warm.used = used;
            warm.slot.clone()
        };
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = held.as_ref() {
            return Ok(Arc::new(StagedRoot::new(kept.clone(), true)));
        }
        match self.make(root) {
            Ok(kept) => {
                let kept = Arc::new(kept);
                *held = Some(kept.clone());
                drop(held);
                self.count(&key, &slot, &kept);
                self.take_one_apart();
                Ok(Arc::new(StagedRoot::new(kept, false)))
            }
            Err(error) => {
                drop(held);
                self.forget_empty(&key, &slot);
                Err(error)
            }
        }
    }

    /// Puts out all roots that nobody uses, so that their blobs can be evicted, and takes them apart. Answers how many
    /// blobs they had pinned.
    ///
    /// # Errors
    /// The first of [`Stager::tidy`].
    pub fn release_idle(&self) -> Result<u64, StageRootError> {
        let released = {
            let mut state = self.state();
            let before = state.pins;
            while state.retire_oldest() {}
            before - state.pins
        };
        self.tidy()?;
        Ok(released)
    }

    /// Puts out what is too much, now that it may be idle, and takes apart what was put out.
    ///
    /// # Errors
    /// The first tree that could not be removed; it is removed at the next start.
    pub fn tidy(&self) -> Result<(), StageRootError> {
        let retired = {
            let mut state = self.state();
            self.trim(&mut state);
            std::mem::take(&mut state.retired)
        };
        let _low = (!retired.is_empty()).then(|| LowPriority::enter(priority::STAGING));
        retired.into_iter().filter_map(Arc::into_inner).map(Kept::destroy).fold(Ok(()), Result::and)
    }

    /// Who stages a root while many wait to be taken apart does that for one: so they stay bounded, and no action pays
    /// for all.
    fn take_one_apart(&self) {
        let mut state = self.state();
        let oldest = if state.retired.len() > limits::RETIRED_MAX { state.retired.pop() } else { None };
        drop(state);
        // It is another root that was asked for; the trees of this one are removed at the next start at the latest.
        let _ = oldest.and_then(Arc::into_inner).map(Kept::destroy);
    }

    /// How many roots are warm or in use.
    #[must_use]
    pub fn warm_roots(&self) -> usize {
        self.state().warm.len()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, root: &Digest) -> Result<Kept, StageRootError> {
        let Inner { cas, options, dir, trees, .. } = &*self.inner;
        // Before the first look at it, which is much of the work. One with many directories shows when it is read.
        let low = || LowPriority::enter(priority::STAGING);
        let _low = (root.size_bytes > limits::POLITE_BYTES_MIN).then(low);
        let closure = Closure::read(cas, root, &options.limits)?;
        let _low = (closure.size.paths() > limits::POLITE_PATHS_MIN).then(low);
        let blobs = closure.blobs();
        let pin = cas.pin(&blobs).map_err(StageRootError::Missing)?;
        let lower = match (self.inner.way, trees) {
            (Way::Composefs, _) if closure.size.paths() <= limits::MARKED_PATHS_MAX => {
                let is_small = paths::file_bytes(&closure) <= limits::PLAIN_BYTES_MAX;
                Lower::Marks { plain: is_small && options.way == WayChoice::Auto }
            }
            (Way::Composefs, _) => Lower::image(composefs::mount(dir.as_fd(), &closure)?)?,
            (Way::DirectoryCache, Some(trees)) => {
                let (root, name) = trees.build(cas, &closure)?;
                Lower::Tree { root, name, trees: trees.clone() }
            }
            _ => Lower::None,
        };
        Ok(Kept::new(cas.clone(), closure, pin, &blobs, lower))
    }

    /// Counts a root that was staged just now, and puts out others if there are too many.
    fn count(&self, key: &Key, slot: &Arc<Mutex<Option<Arc<Kept>>>>, kept: &Kept) {
        let mut state = self.state();
        let (paths, pins, bytes) = (kept.paths(), kept.pins(), kept.bytes());
        if let Some(warm) = state.warm.get_mut(key).filter(|warm| Arc::ptr_eq(&warm.slot, slot)) {
            (warm.paths, warm.pins, warm.bytes) = (paths, pins, bytes);
            state.paths += paths;
            state.pins += pins;
            state.bytes += bytes;
        }
        self.trim(&mut state);
    }

    /// Puts out idle roots until what is warm is within its bounds.
    fn trim(&self, state: &mut State) {
        let options = &self.inner.options;
        while (state.warm.len() > options.warm_roots_max
            || state.paths > options.warm_paths_max
            || state.pins > options.warm_pins_max
            || state.bytes > self.inner.warm_bytes_max)
            && state.retire_oldest()
        {}
    }

    fn forget_empty(&self, key: &Key, slot: &Arc<Mutex<Option<Arc<Kept>>>>) {
        let mut state = self.state();
        let is_ours = state.warm.get(key).is_some_and(|warm| Arc::ptr_eq(&warm.slot, slot));
        // Somebody who waits for it tries again on the same slot, and counts what comes of it.
        if is_ours && Arc::strong_count(slot) <= 2 {
            state.warm.remove(key);
        }
    }
}

impl State {
    /// Puts out the root that was not used for longest, if there is one that nobody uses.
    fn retire_oldest(&mut self) -> bool {
        let idle = self.warm.iter().filter(|(_, warm)| warm.is_idle());
        let oldest = idle.min_by_key(|(_, warm)| warm.used).map(|(key, _)| key.clone());
        let Some(warm) = oldest.and_then(|key| self.warm.remove(&key)) else { return false };
        self.paths -= warm.paths;
        self.pins -= warm.pins;
        self.bytes -= warm.bytes;
        let kept = warm.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.retired.extend(kept);
        true
    }
}

impl Warm {
    /// Whether nobody holds it or stages it: both can begin only under the lock of the state.
    fn is_idle(&self) -> bool {
        let unused = || {
            let held = self.slot.try_lock().ok()?;
            Some(held.as_ref().is_none_or(|kept| Arc::strong_count(kept) == 1))
        };
        Arc::strong_count(&self.slot) == 1 && unused().unwrap_or(false)
    }
}

/// Whether a way can be had, and what it needs.
fn prepare(
    way: Way,
    dir: &OwnedFd,
    runtime: &Runtime,
) -> Result<Result<Option<Arc<TreeCache>>, String>, StageRootError> {
    match way {
        Way::Composefs => Ok(composefs::probe(dir.as_fd(), runtime).map(|()| None)),
        Way::DirectoryCache => {
            let trees = TreeCache::open(dir.as_fd(), limits::TREE_FILES_BYTES_MAX)?;
            if runtime.features().privileged && runtime.map_owner(trees.trees(), 1)?.is_none() {
                let why = "the filesystem of the state directory has no idmapped mounts".to_owned();
                return Ok(Err(why));
            }
            Ok(Ok(Some(Arc::new(trees))))
        }
        Way::Copy => Ok(Ok(None)),
    }
}

fn path_of(path: &Path) -> Result<std::ffi::CString, StageRootError> {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| StageRootError::Io {
        what: "open a path with a NUL byte".to_owned(),
        errno: Errno::INVAL,
    })
}
