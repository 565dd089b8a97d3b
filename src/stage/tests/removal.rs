//! Removing hostile trees.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{IFlags, Mode};

use super::{chain, open, root_or_skip};
use crate::stage::{TreeError, remove_tree};

#[test]
fn a_chain_of_6000_directories() {
    let temp = tempfile::tempdir().unwrap();
    let dir = open(temp.path());
    chain(dir.as_fd(), 6000);
    let removed = remove_tree(dir.as_fd(), c"d", u64::MAX).unwrap();
    assert_eq!(removed.entries, 6001);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn directories_without_permissions() {
    let temp = tempfile::tempdir().unwrap();
    let deep = temp.path().join("t/a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "x").unwrap();
    for dir in ["t/a/b/c", "t/a/b", "t/a", "t"] {
        fs::set_permissions(temp.path().join(dir), fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove_tree(open(temp.path()).as_fd(), c"t", 100).unwrap();
    assert!(!temp.path().join("t").exists());
}

#[test]
fn wide_directories_and_odd_names() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("t");
    fs::create_dir(&tree).unwrap();
    for number in 0..10_000 {
        fs::write(tree.join(number.to_string()), "").unwrap();
    }
    for name in [&[b'n'; 255][..], b"\xff\xfe\n", b"-rf", b" ", b".wh.x", b"..."] {
        fs::write(tree.join(OsStr::from_bytes(name)), "").unwrap();
    }
    let removed = remove_tree(open(temp.path()).as_fd(), c"t", u64::MAX).unwrap();
    assert_eq!(removed.entries, 10_007);
}

#[test]
fn symlinks_are_removed_and_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let canary = temp.path().join("canary");
    fs::create_dir_all(temp.path().join("t")).unwrap();
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("f"), "kept").unwrap();
    symlink(&canary, temp.path().join("t/link")).unwrap();
    symlink(&canary, temp.path().join("top")).unwrap();
    rustix::fs::mkfifoat(open(&temp.path().join("t")), c"fifo", Mode::RWXU).unwrap();
    let dir = open(temp.path());
    remove_tree(dir.as_fd(), c"t", 100).unwrap();
    remove_tree(dir.as_fd(), c"top", 100).unwrap();
    assert_eq!(remove_tree(dir.as_fd(), c"missing", 100).unwrap().entries, 0);
    assert_eq!(fs::read(canary.join("f")).unwrap(), b"kept");
}

#[test]
fn the_budget_ends_a_removal_and_a_second_call_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("t")).unwrap();
    for number in 0..10 {
        fs::write(temp.path().join("t").join(number.to_string()), "").unwrap();
    }
    let dir = open(temp.path());
    let error = remove_tree(dir.as_fd(), c"t", 6).unwrap_err();
    assert!(matches!(error, TreeError::TooLarge { max: 6, .. }), "{error}");
    assert_eq!(fs::read_dir(temp.path().join("t")).unwrap().count(), 4);
    remove_tree(dir.as_fd(), c"t", 6).unwrap();
    assert!(!temp.path().join("t").exists());
}

#[test]
fn immutable_files_and_directories() {
    if !root_or_skip("immutable_files_and_directories") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("t/d")).unwrap();
    fs::write(temp.path().join("t/d/f"), "x").unwrap();
    for name in ["t/d/f", "t/d", "t"] {
        let file = fs::File::open(temp.path().join(name)).unwrap();
        if let Err(why) = rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE) {
            eprintln!("SKIP immutable_files_and_directories: cannot set the flag here: {why}");
        }
    }
    remove_tree(open(temp.path()).as_fd(), c"t", 100).unwrap();
    assert!(!temp.path().join("t").exists());
}

#[test]
fn other_mounts_are_not_entered() {
    if !root_or_skip("other_mounts_are_not_entered") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let inside = temp.path().join("t/m");
    fs::create_dir_all(&inside).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &inside, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
    fs::write(inside.join("kept"), "x").unwrap();
    let error = remove_tree(open(temp.path()).as_fd(), &CString::new("t").unwrap(), 100).unwrap_err();
    let kept = inside.join("kept").exists();
    rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(kept);
    assert!(error.to_string().contains("\"t/m\""), "{error}");
    assert!(error.hint().unwrap().contains("mounted"), "{error}");
}
