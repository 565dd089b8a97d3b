//! Publishing to another filesystem than the layer's.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{Fixture, listing};
use crate::commit::Handoff;
use crate::stage::tests::root_or_skip;

fn shm_or_skip(fixture: &Fixture, name: &str) -> Option<tempfile::TempDir> {
    let shm = tempfile::tempdir_in("/dev/shm").ok()?;
    if shm.path().metadata().unwrap().dev() == fixture.upper.metadata().unwrap().dev() {
        eprintln!("SKIP {name}: /dev/shm is on the filesystem of the test directory");
        return None;
    }
    Some(shm)
}

#[test]
fn outputs_are_copied_with_mode_time_and_holes() {
    let fixture = Fixture::new();
    let Some(shm) = shm_or_skip(&fixture, "outputs_are_copied_with_mode_time_and_holes") else { return };
    fixture.wrote("bin/tool", "#!").wrote("dir/sub/f", "f");
    fs::set_permissions(fixture.upper.join("bin/tool"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("/etc/passwd", fixture.upper.join("dir/link")).unwrap();
    let sparse = fs::File::create(fixture.upper.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 40).unwrap();
    drop(sparse);
    fs::create_dir(shm.path().join("dir")).unwrap();
    fs::write(shm.path().join("dir/old"), "old").unwrap();
    let published = fixture.publish_to(shm.path(), &["bin/tool", "dir", "sparse"]).unwrap();
    assert_eq!((published.renamed, published.copied, published.handoff), (0, 3, Handoff::Copy));
    assert!(published.bytes_copied < 100_000 && published.leftovers.is_empty(), "{published:?}");
    let (ours, theirs) = (fixture.upper.join("bin/tool"), shm.path().join("bin/tool"));
    let (ours, theirs) = (ours.metadata().unwrap(), theirs.metadata().unwrap());
    assert_eq!((theirs.mode() & 0o7777, theirs.mtime()), (0o751, ours.mtime()));
    assert_eq!(shm.path().join("sparse").metadata().unwrap().len(), (1 << 40) + 3);
    assert_eq!(fs::read_link(shm.path().join("dir/link")).unwrap(), Path::new("/etc/passwd"));
    assert!(!shm.path().join("dir/old").exists());
    assert_eq!(fs::read_dir(shm.path()).unwrap().count(), 3, "no temporary name is left");
}

#[test]
fn another_mount_of_one_filesystem_is_copied_too() {
    if !root_or_skip("another_mount_of_one_filesystem_is_copied_too") {
        return;
    }
    let fixture = Fixture::new();
    fixture.wrote("out", "o");
    rustix::mount::mount_bind(&fixture.dest, &fixture.dest).unwrap();
    let published = fixture.publish(&["out"]);
    rustix::mount::unmount(&fixture.dest, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(published.unwrap().copied, 1, "a rename between mounts answers EXDEV");
    assert_eq!(fs::read_to_string(fixture.dest.join("out")).unwrap(), "o");
}

#[test]
fn a_full_disk_leaves_the_tree_as_it_was() {
    if !root_or_skip("a_full_disk_leaves_the_tree_as_it_was") {
        return;
    }
    let fixture = Fixture::new();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &fixture.dest, "tmpfs", flags, Some(c"size=64k")).unwrap();
    let answer = std::panic::catch_unwind(|| {
        fixture.had("a", "old a").had("d/f", "old f");
        fixture
            .wrote("a", "new a")
            .wrote("d/g", "new g")
            .wrote("new/dir/x", "x")
            .wrote("z", &"z".repeat(200_000));
        fixture.refused(&["a", "d", "new/dir/x", "z"], "no space left on device");
        assert_eq!(listing(&fixture.dest).len(), 3);
    });
    rustix::mount::unmount(&fixture.dest, rustix::mount::UnmountFlags::DETACH).unwrap();
    answer.unwrap();
}

#[test]
fn a_read_only_destination_is_found_before_anything_is_done() {
    if !root_or_skip("a_read_only_destination_is_found_before_anything_is_done") {
        return;
    }
    let fixture = Fixture::new();
    fixture.wrote("a", "1");
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount("tmpfs", &fixture.dest, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
    let answer = std::panic::catch_unwind(|| fixture.refused(&["a"], "read-only"));
    rustix::mount::unmount(&fixture.dest, rustix::mount::UnmountFlags::DETACH).unwrap();
    answer.unwrap();
}
