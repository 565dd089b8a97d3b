//! Tests of staging, in temporary directories. Those that need root say so and are skipped loudly without it.

mod layers;
mod removal;
mod trees;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::action::{InputSpec, OutputSpec, Outputs};

/// A child has our descriptors until it executes, and with them our locks: written while one is started, read by what
/// counts on a lock that was given up.
pub(crate) static STARTING_CHILDREN: std::sync::RwLock<()> = std::sync::RwLock::new(());

/// Opens a directory of the test.
pub(crate) fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// True as root of the initial user namespace; else says that `name` is skipped.
pub(crate) fn root_or_skip(name: &str) -> bool {
    let root = real_root();
    if !root {
        eprintln!("SKIP {name}: needs root in the initial user namespace");
    }
    root
}

/// True if this process may do everything.
pub(crate) fn real_root() -> bool {
    rustix::process::geteuid().is_root() && in_initial_user_namespace()
}

/// True if every uid is mapped to itself.
pub(crate) fn in_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

pub(crate) fn inputs(root: &Path, raw: &[&str]) -> Vec<InputSpec> {
    raw.iter().map(|raw| InputSpec::parse(raw, root).unwrap()).collect()
}

pub(crate) fn outputs(raw: &[&str]) -> Outputs {
    let specs = raw.iter().map(|raw| OutputSpec::parse(raw, Path::new("/nowhere")).unwrap()).collect();
    Outputs::new(specs).unwrap()
}

/// A chain of `depth` directories named `d`, made level by level; the last one holds a file `f`.
pub(crate) fn chain(parent: BorrowedFd<'_>, depth: usize) {
    let mut dir: Option<OwnedFd> = None;
    for _ in 0..depth {
        let here = dir.as_ref().map_or(parent, AsFd::as_fd);
        rustix::fs::mkdirat(here, c"d", Mode::RWXU).unwrap();
        dir = Some(super::beneath::open_dir(here, c"d").unwrap());
    }
    let here = dir.as_ref().map_or(parent, AsFd::as_fd);
    drop(super::beneath::create_file(here, c"f").unwrap());
}
