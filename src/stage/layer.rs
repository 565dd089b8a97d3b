//! The private writable directory of one action, and where it lies.
//!
//! ```text
//!   place                                 0700, ours, no symlink; one per user and filesystem (see `Places`)
//!     layer-<pid>-<starttime>-<n>/        0700; locked (flock) as long as its process lives
//!       upper/                            0755, the action's user
//!       work/                             for the kernel, if there is an overlay
//!     kept-<pid>-<starttime>-<n>/         the same after `keep`: nobody removes it but its user
//! ```
//!
//! The place is chosen by mount, then by filesystem: where outputs can be renamed to their destination
//! nothing is copied. The order among equals is that of [`Places::candidates`].
//!
//! Invariants:
//! - a layer whose process is gone (no such pid with that start time, *and* nobody holds its lock) is removed
//!   by [`sweep_stale`]; the lock protects layers of processes in other pid namespaces;
//! - dropping a [`Layer`] removes nothing: removal blocks, so it is a call ([`Layer::destroy`]), and what was
//!   dropped is found by the next sweep.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{self, Owner};
use super::error::StageError;
use super::fault::Fault;
use super::limits::{NAME_TRIES_MAX, SWEEP_MAX, TreeLimits};
use super::place::{Place, Places};
use super::remove::{Removed, remove_tree};
use super::tree::make_directory;

/// Numbers the layers of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A place that was chosen once, for the layers of many actions.
#[derive(Clone, Debug)]
pub struct LayerHome {
    place: Arc<Place>,
    me: ProcessId,
}

impl LayerHome {
    /// Chooses the place: if possible where `destination` is on the same mount.
    ///
    /// # Errors
    /// [`StageError`], saying which candidates were tried.
    pub fn choose(places: &Places, destination: BorrowedFd<'_>) -> Result<Self, StageError> {
        Ok(Self { place: Arc::new(Place::choose(places, destination)?), me: ProcessId::own()? })
    }

    /// The directory that holds the layers.
    pub fn place(&self) -> BorrowedFd<'_> {
        self.place.dir.as_fd()
    }

    /// Makes a layer. `upper` belongs to `owner`, who is the action's user as the host sees it; `None` if that is
    /// this process.
    ///
    /// # Errors
    /// [`StageError`]: what the kernel refused.
    pub fn create(&self, owner: Option<Owner>) -> Result<Layer, StageError> {
        self.make(owner, true)
    }

    /// As [`LayerHome::create`], for a layer that is mounted alone and has no need of `work`.
    ///
    /// # Errors
    /// As [`LayerHome::create`].
    pub fn create_plain(&self, owner: Option<Owner>) -> Result<Layer, StageError> {
        self.make(owner, false)
    }

    /// Whether programs can be executed where the layers are.
    #[must_use]
    pub fn has_programs(&self) -> bool {
        let seen = rustix::fs::fstatvfs(&self.place.dir);
        seen.is_ok_and(|seen| !seen.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
    }

    fn make(&self, owner: Option<Owner>, with_work: bool) -> Result<Layer, StageError> {
        let place = &self.place;
        for _ in 0..NAME_TRIES_MAX {
            let name = self.me.layer_name(NEXT.fetch_add(1, Ordering::Relaxed));
            match rustix::fs::mkdirat(&place.dir, &name, Mode::RWXU) {
                Ok(()) => return Layer::fill(place.clone(), name, owner, with_work),
                Err(Errno::EXIST) => {}
                Err(why) => return Err(Fault::new("create a layer in", &place.path, why).into()),
            }
        }
        Err(Fault::new("find a free name for a layer in", &place.path, Errno::EXIST).into())
    }
}

/// A private writable directory. Call [`Layer::destroy`] or [`Layer::keep`].
#[must_use = "a layer that is dropped stays on disk until the next sweep"]
#[derive(Debug)]
pub struct Layer {
    place: Arc<Place>,
    name: CString,
    dir: OwnedFd,
    upper: OwnedFd,
}

impl Layer {
    /// Makes a layer, if possible where `destination` is on the same mount. `upper` belongs to `owner`, who
    /// is the action's user as the host sees it; `None` if that is this process.
    pub fn create(
        places: &Places,
        destination: BorrowedFd<'_>,
        owner: Option<Owner>,
    ) -> Result<Self, StageError> {
        LayerHome::choose(places, destination)?.create(owner)
    }

