//! The whole way of one action without its sandbox: stage, mount, write, collect, publish, destroy.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::commit::{Durability, Handoff, Journal, PublishOptions, publish_unopposed};
use crate::output::{CollectOptions, Marks, collect, undeclared};
use crate::stage::limits::TreeLimits;
use crate::stage::tests::{inputs, open, outputs, root_or_skip};
use crate::stage::{InputTree, Layer, Owner, Places, prepare_output_parents};

#[test]
fn from_declared_inputs_to_published_outputs() {
    if !root_or_skip("from_declared_inputs_to_published_outputs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("src/a.c"), "int a;").unwrap();
    fs::write(root.join("secret"), "secret").unwrap();
    let (exec_root, declared) = (open(&root), outputs(&["obj/a.o", "src/gen/"]));
    let slot = Some(Owner { uid: 54_321, gid: 54_321 });
    let places = Places { explicit: Some(temp.path().to_path_buf()), uid: 0, ..Places::default() };

    let layer = Layer::create(&places, exec_root.as_fd(), slot).unwrap();
    let specs = inputs(&root, &["src"]);
    let tree =
        InputTree::build(layer.dir(), c"tree", exec_root.as_fd(), &specs, slot, TreeLimits::DEFAULT).unwrap();
    prepare_output_parents(layer.upper(), Some(tree.root.as_fd()), &declared, slot).unwrap();

    let view = layer.path().join("view");
    fs::create_dir(&view).unwrap();
    let at = layer.path().to_str().unwrap().to_owned();
    let data = format!(
        "lowerdir={at}/tree,upperdir={at}/upper,workdir={at}/work,redirect_dir=nofollow,metacopy=off,index=off"
    );
    let data = std::ffi::CString::new(data).unwrap();
    if let Err(why) =
        rustix::mount::mount("overlay", &view, "overlay", MountFlags::empty(), Some(data.as_c_str()))
    {
        eprintln!("SKIP from_declared_inputs_to_published_outputs: cannot mount an overlay here: {why}");
        layer.destroy().unwrap();
        return;
    }
    let seen = (view.join("src/a.c").exists(), view.join("secret").exists());
    fs::write(view.join("src/a.c"), "changed by the action").unwrap();
    fs::write(view.join("obj/a.o"), "object").unwrap();
    fs::create_dir(view.join("src/gen")).unwrap();
    fs::write(view.join("src/gen/g.h"), "header").unwrap();
    rustix::mount::unmount(&view, UnmountFlags::DETACH).unwrap();
    assert_eq!(seen, (true, false));

    let options = CollectOptions {
        marks: Marks::Trusted,
        owner: Some(Owner { uid: 1234, gid: 1235 }),
        limits: TreeLimits::DEFAULT,
        missing_allowed: false,
        lower_is_destination: false,
    };
    let collected = collect(layer.upper(), Some(tree.root.as_fd()), &declared, &options).unwrap();
    let beside = undeclared(layer.upper(), &declared, Marks::Trusted, TreeLimits::DEFAULT).unwrap();
    assert_eq!(beside.written, [std::path::Path::new("src/a.c")]);
    let owner = PublishOptions { owner: options.owner, ..PublishOptions::default() };
    let journal = Journal::open(layer.place(), Durability::Power).unwrap();
    let published = publish_unopposed(collected, exec_root.as_fd(), &journal, b"", &owner).unwrap();
    journal.close();
    assert_eq!((published.renamed, published.bytes_copied, published.handoff), (2, 0, Handoff::Rename));
    layer.destroy().unwrap();

    assert_eq!(fs::read_to_string(root.join("src/a.c")).unwrap(), "int a;", "no input is written through");
    assert_eq!(fs::read_to_string(root.join("obj/a.o")).unwrap(), "object");
    assert_eq!(fs::read_to_string(root.join("src/gen/g.h")).unwrap(), "header");
    for path in ["obj", "obj/a.o", "src/gen", "src/gen/g.h"] {
        let stat = root.join(path).metadata().unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1234, 1235), "{path}");
    }
    assert_eq!(root.join("src/a.c").metadata().unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(temp.path().join("fulgurite-0")).unwrap().count(), 0);
}
