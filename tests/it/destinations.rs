//! Destinations that must not be replaced or followed, and the tree as it was before.

use std::os::unix::fs::{FileTypeExt, symlink};

use crate::scene::Scene;

both! {
    parent_leads_out: parent_leads_out_as_root, parent_leads_out_as_user;
    special_destinations: special_destinations_as_root, special_destinations_as_user;
    parent_is_a_file: parent_is_a_file_as_root, parent_is_a_file_as_user;
    one_of_many: one_of_many_as_root, one_of_many_as_user;
    closed_directory: closed_directory_as_root, closed_directory_as_user;
}

/// Runs with an input declared, so that the destination is not seen inside.
fn publish(scene: &Scene, outputs: &[&str], script: &str, parts: &[&str]) {
    scene.write("input", "");
    let mut options = vec!["--input", "input"];
    outputs.iter().for_each(|output| options.extend(["--output", output]));
    scene.sh(&options, script).one_line(125, parts);
}

fn parent_leads_out(scene: &Scene) {
    let outside = scene.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    scene.own(&outside);
    symlink(&outside, scene.path("way")).unwrap();
    symlink("../outside", scene.path("relative")).unwrap();
    scene.make_dir("inside");
    symlink("inside", scene.path("harmless")).unwrap();
    for way in ["way", "relative", "harmless"] {
        let output = format!("{way}/out");
        publish(scene, &[&output], &format!("echo x > {output}"), &[&output, "symlink"]);
        let deep = format!("{way}/deep/out");
        publish(scene, &[&deep], &format!("echo x > {deep}"), &[&deep, "symlink"]);
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(scene.names("inside"), [""; 0]);
    assert!(scene.path("way").is_symlink());
}

fn special_destinations(scene: &Scene) {
    let fifo = scene.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    publish(scene, &["fifo"], "echo x > fifo", &["\"fifo\"", "FIFO"]);
    assert!(std::fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    let socket = scene.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    publish(scene, &["socket"], "echo x > socket", &["\"socket\"", "socket"]);
    assert!(std::fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
}

fn parent_is_a_file(scene: &Scene) {
    scene.write("file", "file");
    publish(scene, &["file/out"], "echo x > file/out", &["file/out"]);
    assert_eq!(scene.read("file"), "file");
}

/// One that cannot be published: none is, and directories that were made go again.
fn one_of_many(scene: &Scene) {
    scene.write("a", "old");
    scene.write("z", "file");
    let script = "echo new > a; echo new > fresh/dir/b; echo new > z/out";
    publish(scene, &["a", "fresh/dir/b", "z/out"], script, &["z/out"]);
    assert_eq!(scene.names("."), ["a", "input", "z"]);
    assert_eq!(scene.read("a"), "old");
}

fn closed_directory(scene: &Scene) {
    // Of another user: a directory of our own is made writable for its owner, as rm -rf would.
    if scene.uid() == 0 || !rustix::process::geteuid().is_root() {
        return;
    }
    std::fs::create_dir(scene.path("closed")).unwrap();
    publish(scene, &["closed/out"], "echo x > closed/out", &["closed/out", "ermission denied"]);
    assert_eq!(scene.names("closed"), [""; 0]);
}
