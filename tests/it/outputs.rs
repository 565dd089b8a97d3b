//! What becomes of what the command wrote: declared outputs appear, all else does not.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::scene::Scene;

both! {
    undeclared_stay_away: undeclared_stay_away_as_root, undeclared_stay_away_as_user;
    directory_output: directory_output_as_root, directory_output_as_user;
    directory_merges_inputs: directory_merges_inputs_as_root, directory_merges_inputs_as_user;
    symlink_output: symlink_output_as_root, symlink_output_as_user;
    replaces_atomically: replaces_atomically_as_root, replaces_atomically_as_user;
    replaces_other_kinds: replaces_other_kinds_as_root, replaces_other_kinds_as_user;
    nothing_on_failure: nothing_on_failure_as_root, nothing_on_failure_as_user;
    outputs_on_failure: outputs_on_failure_as_root, outputs_on_failure_as_user;
    missing_output: missing_output_as_root, missing_output_as_user;
    parents_exist_inside: parents_exist_inside_as_root, parents_exist_inside_as_user;
    modes_and_owners: modes_and_owners_as_root, modes_and_owners_as_user;
    nothing_without_change: nothing_without_change_as_root, nothing_without_change_as_user;
}

fn undeclared_stay_away(scene: &Scene) {
    scene.write("kept", "kept");
    scene.write("dropped", "dropped");
    let script = "echo o > out; echo u > other; mkdir d; echo v > d/v; rm dropped; echo t > /tmp/elsewhere";
    scene.sh(&["--output", "out"], script).silent();
    assert_eq!(scene.names("."), ["dropped", "kept", "out"]);
    let done = scene.sh(&["--output", "out", "--list-undeclared"], script).expect(0);
    let mut lines: Vec<&str> = done.stderr.lines().collect();
    lines.sort_unstable();
    assert!(lines.contains(&"fulgurite: undeclared: other"), "{lines:?}");
    assert!(lines.contains(&"fulgurite: undeclared: d/v"), "{lines:?}");
    assert!(lines.contains(&"fulgurite: removed: dropped"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("out") || line.contains("elsewhere")), "{lines:?}");
    assert_eq!(scene.names("."), ["dropped", "kept", "out"]);
}

fn directory_output(scene: &Scene) {
    let script = "mkdir -p tree/a/b tree/empty && echo x > tree/a/b/x && ln -s a/b/x tree/link \
                  && echo s > tree/a/s && chmod 000 tree/a/b && chmod 700 tree/a/s";
    scene.sh(&["--output", "tree/"], script).silent();
    assert_eq!(scene.names("tree"), ["a", "empty", "link"]);
    assert_eq!(scene.read("tree/a/b/x"), "x\n");
    assert_eq!(std::fs::read_link(scene.root().join("tree/link")).unwrap().to_str(), Some("a/b/x"));
    assert_eq!(std::fs::metadata(scene.root().join("tree/a/s")).unwrap().mode() & 0o777, 0o700);
}

fn directory_merges_inputs(scene: &Scene) {
    scene.write("tree/old", "old");
    scene.write("tree/sub/gone", "gone");
    scene.write("tree/sub/stays", "stays");
    scene.sh(&["--output", "tree"], "echo new > tree/new && rm tree/sub/gone").silent();
    assert_eq!(scene.names("tree"), ["new", "old", "sub"]);
    assert_eq!(scene.names("tree/sub"), ["stays"]);
    scene.sh(&["--output", "tree"], "rm -r tree && mkdir tree && echo only > tree/only").silent();
    assert_eq!(scene.names("tree"), ["only"]);
}

fn symlink_output(scene: &Scene) {
    scene.sh(&["--output", "link", "--output", "away"], "ln -s target link; ln -s /etc/passwd away").silent();
    assert_eq!(std::fs::read_link(scene.root().join("link")).unwrap().to_str(), Some("target"));
    assert_eq!(std::fs::read_link(scene.root().join("away")).unwrap().to_str(), Some("/etc/passwd"));
}

