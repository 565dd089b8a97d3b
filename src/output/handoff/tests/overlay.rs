//! What the kernel's own overlay leaves behind. Needs root, and a filesystem that can hold an upper layer.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::{Scene, Tree, command, sha};
use crate::action::{Handoff, OutputKind};
use crate::stage::tests::{open, root_or_skip};

/// An overlay over the scene's directories. Dropping it unmounts.
struct Overlay(PathBuf);

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Mounts, lets `action` work in the merged view, and hands the overlay to the scene for reading through.
fn through(name: &str, scene: &mut Scene, options: &str, action: impl FnOnce(&Path)) -> Option<Overlay> {
    if !root_or_skip(name) {
        return None;
    }
    let (work, merged) = (scene.temp.path().join("work"), scene.temp.path().join("merged"));
    fs::create_dir_all(&work).unwrap();
    fs::create_dir_all(&merged).unwrap();
    let mut data = Vec::new();
    for (key, path) in [("lowerdir=", &scene.lower), (",upperdir=", &scene.upper), (",workdir=", &work)] {
        data.extend_from_slice(key.as_bytes());
        data.extend_from_slice(path.as_os_str().as_bytes());
    }
    data.extend_from_slice(b",index=off,");
    data.extend_from_slice(options.as_bytes());
    let data = CString::new(data).unwrap();
    let flags = MountFlags::empty();
    if let Err(why) = rustix::mount::mount("overlay", &merged, "overlay", flags, Some(data.as_c_str())) {
        eprintln!("SKIP {name}: cannot mount an overlay here: {why}");
        return None;
    }
    let overlay = Overlay(merged);
    scene.inputs = Tree::of(&scene.lower);
    action(&overlay.0);
    scene.merged = Some(open(&overlay.0));
    Some(overlay)
}

const PLAIN: &str = "redirect_dir=nofollow,metacopy=off";

fn tree(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn o18_outputs_are_the_merged_view() {
    let mut scene = Scene::new();
    tree(
        &scene.lower,
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
            ("removed", "r"),
        ],
    );
    symlink("kept", scene.lower.join("out/link")).unwrap();
    scene.cas.put_bytes(super::SHA, b"kept").unwrap();
    scene.cas.put_bytes(super::SHA, b"b").unwrap();
    let mounted = through("o18_outputs_are_the_merged_view", &mut scene, PLAIN, |view| {
        let out = view.join("out");
        fs::remove_file(out.join("gone")).unwrap();
        fs::remove_file(view.join("removed")).unwrap();
        fs::write(out.join("changed"), "after").unwrap();
        fs::remove_file(out.join("emptied/f")).unwrap();
        fs::remove_dir_all(out.join("renewed")).unwrap();
        tree(&out, &[("renewed/new", "new"), ("sub/new", "new"), ("fresh/x", "x")]);
        fs::remove_dir_all(out.join("removed")).unwrap();
        fs::remove_dir_all(out.join("becomes-file")).unwrap();
        fs::write(out.join("becomes-file"), "file").unwrap();
        let renamed = fs::rename(out.join("whole"), out.join("moved")).unwrap_err();
        assert_eq!(renamed.raw_os_error(), Some(18), "EXDEV without redirects");
    });
    let Some(_overlay) = mounted else { return };
    let done = scene.hand_off(&["out", "removed", "out/sub/kept", "out/emptied"]).unwrap();
    let expected = [
        "becomes-file = file",
        "changed = after",
        "emptied/",
        "fresh/",
        "fresh/x = x",
        "kept = kept",
        "link -> kept",
        "renewed/",
        "renewed/new = new",
        "sub/",
        "sub/kept = kept",
        "sub/new = new",
        "whole/",
        "whole/a/",
        "whole/a/b = b",
    ];
    assert_eq!(scene.listing(&done.directories[0]), expected);
    assert_eq!((done.directories.len(), done.files.len()), (2, 1));
    // Of the layer: becomes-file, changed, x, and `new` twice. Of the inputs: kept twice, and b.
    assert_eq!(done.handoff, Handoff { renamed: 4, known: 4, ..Handoff::default() });
}