    fn fill(
        place: Arc<Place>,
        name: CString,
        owner: Option<Owner>,
        with_work: bool,
    ) -> Result<Self, StageError> {
        let path = place.path.join(OsStr::from_bytes(name.to_bytes()));
        let made = || -> Result<(OwnedFd, OwnedFd), Errno> {
            let dir = beneath::open_dir(place.dir.as_fd(), &name)?;
            rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
            if with_work {
                rustix::fs::mkdirat(&dir, c"work", Mode::RWXU)?;
            }
            let upper = make_directory(dir.as_fd(), c"upper", owner)?;
            Ok((dir, upper))
        };
        match made() {
            Ok((dir, upper)) => Ok(Self { place, name, dir, upper }),
            Err(why) => {
                let _ = remove_tree(place.dir.as_fd(), &name, 16);
                Err(Fault::new("set up layer", path, why).into())
            }
        }
    }

    /// The directory that holds this layer and others: private, and on the same filesystem.
    pub fn place(&self) -> BorrowedFd<'_> {
        self.place.dir.as_fd()
    }

    /// The layer's own directory: 0700, holds `upper`, `work`, and what else is staged for the action.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The upper directory.
    pub fn upper(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    /// Where the layer is, for messages and for mount options.
    pub fn path(&self) -> PathBuf {
        self.place.path.join(OsStr::from_bytes(self.name.to_bytes()))
    }

    /// True if what is in the layer can be renamed to the destination it was made for.
    pub fn same_mount(&self) -> bool {
        self.place.same_mount
    }

    /// Removes the layer with all that is in it. Call it when nothing of the action lives, and nothing is
    /// mounted from it.
    pub fn destroy(self) -> Result<Removed, StageError> {
        if let Some(removed) = self.remove_empty() {
            self.place.leave();
            return Ok(removed);
        }
        let removed = remove_tree(self.place.dir.as_fd(), &self.name, u64::MAX)?;
        self.place.leave();
        Ok(removed)
    }

    /// Removes it in few calls if nothing is in it but what was made with it, and the directory that overlayfs makes
    /// in `work`; which is how it is after all outputs were renamed away.
    fn remove_empty(&self) -> Option<Removed> {
        let remove = |name: &CStr| rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR);
        remove(c"upper").ok()?;
        for work in [c"work/work", c"work"] {
            match remove(work) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(_) => return None,
            }
        }
        rustix::fs::unlinkat(&self.place.dir, &self.name, AtFlags::REMOVEDIR).ok()?;
        Some(Removed { entries: 4 })
    }

    /// Keeps it for a person to look at: no sweep removes it. Answers where it is.
    pub fn keep(self) -> Result<PathBuf, StageError> {
        let kept = [b"kept", self.name.to_bytes().strip_prefix(b"layer").unwrap_or(b"")].concat();
        let path = self.place.path.join(OsStr::from_bytes(&kept));
        let fault = Fault::of("keep layer as", &path);
        rustix::fs::renameat(&self.place.dir, &self.name, &self.place.dir, kept.as_slice()).map_err(fault)?;
        Ok(path)
    }
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Layers removed.
    pub removed: usize,
    /// Layers whose process lives, or that are needed.
    pub alive: usize,
    /// Layers that could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes the layers of dead processes from all existing candidates.
pub fn sweep_all(places: &Places) -> Result<Swept, StageError> {
    sweep_all_but(places, &HashSet::new())
}

/// The same, but for the layers of these names.
pub fn sweep_all_but(places: &Places, needed: &HashSet<OsString>) -> Result<Swept, StageError> {
    let mut all = Swept::default();
    for path in places.candidates() {
        let Ok(place) = Place::open_existing(&path) else { continue };
        let swept = sweep_but(place.dir.as_fd(), needed)?;
        all.removed += swept.removed;
        all.alive += swept.alive;
        all.failed.extend(swept.failed);
        place.leave();
    }
    Ok(all)
}

/// Removes the layers of dead processes from the place `dir`. What is not named like a layer is left alone.
pub fn sweep_stale(dir: BorrowedFd<'_>) -> Result<Swept, StageError> {
    sweep_but(dir, &HashSet::new())
}

