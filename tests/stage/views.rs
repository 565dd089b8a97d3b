//! What an action sees, and what becomes of what it does.

use crate::Test;
use crate::scene::{ACTION, Scene, below, difference, file, list, path_in, symlink};
use fulgurite::action::{Digest, DigestFunction, Directory, ExecPath, NodeProperties, Timestamp};
use fulgurite::stage::root::{Node, Way};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::{Action, Sandbox};
use fulgurite_sandbox::spec::SandboxSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("views::every_way_shows_the_same_tree", every_way_shows_the_same_tree),
    ("views::what_an_action_does_stays_in_its_layer", what_an_action_does_stays_in_its_layer),
    ("views::files_are_told_apart", files_are_told_apart),
    ("views::paths_are_looked_up_without_a_disk", paths_are_looked_up_without_a_disk),
    ("views::a_hundred_thousand_paths", a_hundred_thousand_paths),
];

/// A tree with one of everything.
fn of_everything(scene: &Scene) -> Digest {
    let many = Directory {
        files: (0..700)
            .map(|number| file(&format!("{number:03}-{}", "n".repeat(100)), scene.put(&[number as u8; 10])))
            .collect(),
        ..Directory::default()
    };
    let odd = NodeProperties {
        mtime: Some(Timestamp { seconds: 1_234_567_890, nanos: 123_456_789 }),
        unix_mode: Some(0o640),
        ..NodeProperties::default()
    };
    let before_time = NodeProperties {
        mtime: Some(Timestamp { seconds: -5, nanos: 999_999_999 }),
        ..NodeProperties::default()
    };
    let mut private = symlink("early", "nowhere");
    private.properties = before_time;
    let shared = scene.put_directory(&Directory {
        files: vec![file("empty", Digest::empty(DigestFunction::Sha256)), file("ü", scene.put(b"umlaut"))],
        symlinks: vec![symlink("absolute", "/etc/passwd"), private, symlink("up", "../../../..")],
        properties: odd.clone(),
        ..Directory::default()
    });
    let mut tool = file("tool", scene.put(b"#!/bin/sh\necho tool\n"));
    tool.executable = true;
    let mut aged = file("aged", scene.put(b"aged"));
    aged.properties = odd;
    let long = "t".repeat(4000);
    scene.put_directory(&Directory {
        files: vec![file("!first", scene.put(b"!")), aged, file("large", scene.put(&[7; 300_000])), tool],
        directories: vec![
            below("empty-directory", Digest::empty(DigestFunction::Sha256)),
            below("many", scene.put_directory(&many)),
            below("one", shared),
            below("two", shared),
        ],
        symlinks: vec![symlink("link", "one/ü"), symlink(&"l".repeat(255), &long)],
        ..Directory::default()
    })
}

fn every_way_shows_the_same_tree(runtime: &Runtime) {
    let mut shown = BTreeMap::new();
    for way in Way::ALL {
        let scene = Scene::new();
        let root = of_everything(&scene);
        let Some(stager) = scene.stager("every_way_shows_the_same_tree", runtime, way) else { continue };
        let staged = stager.stage("t", &root).unwrap();
        assert_eq!((staged.way, staged.known), (way, false));
        assert_eq!((staged.files, staged.directories, staged.symlinks), (708, 4, 8));
        let seen = scene.see(runtime, &staged);
        assert_eq!(difference(&seen, &scene.see(runtime, &staged)), None, "{way}: the second action");
        scene.check_blobs();
        shown.insert(way.name(), seen);
    }
    let mut ways = shown.iter();
    let (first, seen) = ways.next().expect("at least a copy");
    for (way, other) in ways {
        assert_eq!(difference(seen, other), None, "by {first} and by {way}");
    }
    assert_eq!(seen.len(), 1 + 708 + 4 + 8);
    let action = if runtime.features().privileged { ACTION } else { 0 };
    for (path, there) in seen {
        assert_eq!(there.owner, (action, action), "{path}");
    }
    let at = |path: &str| (seen[path].mode, seen[path].mtime);
    let fixed = (946_684_800, 0);
    assert_eq!(at(""), (0o040_755, fixed));
    assert_eq!(at("!first"), (0o100_644, fixed));
    assert_eq!(at("tool"), (0o100_755, fixed));
    assert_eq!(at("aged"), (0o100_640, (1_234_567_890, 123_456_789)));
    assert_eq!(at("one"), (0o040_740, (1_234_567_890, 123_456_789)));
    assert_eq!(at("two/early"), (0o120_777, (0, 0)));
    assert_eq!(seen["one/absolute"].content, b"/etc/passwd");
    assert_eq!(seen["large"].content, [7; 300_000]);
}

