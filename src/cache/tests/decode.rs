//! Which blobs a result needs.

use super::{SHA, Scene};
use crate::action::encode;
use crate::action::{ActionResult, Directory, DirectoryNode, FileNode, NodeProperties};
use crate::action::{Digest, DigestError};
use crate::action::{OutputDirectory, OutputFile};
use crate::cache::decode::{ReferenceError, references};
use crate::cache::limits::{REFERENCES_MAX, TREE_BYTES_MAX};
use fulgurite_proto::reapi;
use prost::Message;

fn of(bytes: &[u8]) -> Digest {
    Digest::of(SHA, bytes)
}

fn directory(files: &[&[u8]], below: &[&[u8]]) -> Vec<u8> {
    let file = |(index, bytes): (usize, &&[u8])| FileNode {
        name: format!("f{index}"),
        digest: of(bytes),
        executable: false,
        properties: NodeProperties::default(),
    };
    let child =
        |(index, encoded): (usize, &&[u8])| DirectoryNode { name: format!("d{index}"), digest: of(encoded) };
    encode::directory(&Directory {
        files: files.iter().enumerate().map(file).collect(),
        directories: below.iter().enumerate().map(child).collect(),
        ..Directory::default()
    })
}

fn with_directory(tree: Option<Digest>, root: Option<Digest>) -> ActionResult {
    let directory = OutputDirectory { path: "d".to_owned(), tree_digest: tree, root_directory_digest: root };
    ActionResult { directories: vec![directory], ..ActionResult::default() }
}

fn encoded(result: &ActionResult) -> Vec<u8> {
    encode::action_result(result, false).encode_to_vec()
}

fn check(scene: &Scene, result: &[u8], expected: &[Digest]) {
    let mut found = references(&scene.cas, SHA, result).unwrap();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

fn missing_digest(message: &'static str) -> ReferenceError {
    ReferenceError::Digest { message, why: DigestError::Missing(message) }
}

#[test]
fn files_and_streams() {
    let scene = Scene::new();
    let file = |path: &str, bytes: &[u8]| OutputFile {
        path: path.to_owned(),
        digest: of(bytes),
        executable: false,
        properties: NodeProperties::default(),
    };
    let result = ActionResult {
        files: vec![file("a", b"a"), file("b", b"b"), file("again", b"a")],
        stdout: Some(of(b"out")),
        stderr: Some(of(b"err")),
        ..ActionResult::default()
    };
    check(&scene, &encoded(&result), &[of(b"a"), of(b"b"), of(b"out"), of(b"err")]);
    check(&scene, &encoded(&ActionResult::default()), &[]);
}

#[test]
fn inline_contents_without_a_digest_need_no_blob() {
    let scene = Scene::new();
    let file = |contents: &'static [u8]| reapi::ActionResult {
        output_files: vec![reapi::OutputFile { contents: contents.into(), ..Default::default() }],
        stdout_raw: b"printed".as_slice().into(),
        ..Default::default()
    };
    check(&scene, &file(b"inline").encode_to_vec(), &[]);
    let refused = references(&scene.cas, SHA, &file(b"").encode_to_vec());
    assert_eq!(refused, Err(missing_digest("OutputFile")));
}

#[test]
fn trees_give_the_files_of_all_their_directories() {
    let scene = Scene::new();
    let leaf = directory(&[b"deep", b"x"], &[]);
    let root = directory(&[b"x", b"y"], &[&leaf]);
    let tree = encode::tree([root.as_slice(), &leaf]);
    let digest = scene.blob(&tree);
    let files = [of(b"x"), of(b"y"), of(b"deep")];
    check(&scene, &encoded(&with_directory(Some(digest), None)), &[&files[..], &[digest]].concat());
    // By Directories: each is a blob of its own, and needed.
    let [root_digest, leaf_digest] = [scene.blob(&root), scene.blob(&leaf)];
    let directories = [&files[..], &[root_digest, leaf_digest]].concat();
    check(&scene, &encoded(&with_directory(None, Some(root_digest))), &directories);
    let both = with_directory(Some(digest), Some(root_digest));
    check(&scene, &encoded(&both), &[&directories[..], &[digest]].concat());
}

#[test]
fn a_tree_that_is_also_a_file_is_read() {
    let scene = Scene::new();
    let tree = scene.blob(&encode::tree([directory(&[b"x"], &[]).as_slice()]));
    let mut result = with_directory(Some(tree), None);
    result.files.push(OutputFile {
        path: "a".to_owned(),
        digest: tree,
        executable: false,
        properties: NodeProperties::default(),
    });
    check(&scene, &encoded(&result), &[tree, of(b"x")]);
}

#[test]
fn an_empty_directory_is_an_empty_blob() {
    let scene = Scene::new();
    let empty = Digest::empty(SHA);
    check(&scene, &encoded(&with_directory(None, Some(empty))), &[empty]);
}

#[test]
fn trees_that_are_gone_or_too_large_are_told() {
    let scene = Scene::new();
    let refused = |tree: Digest| references(&scene.cas, SHA, &encoded(&with_directory(Some(tree), None)));
    assert_eq!(refused(of(b"gone")), Err(ReferenceError::Missing(of(b"gone"))));
    let huge = Digest { size_bytes: TREE_BYTES_MAX + 1, ..of(b"huge") };
    assert!(matches!(refused(huge), Err(ReferenceError::TooLarge { max: TREE_BYTES_MAX, .. })));
    let largest = Digest { size_bytes: u64::try_from(i64::MAX).unwrap(), ..of(b"largest") };
    assert!(matches!(refused(largest), Err(ReferenceError::TooLarge { .. })));
    let garbage = scene.blob(&[0x0a, 0xff, 0xff]);
    assert!(matches!(refused(garbage), Err(ReferenceError::Malformed { message: "Tree", .. })));
    let without = scene.blob(&encode::tree([&[0x0a_u8, 0x00][..]]));
    assert_eq!(refused(without), Err(missing_digest("FileNode")));
}

/// Each level twice names the level below: 2^40 paths, 41 Directories.
#[test]
fn shared_directories_are_read_once() {
    let scene = Scene::new();
    let mut below = directory(&[b"x"], &[]);
    let mut expected = vec![of(b"x"), scene.blob(&below)];
    for _ in 0..40 {
        below = directory(&[], &[&below, &below]);
        expected.push(scene.blob(&below));
    }
    check(&scene, &encoded(&with_directory(None, Some(of(&below)))), &expected);
}

#[test]
fn too_many_files_are_refused() {
    let scene = Scene::new();
    let mut root = Vec::new();
    for index in 0..=REFERENCES_MAX {
        let digest = encode::digest(&of(&index.to_le_bytes()));
        let node = reapi::FileNode { digest: Some(digest), ..Default::default() };
        prost::encoding::message::encode(1, &node, &mut root);
    }
    let root = scene.blob(&root);
    let refused = references(&scene.cas, SHA, &encoded(&with_directory(None, Some(root))));
    assert_eq!(refused, Err(ReferenceError::TooLarge { what: "blobs", max: REFERENCES_MAX as u64 }));
}

#[test]
fn no_message_brings_the_reader_down() {
    let scene = Scene::new();
    let mut runner = proptest::test_runner::TestRunner::default();
    let read = |bytes: Vec<u8>| {
        let _ = references(&scene.cas, SHA, &bytes);
        Ok(())
    };
    runner.run(&proptest::prelude::any::<Vec<u8>>(), read).unwrap();
}