/// The directories of all places that exist and are ours.
pub fn existing_places(places: &Places) -> Vec<OwnedFd> {
    let open = |path: PathBuf| Place::open_existing(&path).ok().map(|place| place.dir);
    places.candidates().into_iter().filter_map(open).collect()
}

fn sweep_but(dir: BorrowedFd<'_>, needed: &HashSet<OsString>) -> Result<Swept, StageError> {
    let (entries, _) = beneath::list(dir, SWEEP_MAX).map_err(Fault::of("list", "the place for layers"))?;
    let mut swept = Swept::default();
    for (name, _) in entries {
        let Some(process) = ProcessId::of_layer(name.to_bytes()) else { continue };
        if process.is_alive() || needed.contains(OsStr::from_bytes(name.to_bytes())) {
            swept.alive += 1;
            continue;
        }
        // The lock is held while removing, so that two sweeps do not meet.
        let locked = beneath::open_dir(dir, &name)
            .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map(|()| fd));
        match locked {
            Err(Errno::WOULDBLOCK) => swept.alive += 1,
            Err(Errno::NOENT) => {}
            Err(why) => {
                swept.failed.push(Fault::new("open", name.to_string_lossy().as_ref(), why).to_string())
            }
            Ok(_held) => match remove_tree(dir, &name, TreeLimits::DEFAULT.entries_max) {
                Ok(_) => swept.removed += 1,
                Err(error) => swept.failed.push(error.to_string()),
            },
        }
    }
    Ok(swept)
}

/// A process as layers name it: pids are used again, pids with their start time are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessId {
    pid: u32,
    started: u64,
}

/// When a process was started, in ticks since the machine was: with its number, nobody else has both.
///
/// # Errors
/// There is none of this number.
pub fn process_start(pid: u32) -> Result<u64, Errno> {
    ProcessId::read(Path::new(&format!("/proc/{pid}/stat"))).map(|process| process.started)
}

impl ProcessId {
    fn own() -> Result<Self, Fault> {
        Self::read(Path::new("/proc/self/stat")).map_err(|why| Fault::new("read", "/proc/self/stat", why))
    }

    fn read(path: &Path) -> Result<Self, Errno> {
        let stat = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buffer = [0; 1024];
        let length = rustix::io::read(&stat, &mut buffer)?;
        Self::parse(&buffer[..length]).ok_or(Errno::INVAL)
    }

    /// Reads `pid (comm) state … starttime …`; comm may hold anything, so fields count from the last
    /// parenthesis.
    fn parse(stat: &[u8]) -> Option<Self> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let pid = text(stat.split(|byte| *byte == b' ').next()?)?.parse().ok()?;
        let started = text(&stat[close + 1..])?.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    fn layer_name(self, number: u64) -> CString {
        CString::new(format!("layer-{}-{}-{number}", self.pid, self.started)).unwrap_or_default()
    }

    fn of_layer(name: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(name).ok()?.strip_prefix("layer-")?;
        let mut fields = rest.split('-');
        let (pid, started) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _number: u64 = fields.next()?.parse().ok()?;
        fields.next().is_none().then_some(Self { pid, started })
    }

    /// False only if that is certain.
    fn is_alive(self) -> bool {
        match Self::read(Path::new(&format!("/proc/{}/stat", self.pid))) {
            Ok(now) => now == self,
            Err(why) => why != Errno::NOENT && why != Errno::SRCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_layer_it_is() {
        let process = ProcessId { pid: 12, started: 3456 };
        let name = process.layer_name(7);
        assert_eq!(name.to_bytes(), b"layer-12-3456-7");
        assert_eq!(ProcessId::of_layer(name.to_bytes()), Some(process));
        for other in
            ["layer-12-3456", "layer-12-3456-7-8", "layer--1-2", "kept-12-3456-7", "layer-a-b-c", "x"]
        {
            assert_eq!(ProcessId::of_layer(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn stat_lines_with_odd_names() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        let parsed = ProcessId::parse(format!("42 (a) b) c) {fields}").as_bytes());
        assert_eq!(parsed, Some(ProcessId { pid: 42, started: 777 }));
        assert_eq!(ProcessId::parse(b""), None);
        let me = ProcessId::own().unwrap();
        assert_eq!(me.pid, std::process::id());
        assert!(me.is_alive());
        assert!(!ProcessId { started: me.started + 1, ..me }.is_alive());
    }
}
