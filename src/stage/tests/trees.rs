//! Input trees and the parents of outputs.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::Mode;

use super::{chain, inputs, open, outputs, root_or_skip};
use crate::action::InputSpec;
use crate::stage::limits::TreeLimits;
use crate::stage::{InputTree, Owner, StageError, prepare_output_parents, remove_tree};

fn exec_root(temp: &Path) -> std::path::PathBuf {
    let root = temp.join("root");
    fs::create_dir_all(root.join("src/sub")).unwrap();
    fs::create_dir(temp.join("staging")).unwrap();
    fs::write(root.join("src/a.c"), "int a;").unwrap();
    fs::write(root.join("src/sub/b.c"), "int b;").unwrap();
    fs::write(root.join("tool"), "#!").unwrap();
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/b.c", root.join("src/link")).unwrap();
    symlink("src", root.join("alias")).unwrap();
    symlink("/etc", root.join("out-link")).unwrap();
    fs::write(root.join("secret"), "undeclared").unwrap();
    root
}

fn build(temp: &Path, root: &Path, inputs: &[InputSpec]) -> Result<InputTree, StageError> {
    let staging = open(&temp.join("staging"));
    InputTree::build(staging.as_fd(), c"tree", open(root).as_fd(), inputs, None, TreeLimits::DEFAULT)
}

fn refused(raw: &[&str], part: &str) {
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    let error = build(temp.path(), &root, &inputs(&root, raw)).unwrap_err();
    assert!(error.to_string().contains(part), "{error}");
    assert!(error.hint().is_some(), "{error}");
}

