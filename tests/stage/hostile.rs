//! Trees that must not be staged, and blobs that are not there.

use crate::Test;
use crate::scene::{Scene, below, file, symlink};
use fulgurite::action::{Digest, DigestFunction, Directory, encode};
use fulgurite::stage::root::{StageRootError, Stager, StagerOptions, Way, WayChoice};
use fulgurite_sandbox::runtime::Runtime;
use std::collections::BTreeSet;

pub const TESTS: &[Test] = &[
    ("hostile::all_that_is_missing_is_told_at_once", all_that_is_missing_is_told_at_once),
    ("hostile::trees_by_sharing_are_counted_and_not_made", trees_by_sharing_are_counted_and_not_made),
    ("hostile::trees_are_bounded", trees_are_bounded),
    ("hostile::what_is_no_tree_is_refused", what_is_no_tree_is_refused),
    ("hostile::a_way_that_cannot_be_had_says_why", a_way_that_cannot_be_had_says_why),
];

/// A stager by the best way, of which nothing is ever mounted here.
fn stager(scene: &Scene, runtime: &Runtime) -> Stager {
    scene.open(runtime, StagerOptions::default()).unwrap()
}

/// Fails, and leaves nothing staged and nothing on disk.
fn refused(scene: &Scene, stager: &Stager, root: &Digest) -> StageRootError {
    let error = stager.stage("t", root).expect_err("a refusal");
    assert_eq!(stager.warm_roots(), 0);
    let left: Vec<_> = std::fs::read_dir(scene.temp.path().join("stage")).unwrap().collect();
    for entry in left {
        let path = entry.unwrap().path();
        assert_eq!(std::fs::read_dir(&path).map_or(0, Iterator::count), 0, "{}", path.display());
    }
    error
}

fn all_that_is_missing_is_told_at_once(runtime: &Runtime) {
    let scene = Scene::new();
    let nowhere = |text: &str| Digest::of(DigestFunction::Sha256, text.as_bytes());
    let false_empty = Digest { size_bytes: 0, ..nowhere("lies") };
    let there = scene.put(b"there");
    let wrong_size = Digest { size_bytes: 99, ..there };
    let inner = Directory { files: vec![file("c", nowhere("c")), file("d", there)], ..Directory::default() };
    let top = Directory {
        files: vec![file("a", nowhere("a")), file("b", nowhere("a")), file("e", false_empty)],
        directories: vec![below("gone", nowhere("directory")), below("inner", scene.put_directory(&inner))],
        ..Directory::default()
    };
    let root = scene.put_directory(&top);
    let stager = stager(&scene, runtime);
    let StageRootError::Missing(missing) = refused(&scene, &stager, &root) else { panic!("not missing") };
    let found: BTreeSet<_> = missing.iter().copied().collect();
    assert_eq!(found.len(), missing.len(), "each once");
    assert_eq!(found, BTreeSet::from([nowhere("a"), nowhere("c"), nowhere("directory"), false_empty]));
    let StageRootError::Missing(missing) = refused(&scene, &stager, &nowhere("root")) else { panic!() };
    assert_eq!(missing, [nowhere("root")]);
    // With its files there the same root can be staged.
    for text in ["a", "c", "directory"] {
        scene.put(text.as_bytes());
    }
    let fine = Directory { files: vec![file("a", nowhere("a"))], ..Directory::default() };
    assert_eq!(stager.stage("t", &scene.put_directory(&fine)).unwrap().files, 1);
    let _ = wrong_size;
}

fn trees_by_sharing_are_counted_and_not_made(runtime: &Runtime) {
    let scene = Scene::new();
    let stager = stager(&scene, runtime);
    let leaf = Directory { files: vec![file("f", scene.put(b"f"))], ..Directory::default() };
    let mut digest = scene.put_directory(&leaf);
    for level in 1..=200 {
        let directories = vec![below("a", digest), below("b", digest)];
        digest = scene.put_directory(&Directory { directories, ..Directory::default() });
        if matches!(level, 40 | 64 | 200) {
            let error = refused(&scene, &stager, &digest);
            assert!(matches!(error, StageRootError::TooLarge { what: "paths:", .. }), "{level}: {error}");
        }
    }
    // One with a million times nothing, in one message.
    let wide: Vec<_> = (0..100_000).map(|at| below(&format!("{at:06}"), digest)).collect();
    let root = scene.put_directory(&Directory { directories: wide, ..Directory::default() });
    assert!(matches!(refused(&scene, &stager, &root), StageRootError::TooLarge { .. }));
}

