//! Files, symlinks, special files, and what is missing; no overlay needed.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, XattrFlags};

use super::{Layers, names, options};
use crate::output::{CollectOptions, Marks, OutputKind, undeclared};
use crate::stage::limits::TreeLimits;
use crate::stage::tests::{chain, open, outputs, root_or_skip};
use crate::stage::{Owner, remove_tree};

#[test]
fn all_missing_outputs_are_named_at_once() {
    let layers = Layers::new();
    fs::write(layers.upper.join("there"), "").unwrap();
    layers.refused(&["there", "gone", "no/such/dir"], "missing declared outputs \"gone\", \"no/such/dir\"");
    let many: Vec<String> = (0..30).map(|number| format!("m{number:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    layers.refused(&many, "and 10 more");
    let allowed = CollectOptions { missing_allowed: true, ..options() };
    let collected = layers.collect_with(&["there", "gone"], &allowed).unwrap();
    assert_eq!((collected.outputs.len(), collected.missing.len()), (1, 1));
}

#[test]
fn special_files_are_refused_by_name_and_never_opened() {
    let layers = Layers::new();
    fs::create_dir(layers.upper.join("d")).unwrap();
    rustix::fs::mkfifoat(open(&layers.upper), c"pipe", Mode::RWXU).unwrap();
    rustix::fs::mkfifoat(open(&layers.upper.join("d")), c"pipe", Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(layers.upper.join("sock")).unwrap();
    layers.refused(&["pipe"], "\"pipe\": it is a FIFO");
    layers.refused(&["d"], "\"d/pipe\": it is a FIFO");
    layers.refused(&["sock"], "\"sock\": it is a socket");
    if root_or_skip("special_files_are_refused (devices)") {
        let dir = open(&layers.upper);
        rustix::fs::mknodat(&dir, c"null", FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3))
            .unwrap();
        rustix::fs::mknodat(&dir, c"loop", FileType::BlockDevice, Mode::RWXU, rustix::fs::makedev(7, 0))
            .unwrap();
        layers.refused(&["null"], "a character device");
        layers.refused(&["loop"], "a block device");
    }
}

#[test]
fn symlinks_are_outputs_and_never_ways() {
    let layers = Layers::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), layers.upper.join("up")).unwrap();
    symlink(outside.path(), layers.lower.join("low")).unwrap();
    symlink("/proc/self/environ", layers.upper.join("magic")).unwrap();
    symlink("loop", layers.upper.join("loop")).unwrap();
    fs::write(layers.upper.join("file"), "").unwrap();
    layers.refused(&["up/secret"], "\"up\" on the way to it is a symlink");
    layers.refused(&["low/secret"], "\"low\" on the way to it is a symlink");
    layers.refused(&["file/x"], "\"file\" on the way to it is a file");
    layers.refused(&["up/"], "declared as a directory and is a symlink");
    layers.refused(&["file/"], "declared as a directory and is a file");
    let collected = layers.collect(&["up", "magic", "loop"]).unwrap();
    assert!(collected.outputs.iter().all(|output| output.kind == OutputKind::Symlink));
    assert_eq!(fs::read_link(layers.upper.join("up")).unwrap(), outside.path());
}

#[test]
fn set_id_bits_and_attributes_go_and_owners_change() {
    if !root_or_skip("set_id_bits_and_attributes_go_and_owners_change") {
        return;
    }
    let layers = Layers::new();
    fs::create_dir(layers.upper.join("d")).unwrap();
    for (name, mode) in [("d/tool", 0o6755), ("d", 0o3777), ("ro", 0o444)] {
        if name != "d" {
            fs::write(layers.upper.join(name), name).unwrap();
        }
        fs::set_permissions(layers.upper.join(name), fs::Permissions::from_mode(mode)).unwrap();
        for attribute in ["user.overlay.redirect", "user.note", "trusted.overlay.metacopy", "trusted.x"] {
            rustix::fs::setxattr(layers.upper.join(name), attribute, b"/etc", XattrFlags::empty())
                .unwrap_or_else(|why| eprintln!("SKIP set_id_bits_and_attributes_go ({attribute}): {why}"));
        }
    }
    // A file capability: cap_sys_admin, permitted and effective (struct vfs_cap_data, revision 2).
    let capability = [1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(layers.upper.join("ro"), "security.capability", &capability, XattrFlags::empty())
        .unwrap();
    symlink("x", layers.upper.join("d/link")).unwrap();
    let owner = Some(Owner { uid: 54_321, gid: 54_322 });
    layers.collect_with(&["d", "ro"], &CollectOptions { owner, ..options() }).unwrap();
    for (name, mode) in [("d/tool", 0o755), ("d", 0o777), ("ro", 0o444), ("d/link", 0o777)] {
        let path = layers.upper.join(name);
        let stat = path.symlink_metadata().unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (mode, 54_321, 54_322), "{name}");
        let mut list = [0u8; 1024];
        let length = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        assert_eq!(String::from_utf8_lossy(&list[..length]), "", "{name}");
    }
}