#[test]
fn only_declared_inputs_appear_as_links() {
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    let tree = build(
        temp.path(),
        &root,
        &inputs(&root, &["src", "tool=bin/cc", "src/a.c", "src/sub/b.c=src/gen/c.c"]),
    );
    let made = tree.unwrap().made;
    let at = temp.path().join("staging/tree");
    assert_eq!(fs::read_to_string(at.join("src/a.c")).unwrap(), "int a;");
    assert_eq!(fs::read_to_string(at.join("src/gen/c.c")).unwrap(), "int b;");
    assert_eq!(fs::read_link(at.join("src/link")).unwrap(), Path::new("sub/b.c"));
    assert_eq!(at.join("bin/cc").metadata().unwrap().ino(), root.join("tool").metadata().unwrap().ino());
    assert!(!at.join("secret").exists());
    assert_eq!((made.files, made.links, made.symlinks, made.bytes_copied), (4, 4, 1, 0));
    assert_eq!(at.metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn symlinks_on_the_way_may_stay_beneath() {
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    build(temp.path(), &root, &inputs(&root, &["alias/a.c", "out-link"])).unwrap();
    let at = temp.path().join("staging/tree");
    assert!(at.join("alias").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read_to_string(at.join("alias/a.c")).unwrap(), "int a;");
    assert_eq!(fs::read_link(at.join("out-link")).unwrap(), Path::new("/etc"));
}

#[test]
fn bad_inputs_are_refused_by_name() {
    refused(&["src/missing.c"], "cannot find input \"src/missing.c\"");
    refused(&["tool/x"], "cannot find input \"tool/x\"");
    refused(&["out-link/passwd"], "\"out-link/passwd\": a symlink on the way leads out");
    refused(&["tool", "src/a.c=tool"], "already there");
    refused(&["tool=x", "src/a.c=x/y"], "no directory");
    refused(&["alias", "alias/a.c"], "no directory");
    refused(&["src", "tool=src/a.c"], "already there");
    refused(&["src", "src/missing"], "cannot find input");
    refused(&["/nonexistent/file=x"], "cannot find input");
}

#[test]
fn special_files_are_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    rustix::fs::mkfifoat(open(&root.join("src")), c"pipe", Mode::RWXU).unwrap();
    for raw in ["src", "src/pipe"] {
        let error = build(temp.path(), &root, &inputs(&root, &[raw])).unwrap_err();
        assert!(error.to_string().contains("\"src/pipe\": it is a FIFO"), "{error}");
        remove_tree(open(&temp.path().join("staging")).as_fd(), c"tree", 100).unwrap();
    }
}

#[test]
fn another_filesystem_means_a_copy_with_mode_time_and_holes() {
    let (temp, shm) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    if temp.path().metadata().unwrap().dev() == shm.path().metadata().unwrap().dev() {
        return eprintln!(
            "SKIP another_filesystem_means_a_copy: /dev/shm is the filesystem of the test directory"
        );
    }
    let root = exec_root(temp.path());
    let sparse = fs::File::create(root.join("src/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 1 << 40).unwrap();
    drop(sparse);
    let staging = open(shm.path());
    let specs = inputs(&root, &["src", "tool"]);
    let made =
        InputTree::build(staging.as_fd(), c"t", open(&root).as_fd(), &specs, None, TreeLimits::DEFAULT)
            .unwrap();
    let copy = shm.path().join("t/tool").metadata().unwrap();
    let original = root.join("tool").metadata().unwrap();
    assert_eq!(
        (copy.mode(), copy.mtime(), copy.mtime_nsec()),
        (original.mode(), original.mtime(), original.mtime_nsec())
    );
    let sparse = shm.path().join("t/src/sparse").metadata().unwrap();
    assert_eq!(sparse.len(), (1 << 40) + 3);
    assert!(sparse.blocks() < 1000 && made.made.bytes_copied < 100_000, "{:?}", made.made);
    assert_eq!(made.made.links, 0);
}

#[test]
fn budgets_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    chain(open(&root).as_fd(), 200);
    let staging = open(&temp.path().join("staging"));
    let try_with = |limits, name: &std::ffi::CStr| {
        InputTree::build(
            staging.as_fd(),
            name,
            open(&root).as_fd(),
            &inputs(&root, &["d", "src"]),
            None,
            limits,
        )
    };
    let shallow = try_with(TreeLimits { depth_max: 100, ..TreeLimits::DEFAULT }, c"1").unwrap_err();
    assert!(shallow.to_string().contains("more than 100 levels"), "{shallow}");
    let few = try_with(TreeLimits { entries_max: 5, ..TreeLimits::DEFAULT }, c"2").unwrap_err();
    assert!(few.to_string().contains("more than 5 entries"), "{few}");
    let made = try_with(TreeLimits::DEFAULT, c"3").unwrap().made;
    assert_eq!(made.directories, 202);
}

#[test]
fn the_action_s_user_owns_directories_and_unreadable_files_are_reported() {
    if !root_or_skip("the_action_s_user_owns_directories") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let staging = open(&temp.path().join("staging"));
    let owner = Some(Owner { uid: 54_321, gid: 54_321 });
    let specs = inputs(&root, &["src", "secret"]);
    let made =
        InputTree::build(staging.as_fd(), c"t", open(&root).as_fd(), &specs, owner, TreeLimits::DEFAULT)
            .unwrap();
    assert_eq!(made.made.unreadable, [Path::new("secret")]);
    let at = temp.path().join("staging/t");
    assert_eq!(at.metadata().unwrap().uid(), 54_321);
    assert_eq!(at.join("src/sub").metadata().unwrap().uid(), 54_321);
    assert_eq!(at.join("src/a.c").metadata().unwrap().uid(), 0, "a linked file stays the user's");
}

#[test]
fn parents_of_outputs_mirror_the_inputs() {
    let temp = tempfile::tempdir().unwrap();
    let root = exec_root(temp.path());
    fs::set_permissions(root.join("src"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::create_dir(temp.path().join("upper")).unwrap();
    let (upper, lower) = (open(&temp.path().join("upper")), open(&root));
    let owner = super::real_root().then_some(Owner { uid: 54_321, gid: 54_321 });
    let declared = outputs(&["src/new/deep/x.o", "src/new/deep/y.o", "top.o"]);
    prepare_output_parents(upper.as_fd(), Some(lower.as_fd()), &declared, owner).unwrap();
    let at = temp.path().join("upper");
    assert_eq!(at.join("src").metadata().unwrap().mode() & 0o7777, 0o750);
    let deep = at.join("src/new/deep").metadata().unwrap();
    assert_eq!(deep.mode() & 0o7777, 0o755);
    assert_eq!(deep.uid(), owner.map_or(rustix::process::geteuid().as_raw(), |owner| owner.uid));
    for (raw, part) in [("alias/x", "\"alias\" is a symlink"), ("tool/x", "\"tool\" is a file")] {
        let error =
            prepare_output_parents(upper.as_fd(), Some(lower.as_fd()), &outputs(&[raw]), owner).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
