//! Results whose contents, paths and trees are not what they should be.

use super::*;
use crate::action::encode;
use reapi::{Directory, DirectoryNode, FileNode, SymlinkNode, Tree};

fn remote(result: reapi::ActionResult) -> Result<RemoteResult, ClusterError> {
    crate::remote::decode::result("a test", DigestFunction::Sha256, result)
}

async fn fetch(
    scene: &Scene,
    outputs: &[&str],
    result: reapi::ActionResult,
) -> Result<(crate::action::ActionResult, u64), ClusterError> {
    soon(scene.cluster.fetch(&scene.cas, &command(outputs), remote(result)?)).await
}

async fn refused(scene: &Scene, outputs: &[&str], result: reapi::ActionResult) {
    let error = fetch(scene, outputs, result).await.unwrap_err();
    assert!(matches!(error, ClusterError::Malformed { .. }), "{error}");
}

fn files(files: Vec<reapi::OutputFile>) -> reapi::ActionResult {
    reapi::ActionResult { output_files: files, ..reapi::ActionResult::default() }
}

fn file_node(name: &str, digest: &Digest) -> FileNode {
    FileNode { name: name.to_owned(), digest: liar::sent(digest), ..FileNode::default() }
}

fn below(name: &str, directory: &Directory) -> DirectoryNode {
    let digest = liar::sent(&digest(&directory.encode_to_vec()));
    DirectoryNode { name: name.to_owned(), digest }
}

/// A result whose output `out` is this tree.
fn tree_of(scene: &Scene, tree: &Tree) -> reapi::ActionResult {
    tree_bytes(scene, &tree.encode_to_vec())
}

fn tree_bytes(scene: &Scene, encoded: &[u8]) -> reapi::ActionResult {
    let tree = scene.liar().put(encoded);
    let directory = reapi::OutputDirectory {
        path: "out".to_owned(),
        tree_digest: liar::sent(&tree),
        ..reapi::OutputDirectory::default()
    };
    reapi::ActionResult { output_directories: vec![directory], ..reapi::ActionResult::default() }
}

#[tokio::test]
async fn an_honest_result_comes_whole() {
    let scene = Scene::new().await;
    let (one, two) = (scene.liar().put(b"one"), scene.liar().put(b"two"));
    let stderr = scene.liar().put(b"stderr");
    let inner = Directory { files: vec![file_node("two", &two)], ..Directory::default() };
    let root = Directory {
        files: vec![file_node("one", &one)],
        directories: vec![below("empty", &Directory::default()), below("inner", &inner)],
        symlinks: vec![SymlinkNode {
            name: "link".to_owned(),
            target: "../one".to_owned(),
            ..SymlinkNode::default()
        }],
        ..Directory::default()
    };
    for children in [vec![inner.clone()], vec![inner.clone(), Directory::default()]] {
        let mut result = tree_of(&scene, &Tree { root: Some(root.clone()), children });
        result.output_files =
            vec![reapi::OutputFile { contents: b"inline".to_vec().into(), ..file("a", &digest(b"inline")) }];
        result.stdout_raw = b"stdout".to_vec().into();
        result.stderr_digest = liar::sent(&stderr);
        let (fetched, _) = fetch(&scene, &["a", "out"], result).await.unwrap();
        for (name, bytes) in [(digest(b"inline"), "inline"), (one, "one"), (two, "two"), (stderr, "stderr")] {
            assert_eq!(scene.cas.read(&name, 100).unwrap(), bytes.as_bytes());
        }
        assert_eq!(fetched.stdout, Some(digest(b"stdout")));
        assert_eq!(blobs_of(&scene.cas, &fetched).unwrap().len(), 6);
    }
    // The same, directory by directory.
    let other = Scene::new().await;
    for bytes in [&b"one"[..], b"two", &inner.encode_to_vec(), &root.encode_to_vec()] {
        other.liar().put(bytes);
    }
    let directory = reapi::OutputDirectory {
        path: "out".to_owned(),
        root_directory_digest: liar::sent(&digest(&root.encode_to_vec())),
        ..reapi::OutputDirectory::default()
    };
    let result = reapi::ActionResult { output_directories: vec![directory], ..Default::default() };
    fetch(&other, &["out"], result).await.unwrap();
    assert!(other.cas.contains(&one) && other.cas.contains(&two));
    assert_eq!(other.check_store(), 4);
}

