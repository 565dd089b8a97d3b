//! What is left of a scene: processes, cgroups, mounts, layers, sockets, directories beside the exec root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;

use crate::scene::Scene;

/// How long [`settle`] waits before it says that something does not end. No test measures time by it.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Which process: its number and its start, because numbers are used again. Groups of one that was killed long ago may
/// still be somewhere, under the number that one of ours has now.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pid: u32,
    started: u64,
}

impl Owner {
    /// Of a child that has not been waited for: until then its start can be read, also when it has ended.
    pub fn of(child: &Child) -> Owner {
        let pid = child.id();
        Owner { pid, started: fulgurite::stage::process_start(pid).unwrap() }
    }

    /// Whether the name of a cgroup says that this process made it.
    fn made(self, name: &OsStr) -> bool {
        let ours = format!("fulgurite-{}-{}-", self.pid, self.started);
        name.to_str().is_some_and(|name| name.starts_with(&ours))
    }
}

/// A line for everything that a scene left, and that this process of it left by its own name.
pub fn of(scene: &Scene, owner: Option<Owner>) -> Vec<String> {
    let mut left: Vec<String> = processes(&scene.mark).iter().map(|pid| described(*pid)).collect();
    let cgroups = owner.map(cgroups).unwrap_or_default();
    left.extend(cgroups.iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(mounts(scene.dir()));
    left.extend(layers(scene));
    left
}

/// The processes that have the mark in their environment or their arguments, zombies not counted.
pub fn processes(mark: &str) -> Vec<u32> {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && is_marked(*pid, mark)).collect()
}

fn is_marked(pid: u32, mark: &str) -> bool {
    let has = |file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(mark.len()).any(|window| window == mark.as_bytes())
    };
    has("environ") || has("cmdline")
}

fn described(pid: u32) -> String {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let field = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or("").to_owned();
    let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    format!("process {pid} {} {} {}: {command}", field("Name:"), field("State:"), field("PPid:"))
}

/// Waits until no process has the mark: by their descriptors, so that new ones are found as well.
pub fn settle(mark: &str) {
    loop {
        let pids = processes(mark);
        let ends = descriptors(&pids);
        if pids.is_empty() {
            return;
        }
        for (pid, end) in ends {
            let mut events = [PollFd::new(&end, PollFlags::IN)];
            let count = poll(&mut events, Some(&PATIENCE)).unwrap();
            assert!(count > 0, "does not end: {}", described(pid));
        }
    }
}

/// Kills what has the mark, until nothing has.
pub fn kill(mark: &str) {
    for _ in 0..100 {
        let ends = descriptors(&processes(mark));
        if ends.is_empty() {
            return;
        }
        for (_, end) in &ends {
            // It may have ended by now.
            let _ = pidfd_send_signal(end, Signal::KILL);
            let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&PATIENCE));
        }
    }
}

fn descriptors(pids: &[u32]) -> Vec<(u32, OwnedFd)> {
    let open = |pid: &u32| {
        let raw = Pid::from_raw(i32::try_from(*pid).ok()?)?;
        Some((*pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
    };
    pids.iter().filter_map(open).collect()
}

/// The cgroups that bear the name of a process, in every hierarchy.
pub fn cgroups(owner: Owner) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if owner.made(&entry.file_name()) {
                found.push(entry.path());
            }
            open.push(entry.path());
        }
    }
    found
}

fn mounts(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = dir.file_name().unwrap().to_str().unwrap();
    table.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")).collect()
}

/// Everything in the state directory but its empty parts, and guests beside the exec root.
fn layers(scene: &Scene) -> Vec<String> {
    let mut left = Vec::new();
    for part in list(&scene.state()) {
        if list(&part).is_empty() && part.is_dir() {
            continue;
        }
        left.push(format!("state {}: {:?}", part.display(), list(&part)));
    }
    for beside in list(scene.dir()) {
        if beside.file_name().unwrap().as_bytes().starts_with(b".") {
            left.push(format!("beside the exec root {}", beside.display()));
        }
    }
    let temporaries = walk(&scene.root());
    left.extend(
        temporaries
            .iter()
            .filter(|path| path.to_string_lossy().contains(".fulgurite-"))
            .map(|path| format!("in the exec root {}", path.display())),
    );
    left
}

fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for path in list(&dir) {
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}