fn replaces_atomically(scene: &Scene) {
    let path = scene.write("out", "old");
    let before = std::fs::File::open(&path).unwrap();
    scene.sh(&["--output", "out"], "cat out && printf new > out").silent();
    assert_eq!(scene.read("out"), "new");
    // Who had it open still has the old one: it was replaced, not written to.
    assert_eq!(std::io::read_to_string(before).unwrap(), "old");
    assert_eq!(scene.names("."), ["out"]);
}

fn replaces_other_kinds(scene: &Scene) {
    scene.write("precious", "precious");
    symlink("precious", scene.path("a")).unwrap();
    scene.write("b/inner", "inner");
    scene.write("c", "file");
    let script = "rm -rf a b c; echo A > a; echo B > b; mkdir c; echo C > c/C";
    scene.sh(&["--output", "a", "--output", "b", "--output", "c"], script).silent();
    assert_eq!(
        (scene.read("a"), scene.read("b"), scene.read("c/C")),
        ("A\n".into(), "B\n".into(), "C\n".into())
    );
    assert_eq!(scene.read("precious"), "precious");
    assert_eq!(scene.names("."), ["a", "b", "c", "precious"]);
}

fn nothing_on_failure(scene: &Scene) {
    scene.write("old", "old");
    let done = scene.sh(&["--output", "old", "--output", "new"], "echo x > old; echo x > new; exit 3");
    done.one_line(3, &["/bin/sh exited with code 3", "--keep-on-failure"]);
    assert_eq!(scene.names("."), ["old"]);
    assert_eq!(scene.read("old"), "old");
}

fn outputs_on_failure(scene: &Scene) {
    let options = ["--outputs-on-failure", "--output", "log", "--output", "never"];
    scene.sh(&options, "echo why > log; exit 3").one_line(3, &["exited with code 3"]);
    assert_eq!(scene.read("log"), "why\n");
    assert_eq!(scene.names("."), ["log"]);
}

fn missing_output(scene: &Scene) {
    let options = ["--output", "a", "--output", "b", "--output", "c"];
    scene.sh(&options, "echo > b").one_line(125, &["missing declared outputs \"a\", \"c\""]);
    assert_eq!(scene.names("."), [""; 0]);
}

fn parents_exist_inside(scene: &Scene) {
    scene.sh(&["--input", "in", "--output", "x/y/z"], "true").one_line(125, &["in"]);
    scene.write("in", "");
    scene.sh(&["--input", "in", "--output", "x/y/z"], "echo deep > x/y/z").silent();
    assert_eq!(scene.read("x/y/z"), "deep\n");
    scene.sh(&["--output", "k/l/m"], "echo deep > k/l/m").silent();
    assert_eq!(scene.read("k/l/m"), "deep\n");
}

fn modes_and_owners(scene: &Scene) {
    let script = "echo > plain; echo > run; chmod 755 run; \
                  echo > set; chmod 755 set; chmod 6755 set 2>/dev/null; mkdir d; echo > d/in";
    let outputs = ["--output", "plain", "--output", "run", "--output", "set", "--output", "d"];
    scene.sh(&outputs, script).silent();
    let check = |name: &str, mode: u32| {
        let meta = std::fs::symlink_metadata(scene.root().join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
        assert_eq!(meta.uid(), scene.uid(), "{name}");
        assert!(meta.is_dir() || meta.nlink() == 1, "{name}");
    };
    check("plain", 0o644);
    check("run", 0o755);
    check("set", 0o755);
    check("d", 0o755);
    check("d/in", 0o644);
}

fn nothing_without_change(scene: &Scene) {
    // An output that is an input, and that the command leaves as it is, is there.
    let path = scene.write("same", "same");
    let before = std::fs::metadata(&path).unwrap().ino();
    scene.sh(&["--output", "same"], "cat same > /dev/null").silent();
    assert_eq!(scene.read("same"), "same");
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), before);
}