#[tokio::test]
async fn inline_contents_must_be_what_they_are_called() {
    let scene = Scene::new().await;
    let name = digest(b"told");
    let contents = b"other".to_vec();
    let as_file = files(vec![reapi::OutputFile { contents: contents.clone().into(), ..file("a", &name) }]);
    let stdout = reapi::ActionResult {
        stdout_raw: contents.clone().into(),
        stdout_digest: liar::sent(&name),
        ..reapi::ActionResult::default()
    };
    let stderr = reapi::ActionResult {
        stderr_raw: contents.into(),
        stderr_digest: liar::sent(&name),
        ..reapi::ActionResult::default()
    };
    for result in [as_file, stdout, stderr] {
        let error = fetch(&scene, &["a"], result).await.unwrap_err();
        assert!(matches!(error, ClusterError::Corrupt { .. }), "{error}");
    }
    assert_eq!(scene.check_store(), 0);
}

#[tokio::test]
async fn paths_are_those_that_were_declared_and_no_others() {
    let scene = Scene::new().await;
    let blob = scene.liar().put(b"x");
    for path in ["b", "../a", "/etc/passwd", "a/../../b", "a/b", "./a", "a/", "", "a\0"] {
        refused(&scene, &["a"], files(vec![file(path, &blob)])).await;
        let link = reapi::OutputSymlink {
            path: path.to_owned(),
            target: "x".to_owned(),
            ..reapi::OutputSymlink::default()
        };
        let links = reapi::ActionResult { output_symlinks: vec![link], ..reapi::ActionResult::default() };
        refused(&scene, &["a"], links).await;
        let mut tree = tree_of(&scene, &Tree { root: Some(Directory::default()), children: vec![] });
        path.clone_into(&mut tree.output_directories[0].path);
        refused(&scene, &["a"], tree).await;
    }
    refused(&scene, &["a"], files(vec![file("a", &blob), file("a", &blob)])).await;
    let link = reapi::OutputSymlink {
        path: "a".to_owned(),
        target: "x".to_owned(),
        ..reapi::OutputSymlink::default()
    };
    let mut both = files(vec![file("a", &blob)]);
    both.output_symlinks = vec![link.clone()];
    refused(&scene, &["a"], both).await;
    for target in [String::new(), "a\0b".to_owned(), "x".repeat(5000)] {
        let link = reapi::OutputSymlink { target, ..link.clone() };
        let links = reapi::ActionResult { output_symlinks: vec![link], ..reapi::ActionResult::default() };
        refused(&scene, &["a"], links).await;
    }
    assert_eq!(scene.liar().calls("BatchReadBlobs") + scene.liar().calls("Read"), 0, "nothing was fetched");
}

#[tokio::test]
#[allow(deprecated, reason = "the kinds are those of the older fields")]
async fn a_file_is_no_directory() {
    let scene = Scene::new().await;
    let blob = scene.liar().put(b"x");
    let wire = reapi::Command {
        arguments: vec!["/bin/true".to_owned()],
        output_files: vec!["out".to_owned()],
        output_directories: vec!["a".to_owned()],
        ..reapi::Command::default()
    };
    let command = crate::action::decode::command(&wire.encode_to_vec()).unwrap();
    let tree = tree_of(&scene, &Tree { root: Some(Directory::default()), children: vec![] });
    for result in [files(vec![file("a", &blob)]), tree] {
        let error =
            soon(scene.cluster.fetch(&scene.cas, &command, remote(result).unwrap())).await.unwrap_err();
        assert!(matches!(error, ClusterError::Malformed { .. }), "{error}");
    }
}

#[tokio::test]
async fn trees_with_bad_names_or_parts_that_are_missing() {
    let scene = Scene::new().await;
    let blob = scene.liar().put(b"x");
    let one = |name: &str| Directory { files: vec![file_node(name, &blob)], ..Directory::default() };
    let mut bad: Vec<Tree> = ["..", ".", "", "a/b", "a\0b", "/etc"]
        .iter()
        .map(|name| Tree { root: Some(one(name)), children: vec![] })
        .collect();
    let twice =
        Directory { files: vec![file_node("a", &blob), file_node("a", &blob)], ..Directory::default() };
    bad.push(Tree { root: Some(twice), children: vec![] });
    // Only in a child; a child that nobody sent; no root.
    let parent =
        |child: &Directory| Directory { directories: vec![below("c", child)], ..Directory::default() };
    bad.push(Tree { root: Some(parent(&one(".."))), children: vec![one("..")] });
    bad.push(Tree { root: Some(parent(&one("a"))), children: vec![one("b")] });
    bad.push(Tree { root: None, children: vec![one("a")] });
    for tree in bad {
        refused(&scene, &["out"], tree_of(&scene, &tree)).await;
    }
    let root = one("a").encode_to_vec();
    let encoded = Tree { root: Some(one("a")), children: vec![] }.encode_to_vec();
    let mut cut = encoded.clone();
    cut.pop();
    for encoded in [b"garbage".to_vec(), cut, [encoded.clone(), encoded.clone()].concat(), Vec::new()] {
        refused(&scene, &["out"], tree_bytes(&scene, &encoded)).await;
    }
    // A root that is another one's, or no digest at all.
    scene.liar().put(&root);
    let mut other = tree_bytes(&scene, &encoded);
    other.output_directories[0].root_directory_digest = liar::sent(&digest(b"other"));
    refused(&scene, &["out"], other).await;
    let mut none = tree_bytes(&scene, &encoded);
    none.output_directories[0].tree_digest = None;
    refused(&scene, &["out"], none).await;
    // Fields that we do not know change nothing.
    let mut newer = encoded.clone();
    newer.extend([0xfa, 0x01, 0x02, b'h', b'i']);
    fetch(&scene, &["out"], tree_bytes(&scene, &newer)).await.unwrap();
}

