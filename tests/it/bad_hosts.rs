//! Hosts that lack something: a full disk, no user namespaces, a state directory that cannot be used.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::scene::{Finished, MARK, Scene, Who, skip};

both! {
    full_disk: full_disk_as_root, full_disk_as_user;
    no_user_namespaces: no_user_namespaces_as_root, no_user_namespaces_as_user;
    unusable_state: unusable_state_as_root, unusable_state_as_user;
}

/// `fulgurite run` in a mount namespace where `disk/` is a tmpfs of a megabyte. Afterwards it prints what is left
/// there.
const ON_A_TINY_DISK: &str = r#"
set -e
mount -t tmpfs -o size=1m,mode=755 tiny "$1/disk"
mkdir "$1/disk/exec" "$1/disk/state"
head -c 700000 /dev/zero > "$1/disk/exec/large"
chmod 666 "$1/disk/exec/large" # before Linux 6.3 a tmpfs cannot show it as the action's own
test "$2" = 0 || chown -R "$2:$2" "$1/disk"
disk=$1 uid=$2; shift 2
export FULGURITE_STATE_DIR=$disk/disk/state
cd "$disk/disk/exec"
set +e
if test "$(id -u)" = "$uid"; then "$@"; else setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"; fi
code=$?
find "$disk/disk" -mindepth 1 ! -name large ! -name exec ! -name state ! -name layers >&2
exit $code
"#;

fn on_a_tiny_disk(scene: &Scene, options: &[&str], script: &str) -> Option<Finished> {
    let run = scene.run_command(options, &["/bin/sh", "-c", script]);
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" });
    command.args(["sh", "-c", ON_A_TINY_DISK, "tiny"]).arg(scene.dir());
    let uid = if rustix::process::geteuid().is_root() { scene.uid() } else { 0 };
    command.arg(uid.to_string()).arg(run.get_program()).args(run.get_args());
    command.env(MARK, &scene.mark).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    match command.spawn() {
        Ok(child) => Some(scene.finish(child)),
        Err(error) => {
            skip("", &format!("there is no unshare(1): {error}"));
            None
        }
    }
}

fn full_disk(scene: &Scene) {
    std::fs::create_dir(scene.dir().join("disk")).unwrap();
    scene.own(&scene.dir().join("disk"));
    // The action fills it: that is the action's failure.
    let script = "head -c 4000000 /dev/zero > out";
    let Some(done) = on_a_tiny_disk(scene, &["--output", "out"], script) else { return };
    let done = done.expect(1);
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("o space left"), "{}", done.stderr);
    assert!(lines[1].contains("exited with code 1"), "{}", done.stderr);
    // An input has to be copied up, and there is no room.
    let done = on_a_tiny_disk(scene, &["--output", "large"], "echo more >> large").unwrap();
    assert!(done.code() != 0 && done.stderr.contains("o space left"), "{done:?}");
    // Fulgurite itself needs room for the inputs, many small ones of which take more than there is.
    let copies: Vec<String> = (0..8).map(|n| format!("large=copy{n}")).collect();
    let options: Vec<&str> = copies.iter().flat_map(|copy| ["--input", copy]).collect();
    let done = on_a_tiny_disk(scene, &options, "wc -c copy0 | cut -d' ' -f1").unwrap();
    match done.code() {
        0 => assert_eq!((done.text().as_str(), done.stderr.as_str()), ("700000\n", "")),
        _ => drop(done.one_line(125, &["o space left"])),
    }
    // Outputs that have to be copied to a full disk: the layer lies elsewhere.
    let layers = scene.dir().join("layers");
    std::fs::create_dir(&layers).unwrap();
    scene.own(&layers);
    let options = ["--layer-dir", layers.to_str().unwrap(), "--output", "out", "--output", "small"];
    let done = on_a_tiny_disk(scene, &options, "head -c 900000 /dev/zero > out; echo > small").unwrap();
    done.one_line(125, &["\"out\"", "o space left"]);
    let left: Vec<_> = std::fs::read_dir(layers).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.iter().all(|place| std::fs::read_dir(place).unwrap().count() == 0), "{left:?}");
}

fn no_user_namespaces(scene: &Scene) {
    let run = scene.run_command(&["--output", "out"], &["/bin/sh", "-c", "echo > out"]);
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut command = scene.command("unshare");
    command.args(["-Ur", "sh", "-c", script, "none"]).arg(run.get_program()).args(run.get_args());
    let Ok(child) = command.spawn() else { return skip("", "there is no unshare(1)") };
    scene.finish(child).one_line(125, &["cannot make sandboxes here", "max_user_namespaces", "hint: "]);
    assert_eq!(scene.names("."), [""; 0]);
    let mut command = scene.command("unshare");
    command.args(["-Ur", "sh", "-c", script, "none"]).arg(scene.program()).arg("doctor");
    let done = scene.finish(command.spawn().unwrap()).expect(1);
    assert!(
        done.text().contains("missing sandbox") && done.text().contains("to change: "),
        "{}",
        done.text()
    );
    assert_eq!(done.stderr, "");
}

fn unusable_state(scene: &Scene) {
    // Somewhere else is as good for a layer, so that a run works without it.
    let run = |state: &std::path::Path| {
        let mut command = scene.run_command(&["--output", "out"], &["/bin/sh", "-c", "echo > out"]);
        command.env("FULGURITE_STATE_DIR", state);
        scene.finish(command.spawn().unwrap()).silent();
        std::fs::remove_file(scene.root().join("out")).unwrap();
    };
    run(std::path::Path::new("/no/such/dir"));
    run(std::path::Path::new("/proc"));
    if scene.who == Who::User {
        let closed = scene.dir().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).unwrap();
        scene.own(&closed);
        run(&closed);
    }
    // A place that others can enter is not used.
    let layers = scene.state().join("layers");
    std::fs::create_dir(&layers).unwrap();
    std::fs::set_permissions(&layers, PermissionsExt::from_mode(0o777)).unwrap();
    scene.own(&layers);
    run(&scene.state());
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 0);
}
