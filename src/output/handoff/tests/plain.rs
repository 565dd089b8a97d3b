//! Layers that need no overlay: plain directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::{SHA, Scene, command, sha};
use crate::action::{Digest, Handoff, OutputDirectoryFormat, OutputKind, OutputProperty};
use crate::cas::Cas;

#[test]
fn a_plain_output_is_renamed_and_no_byte_is_copied() {
    let scene = Scene::new();
    scene.write(&[("out/a", "one"), ("out/b", "two"), ("note", "undeclared")]);
    let inode = fs::metadata(scene.upper.join("out/a")).unwrap().ino();
    let done = scene.hand_off(&["out/b", "out/a", "out/none", "none/at/all"]).unwrap();
    let found: Vec<_> = done.files.iter().map(|file| (file.path.as_str(), file.digest)).collect();
    assert_eq!(found, [("out/a", sha(b"one")), ("out/b", sha(b"two"))]);
    assert_eq!(done.handoff, Handoff { renamed: 2, ..Handoff::default() });
    let blob = scene.temp.path().join("store/objects").join(Cas::object_path(&sha(b"one")));
    let stat = fs::metadata(blob).unwrap();
    assert_eq!((stat.ino(), stat.mode() & 0o7777, stat.nlink()), (inode, 0o444, 1));
    assert!(scene.upper.join("note").exists());
}

#[test]
fn directories_keep_what_is_empty_and_what_is_equal_is_told_once() {
    let scene = Scene::new();
    scene.write(&[("d/x/same/f", "f"), ("d/y/same/f", "f"), ("d/z", "f")]);
    fs::create_dir_all(scene.upper.join("d/empty/er")).unwrap();
    symlink("../gone", scene.upper.join("d/x/dangling")).unwrap();
    fs::set_permissions(scene.upper.join("d/z"), fs::Permissions::from_mode(0o755)).unwrap();
    let done = scene.hand_off(&["d"]).unwrap();
    let expected = [
        "empty/",
        "empty/er/",
        "x/",
        "x/dangling -> ../gone",
        "x/same/",
        "x/same/f = f",
        "y/",
        "y/same/",
        "y/same/f = f",
        "z* = f",
    ];
    assert_eq!(scene.listing(&done.directories[0]), expected);
    assert_eq!((done.handoff.renamed, done.handoff.known), (1, 2));
    // Root, x, same, y, empty, er: `same` once.
    let tree = scene.tree(&done.directories[0]);
    assert_eq!(tree.len(), 6);
    let places: Vec<Digest> = tree.iter().map(|bytes| sha(bytes)).collect();
    for (at, bytes) in tree.iter().enumerate() {
        for child in crate::action::decode::directory(SHA, bytes).unwrap().directories {
            assert!(places.iter().position(|place| *place == child.digest).unwrap() > at);
        }
    }
}

#[test]
fn outputs_may_overlap_in_every_way() {
    let scene = Scene::new();
    scene.write(&[("d/sub/f", "f"), ("d/g", "g"), ("d-e/h", "h")]);
    fs::set_permissions(scene.upper.join("d/sub/f"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut command =
        command(&["d/sub/f", "d", "d/sub", "", "d/none", "d-e/h", "d/g/below"], OutputKind::Any);
    command.output_directory_format = OutputDirectoryFormat::TreeAndDirectory;
    command.output_properties = vec![OutputProperty::UnixMode];
    let done = scene.hand_off_command(&command).unwrap();
    let files: Vec<_> = done.files.iter().map(|file| (file.path.as_str(), file.executable)).collect();
    assert_eq!(files, [("d-e/h", false), ("d/sub/f", true)]);
    assert_eq!(done.files[1].properties.unix_mode, Some(0o700));
    let dirs: Vec<_> = done.directories.iter().map(|dir| dir.path.as_str()).collect();
    assert_eq!(dirs, ["", "d", "d/sub"]);
    assert_eq!(scene.listing(&done.directories[2]), ["f* = f"]);
    assert_eq!(scene.listing(&done.directories[0]).len(), 6);
    assert_eq!(done.handoff, Handoff { renamed: 3, ..Handoff::default() });
    for dir in &done.directories {
        let root = dir.root_directory_digest.unwrap();
        assert_eq!(sha(&scene.tree(dir)[0]), root);
        assert!(scene.cas.contains(&root));
    }
}

#[test]
fn o03_special_files_are_refused_by_name() {
    for (kind, part) in [
        (rustix::fs::FileType::Fifo, "\"d/odd\": it is a FIFO"),
        (rustix::fs::FileType::Socket, "\"d/odd\": it is a socket"),
    ] {
        let scene = Scene::new();
        fs::create_dir(scene.upper.join("d")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, scene.upper.join("d/odd"), kind, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        scene.refused(&["d"], part);
        scene.refused(&["d/odd"], part);
    }
}

#[test]
fn untouched_inputs_are_known_and_not_read() {
    let mut scene = Scene::new();
    fs::create_dir_all(scene.lower.join("in/sub")).unwrap();
    fs::write(scene.lower.join("in/sub/f"), "f").unwrap();
    fs::write(scene.lower.join("in/g"), "g").unwrap();
    symlink("g", scene.lower.join("in/l")).unwrap();
    scene.inputs = super::Tree::of(&scene.lower);
    scene.write(&[("in/new", "new")]);
    scene.cas.put_bytes(SHA, b"f").unwrap();
    scene.cas.put_bytes(SHA, b"g").unwrap();
    let done = scene.hand_off(&["in/sub/f", "in", "in/l", "in/sub"]).unwrap();
    assert_eq!(scene.listing(&done.directories[0]), ["g = g", "l -> g", "new = new", "sub/", "sub/f = f"]);
    assert_eq!(done.directories.len(), 2);
    assert_eq!((done.files[0].digest, done.symlinks[0].target.as_str()), (sha(b"f"), "g"));
    assert_eq!(done.handoff, Handoff { renamed: 1, known: 2, ..Handoff::default() });
}
