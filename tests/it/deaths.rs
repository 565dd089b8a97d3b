//! A run that is killed while it publishes: the next one finishes its publication before it does anything else.

use std::os::unix::process::ExitStatusExt;

use crate::census;
use crate::scene::{Finished, Scene};

both! {
    killed_while_publishing: killed_while_publishing_as_root, killed_while_publishing_as_user;
    power_syncs: power_syncs_as_root, power_syncs_as_user;
}

const SCRIPT: &str = "echo new > a; mkdir -p d && echo new > d/new; rm -rf d/old; ln -sf new l; echo new > z";
const OUTPUTS: [&str; 8] = ["--output", "a", "--output", "d", "--output", "l", "--output", "z"];

fn killed_while_publishing(scene: &Scene) {
    for (place, is_new) in [
        ("commit.recorded", false),
        ("commit.intended", true),
        ("commit.renamed:1", true),
        ("commit.rename:3", true),
        ("commit.finished", true),
    ] {
        scene.write("a", "old\n");
        scene.write("z", "old\n");
        let _ = std::fs::remove_dir_all(scene.path("d"));
        let _ = std::fs::remove_file(scene.path("l"));
        scene.write("d/old", "old\n");
        scene.write("input", "");
        let mut options = vec!["--input", "input"];
        options.extend(OUTPUTS);
        let mut command = scene.run_command(&options, &["/bin/sh", "-c", SCRIPT]);
        let child = command.env("FULGURITE_FAILPOINT", place).spawn().unwrap();
        let done = Finished::of(child);
        census::settle(&scene.mark);
        assert_eq!(done.status.signal(), Some(9), "{place}: {done:?}");
        // Any run at all, here of nothing.
        let next = scene.sh(&["--input", "input"], "true").expect(0);
        assert_eq!(next.stderr, "", "{place}");
        let wanted = if is_new { "new\n" } else { "old\n" };
        assert_eq!((scene.read("a"), scene.read("z")), (wanted.to_owned(), wanted.to_owned()), "{place}");
        assert_eq!(scene.path("d/new").exists(), is_new, "{place}");
        assert_eq!(scene.path("d/old").exists(), !is_new, "{place}");
        assert_eq!(scene.path("l").is_symlink(), is_new, "{place}");
    }
}

/// A disk that cannot be synced fails a run that shall outlive a loss of power, and no other.
fn power_syncs(scene: &Scene) {
    for (durability, code) in [("process", 0), ("power", 125)] {
        scene.write("a", "old\n");
        scene.write("input", "");
        let options = ["--input", "input", "--output", "a", "--durability", durability];
        let mut command = scene.run_command(&options, &["/bin/sh", "-c", "echo new > a"]);
        let child = command.env("FULGURITE_FAILPOINT", "commit.sync:1=5").spawn().unwrap();
        let done = scene.finish(child).expect(code);
        let told = done.stderr.contains("cannot publish") && done.stderr.contains("input/output error");
        assert_eq!(told, code != 0, "{durability}: {}", done.stderr);
        assert_eq!(scene.read("a"), if code == 0 { "new\n" } else { "old\n" }, "{durability}");
    }
    scene.write("input", "");
    let options = ["--input", "input", "--output", "a", "--durability", "power"];
    scene.sh(&options, "echo newer > a").expect(0);
    assert_eq!(scene.read("a"), "newer\n");
}