/// Runs a script as an action over a fresh layer. Answers its exit code, what it said, and what it left to see.
fn run(
    scene: &Scene,
    runtime: &Runtime,
    staged: &fulgurite::stage::root::StagedRoot,
    script: &str,
) -> (String, String, BTreeMap<String, crate::scene::Seen>) {
    let template = runtime.template(&SandboxSpec::default()).unwrap();
    let mut sandbox = Sandbox::create(runtime, &template).unwrap();
    let layer = scene.layer(runtime, sandbox.action_id());
    let view = staged.view(runtime, sandbox.action_id(), &layer).unwrap();
    let said = scene.temp.path().join("said");
    let out = std::fs::File::create(&said).unwrap();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let outcome = sandbox.run(&Action {
        arguments: &[c"/bin/sh".into(), c"-c".into(), CString::new(script).unwrap()],
        variables: &[c"PATH=/usr/bin:/bin".into()],
        directory: c"/work",
        stdin: null.as_fd(),
        stdout: out.as_fd(),
        stderr: out.as_fd(),
        work: Some(view.mount.as_fd()),
        limits: &Limits::default(),
        timeout: Some(Duration::from_secs(60)),
        kill_delay: Duration::ZERO,
        terminal: false,
        fail_at: 0,
    });
    let seen = list(view.mount.as_fd());
    sandbox.destroy(runtime).unwrap();
    drop(view);
    layer.destroy().unwrap();
    (outcome.end.to_string(), std::fs::read_to_string(said).unwrap(), seen)
}

fn what_an_action_does_stays_in_its_layer(runtime: &Runtime) {
    const SCRIPT: &str = "set -e
        echo more >>append; echo new >rewrite; : >truncate; chmod 0777 chmod; touch -d @1 touch
        ln link linked; echo through >>linked; mv rename renamed; rm remove
        dd if=/dev/zero of=patch bs=1 count=1 seek=2 conv=notrunc 2>/dev/null
        echo in >one/made; rm one/gone; chmod 0700 one; test -w append; ./tool; cat keep";
    for way in Way::ALL {
        let scene = Scene::new();
        let names =
            ["append", "chmod", "keep", "link", "patch", "remove", "rename", "rewrite", "touch", "truncate"];
        let mut files: Vec<_> =
            names.iter().map(|name| file(name, scene.put(format!("{name}\n").as_bytes()))).collect();
        let mut tool = file("tool", scene.put(b"#!/bin/sh\necho tool >>tool.log; echo tool\n"));
        tool.executable = true;
        files.push(tool);
        files.sort_by(|a, b| a.name.cmp(&b.name));
        // The same blob once more below, so that a write through it would be seen there.
        let one = Directory { files: vec![file("gone", files[0].digest)], ..Directory::default() };
        let directories = vec![below("one", scene.put_directory(&one))];
        let root = scene.put_directory(&Directory { files, directories, ..Directory::default() });
        let Some(stager) = scene.stager("what_an_action_does_stays_in_its_layer", runtime, way) else {
            continue;
        };
        let staged = stager.stage("t", &root).unwrap();
        let before = scene.see(runtime, &staged);
        let (end, said, seen) = run(&scene, runtime, &staged, SCRIPT);
        assert_eq!((end.as_str(), said.as_str()), ("exited with code 0", "tool\nkeep\n"), "{way}");
        assert_eq!(seen["append"].content, b"append\nmore\n");
        assert_eq!(seen["linked"].content, b"link\nthrough\n");
        assert_eq!(seen["patch"].content, b"pa\0ch\n");
        assert_eq!(seen["renamed"].content, b"rename\n");
        assert!(!seen.contains_key("remove") && !seen.contains_key("one/gone"));
        assert_eq!(difference(&before, &scene.see(runtime, &staged)), None, "{way}: the next action");
        scene.check_blobs();
    }
}

