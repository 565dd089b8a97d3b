//! The leak census: what a process and its sandboxes hold, counted, so that a test can say that nothing is
//! left.
//!
//! ```text
//! let before = Census::take();  …  before.difference(&Census::take())  ► [], or a line for each change
//! ```
//! Things are counted by kind and not by number: a zygote that was replaced by another one is no difference,
//! a second one is. Teardown is asynchronous in places (a zygote that reaps, a cgroup that empties), so
//! comparisons are made with [`settles`] or [`Census::settled`], which look again until a deadline.
//!
//! Counted processes: all descendants, and all members of cgroups that bear our name; the second finds
//! orphans too.
use rustix::time::Timespec;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const LOOK_AGAIN_NS: i64 = 1_000_000;
/// What stands behind the name of a process that has ended and was not reaped yet.
const ZOMBIE: &str = " (zombie)";
/// Groups below a mount of cgroupfs are looked for this deep.
const GROUP_DEPTH_MAX: usize = 12;

/// What to count.
#[derive(Clone, Debug)]
pub struct Scope {
    pid: u32,
    zygotes: Vec<u32>,
    directories: Vec<PathBuf>,
    ignored: Vec<String>,
}

impl Default for Scope {
    fn default() -> Self {
        Scope::of_process(std::process::id())
    }
}

impl Scope {
    /// This process, all that descends from it, and its cgroups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another process, all that descends from it, and its cgroups.
    #[must_use]
    pub fn of_process(pid: u32) -> Self {
        Scope { pid, zygotes: Vec::new(), directories: Vec::new(), ignored: Vec::new() }
    }

    /// The mounts of this zygote as well.
    #[must_use]
    pub fn with_zygote(mut self, pid: u32) -> Self {
        self.zygotes.push(pid);
        self
    }

    /// The files below this directory as well.
    #[must_use]
    pub fn with_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directories.push(directory.into());
        self
    }

    /// Leaves out what is of a kind that begins like this, for instance `descriptor memfd:fulgurite-plan`.
    #[must_use]
    pub fn without(mut self, prefix: impl Into<String>) -> Self {
        self.ignored.push(prefix.into());
        self
    }
}

/// What was counted: how many of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    counts: BTreeMap<String, usize>,
}

impl Census {
    /// Counts what this process and its sandboxes hold.
    #[must_use]
    pub fn take() -> Self {
        Self::of(&Scope::new())
    }

    /// Counts what a scope holds.
    #[must_use]
    pub fn of(scope: &Scope) -> Self {
        let mut census = Census::default();
        census.count_descriptors(scope.pid);
        census.count_mounts("mount", scope.pid);
        for zygote in &scope.zygotes {
            census.count_mounts("mount in the zygote", *zygote);
        }
        let groups = groups_of(scope.pid);
        for group in &groups {
            census.add(format!("cgroup {}", kind_of_group(group)));
        }
        census.count_processes(scope.pid, &groups);
        for directory in &scope.directories {
            census.count_files(directory, directory);
        }
        census.counts.retain(|kind, _| !scope.ignored.iter().any(|prefix| kind.starts_with(prefix)));
        census
    }

    /// Counts what a scope holds once nobody waits to be reaped any more, or at the latest when the time is
    /// over.
    #[must_use]
    pub fn at_rest(scope: &Scope, patience: Duration) -> Self {
        let mut census = Census::default();
        settles(patience, || {
            census = Census::of(scope);
            !census.counts.keys().any(|kind| kind.ends_with(ZOMBIE))
        });
        census
    }

    /// What changed from this census to a later one, a line each; empty if nothing did.
    #[must_use]
    pub fn difference(&self, later: &Census) -> Vec<String> {
        let kinds: BTreeSet<&String> = self.counts.keys().chain(later.counts.keys()).collect();
        kinds
            .into_iter()
            .filter_map(|kind| {
                let (before, after) = (self.number(kind), later.number(kind));
                let (sign, count) =
                    if after > before { ("+", after - before) } else { ("-", before - after) };
                (count != 0).then(|| format!("{sign}{count} {kind} ({before} before, {after} now)"))
            })
            .collect()
    }

    /// Counts again until nothing differs from this census or the time is over; gives the last difference.
    #[must_use]
    pub fn settled(&self, scope: &Scope, patience: Duration) -> Vec<String> {
        let mut difference = Vec::new();
        settles(patience, || {
            difference = self.difference(&Census::of(scope));
            difference.is_empty()
        });
        difference
    }