#[tokio::test]
async fn trees_that_unfold_without_end() {
    let scene = Scene::new().await;
    let mut level =
        Directory { files: vec![file_node("f", &scene.liar().put(b"x"))], ..Directory::default() };
    let mut children = Vec::new();
    for _ in 0..40 {
        children.push(level.clone());
        level =
            Directory { directories: vec![below("a", &level), below("b", &level)], ..Directory::default() };
    }
    let root = level.encode_to_vec();
    let wide = Tree { root: Some(level), children: children.clone() };
    refused(&scene, &["out"], tree_of(&scene, &wide)).await;
    // By directories.
    for child in &children {
        scene.liar().put(&child.encode_to_vec());
    }
    let directory = reapi::OutputDirectory {
        path: "out".to_owned(),
        root_directory_digest: liar::sent(&scene.liar().put(&root)),
        ..reapi::OutputDirectory::default()
    };
    let result = reapi::ActionResult { output_directories: vec![directory], ..Default::default() };
    refused(&scene, &["out"], result).await;
    // Deeper than any path can be.
    let mut level = Directory::default();
    let mut children = Vec::new();
    for _ in 0..20_000 {
        children.push(level.clone());
        level = Directory { directories: vec![below("a", &level)], ..Directory::default() };
    }
    refused(&scene, &["out"], tree_of(&scene, &Tree { root: Some(level), children })).await;
}

#[tokio::test]
async fn absurd_trees_and_files_are_refused_before_they_are_fetched() {
    let scene = Scene::new().await;
    let huge = Digest::parse(DigestFunction::Sha256, &digest(b"x").hex(), i64::MAX).unwrap();
    let mut tree = tree_bytes(&scene, b"");
    tree.output_directories[0].tree_digest = Some(encode::digest(&huge));
    refused(&scene, &["out"], tree.clone()).await;
    let directory = &mut tree.output_directories[0];
    (directory.root_directory_digest, directory.tree_digest) = (directory.tree_digest.take(), None);
    refused(&scene, &["out"], tree).await;
    refused(&scene, &["a"], files(vec![file("a", &huge)])).await;
    let stdout = reapi::ActionResult { stdout_digest: liar::sent(&huge), ..reapi::ActionResult::default() };
    refused(&scene, &[], stdout).await;
    assert_eq!(scene.liar().calls("BatchReadBlobs") + scene.liar().calls("Read"), 0);
}

#[tokio::test]
async fn lazily_all_but_files_is_fetched() {
    let scene = Scene::new().await;
    let (one, two) = (scene.liar().put(b"one"), scene.liar().put(b"two"));
    let root = Directory { files: vec![file_node("two", &two)], ..Directory::default() };
    let mut result = tree_of(&scene, &Tree { root: Some(root), children: vec![] });
    result.output_files = vec![file("a", &one)];
    result.stdout_digest = liar::sent(&scene.liar().put(b"stdout"));
    let command = command(&["a", "out"]);
    let lazily = || scene.cluster.fetch_lazily(&scene.cas, &command, remote(result.clone()).unwrap());
    let Fetched { later, .. } = soon(lazily()).await.unwrap();
    let mut names = [one, two];
    names.sort_by_key(Digest::hex);
    assert_eq!(later, names);
    assert_eq!(scene.check_store(), 2, "the tree, and what was printed");
    soon(scene.cluster.download(&scene.cas, &later)).await.unwrap();
    assert!(soon(lazily()).await.unwrap().later.is_empty());
    // A success whose files nobody has is none.
    let other = digest(b"nobody has it");
    result.output_files = vec![file("a", &other)];
    let error = soon(scene.cluster.fetch_lazily(&scene.cas, &command, remote(result).unwrap())).await;
    let error = error.unwrap_err();
    assert!(matches!(&error, ClusterError::Missing(missing) if missing == &[other]), "{error}");
}