fn files_are_told_apart(runtime: &Runtime) {
    for way in Way::ALL {
        let scene = Scene::new();
        let same = scene.put(b"#pragma once\n");
        let files: Vec<_> = (0..100)
            .map(|at| {
                let digest =
                    if at % 10 == 0 { same } else { scene.put(format!("#pragma once {at}\n").as_bytes()) };
                file(&format!("{at:02}.h"), digest)
            })
            .collect();
        let root = scene.put_directory(&Directory { files: files.clone(), ..Directory::default() });
        let Some(stager) = scene.stager("files_are_told_apart", runtime, way) else { continue };
        let staged = stager.stage("t", &root).unwrap();
        let layer = scene.layer(runtime, ACTION);
        let view = staged.view(runtime, ACTION, &layer).unwrap();
        let identity = |name: &str| {
            let meta = std::fs::metadata(path_in(&view, name)).unwrap();
            (meta.dev(), meta.ino())
        };
        let mut digests_of = BTreeMap::<_, BTreeSet<Digest>>::new();
        for file in &files {
            assert_eq!(identity(&file.name), identity(&file.name), "{way}: the same when opened again");
            digests_of.entry(identity(&file.name)).or_default().insert(file.digest);
        }
        assert!(
            digests_of.values().all(|digests| digests.len() == 1),
            "{way}: different files are different"
        );
        if way != Way::DirectoryCache {
            assert_eq!(digests_of.len(), 100, "{way}: a file for each path");
        }
        drop(view);
        layer.destroy().unwrap();
    }
}

fn paths_are_looked_up_without_a_disk(runtime: &Runtime) {
    let scene = Scene::new();
    let root = of_everything(&scene);
    let Some(stager) = scene.stager("paths_are_looked_up_without_a_disk", runtime, Way::Copy) else { return };
    let staged = stager.stage("t", &root).unwrap();
    let at = |path: &str| staged.lookup(&ExecPath::new(path).unwrap());
    let tool = scene.put(b"#!/bin/sh\necho tool\n");
    assert_eq!(at("tool"), Some(Node::File { digest: &tool, executable: true }));
    assert_eq!(at("two/absolute"), Some(Node::Symlink { target: "/etc/passwd" }));
    assert!(matches!(at("two"), Some(Node::Directory { directory, .. }) if directory.files.len() == 2));
    assert!(matches!(at("one/empty"), Some(Node::File { digest, executable: false }) if digest.is_empty()));
    for nothing in ["nothing", "one/nothing", "tool/below", "link/below", "no/where"] {
        assert_eq!(at(nothing), None, "{nothing}");
    }
}

/// Many names and few blobs: what is tested is the image, not the disk.
fn a_hundred_thousand_paths(runtime: &Runtime) {
    let scene = Scene::new();
    let one = scene.put(b"one");
    let crowd = Directory {
        files: (0..60_000).map(|at| file(&format!("file-{at:06}"), one)).collect(),
        ..Directory::default()
    };
    let some = Directory {
        files: (0..100).map(|at| file(&format!("file-{at:06}"), one)).collect(),
        ..Directory::default()
    };
    let some = scene.put_directory(&some);
    let mut directories = vec![below("crowd", scene.put_directory(&crowd))];
    directories.extend((0..400).map(|at| below(&format!("some-{at:03}"), some)));
    let root = scene.put_directory(&Directory { directories, ..Directory::default() });
    let Some(stager) = scene.stager("a_hundred_thousand_paths", runtime, Way::Composefs) else { return };
    let staged = stager.stage("t", &root).unwrap();
    assert_eq!((staged.files, staged.directories), (100_000, 401));
    let layer = scene.layer(runtime, ACTION);
    let view = staged.view(runtime, ACTION, &layer).unwrap();
    let crowd = std::fs::read_dir(path_in(&view, "crowd")).unwrap();
    let names: BTreeSet<_> = crowd.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, (0..60_000).map(|at| format!("file-{at:06}")).collect());
    for path in ["crowd/file-000000", "crowd/file-031337", "crowd/file-059999", "some-399/file-000099"] {
        assert_eq!(std::fs::read(path_in(&view, path)).unwrap(), b"one", "{path}");
    }
    assert!(std::fs::read(path_in(&view, "crowd/file-060000")).is_err());
    drop(view);
    layer.destroy().unwrap();
}