    /// How many there are whose kind begins like this, for instance `process`.
    #[must_use]
    pub fn total(&self, prefix: &str) -> usize {
        self.counts.iter().filter(|(kind, _)| kind.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    fn number(&self, kind: &str) -> usize {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    fn add(&mut self, kind: String) {
        *self.counts.entry(kind).or_default() += 1;
    }

    fn count_descriptors(&mut self, pid: u32) {
        let directory = format!("/proc/{pid}/fd");
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            // The descriptor that reads the directory is not one of the process's own.
            if target.ends_with("/fd") && target.starts_with("/proc/") {
                continue;
            }
            let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
            let kind = kind.trim_start_matches('/').trim_end_matches(" (deleted)");
            let kind = if kind.contains("cgroup") { number_free(kind) } else { kind.to_owned() };
            self.add(format!("descriptor {kind}"));
        }
    }

    fn count_mounts(&mut self, kind: &str, pid: u32) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        for line in text.lines() {
            let mut fields = line.split(' ');
            let point = fields.nth(4).unwrap_or_default();
            let system = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            self.add(format!("{kind} {system} at {point}"));
        }
    }

    fn count_processes(&mut self, root: u32, groups: &[PathBuf]) {
        let all = processes();
        let mut found: BTreeSet<u32> = groups.iter().flat_map(|group| members(group)).collect();
        found.extend(descendants(&all, root));
        found.remove(&root);
        for pid in found {
            let Some(process) = all.get(&pid) else { continue };
            self.add(format!("process {}", process.kind()));
            for _ in 1..process.threads {
                self.add(format!("thread of {}", process.kind()));
            }
        }
        for _ in 0..all.get(&root).map_or(0, |process| process.threads) {
            self.add("thread of the process itself".to_owned());
        }
    }

    fn count_files(&mut self, top: &Path, directory: &Path) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            self.add(format!("file below {}", top.display()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.count_files(top, &entry.path());
            }
        }
    }
}

/// Looks at a condition until it holds or the time is over; says whether it held.
pub fn settles(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // There is no event for "nothing changes any more": a short wait on no descriptors, then another
        // look.
        let _ = rustix::event::poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN_NS }));
    }
}

/// The pids of all descendants of a process, in order.
#[must_use]
pub fn descendants_of(pid: u32) -> Vec<u32> {
    descendants(&processes(), pid).into_iter().collect()
}

/// The cgroup directories that bear the name of a process, of all hierarchies, parents before children.
#[must_use]
pub fn groups_of(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("fulgurite-{pid}-");
    let mut found = Vec::new();
    for mount in cgroup_mounts() {
        find_groups(&mount, &prefix, GROUP_DEPTH_MAX, &mut found);
    }
    found
}

/// Whether a process lives: it is in the table of processes and no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    process(pid).is_some_and(|process| !process.is_zombie)
}

struct Process {
    parent: u32,
    name: String,
    threads: usize,
    is_zombie: bool,
}

impl Process {
    fn kind(&self) -> String {
        if self.is_zombie { format!("{}{ZOMBIE}", self.name) } else { self.name.clone() }
    }
}

/// Reads /proc/<pid>/stat: the name stands in parentheses and may contain anything, so it is cut at the last
/// one.
fn process(pid: u32) -> Option<Process> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Process {
        name,
        is_zombie: fields.first() == Some(&"Z"),
        parent: fields.get(1)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
    })
}

fn processes() -> BTreeMap<u32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| process(pid).map(|process| (pid, process))).collect()
}

fn descendants(all: &BTreeMap<u32, Process>, root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, process) in all {
        children.entry(process.parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

fn cgroup_mounts() -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    text.lines().filter(is_cgroup).filter_map(point).collect()
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn find_groups(directory: &Path, prefix: &str, depth: usize, found: &mut Vec<PathBuf>) {
    if depth == 0 {
        return;
    }
    for child in subdirectories(directory) {
        let is_ours = child.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        if is_ours {
            found.push(child.clone());
        }
        // Everything below a group of ours is ours.
        find_groups(&child, if is_ours { "" } else { prefix }, depth - 1, found);
    }
}

fn members(group: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn kind_of_group(group: &Path) -> String {
    number_free(&group.to_string_lossy())
}

/// A text without its numbers: slots and processes of one kind are alike.
fn number_free(text: &str) -> String {
    let mut short = String::new();
    for letter in text.chars() {
        match (letter.is_ascii_digit(), short.ends_with('#')) {
            (true, true) => {}
            (true, false) => short.push('#'),
            (false, _) => short.push(letter),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_shows_up_and_goes_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("census-canary");
        let scope = Scope::new().with_directory(directory.path());
        let kept = |lines: Vec<String>| -> Vec<String> {
            // Other tests of this binary open and close things at the same time.
            lines
                .into_iter()
                .filter(|line| line.contains("census-canary") || line.contains("file below"))
                .collect()
        };
        let before = Census::of(&scope);
        let file = std::fs::File::create(&path).unwrap();
        let lines = kept(before.difference(&Census::of(&scope)));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("+1 ")), "{lines:?}");
        drop(file);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(kept(before.difference(&Census::of(&scope))), Vec::<String>::new());
    }

    #[test]
    fn a_child_is_counted_until_it_is_reaped() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(descendants_of(std::process::id()).contains(&pid));
        assert!(is_alive(pid));
        drop(child.stdin.take());
        assert!(settles(Duration::from_secs(10), || !is_alive(pid)));
        assert!(descendants_of(std::process::id()).contains(&pid), "a zombie is still counted");
        child.wait().unwrap();
        assert!(!descendants_of(std::process::id()).contains(&pid));
    }

    #[test]
    fn kinds_are_alike_without_their_numbers() {
        assert_eq!(number_free("fulgurite-12-345.x/slot-7"), "fulgurite-#-#.x/slot-#");
    }

    #[test]
    fn a_scope_leaves_out_what_it_was_told_to() {
        let census = Census::of(&Scope::new().without("descriptor").without("mount"));
        assert_eq!((census.total("descriptor"), census.total("mount")), (0, 0));
        assert!(census.total("thread") > 0);
    }
}
