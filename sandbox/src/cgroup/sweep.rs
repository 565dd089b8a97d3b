//! Removing what a killed predecessor left behind, by our own names only.
//!
//! A directory is stale if its name is one that we give, of our pid namespace, and the process in it is
//! gone (or the pid belongs to a process that started at another time). What still runs there is killed: by
//! `cgroup.kill`, or where there is none by SIGKILL through a pidfd, after looking again whether the pid is
//! still in the group, so that a pid used again is never hit. A tree that holds ourselves is left alone.
//!
//! Limits: only the places where our own tree would stand are looked at.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::node::{Patience, remove_dir};
use super::{CgroupHost, ProcessIdentity, parse, parse_tree_name, process};

/// How often the processes of a stale v1 tree are killed again: they may be forking.
const KILL_ROUNDS: usize = 20;
/// No group of ours lies deeper: place, top, slot, leaf, and room for what an action with rights could make.
const DEPTH_MAX: usize = 16;

/// Removes the trees of dead predecessors and says what was done, a line each.
pub fn sweep_stale(host: &CgroupHost) -> Vec<String> {
    // Where even we look dead, /proc does not tell who is alive.
    if !ProcessIdentity::current().is_alive() {
        return vec!["left all trees: /proc does not show who is alive".into()];
    }
    let places = host.v2.iter().map(|place| &place.dir).chain(host.v1.iter().map(|place| &place.dir));
    places.flat_map(|place| stale_trees(place)).map(|tree| sweep_tree(&tree)).collect()
}

/// Whether any tree of a dead predecessor is there.
#[must_use]
pub fn has_stale(host: &CgroupHost) -> bool {
    let places = host.v2.iter().map(|place| &place.dir).chain(host.v1.iter().map(|place| &place.dir));
    places.into_iter().any(|place| !stale_trees(place).is_empty())
}

/// Tries once more to remove directories of [`super::CgroupError::Quarantined`], in their order; gives back
/// those that are busy still.
pub fn remove_quarantined(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().filter(|path| remove_dir(path, Patience::Once).is_err()).collect()
}

fn stale_trees(place: &Path) -> Vec<PathBuf> {
    children(place).into_iter().filter(|path| is_stale(path)).collect()
}

fn is_stale(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match parse_tree_name(name) {
        Some((owner, namespace)) => process::pid_namespace() == Some(namespace) && !owner.is_alive(),
        None => false,
    }
}

fn sweep_tree(tree: &Path) -> String {
    let occupants = occupants(tree);
    let shown = tree.display();
    if occupants.contains(&std::process::id()) {
        return format!("left {shown}: this process lives in it");
    }
    if std::fs::write(tree.join("cgroup.kill"), "1").is_err() {
        kill_each(tree);
    }
    let mut remains = Vec::new();
    match remove_below(tree, Patience::Bounded, &mut remains) {
        Ok(()) => format!("removed {shown} ({} processes killed)", occupants.len()),
        Err(error) => format!("cannot remove {shown}: {error} ({} directories remain)", remains.len()),
    }
}

/// SIGKILL to every process below, until none is left or it does not help.
fn kill_each(tree: &Path) {
    for _ in 0..KILL_ROUNDS {
        let groups = groups_below(tree);
        let mut alive = 0;
        for group in &groups {
            for pid in pids_of(group) {
                alive += 1;
                kill_member(group, pid);
            }
        }
        if alive == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill_member(group: &Path, pid: u32) {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(pidfd) = pidfd_open(target, PidfdFlags::empty()) else { return };
    if pids_of(group).contains(&pid) {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

/// Removes a directory and all groups below it, deepest first; what cannot be removed is added to `remains`.
pub(super) fn remove_below(
    top: &Path,
    patience: Patience,
    remains: &mut Vec<PathBuf>,
) -> Result<(), io::Error> {
    let mut last = None;
    for group in groups_below(top).iter().rev() {
        if let Err(error) = remove_dir(group, patience) {
            remains.push(group.clone());
            last = Some(error);
        }
    }
    last.map_or(Ok(()), Err)
}

/// Removes the groups below a directory, except the child called `kept`.
pub(super) fn remove_children(top: &Path, kept: &str, patience: Patience) {
    for child in children(top).iter().filter(|child| child.file_name().is_none_or(|name| name != kept)) {
        let _ = remove_below(child, patience, &mut Vec::new());
    }
}

/// The group and all below it, parents before children.
fn groups_below(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_path_buf()];
    let mut level = vec![top.to_path_buf()];
    for _ in 0..DEPTH_MAX {
        level = level.iter().flat_map(|group| children(group)).collect();
        found.extend(level.iter().cloned());
    }
    found
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_dir).map(|entry| entry.path()).collect()
}

fn occupants(tree: &Path) -> Vec<u32> {
    groups_below(tree).iter().flat_map(|group| pids_of(group)).collect()
}

fn pids_of(group: &Path) -> Vec<u32> {
    parse::pids(&std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default())
}