fn trees_are_bounded(runtime: &Runtime) {
    let scene = Scene::new();
    let stager = stager(&scene, runtime);
    let mut digest = Digest::empty(DigestFunction::Sha256);
    for level in 0..1100 {
        let directories = vec![below("d", digest)];
        digest = scene.put_directory(&Directory { directories, ..Directory::default() });
        if level == 1000 {
            stager.stage("t", &digest).unwrap();
            stager.release_idle().unwrap();
        }
    }
    let error = refused(&scene, &stager, &digest);
    assert!(matches!(error, StageRootError::TooLarge { what: "levels of directories:", .. }), "{error}");
    let mut digest = Digest::empty(DigestFunction::Sha256);
    for _ in 0..20 {
        let directories = vec![below(&"d".repeat(255), digest)];
        digest = scene.put_directory(&Directory { directories, ..Directory::default() });
    }
    let error = refused(&scene, &stager, &digest);
    assert!(matches!(error, StageRootError::TooLarge { what: "a path of bytes:", .. }), "{error}");
    let huge = Digest { size_bytes: 1 << 40, ..Digest::of(DigestFunction::Sha256, b"huge") };
    let error = refused(&scene, &stager, &huge);
    assert!(matches!(error, StageRootError::TooLarge { what: "a directory of bytes:", .. }), "{error}");
}

fn what_is_no_tree_is_refused(runtime: &Runtime) {
    let scene = Scene::new();
    let stager = stager(&scene, runtime);
    let one = scene.put(b"one");
    let malformed = |digest: Digest| {
        let error = refused(&scene, &stager, &digest);
        assert!(matches!(error, StageRootError::Malformed { .. }), "{error}");
    };
    malformed(scene.put(b"no message at all \xff\xff\xff"));
    for name in ["..", ".", "", "a/b", "a\0b", &"n".repeat(256)] {
        let top = Directory { files: vec![file(name, one)], ..Directory::default() };
        malformed(scene.put_directory(&top));
        let top = Directory { symlinks: vec![symlink(name, "x")], ..Directory::default() };
        malformed(scene.put_directory(&top));
        let top = Directory { directories: vec![below(name, one)], ..Directory::default() };
        malformed(scene.put_directory(&top));
    }
    let twice = Directory { files: vec![file("a", one), file("a", one)], ..Directory::default() };
    malformed(scene.put_directory(&twice));
    let beneath = Directory { files: vec![file("passwd", one)], ..Directory::default() };
    let beneath_link = Directory {
        symlinks: vec![symlink("a", "/etc")],
        directories: vec![below("a", scene.put_directory(&beneath))],
        ..Directory::default()
    };
    malformed(scene.put_directory(&beneath_link));
    let unsorted = Directory { files: vec![file("b", one), file("a", one)], ..Directory::default() };
    malformed(scene.put_directory(&unsorted));
    // Below a sound root, and behind a size that is not the blob's.
    let inner = scene.put_directory(&unsorted);
    malformed(
        scene.put_directory(&Directory { directories: vec![below("d", inner)], ..Directory::default() }),
    );
    let long = Directory { symlinks: vec![symlink("l", &"t".repeat(4096))], ..Directory::default() };
    malformed(scene.put(&encode::directory(&long)));
}

fn a_way_that_cannot_be_had_says_why(runtime: &Runtime) {
    // An image cannot be read from tmpfs.
    let scene = Scene::in_directory(std::path::Path::new("/dev/shm"));
    let forced = StagerOptions { way: WayChoice::Forced(Way::Composefs), ..StagerOptions::default() };
    let error = scene.open(runtime, forced).expect_err("a refusal").to_string();
    assert!(error.contains("composefs: "), "{error}");
    let features = runtime.features();
    if features.privileged && features.overlay_detached_layers.is_yes() {
        assert!(error.contains("tmpfs"), "{error}");
    }
    let chosen = scene.open(runtime, StagerOptions::default()).unwrap();
    assert_ne!(chosen.way(), Way::Composefs);
    assert_eq!(chosen.passed_over()[0].0, Way::Composefs);
    let root = Directory { files: vec![file("a", scene.put(b"a"))], ..Directory::default() };
    let staged = chosen.stage("t", &scene.put_directory(&root)).unwrap();
    assert_eq!(scene.see(runtime, &staged)["a"].content, b"a");
}