#[test]
fn o19_a_touched_input_is_known_by_its_content() {
    let mut scene = Scene::new();
    tree(&scene.lower, &[("in", "input"), ("other", "other")]);
    scene.cas.put_bytes(super::SHA, b"input").unwrap();
    let mounted = through("o19_a_touched_input_is_known_by_its_content", &mut scene, PLAIN, |view| {
        let file = fs::File::options().append(true).open(view.join("in")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    });
    let Some(_overlay) = mounted else { return };
    let done = scene.hand_off(&["in"]).unwrap();
    assert_eq!(done.files[0].digest, sha(b"input"));
    assert_eq!(done.handoff, Handoff { known: 1, ..Handoff::default() });
    assert_eq!(fs::read_to_string(scene.lower.join("in")).unwrap(), "input");
}

#[test]
fn a_file_whose_bytes_stayed_in_the_lower_layer_is_read_through_the_overlay() {
    let mut scene = Scene::new();
    tree(&scene.lower, &[("in/known", "known"), ("in/new", "unknown")]);
    scene.cas.put_bytes(super::SHA, b"known").unwrap();
    let name = "a_file_whose_bytes_stayed_in_the_lower_layer_is_read_through_the_overlay";
    let options = "metacopy=on,redirect_dir=on";
    let mounted = through(name, &mut scene, options, |view| {
        for file in ["in/known", "in/new"] {
            fs::set_permissions(view.join(file), fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
    let Some(_overlay) = mounted else { return };
    assert_eq!(fs::read(scene.upper.join("in/known")).unwrap(), [0; 5], "the layer has no bytes of it");
    let done = scene.hand_off(&["in/known", "in/new", "in"]).unwrap();
    assert_eq!(scene.listing(&done.directories[0]), ["known* = known", "new* = unknown"]);
    assert_eq!(done.handoff, Handoff { known: 1, copied: 1, bytes_copied: 7, ..Handoff::default() });
    scene.merged = None;
    scene.refused(&["in/known"], "in another layer");
}

#[test]
fn a_redirected_directory_is_read_through_the_overlay() {
    let mut scene = Scene::new();
    tree(&scene.lower, &[("old/deep/f", "f"), ("old/g", "g")]);
    let options = "metacopy=on,redirect_dir=on";
    let name = "a_redirected_directory_is_read_through_the_overlay";
    let mounted = through(name, &mut scene, options, |view| {
        fs::rename(view.join("old"), view.join("new")).unwrap();
        fs::write(view.join("new/deep/added"), "a").unwrap();
    });
    let Some(_overlay) = mounted else { return };
    let done = scene.hand_off(&["new", "old", "new/deep/f"]).unwrap();
    assert_eq!(scene.listing(&done.directories[0]), ["deep/", "deep/added = a", "deep/f = f", "g = g"]);
    assert_eq!((done.directories.len(), done.files[0].digest), (1, sha(b"f")));
    assert_eq!(done.handoff, Handoff { copied: 3, bytes_copied: 3, ..Handoff::default() });
}

#[test]
fn o10_forged_marks_mean_nothing_and_no_attribute_gets_into_the_store() {
    let mut scene = Scene::new();
    tree(&scene.lower, &[("secret/f", "secret")]);
    let name = "o10_forged_marks_mean_nothing_and_no_attribute_gets_into_the_store";
    let mounted = through(name, &mut scene, PLAIN, |view| {
        tree(view, &[("out/f", "f"), ("out/.wh.secret", "look-alike")]);
        let set = |path: &str, name: &str, value: &[u8]| {
            rustix::fs::setxattr(view.join(path), name, value, rustix::fs::XattrFlags::empty())
        };
        for mark in ["redirect", "opaque", "metacopy", "whiteout", "origin"] {
            for path in ["out", "out/f"] {
                set(path, &format!("user.overlay.{mark}"), b"/secret").unwrap();
            }
        }
        // The action has no capability for these; even if it had, they are escaped or refused.
        let _ = set("out/f", "trusted.overlay.metacopy", b"");
        let capability = [1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set("out/f", "security.capability", &capability).unwrap();
        fs::set_permissions(view.join("out/f"), fs::Permissions::from_mode(0o6111)).unwrap();
        fs::set_permissions(view.join("out"), fs::Permissions::from_mode(0o2000)).unwrap();
    });
    let Some(_overlay) = mounted else { return };
    let done = scene.hand_off(&["out", "out/f"]).unwrap();
    assert_eq!(scene.listing(&done.directories[0]), [".wh.secret = look-alike", "f* = f"]);
    let objects = scene.temp.path().join("store/objects");
    let blob = objects.join(crate::cas::Cas::object_path(&done.files[0].digest));
    assert_eq!(fs::metadata(&blob).unwrap().mode() & 0o7777, 0o444);
    let mut list = [0u8; 1024];
    let length = rustix::fs::llistxattr(&blob, &mut list[..]).unwrap();
    assert_eq!(String::from_utf8_lossy(&list[..length]), "");
}

#[test]
fn o03_devices_are_refused_and_whiteouts_are_not_there() {
    let mut scene = Scene::new();
    tree(&scene.lower, &[("gone", "g"), ("kept", "k")]);
    let name = "o03_devices_are_refused_and_whiteouts_are_not_there";
    let mounted = through(name, &mut scene, PLAIN, |view| {
        fs::remove_file(view.join("gone")).unwrap();
        let null = rustix::fs::makedev(1, 3);
        let device = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, view.join("null"), device, rustix::fs::Mode::RUSR, null)
            .unwrap();
        symlink("null", view.join("to-null")).unwrap();
    });
    let Some(_overlay) = mounted else { return };
    assert_eq!(scene.hand_off(&["gone"]).unwrap(), Default::default());
    scene.refused(&["null"], "it is a character device");
    scene.refused(&[""], "it is a character device");
    let link = &scene.hand_off(&["to-null"]).unwrap().symlinks[0];
    assert_eq!(link.target, "null");
}

#[test]
fn o13_the_older_fields_say_what_an_output_must_be() {
    let mut scene = Scene::new();
    tree(&scene.lower, &[("in/d/f", "f")]);
    let name = "o13_the_older_fields_say_what_an_output_must_be";
    let mounted = through(name, &mut scene, PLAIN, |view| {
        tree(view, &[("file", "f"), ("dir/g", "g")]);
        for (target, link) in
            [("in/d", "to-dir"), ("in/d/f", "to-file"), ("gone", "dangling"), ("/etc", "out")]
        {
            symlink(target, view.join(link)).unwrap();
        }
        symlink("../to-dir/../d", view.join("dir/far")).unwrap();
        symlink("loop", view.join("loop")).unwrap();
    });
    let Some(_overlay) = mounted else { return };
    let files = |declared: &[&str]| scene.hand_off_command(&command(declared, OutputKind::File));
    let dirs = |declared: &[&str]| scene.hand_off_command(&command(declared, OutputKind::Directory));
    let wrong = |answer: Result<super::HandedOff, super::HandoffError>, part: &str| {
        let error = answer.unwrap_err();
        assert!(matches!(error, super::HandoffError::WrongKind { .. }) && error.is_the_actions());
        assert!(error.to_string().contains(part), "{error}");
    };
    wrong(files(&["dir"]), "\"dir\": it was declared as a file and is a directory");
    wrong(files(&["to-dir"]), "a symlink to a directory");
    wrong(dirs(&["file"]), "declared as a directory and is a file");
    wrong(dirs(&["to-file"]), "a symlink to a file");
    let of = |answer: Result<super::HandedOff, super::HandoffError>| -> Vec<(String, bool)> {
        answer.unwrap().symlinks.into_iter().map(|link| (link.path, link.to_directory)).collect()
    };
    let pairs = |list: &[(&str, bool)]| -> Vec<(String, bool)> {
        list.iter().map(|(path, to)| ((*path).to_owned(), *to)).collect()
    };
    let found = of(dirs(&["to-dir", "dangling", "out", "dir/far", "loop", "gone"]));
    let all = [("dangling", true), ("dir/far", true), ("loop", true), ("out", true), ("to-dir", true)];
    assert_eq!(found, pairs(&all));
    assert_eq!(of(files(&["to-file", "dangling"])), pairs(&[("dangling", false), ("to-file", false)]));
    let whole = dirs(&[""]).unwrap();
    assert_eq!((whole.directories[0].path.as_str(), whole.directories.len()), ("", 1));
    // Below a file there is nothing; with the newer field a directory is a directory.
    assert_eq!(scene.hand_off(&["file/below"]).unwrap(), Default::default());
    assert_eq!(scene.hand_off(&["dir"]).unwrap().directories.len(), 1);
}

/// O02, O01: the layer's own directories are real or refused, whatever a link there says.
#[test]
fn o01_links_are_taken_as_links_and_are_no_ways() {
    let mut scene = Scene::new();
    fs::write(scene.temp.path().join("canary"), "canary").unwrap();
    let canary = scene.temp.path().join("canary");
    let outside = scene.temp.path().to_path_buf();
    let targets: Vec<PathBuf> = [canary.as_path(), Path::new("/etc/shadow"), Path::new("/proc/self/environ")]
        .into_iter()
        .chain([Path::new("/dev/zero"), Path::new("../../../canary"), Path::new("loop"), Path::new(" \\ ")])
        .map(Path::to_path_buf)
        .chain([PathBuf::from("x".repeat(4000)), outside.clone()])
        .collect();
    let name = "o01_links_are_taken_as_links_and_are_no_ways";
    let mounted = through(name, &mut scene, PLAIN, |view| {
        fs::create_dir(view.join("out")).unwrap();
        for (number, target) in targets.iter().enumerate() {
            symlink(target, view.join(format!("out/l{number}"))).unwrap();
        }
        symlink(&outside, view.join("way")).unwrap();
        symlink("/proc/self/root", view.join("magic")).unwrap();
    });
    let Some(_overlay) = mounted else { return };
    let done = scene.hand_off(&["out", "out/l0", "way"]).unwrap();
    let listing = scene.listing(&done.directories[0]);
    for (number, target) in targets.iter().enumerate() {
        assert!(listing.contains(&format!("l{number} -> {}", target.display())));
    }
    assert_eq!(done.symlinks[0].target, canary.to_str().unwrap());
    assert_eq!((done.files.len(), done.handoff), (0, Handoff::default()));
    for declared in ["way/canary", "magic/etc/passwd", "out/l8/canary"] {
        scene.refused(&[declared], "there is a symlink on the way to it");
        scene.refused(&["out", declared], "there is a symlink on the way to it");
    }
}
