//! Merged views, as the kernel's own overlay leaves them. Needs root, and a filesystem that can hold an upper
//! layer.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

use super::{Layers, names, options};
use crate::commit::{Durability, Journal, publish_unopposed};
use crate::output::{CollectOptions, Marks, undeclared};
use crate::stage::limits::TreeLimits;
use crate::stage::tests::{in_initial_user_namespace, open, outputs, root_or_skip};

/// Mounts the layers, lets `action` work in the merged view, and unmounts. False if that is impossible here.
fn through_overlay(name: &str, layers: &Layers, action: impl FnOnce(&Path)) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP {name}: needs root, at least of a user namespace");
        return false;
    }
    let (work, merged) = (layers.temp.path().join("work"), layers.temp.path().join("merged"));
    fs::create_dir_all(&work).unwrap();
    fs::create_dir_all(&merged).unwrap();
    let mut data = Vec::new();
    for (key, path) in [("lowerdir=", &layers.lower), (",upperdir=", &layers.upper), (",workdir=", &work)] {
        data.extend_from_slice(key.as_bytes());
        data.extend_from_slice(path.as_os_str().as_bytes());
    }
    data.extend_from_slice(b",redirect_dir=nofollow,metacopy=off,index=off");
    if marks() == Marks::User {
        data.extend_from_slice(b",userxattr");
    }
    let data = CString::new(data).unwrap();
    if let Err(why) =
        rustix::mount::mount("overlay", &merged, "overlay", MountFlags::empty(), Some(data.as_c_str()))
    {
        eprintln!("SKIP {name}: cannot mount an overlay here: {why}");
        return false;
    }
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| action(&merged)));
    rustix::mount::unmount(&merged, UnmountFlags::DETACH).unwrap();
    answer.unwrap();
    true
}

/// The namespace of the marks of overlays that this process mounts.
fn marks() -> Marks {
    if in_initial_user_namespace() { Marks::Trusted } else { Marks::User }
}

fn own() -> CollectOptions {
    CollectOptions { marks: marks(), ..options() }
}

fn tree(root: &Path, files: &[(&str, &str)]) {
    for (path, contents) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}

#[test]
fn a_merged_directory_is_what_the_action_saw() {
    let layers = Layers::new();
    tree(
        &layers.lower,
        &[
            ("out/kept", "kept"),
            ("out/gone", "gone"),
            ("out/changed", "before"),
            ("out/emptied/f", "f"),
            ("out/renewed/old", "old"),
            ("out/removed/deep/f", "f"),
            ("out/becomes-file/f", "f"),
            ("out/sub/kept", "kept"),
            ("out/whole/a/b", "b"),
        ],
    );
    symlink("kept", layers.lower.join("out/link")).unwrap();
    let mounted = through_overlay("a_merged_directory_is_what_the_action_saw", &layers, |view| {
        let out = view.join("out");
        fs::remove_file(out.join("gone")).unwrap();
        fs::write(out.join("changed"), "after").unwrap();
        fs::remove_file(out.join("emptied/f")).unwrap();
        fs::remove_dir_all(out.join("renewed")).unwrap();
        tree(&out, &[("renewed/new", "new"), ("sub/new", "new"), ("fresh/x", "x")]);
        fs::remove_dir_all(out.join("removed")).unwrap();
        fs::remove_dir_all(out.join("becomes-file")).unwrap();
        fs::write(out.join("becomes-file"), "file").unwrap();
        assert!(fs::rename(out.join("whole"), out.join("moved")).is_err(), "EXDEV without redirects");
    });
    if !mounted {
        return;
    }
    let collected = layers.collect_with(&["out/"], &own()).unwrap();
    let out = layers.upper.join("out");
    let expected = ["becomes-file", "changed", "emptied", "fresh", "kept", "link", "renewed", "sub", "whole"];
    assert_eq!(names(&out), expected);
    assert_eq!(names(&out.join("renewed")), ["new"]);
    assert_eq!(names(&out.join("sub")), ["kept", "new"]);
    assert!(names(&out.join("emptied")).is_empty());
    assert_eq!(fs::read_to_string(out.join("changed")).unwrap(), "after");
    assert_eq!(fs::read_to_string(out.join("becomes-file")).unwrap(), "file");
    assert_eq!(fs::read_to_string(out.join("whole/a/b")).unwrap(), "b");
    assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("kept"));
    assert_eq!(fs::read_to_string(layers.lower.join("out/gone")).unwrap(), "gone", "lower is only read");
    let dest = layers.temp.path().join("dest");
    tree(&dest, &[("out/stale", "stale")]);
    let journal = Journal::open(open(layers.temp.path()).as_fd(), Durability::Process).unwrap();
    publish_unopposed(collected, open(&dest).as_fd(), &journal, b"", &Default::default()).unwrap();
    assert_eq!(names(&dest.join("out")), expected);
    let mut list = [0u8; 256];
    assert_eq!(
        rustix::fs::llistxattr(dest.join("out/renewed"), &mut list[..]).unwrap(),
        0,
        "no overlay mark"
    );
}

