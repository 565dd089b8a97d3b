//! Ctrl-C, SIGTERM, a closed terminal and kill -9, while the command runs: nothing is left.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::census::{self, Owner};
use crate::scene::{Finished, Scene};

both! {
    control_c: control_c_as_root, control_c_as_user;
    terminated: terminated_as_root, terminated_as_user;
    hung_up: hung_up_as_root, hung_up_as_user;
    ignored: ignored_as_root, ignored_as_user;
    killed: killed_as_root, killed_as_user;
    before_it_starts: before_it_starts_as_root, before_it_starts_as_user;
    while_kept: interrupted_with_keep_as_root, interrupted_with_keep_as_user;
}

/// Ignores what can be ignored, and has children in sessions of their own.
const STUBBORN: &str = "trap '' INT TERM HUP; echo partly > out; (setsid sleep 1000 &); sleep 1000 & \
                        echo ready; while :; do sleep 1000; done";

/// Starts it in a process group of its own, and waits for its `ready`.
fn started(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.process_group(0).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    if line != "ready\n" {
        panic!("not ready: {line:?} {:?}", Finished::of(child));
    }
    (child, stdout)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

fn interrupted(scene: &Scene, send: fn(Pid), code: i32) {
    for strategy in ["sandboxed", "standalone"] {
        let options = ["--output", "out", "--strategy", strategy];
        let (child, _stdout) = started(scene.run_command(&options, &["/bin/sh", "-c", STUBBORN]));
        send(pid_of(&child));
        let done = scene.finish(child).expect(code);
        assert!(done.stderr.lines().count() <= 1, "{}", done.stderr);
        let published = scene.root().join("out").exists();
        assert_eq!(published, strategy == "standalone");
        let _ = std::fs::remove_file(scene.root().join("out"));
    }
}

fn control_c(scene: &Scene) {
    // As a terminal does it: to every process of the group.
    interrupted(scene, |pid| kill_process_group(pid, Signal::INT).unwrap(), 130);
}

fn terminated(scene: &Scene) {
    interrupted(scene, |pid| kill_process(pid, Signal::TERM).unwrap(), 143);
}

fn hung_up(scene: &Scene) {
    interrupted(scene, |pid| kill_process_group(pid, Signal::HUP).unwrap(), 129);
}

fn ignored(scene: &Scene) {
    // As nohup(1) starts it, and shells what they run in the background.
    let run =
        scene.run_command(&["--output", "out"], &["/bin/sh", "-c", "echo ready; sleep 1; echo whole > out"]);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    run.get_current_dir().into_iter().for_each(|dir| {
        command.current_dir(dir);
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, _stdout) = started(command);
    kill_process(pid_of(&child), Signal::HUP).unwrap();
    kill_process(pid_of(&child), Signal::INT).unwrap();
    scene.finish(child).expect(0);
    assert_eq!(std::fs::read_to_string(scene.root().join("out")).unwrap(), "whole\n");
    std::fs::remove_file(scene.root().join("out")).unwrap();
}

fn killed(scene: &Scene) {
    let options = ["--output", "out"];
    let (child, _stdout) = started(scene.run_command(&options, &["/bin/sh", "-c", STUBBORN]));
    let owner = Owner::of(&child);
    if scene.can_limit("memory") {
        // The census knows the names that it looks for.
        assert!(!census::cgroups(owner).is_empty());
    }
    kill_process(pid_of(&child), Signal::KILL).unwrap();
    assert_eq!(Finished::of(child).code(), 1009);
    // No process outlives it. What it could not remove, the next run does.
    census::settle(&scene.mark);
    scene.write("in", "in");
    scene.run(&["--stats", "-"], &["cat", "in"]).expect(0);
    let left = census::of(scene, Some(owner));
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(scene.names("."), ["in"]);
}

fn before_it_starts(scene: &Scene) {
    // At no moment is there a signal that leaves something: these come while the sandbox is being made.
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL] {
        for _ in 0..10 {
            let child = scene.run_command(&[], &["/bin/true"]).process_group(0).spawn().unwrap();
            let owner = Owner::of(&child);
            kill_process(pid_of(&child), signal).unwrap();
            let code = Finished::of(child).code();
            let number = signal.as_raw();
            assert!([0, 128 + number, 1000 + number].contains(&code), "{code}");
            census::settle(&scene.mark);
            if signal == Signal::KILL {
                scene.run(&["--stats", "/dev/null"], &["true"]).silent();
            }
            let left = census::of(scene, Some(owner));
            assert!(left.is_empty(), "{left:#?}");
        }
    }
}

fn while_kept(scene: &Scene) {
    // With --keep-on-failure there are two processes of ours; an interrupted command is not kept.
    let (child, _stdout) = started(scene.run_command(&["--keep-on-failure"], &["/bin/sh", "-c", STUBBORN]));
    kill_process_group(pid_of(&child), Signal::INT).unwrap();
    scene.finish(child).expect(130);
    let (child, _stdout) = started(scene.run_command(&["--keep-on-failure"], &["/bin/sh", "-c", STUBBORN]));
    kill_process(pid_of(&child), Signal::TERM).unwrap();
    scene.finish(child).expect(143);
    let (child, _stdout) = started(scene.run_command(&["--keep-on-failure"], &["/bin/sh", "-c", STUBBORN]));
    let owner = Owner::of(&child);
    kill_process(pid_of(&child), Signal::KILL).unwrap();
    Finished::of(child);
    census::settle(&scene.mark);
    scene.finish(scene.fulgurite(&["enter"]).spawn().unwrap()).expect(0);
    scene.run(&["--stats", "/dev/null"], &["true"]).silent();
    assert!(census::of(scene, Some(owner)).is_empty());
}
