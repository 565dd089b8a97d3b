//! Layers: where they lie, whose they are, and what becomes of them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{open, root_or_skip};
use crate::stage::{Layer, Owner, Places, StageError, sweep_all, sweep_stale};

fn explicit(dir: &Path) -> Places {
    Places { explicit: Some(dir.to_path_buf()), uid: 7, ..Places::default() }
}

#[test]
fn a_layer_is_private_and_goes_away() {
    let temp = tempfile::tempdir().unwrap();
    let layer = Layer::create(&explicit(temp.path()), open(temp.path()).as_fd(), None).unwrap();
    let path = layer.path();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(path.join("upper").metadata().unwrap().mode() & 0o7777, 0o755);
    assert!(layer.same_mount());
    fs::write(path.join("upper/f"), "x").unwrap();
    layer.destroy().unwrap();
    assert!(!path.exists());
}

#[test]
fn the_upper_directory_belongs_to_the_action_s_user() {
    if !root_or_skip("the_upper_directory_belongs_to_the_action_s_user") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let owner = Some(Owner { uid: 54_321, gid: 54_322 });
    let layer = Layer::create(&explicit(temp.path()), open(temp.path()).as_fd(), owner).unwrap();
    let upper = layer.path().join("upper").metadata().unwrap();
    assert_eq!((upper.uid(), upper.gid()), (54_321, 54_322));
    assert_eq!(layer.path().metadata().unwrap().uid(), 0);
    layer.destroy().unwrap();
}

#[test]
fn the_filesystem_of_the_destination_comes_first() {
    let (temp, shm) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    if temp.path().metadata().unwrap().dev() == shm.path().metadata().unwrap().dev() {
        return eprintln!("SKIP the_filesystem_of_the_destination_comes_first: one filesystem only");
    }
    let places = Places {
        state_dir: Some(temp.path().to_path_buf()),
        exec_root_parent: Some(shm.path().to_path_buf()),
        uid: 7,
        ..Places::default()
    };
    let layer = Layer::create(&places, open(shm.path()).as_fd(), None).unwrap();
    assert!(layer.same_mount());
    assert!(layer.path().starts_with(shm.path().join(".fulgurite-7")), "{:?}", layer.path());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "only the chosen place is created");
    layer.destroy().unwrap();
    assert_eq!(fs::read_dir(shm.path()).unwrap().count(), 0, "a guest leaves nothing");
    let elsewhere = Layer::create(&explicit(temp.path()), open(shm.path()).as_fd(), None).unwrap();
    assert!(!elsewhere.same_mount());
    elsewhere.destroy().unwrap();
}

#[test]
fn places_of_others_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let place = temp.path().join("fulgurite-7");
    let dest = open(temp.path());
    let refused = |part: &str| {
        let error = Layer::create(&explicit(temp.path()), dest.as_fd(), None).unwrap_err();
        assert!(matches!(error, StageError::NoPlace { .. }));
        assert!(error.to_string().contains(part) && error.hint().is_some(), "{error}");
    };
    fs::create_dir(temp.path().join("other")).unwrap();
    symlink("other", &place).unwrap();
    refused("it is a symlink");
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o770)).unwrap();
    refused("others may enter");
    if root_or_skip("places_of_others_are_refused (owner)") {
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&place, Some(54_321), None).unwrap();
        refused("another user");
    }
    let nowhere = Layer::create(&explicit(&temp.path().join("missing")), dest.as_fd(), None).unwrap_err();
    assert!(nowhere.to_string().contains("no such file"), "{nowhere}");
}

#[test]
fn layers_of_the_dead_are_swept_and_those_of_the_living_are_not() {
    let temp = tempfile::tempdir().unwrap();
    let places = explicit(temp.path());
    let dest = open(temp.path());
    let live = Layer::create(&places, dest.as_fd(), None).unwrap();
    let kept = Layer::create(&places, dest.as_fd(), None).unwrap().keep().unwrap();
    let place = temp.path().join("fulgurite-7");
    // No pid is this large (PID_MAX_LIMIT is 2^22).
    for dead in ["layer-99999999-1-0", "layer-99999999-1-1", "layer-99999999-1-2"] {
        fs::create_dir_all(place.join(dead).join("work/work")).unwrap();
        fs::set_permissions(place.join(dead).join("work/work"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    fs::write(place.join("notes"), "mine").unwrap();
    let held = open(&place.join("layer-99999999-1-2"));
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let swept = sweep_all(&places).unwrap();
    assert_eq!((swept.removed, swept.alive, swept.failed.len()), (2, 2, 0));
    drop(held);
    let _none_starts = super::STARTING_CHILDREN.read().unwrap();
    assert_eq!(sweep_stale(open(&place).as_fd()).unwrap().removed, 1);
    assert!(live.path().exists() && kept.exists() && place.join("notes").exists());
    live.destroy().unwrap();
}
