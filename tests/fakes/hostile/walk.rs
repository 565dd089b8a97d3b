//! Bounded walks over the file system as the action sees it.

use std::fs::{DirEntry, FileType};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bounds of a walk: a huge toolchain must not turn an attack into a stall.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Entries to look at.
    pub entries: usize,
    /// Wall-clock time.
    pub time: Duration,
    /// Directory depth.
    pub depth: usize,
}

impl Bounds {
    /// Enough for a complete toolchain on a slow machine.
    pub const WIDE: Bounds = Bounds { entries: 400_000, time: Duration::from_secs(25), depth: 40 };
}

/// Visits everything below `root`, breadth first, without following links. `enter` says which directories to enter.
/// Returns false if a bound cut the walk short.
pub fn walk(
    root: &Path,
    bounds: Bounds,
    enter: &mut dyn FnMut(&Path) -> bool,
    visit: &mut dyn FnMut(&Path, FileType),
) -> bool {
    let (deadline, mut left) = (Instant::now() + bounds.time, bounds.entries);
    tree(root, (deadline, bounds.depth, &mut left), enter, visit)
}

/// As `walk`, for all of the file system but the kernel's own, with one budget for everything.
pub fn everything(enter: &mut dyn FnMut(&Path) -> bool, visit: &mut dyn FnMut(&Path, FileType)) -> bool {
    let (deadline, mut left) = (Instant::now() + Bounds::WIDE.time, Bounds::WIDE.entries);
    let mut enter = |path: &Path| !is_pseudo(path) && enter(path);
    let mut complete = true;
    for root in roots() {
        if enter(&root) {
            complete &= tree(&root, (deadline, Bounds::WIDE.depth, &mut left), &mut enter, visit);
        }
    }
    complete
}

fn tree(
    root: &Path,
    (deadline, deepest, left): (Instant, usize, &mut usize),
    enter: &mut dyn FnMut(&Path) -> bool,
    visit: &mut dyn FnMut(&Path, FileType),
) -> bool {
    let mut queue = std::collections::VecDeque::from([(root.to_path_buf(), 0)]);
    while let Some((directory, depth)) = queue.pop_front() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if *left == 0 || Instant::now() > deadline {
                return false;
            }
            *left -= 1;
            let path = entry.path();
            // The entry itself tells the type of what lies below a mount, such as that of a device node.
            let Ok(kind) = std::fs::symlink_metadata(&path).map(|m| m.file_type()) else { continue };
            visit(&path, kind);
            if kind.is_dir() && depth < deepest && enter(&path) {
                queue.push_back((path, depth + 1));
            }
        }
    }
    true
}

/// Kernel file systems that have attacks of their own and no end.
pub fn is_pseudo(path: &Path) -> bool {
    ["/proc", "/sys"].iter().any(|p| path == Path::new(p))
}

/// Whether a path lies on a file system that can be the action's own: tmpfs, ramfs or an overlay.
pub fn is_private_kind(path: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    const OVERLAY: i64 = 0x794c_7630;
    matches!(crate::sys::fs_type(path), Some(TMPFS | RAMFS | OVERLAY))
}

/// Directories below the root, the interesting ones first and the toolchain last.
pub fn roots() -> Vec<PathBuf> {
    let heavy = ["usr", "lib", "lib64", "lib32", "bin", "sbin", "opt", "nix", "gnu"];
    let mut roots: Vec<DirEntry> = std::fs::read_dir("/").map(|d| d.flatten().collect()).unwrap_or_default();
    roots.retain(|e| e.file_type().is_ok_and(|t| t.is_dir()) && !is_pseudo(&e.path()));
    roots.sort_by_key(|e| (heavy.contains(&&*e.file_name().to_string_lossy()), e.file_name()));
    roots.iter().map(DirEntry::path).collect()
}

/// Directories where the action may write: declared by the harness, else the usual ones that exist.
pub fn writable(facts: &crate::facts::Facts) -> Vec<PathBuf> {
    let declared = facts.list("writable").map(|l| l.iter().map(PathBuf::from).collect::<Vec<_>>());
    let mut all = declared.unwrap_or_else(|| {
        let fixed = ["/work", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"].map(PathBuf::from);
        let named = ["HOME", "TMPDIR"].iter().filter_map(std::env::var_os).map(PathBuf::from);
        fixed.into_iter().chain(named).chain(std::env::current_dir()).collect()
    });
    all.retain(|p| p.is_absolute() && p != Path::new("/") && p.is_dir());
    all.sort();
    all.dedup();
    all
}

/// A directory for the attacker's own files: the first of the usual ones where a file can be made.
pub fn scratch(facts: &crate::facts::Facts) -> Option<PathBuf> {
    let mut places = vec![PathBuf::from("/tmp")];
    places.extend(writable(facts));
    places.into_iter().find(|dir| {
        let probe = dir.join(format!(".hostile-probe-{}", std::process::id()));
        let made = std::fs::create_dir(&probe).is_ok();
        let _ = std::fs::remove_dir(&probe);
        made
    })
}
