//! Images against the kernel that mounts them, and against `fsck.erofs`.

use super::{FILE_BYTES_MAX, Inode, Kind, write};
use crate::action::Timestamp;
use crate::stage::tests::root_or_skip;
use fulgurite_sandbox::sys::mount;
use proptest::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A tree as a test says it.
#[derive(Clone, Debug)]
enum Node {
    Directory(BTreeMap<Vec<u8>, Node>),
    Symlink(Vec<u8>),
    File(u64),
}

fn dir<'a>(children: impl IntoIterator<Item = (&'a str, Node)>) -> Node {
    Node::Directory(children.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect())
}

fn time(of: &[u8]) -> Timestamp {
    let seed = of.iter().fold(7_u32, |seed, byte| seed.wrapping_mul(31) ^ u32::from(*byte));
    Timestamp { seconds: i64::from(seed) * 3, nanos: seed % 1_000_000_000 }
}

fn mode(of: &[u8]) -> u16 {
    0o400 | (of.len() as u16 * 73) & 0o377
}

/// The object that a file of this size says it has.
fn object(size: u64) -> Option<String> {
    (size > 0).then(|| format!("sha256/ab/{size:064}"))
}

fn inodes(root: &Node) -> Vec<Inode<'_>> {
    let mut list: Vec<(Inode<'_>, &Node)> = vec![(inode(b"", 0, root), root)];
    let mut at = 0;
    while at < list.len() {
        if let Node::Directory(children) = list[at].1 {
            let first = list.len() as u32;
            list[at].0.kind = Kind::Directory { first, count: children.len() as u32 };
            list.extend(children.iter().map(|(name, node)| (inode(name, at as u32, node), node)));
        }
        at += 1;
    }
    list.into_iter().map(|(inode, _)| inode).collect()
}

fn inode<'a>(name: &'a [u8], parent: u32, node: &'a Node) -> Inode<'a> {
    let kind = match node {
        Node::Directory(_) => Kind::Directory { first: 0, count: 0 },
        Node::Symlink(target) => Kind::Symlink { target },
        Node::File(size) => Kind::File { size_bytes: *size, object: object(*size) },
    };
    Inode { name, parent, mode: mode(name), mtime: time(name), kind }
}

fn image(root: &Node) -> (tempfile::NamedTempFile, u64) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let list = inodes(root);
    let bytes = write(&list, std::io::BufWriter::new(file.reopen().unwrap())).unwrap();
    assert_eq!(bytes, file.as_file().metadata().unwrap().len());
    assert_eq!(bytes % super::BLOCK, 0);
    (file, bytes)
}

/// What fsck says. `None`, loudly, where it is not installed.
fn fsck(test: &str, image: &Path) -> Option<()> {
    let run = std::process::Command::new("fsck.erofs").arg(image).output();
    let Ok(run) = run else {
        eprintln!("SKIP stage::erofs::{test}-fsck: fsck.erofs is not installed (erofs-utils)");
        return None;
    };
    let said = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(run.status.success(), "{said}");
    Some(())
}

fn mounted(test: &str, image: &Path) -> Option<OwnedFd> {
    if !root_or_skip(test) {
        return None;
    }
    match mount::erofs(File::open(image).unwrap().as_fd()) {
        Ok(mounted) => Some(mounted),
        Err(errno) => {
            eprintln!("SKIP stage::erofs::{test}: cannot mount EROFS from a file here: {errno}");
            None
        }
    }
}

/// Everything that the kernel sees is what the test said, and nothing else.
fn check(test: &str, root: &Node) {
    let (image, _) = image(root);
    fsck(test, image.path());
    let Some(mounted) = mounted(test, image.path()) else { return };
    let mut seen_numbers = std::collections::HashSet::new();
    let mut pending =
        vec![(PathBuf::from(format!("/proc/self/fd/{}/.", mounted.as_raw_fd())), b"".to_vec(), root)];
    while let Some((path, name, node)) = pending.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let expected = match node {
            Node::Directory(_) => 0o040_000,
            Node::Symlink(_) => 0o120_000,
            Node::File(_) => 0o100_000,
        };
        assert_eq!(meta.mode(), expected | u32::from(mode(&name)), "{path:?}");
        let Timestamp { seconds, nanos } = time(&name);
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, i64::from(nanos)), "{path:?}");
        assert_eq!((meta.uid(), meta.gid()), (0, 0));
        assert!(seen_numbers.insert(meta.ino()), "{path:?} has a number of its own");
        match node {
            Node::File(size) => {
                assert_eq!((meta.len(), meta.nlink()), (*size, 1));
                check_marks(&path, *size);
            }
            Node::Symlink(target) => {
                let read = std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                assert_eq!(&read, target);
            }
            Node::Directory(children) => {
                let is_directory = |node: &&Node| matches!(node, Node::Directory(_));
                assert_eq!(meta.nlink(), 2 + children.values().filter(is_directory).count() as u64);
                let listed: Vec<Vec<u8>> = std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_encoded_bytes())
                    .collect();
                let sorted: std::collections::BTreeSet<_> = listed.iter().cloned().collect();
                assert!(sorted.iter().eq(children.keys()) && listed.len() == children.len(), "{path:?}");
                for (name, child) in children {
                    let below =
                        path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
                    pending.push((below, name.clone(), child));
                }
            }
        }
    }
}

