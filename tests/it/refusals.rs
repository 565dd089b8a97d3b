//! Bad input: one clear line, the right exit code, and nothing is left behind.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::scene::Scene;

both! {
    unknown_flags: unknown_flags_as_root, unknown_flags_as_user;
    inputs_that_are_not: inputs_that_are_not_as_root, inputs_that_are_not_as_user;
    outputs_that_lead_out: outputs_that_lead_out_as_root, outputs_that_lead_out_as_user;
    conflicts: conflicts_as_root, conflicts_as_user;
    impossible_limits: impossible_limits_as_root, impossible_limits_as_user;
    exec_roots_that_are_not: exec_roots_that_are_not_as_root, exec_roots_that_are_not_as_user;
    unreadable_lists: unreadable_lists_as_root, unreadable_lists_as_user;
    statistics_nowhere: statistics_nowhere_as_root, statistics_nowhere_as_user;
    layers_nowhere: layers_nowhere_as_root, layers_nowhere_as_user;
    special_outputs: special_outputs_as_root, special_outputs_as_user;
}

/// Refused before anything runs: the command would leave its mark in the exec root.
fn refused(scene: &Scene, options: &[&str], parts: &[&str]) {
    let mut names = scene.names(".");
    scene.sh(options, "echo > ran").one_line(125, parts);
    names.sort();
    assert_eq!(scene.names("."), names, "{options:?}");
}

fn unknown_flags(scene: &Scene) {
    refused(scene, &["--memry", "1G"], &["--memry", "hint: ", "--memory"]);
    refused(scene, &["--outptu", "x"], &["--outptu", "--output"]);
    refused(scene, &["--network", "wifi"], &["wifi", "--network"]);
    refused(scene, &["--strategy", "worker"], &["worker", "--strategy"]);
    let run = |arguments: &[&str], parts: &[&str]| {
        scene.finish(scene.fulgurite(arguments).spawn().unwrap()).one_line(125, parts);
    };
    run(&["rum"], &["rum", "run"]);
    run(&["run"], &["<COMMAND>"]);
    run(&["run", "--output"], &["--output"]);
    run(&["doctor", "--yaml"], &["--yaml"]);
}

fn inputs_that_are_not(scene: &Scene) {
    scene.write("here", "");
    refused(scene, &["--input", "gone"], &["cannot find input", "gone"]);
    refused(scene, &["--input", "here/below"], &["here/below"]);
    refused(scene, &["--input", ".."], &["`..`"]);
    refused(scene, &["--input", "sub/../../x"], &["`..`"]);
    refused(scene, &["--input", "/etc/passwd"], &["/etc/passwd", "destination"]);
    refused(scene, &["--input", "/no/such=x"], &["/no/such"]);
    refused(scene, &["--input", ""], &["empty"]);
    refused(scene, &["--input", "here=../out"], &["`..`"]);
    refused(scene, &["--input", "here=/out"], &["/out"]);
    refused(scene, &["--input", "here=a=b"], &["more than one `=`"]);
    // Through a symlink that leads out of the exec root.
    scene.write("../outside/secret", "secret");
    symlink("../outside", scene.path("way")).unwrap();
    symlink("/etc", scene.path("etc")).unwrap();
    refused(scene, &["--input", "way/secret"], &["way/secret", "leads out of the exec root"]);
    refused(scene, &["--input", "etc/passwd"], &["etc/passwd", "leads out of the exec root"]);
}

fn outputs_that_lead_out(scene: &Scene) {
    refused(scene, &["--output", "."], &["exec root itself"]);
    refused(scene, &["--output", "./"], &["exec root itself"]);
    refused(scene, &["--output", "/etc/out"], &["absolute"]);
    refused(scene, &["--output", "/"], &["absolute"]);
    refused(scene, &["--output", "../out"], &["`..`"]);
    refused(scene, &["--output", "a/../../out"], &["`..`"]);
    refused(scene, &["--output", ".."], &["`..`"]);
    refused(scene, &["--output", ""], &["empty"]);
    refused(scene, &["--output", &"n".repeat(300)], &["too long"]);
}

fn conflicts(scene: &Scene) {
    scene.write("a", "");
    scene.write("b", "");
    refused(scene, &["--output", "x", "--output", "./x/"], &["declared twice"]);
    refused(scene, &["--output", "x", "--output", "x/y"], &["lies below"]);
    refused(scene, &["--input", "a=c", "--input", "b=c"], &["\"c\""]);
    refused(scene, &["--input", "a=c", "--input", "b=c/d"], &["c"]);
    refused(scene, &["--input", "a", "--output", "a/x"], &["a/x"]);
}

