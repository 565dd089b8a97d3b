//! Where in a v2 hierarchy our tree may stand.
//!
//! ```text
//!   <mount>/…/A            A: an ancestor that gives the controllers to its children already
//!            ├─ fulgurite-…            ◄ Room::Ready
//!            └─ own                    own: the group that we were started in
//!                └─ fulgurite-…        ◄ Room::Enable (own is the root or empty) or Room::Evacuate
//!                    └─ daemon         where our own processes go first
//! ```
//!
//! Our own group comes first whenever it gives us any controller, so that whatever limits the operator put
//! around us go on holding for the actions too. Only then the ancestors, nearest first, and of them we only
//! ever *use* what is enabled: `cgroup.subtree_control` is written solely in groups that were delegated to
//! us (owned by our uid; or we are root, and systemd's `delegate` attribute says so, or there is no
//! systemd, or it is the root of a container).
//!
//! To move a process, its owner must be able to write `cgroup.procs` of the common ancestor of source and
//! target: that is why a directory that can be written is not enough. Nothing here changes the system.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::detect::{Missing, Observer};
use super::{Controller, parse, process};

/// What must be done before a tree can stand at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nothing.
    Ready,
    /// Enable the controllers for the place's children.
    Enable,
    /// Move our own processes into a leaf of our tree, then enable.
    Evacuate,
}

/// A directory of the v2 hierarchy that will hold our tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// What must be done first.
    pub room: Room,
    /// The controllers that our tree will have.
    pub controllers: Vec<Controller>,
}

/// Finds the best place between our own group and the mount point.
pub(super) fn choose(mount_point: &Path, own: &Path, observer: &Observer) -> Result<Place, Missing> {
    let wanted = listed(mount_point, "cgroup.controllers");
    let mut best: Option<Place> = None;
    let mut why = None;
    for dir in own.ancestors().take_while(|dir| dir.starts_with(mount_point)) {
        let is_own = dir == own;
        match offer(dir, is_own, dir == mount_point, &wanted, observer) {
            Ok(place) if is_own && (!place.controllers.is_empty() || wanted.is_empty()) => return Ok(place),
            Ok(place) => {
                let better = |best: &Place| place.controllers.len() > best.controllers.len();
                if best.as_ref().is_none_or(better) {
                    best = Some(place);
                }
            }
            Err(reason) => why = why.or(Some(reason)),
        }
    }
    let why = why.unwrap_or_else(|| format!("{} is not below {}", own.display(), mount_point.display()));
    best.ok_or_else(|| Missing { why, hint: Some(delegation_hint(observer)) })
}

/// What one directory offers, or why nothing.
fn offer(
    dir: &Path,
    is_own: bool,
    is_mount: bool,
    wanted: &[Controller],
    observer: &Observer,
) -> Result<Place, String> {
    for path in [dir.to_path_buf(), dir.join("cgroup.procs")] {
        if rustix::fs::accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
            return Err(format!("{} is not writable by uid {}", path.display(), observer.uid));
        }
    }
    let available: Vec<_> = listed(dir, "cgroup.controllers")
        .into_iter()
        .filter(|controller| wanted.contains(controller))
        .collect();
    let mut enabled = listed(dir, "cgroup.subtree_control");
    enabled.retain(|controller| available.contains(controller));
    let place = |room, controllers| Ok(Place { dir: dir.to_path_buf(), room, controllers });
    if enabled == available {
        return place(Room::Ready, enabled);
    }
    let occupants = parse::pids(&std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default());
    let is_root = !dir.join("cgroup.type").exists();
    if is_delegated(dir, is_own, is_root, is_mount, observer) {
        if is_root || occupants.is_empty() {
            return place(Room::Enable, available);
        }
        if is_own && occupants.iter().all(|&pid| process::is_ours(pid)) {
            return place(Room::Evacuate, available);
        }
    }
    if !enabled.is_empty() {
        return place(Room::Ready, enabled);
    }
    let missing = names(&available);
    match occupants.iter().find(|&&pid| !process::is_ours(pid)) {
        Some(pid) if !is_root => Err(format!(
            "{} cannot give {missing} to children while processes that are not ours live in it (pid {pid})",
            dir.display()
        )),
        _ => Err(format!(
            "{} does not give {missing} to its children and is not delegated to us",
            dir.display()
        )),
    }
}

fn is_delegated(dir: &Path, is_own: bool, is_root: bool, is_mount: bool, observer: &Observer) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let control = dir.join("cgroup.subtree_control");
    if rustix::fs::accessat(CWD, &control, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
        return false;
    }
    if observer.uid != 0 {
        return std::fs::metadata(dir).is_ok_and(|data| data.uid() == observer.uid);
    }
    if !observer.has_systemd || (is_root && is_own) {
        return true;
    }
    let is_container_root = is_mount && !is_root;
    is_container_root || ["trusted.delegate", "user.delegate"].iter().any(|name| has_attribute(dir, name))
}

fn has_attribute(dir: &Path, name: &str) -> bool {
    let mut value = [0u8; 8];
    matches!(rustix::fs::getxattr(dir, name, &mut value), Ok(1) if value[0] == b'1')
}

fn delegation_hint(observer: &Observer) -> String {
    let user = if observer.uid == 0 { "" } else { "--user " };
    format!("start it with: systemd-run {user}--scope -p Delegate=yes -- fulgurite …")
}

/// The controllers that a file of `dir` lists.
pub(super) fn listed(dir: &Path, file: &str) -> Vec<Controller> {
    parse::controllers(&std::fs::read_to_string(dir.join(file)).unwrap_or_default())
}

fn names(controllers: &[Controller]) -> String {
    controllers.iter().map(|controller| controller.name()).collect::<Vec<_>>().join(", ")
}