#[test]
fn removed_inputs_are_missing_outputs() {
    let layers = Layers::new();
    tree(&layers.lower, &[("a", "a"), ("d/f", "f"), ("e/f", "f"), ("kept", "k")]);
    let mounted = through_overlay("removed_inputs_are_missing_outputs", &layers, |view| {
        fs::remove_file(view.join("a")).unwrap();
        fs::remove_dir_all(view.join("d")).unwrap();
        fs::remove_dir_all(view.join("e")).unwrap();
        fs::create_dir(view.join("e")).unwrap();
    });
    if !mounted {
        return;
    }
    let error = layers.collect_with(&["a", "d/f", "e/f", "kept"], &own()).unwrap_err().to_string();
    assert!(error.contains("missing declared outputs \"a\", \"d/f\", \"e/f\""), "{error}");
    let upper = open(&layers.upper);
    let found = undeclared(upper.as_fd(), &outputs(&["kept"]), marks(), TreeLimits::DEFAULT).unwrap();
    assert_eq!(found.removed, [Path::new("a"), Path::new("d")]);
    assert!(found.written.is_empty());
}

#[test]
fn a_touched_input_is_an_output_with_its_contents() {
    let layers = Layers::new();
    tree(&layers.lower, &[("in", "contents")]);
    let mounted = through_overlay("a_touched_input_is_an_output_with_its_contents", &layers, |view| {
        let file = fs::File::options().append(true).open(view.join("in")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(77)).unwrap();
        fs::hard_link(view.join("in"), view.join("twin")).unwrap();
    });
    if !mounted {
        return;
    }
    layers.collect_with(&["in", "twin"], &own()).unwrap();
    for name in ["in", "twin"] {
        let path = layers.upper.join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "contents");
        assert_eq!((path.metadata().unwrap().mtime(), path.metadata().unwrap().nlink()), (77, 1));
    }
}

#[test]
fn forged_marks_mean_nothing() {
    let layers = Layers::new();
    tree(&layers.lower, &[("out/kept", "kept")]);
    let mounted = through_overlay("forged_marks_mean_nothing", &layers, |view| {
        tree(view, &[("out/empty", "")]);
        for (path, attribute, value) in [
            ("out", "user.overlay.opaque", "y"),
            ("out", "trusted.overlay.opaque", "y"),
            ("out", "user.overlay.redirect", "/etc"),
            ("out/empty", "user.overlay.whiteout", "y"),
            ("out/empty", "trusted.overlay.metacopy", ""),
        ] {
            let set = rustix::fs::setxattr(
                view.join(path),
                attribute,
                value.as_bytes(),
                rustix::fs::XattrFlags::empty(),
            );
            if let Err(why) = set {
                eprintln!("SKIP forged_marks ({attribute}): {why}");
            }
        }
    });
    if !mounted {
        return;
    }
    layers.collect_with(&["out"], &own()).unwrap();
    assert_eq!(names(&layers.upper.join("out")), ["empty", "kept"]);
}

#[test]
fn a_whiteout_attribute_of_the_mount_s_namespace_counts() {
    if !root_or_skip("a_whiteout_attribute_of_the_mount_s_namespace_counts") {
        return;
    }
    let layers = Layers::new();
    tree(&layers.lower, &[("out/gone", "gone"), ("out/kept", "kept")]);
    tree(&layers.upper, &[("out/gone", "")]);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(layers.upper.join("out/gone"), "trusted.overlay.whiteout", b"y", flags).unwrap();
    layers.refused(&["out/gone"], "missing declared output \"out/gone\"");
    layers.collect(&["out"]).unwrap();
    assert_eq!(names(&layers.upper.join("out")), ["kept"]);
}