fn impossible_limits(scene: &Scene) {
    for (option, values) in [
        ("--memory", &["0", "1K", "-5", "much", "99999999999999T", "1Q", ""][..]),
        ("--pids", &["0", "-1", "many", "99999999999"]),
        ("--cpus", &["0", "-1", "0.0001", "x", "99999999"]),
        ("--timeout", &["0", "-1", "soon", "1y", "99999999999999999999"]),
        ("--kill-delay", &["-1", "x"]),
    ] {
        for value in values {
            refused(scene, &[&format!("{option}={value}")], &[option.trim_start_matches("--")]);
        }
    }
}

fn exec_roots_that_are_not(scene: &Scene) {
    let file = scene.write("../plain", "");
    refused(scene, &["--exec-root", "/no/such/root"], &["exec root /no/such/root", "No such file"]);
    refused(scene, &["--exec-root", file.to_str().unwrap()], &["exec root", "plain", "ot a directory"]);
    refused(scene, &["--exec-root", ""], &["--exec-root"]);
    if scene.uid() != 0 && rustix::process::geteuid().is_root() {
        let closed = scene.dir().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        refused(scene, &["--exec-root", closed.to_str().unwrap()], &["exec root", "ermission denied"]);
    }
}

fn unreadable_lists(scene: &Scene) {
    refused(scene, &["--inputs-from", "/no/such/list"], &["/no/such/list", "No such file"]);
    refused(scene, &["--inputs-from", "/etc"], &["/etc", "directory"]);
    let list = scene.write("../list", "fine\n../not\n");
    refused(scene, &["--inputs-from", list.to_str().unwrap()], &["entry 2", "`..`"]);
    if scene.uid() != 0 {
        std::fs::set_permissions(&list, PermissionsExt::from_mode(0o000)).unwrap();
        refused(scene, &["--inputs-from", list.to_str().unwrap()], &["ermission denied"]);
    }
}

fn statistics_nowhere(scene: &Scene) {
    let options = ["--stats", "/no/such/dir/stats", "--output", "out"];
    scene.sh(&options, "echo o > out").one_line(125, &["/no/such/dir/stats"]);
    assert_eq!(scene.names("."), [""; 0]);
    refused(scene, &["--stats", "/etc"], &["cannot write stats to /etc"]);
    // A refused run leaves no empty statistics.
    let file = scene.dir().join("stats");
    refused(scene, &["--stats", file.to_str().unwrap(), "--output", ".."], &["`..`"]);
    refused(scene, &["--stats", file.to_str().unwrap(), "--input", "gone"], &["gone"]);
    assert!(!file.exists());
}

fn layers_nowhere(scene: &Scene) {
    refused(scene, &["--layer-dir", "/no/such/dir"], &["/no/such/dir", "--layer-dir"]);
    refused(scene, &["--layer-dir", "/proc"], &["/proc"]);
    let file = scene.write("../plain", "");
    refused(scene, &["--layer-dir", file.to_str().unwrap()], &["plain"]);
}

/// What the action makes in place of an output: named, and never opened.
fn special_outputs(scene: &Scene) {
    let socket =
        "exec 3>&1; perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0);bind(S,sockaddr_un(\"out\"))||die'";
    let check = |script: &str, parts: &[&str]| {
        scene.sh(&["--output", "out"], script).one_line(125, parts);
        assert_eq!(scene.names("."), [""; 0]);
    };
    check("mkfifo out", &["out", "FIFO"]);
    check(socket, &["out", "socket"]);
    check("mkdir out && mkfifo out/inner", &["out/inner", "FIFO"]);
    // A node with number 0:0 is a whiteout, which the kernel lets anybody make.
    scene.sh(&["--output", "out"], "mknod out c 0 0").expect(1);
    scene.sh(&["--output", "out"], "mknod out c 0 0; true").expect(125);
    scene.sh(&["--output", "out"], "mknod out c 1 3; true").expect(125);
    assert_eq!(scene.names("."), [""; 0]);
    // A symlink on the way to an output, made by the action, is not followed.
    let away = scene.dir().join("away");
    std::fs::create_dir(&away).unwrap();
    scene.own(&away);
    let script =
        format!("rm -rf d; ln -s {} d; mkdir -p /tmp/x; ln -sfn /tmp/x d; echo o > d/out", away.display());
    scene.sh(&["--output", "d/out"], &script).one_line(125, &["d/out", "symlink"]);
    assert_eq!(std::fs::read_dir(&away).unwrap().count(), 0);
    assert_eq!(scene.names("."), [""; 0]);
    scene.sh(&["--output", "d/"], "echo > d").one_line(125, &["\"d\"", "declared as a directory"]);
}