#[test]
fn files_with_several_links_become_files_of_their_own() {
    let layers = Layers::new();
    fs::write(layers.upper.join("a"), "shared").unwrap();
    fs::set_permissions(layers.upper.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(layers.upper.join("a"), layers.upper.join("b")).unwrap();
    fs::hard_link(layers.upper.join("a"), layers.temp.path().join("elsewhere")).unwrap();
    let collected = layers.collect(&["a", "b"]).unwrap();
    let (a, b) = (layers.upper.join("a").metadata().unwrap(), layers.upper.join("b").metadata().unwrap());
    assert_eq!((a.nlink(), b.nlink()), (1, 1));
    assert_ne!(a.ino(), b.ino());
    assert_eq!(
        (a.mode() & 0o7777, fs::read_to_string(layers.upper.join("b")).unwrap()),
        (0o755, "shared".into())
    );
    assert_eq!((collected.files, collected.bytes), (2, 12));
    assert_eq!(names(&layers.upper), ["a", "b"]);
}

#[test]
fn odd_modes_are_made_usable_and_sparse_files_cost_nothing() {
    let layers = Layers::new();
    fs::create_dir_all(layers.upper.join("d/deep")).unwrap();
    fs::write(layers.upper.join("d/deep/f"), "f").unwrap();
    let sparse = fs::File::create(layers.upper.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 40).unwrap();
    for name in ["d/deep/f", "d/deep", "d"] {
        fs::set_permissions(layers.upper.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let collected = layers.collect(&["d", "sparse"]).unwrap();
    assert_eq!((collected.bytes, collected.bytes_copied), ((1 << 40) + 4, 0));
    let modes =
        ["d", "d/deep", "d/deep/f"].map(|name| layers.upper.join(name).metadata().unwrap().mode() & 0o777);
    assert_eq!(modes, [0o700, 0o700, 0o400]);
}

#[test]
fn untouched_inputs_are_found_in_lower_and_copied() {
    let layers = Layers::new();
    fs::create_dir_all(layers.lower.join("in/dir")).unwrap();
    fs::write(layers.lower.join("in/file"), "input").unwrap();
    fs::write(layers.lower.join("in/dir/f"), "f").unwrap();
    symlink("file", layers.lower.join("in/link")).unwrap();
    let collected = layers.collect(&["in/file", "in/dir/", "in/link"]).unwrap();
    assert_eq!((collected.outputs.len(), collected.files, collected.bytes_copied), (3, 2, 6));
    let (made, input) = (layers.upper.join("in/file"), layers.lower.join("in/file"));
    assert_eq!(fs::read_to_string(&made).unwrap(), "input");
    assert_ne!(made.metadata().unwrap().ino(), input.metadata().unwrap().ino());
    assert_eq!(made.metadata().unwrap().mtime_nsec(), input.metadata().unwrap().mtime_nsec());
}

#[test]
fn what_the_destination_had_is_linked_where_that_is_asked_for() {
    let layers = Layers::new();
    fs::create_dir_all(layers.lower.join("out")).unwrap();
    fs::create_dir_all(layers.upper.join("out")).unwrap();
    fs::write(layers.lower.join("out/old"), "old").unwrap();
    fs::write(layers.upper.join("out/new"), "new").unwrap();
    let linked = CollectOptions { lower_is_destination: true, ..options() };
    let collected = layers.collect_with(&["out"], &linked).unwrap();
    assert_eq!(collected.bytes_copied, 0);
    let inode = |path: &Path| path.metadata().unwrap().ino();
    assert_eq!(inode(&layers.upper.join("out/old")), inode(&layers.lower.join("out/old")));
}

#[test]
fn deep_chains_are_collected_or_refused_by_limit() {
    let layers = Layers::new();
    chain(open(&layers.upper).as_fd(), 6000);
    chain(open(&layers.lower).as_fd(), 3000);
    let limits = TreeLimits { depth_max: 1000, ..TreeLimits::DEFAULT };
    let error = layers.collect_with(&["d"], &CollectOptions { limits, ..options() }).unwrap_err();
    assert!(error.to_string().contains("more than 1000 levels"), "{error}");
    let collected = layers.collect(&["d"]).unwrap();
    assert_eq!(collected.files, 2, "one of upper, one brought in from lower");
    let temp = open(layers.temp.path());
    remove_tree(temp.as_fd(), c"upper", u64::MAX).unwrap();
    remove_tree(temp.as_fd(), c"lower", u64::MAX).unwrap();
}

#[test]
fn undeclared_writes_are_listed() {
    let layers = Layers::new();
    for path in ["out/f", "tmp/x/y", "note"] {
        let path = layers.upper.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let upper = open(&layers.upper);
    let list = |declared: &[&str]| {
        undeclared(upper.as_fd(), &outputs(declared), Marks::Trusted, TreeLimits::DEFAULT).unwrap()
    };
    let found = list(&["out", "tmp/x/z"]);
    assert_eq!(found.written, [Path::new("note"), Path::new("tmp/x/y")]);
    assert!(!found.more && found.removed.is_empty());
    for number in 0..1500 {
        fs::write(layers.upper.join(format!("extra{number}")), "").unwrap();
    }
    let found = list(&["out"]);
    assert_eq!((found.written.len(), found.more), (1000, true));
}