fn check_marks(path: &Path, size: u64) {
    let mut value = [0_u8; 256];
    let mut get =
        |name| rustix::fs::lgetxattr(path, name, &mut value).map(|length| value[..length].to_vec()).ok();
    let redirect = object(size).map(|object| format!("/{object}").into_bytes());
    assert_eq!(get(c"trusted.overlay.redirect"), redirect, "{path:?}");
    assert_eq!(get(c"trusted.overlay.metacopy"), (size > 0).then(Vec::new), "{path:?}");
    assert_eq!(get(c"trusted.overlay.opaque"), None);
}

#[test]
fn one_of_everything() {
    let deep = (0..300).fold(Node::File(1), |below, _| dir([("d", below)]));
    check(
        "one_of_everything",
        &dir([
            // Around `.` and `..` in the order of bytes.
            ("!", Node::File(1)),
            ("-", Node::File(2)),
            (".-", Node::File(3)),
            ("..-", Node::File(4)),
            ("...", Node::File(5)),
            (".a", Node::File(6)),
            ("/".replace('/', "0").as_str(), Node::File(7)),
            ("empty", dir([])),
            ("nothing", Node::File(0)),
            ("ü\u{1}\n", Node::File(8)),
            ("deep", deep),
            (&"n".repeat(255), dir([(&*"m".repeat(255), Node::File(9))])),
        ]),
    );
    check("one_of_everything", &dir([]));
}

#[test]
fn sizes_of_files() {
    let sizes = [1, 4095, 4096, 4097, 1 << 20, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, FILE_BYTES_MAX];
    let names: Vec<String> = sizes.iter().map(u64::to_string).collect();
    check(
        "sizes_of_files",
        &dir(names.iter().zip(sizes).map(|(name, size)| (name.as_str(), Node::File(size)))),
    );
}

/// Symlinks whose inode with its target ends just before, at and after the ends of blocks.
#[test]
fn symlinks_of_all_lengths() {
    let around = [1, 31, 32, 33, 2047, 2048, 2049, 4031, 4032, 4033, 4094, 4095];
    let lengths = around.into_iter().chain((0..200).map(|at| 1900 + at * 3));
    let links: Vec<(String, Node)> = lengths
        .enumerate()
        .map(|(at, length)| (format!("{at:03}"), Node::Symlink(vec![b'a' + (at % 26) as u8; length])))
        .collect();
    check("symlinks_of_all_lengths", &dir(links.iter().map(|(name, node)| (name.as_str(), node.clone()))));
}

/// Directories whose entries end just before, at and after the ends of blocks, and at the most that is kept inline.
#[test]
fn directories_around_the_ends_of_blocks() {
    // `.` and `..` take 27 bytes, an entry with a name of 5 takes 17; one last name fills up.
    let mut tops = BTreeMap::new();
    for bytes in [2046, 2047, 2048, 2049, 4095, 4096, 4097, 6143, 6144, 6145, 8191, 8192, 8193, 12_289] {
        let mut children = BTreeMap::new();
        let mut left: usize = bytes - 27;
        let mut number = 0;
        while left >= 17 + 13 + 17 {
            children.insert(format!("{number:05}").into_bytes(), Node::File(number));
            left -= 17;
            number += 1;
        }
        children.insert(vec![b'z'; left - 12], Node::File(1));
        tops.insert(format!("{bytes:06}").into_bytes(), Node::Directory(children));
    }
    check("directories_around_the_ends_of_blocks", &Node::Directory(tops));
}

#[test]
fn a_hundred_thousand_files_in_one_directory() {
    let children = (0..100_000_u64).map(|at| (format!("{at:x}-file").into_bytes(), Node::File(at % 3)));
    check("a_hundred_thousand_files_in_one_directory", &Node::Directory(children.collect()));
}

/// Nobody can write to it, and a path that is not there is not found.
#[test]
fn an_image_is_read_only() {
    let (image, _) = image(&dir([("a", Node::File(1)), ("d", dir([]))]));
    let Some(mounted) = mounted("an_image_is_read_only", image.path()) else { return };
    let open = |path: &str, flags| rustix::fs::openat(&mounted, path, flags, Mode::RWXU).map(drop);
    assert_eq!(open("a", OFlags::WRONLY), Err(rustix::io::Errno::ROFS));
    assert_eq!(open("d/new", OFlags::WRONLY | OFlags::CREATE), Err(rustix::io::Errno::ROFS));
    for nothing in ["b", "0", "zzzz", "d/a"] {
        let found = rustix::fs::statat(&mounted, nothing, AtFlags::SYMLINK_NOFOLLOW);
        assert_eq!(found.map(drop), Err(rustix::io::Errno::NOENT));
    }
}

#[test]
fn no_inodes_are_no_image() {
    assert!(write(&[], Vec::new()).is_err());
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = || (1_u8..=255).prop_filter("a segment", |byte| *byte != b'/');
    let short = proptest::collection::vec(byte(), 1..8);
    let long = (200_usize..=255, byte()).prop_map(|(length, byte)| vec![byte; length]);
    prop_oneof![4 => short, 1 => long].prop_filter("a name", |name| name != b"." && name != b"..")
}

fn trees() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (0_u64..100_000).prop_map(Node::File),
        (1_usize..4096, 1_u8..=255).prop_map(|(length, byte)| Node::Symlink(vec![byte; length])),
    ];
    let inner = leaf.prop_recursive(4, 200, 20, |inner| {
        proptest::collection::btree_map(names(), inner, 0..20).prop_map(Node::Directory)
    });
    proptest::collection::btree_map(names(), inner, 0..30).prop_map(Node::Directory)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_seen_as_it_was_said(tree in trees()) {
        check("any_tree_is_seen_as_it_was_said", &tree);
    }
}
