//! `--keep-on-failure` and `fulgurite enter`.

use rustix::process::{Pid, Signal, kill_process};

use crate::census;
use crate::scene::{Finished, Scene};

both! {
    enters: enters_as_root, enters_as_user;
    keeps_only_failures: keeps_only_failures_as_root, keeps_only_failures_as_user;
    several_at_once: several_kept_as_root, several_kept_as_user;
    signals_end_a_keeper: signals_end_a_keeper_as_root, signals_end_a_keeper_as_user;
    unknown_names: unknown_names_as_root, unknown_names_as_user;
}

/// Runs a failing script with `--keep-on-failure`; gives the name of the kept sandbox.
pub fn keep(scene: &Scene, options: &[&str], script: &str, code: i32) -> String {
    let mut all = vec!["--keep-on-failure"];
    all.extend(options);
    let command = scene.run_command(&all, &["/bin/sh", "-c", script]).spawn().unwrap();
    let done = Finished::of(command).expect(code);
    let kept = done.stderr.lines().find_map(|line| line.strip_prefix("fulgurite: kept as "));
    let kept = kept.unwrap_or_else(|| panic!("not kept: {}", done.stderr));
    assert!(done.stderr.lines().all(|line| line.starts_with("fulgurite: ")), "{}", done.stderr);
    kept.split_whitespace().next().unwrap().to_owned()
}

/// `fulgurite enter` with a script on standard input.
fn enter(scene: &Scene, id: &str, script: &str) -> Finished {
    use std::io::Write;
    let mut child = scene.fulgurite(&["enter", id]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    Finished::of(child)
}

/// Removes a kept sandbox, and waits for the end of its keeper.
pub fn remove(scene: &Scene, id: &str) {
    Finished::of(scene.fulgurite(&["enter", id, "--remove"]).spawn().unwrap()).silent();
}

fn enters(scene: &Scene) {
    scene.write("in", "input");
    let id = keep(
        scene,
        &["--env", "KEPT=yes"],
        "echo x > /work/x; echo t > /tmp/t; setsid sleep 1000 & exit 3",
        3,
    );
    assert_eq!(Finished::of(scene.fulgurite(&["enter"]).spawn().unwrap()).silent().text(), format!("{id}\n"));
    let done = enter(scene, &id, "cat /work/x /tmp/t in; pwd; echo $KEPT; exit 5\n").expect(5);
    assert_eq!((done.text().as_str(), done.stderr.as_str()), ("x\nt\ninput/work\nyes\n", ""));
    // It can be entered again, and what the last guest did is there; its processes are not.
    let done = enter(scene, &id, "echo more >> /work/x; sleep 1000 & kill -9 $$\n");
    assert_ne!(done.code(), 0);
    let done = enter(scene, &id, "cat x; ls /proc | grep -c '^[0-9]'\n").expect(0).text();
    let count = done.strip_prefix("x\nmore\n").unwrap().trim().parse::<u32>().unwrap();
    assert!(count <= 5, "{count}");
    assert_eq!(scene.names("."), ["in"]);
    remove(scene, &id);
    census::settle(&scene.mark);
    scene.census();
}

fn keeps_only_failures(scene: &Scene) {
    scene.sh(&["--keep-on-failure"], "true").silent();
    scene.run(&["--keep-on-failure", "--input", "nothing"], &["true"]).one_line(125, &["nothing"]);
    scene.run(&["--keep-on-failure", "--no-such-flag"], &["true"]).one_line(125, &["--no-such-flag"]);
    // What can be read only once is.
    scene.write("in", "in");
    let command = scene.run_command(&["--keep-on-failure", "--inputs-from", "-"], &["/bin/cat", "in"]);
    assert_eq!(scene.run_with_input(command, b"in\n").silent().text(), "in");
    let mut command = scene.run_command(&["--keep-on-failure", "--inherit-env"], &["env"]);
    let shown = scene.finish(command.spawn().unwrap()).silent().text();
    assert!(!shown.contains("KEEPER"), "{shown}");
    let id = keep(scene, &["--timeout", "0.2"], "echo slow > slow; sleep 1000", 124);
    assert_eq!(enter(scene, &id, "cat slow").expect(0).text(), "slow\n");
    remove(scene, &id);
    census::settle(&scene.mark);
}

fn several_at_once(scene: &Scene) {
    let ids: Vec<String> = (0..3).map(|n| keep(scene, &[], &format!("echo {n} > n; exit 1"), 1)).collect();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(enter(scene, id, "cat n").expect(0).text(), format!("{number}\n"));
    }
    remove(scene, &ids[1]);
    let listed = Finished::of(scene.fulgurite(&["enter"]).spawn().unwrap()).silent().text();
    assert_eq!(listed.lines().count(), 2);
    assert_eq!(enter(scene, &ids[2], "cat n").expect(0).text(), "2\n");
    remove(scene, &ids[0]);
    remove(scene, &ids[2]);
    census::settle(&scene.mark);
}

/// As a shutdown does it: a keeper has no terminal and no parent that would tell it otherwise.
fn signals_end_a_keeper(scene: &Scene) {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        keep(scene, &[], "echo x > x; exit 1", 1);
        let marked = census::processes(&scene.mark);
        let parent = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            line.and_then(|pid| pid.trim().parse::<u32>().ok())
        };
        let keeper = marked.iter().find(|pid| parent(pid).is_some_and(|parent| !marked.contains(&parent)));
        kill_process(Pid::from_raw(keeper.unwrap().cast_signed()).unwrap(), signal).unwrap();
        census::settle(&scene.mark);
        scene.census();
    }
}

fn unknown_names(scene: &Scene) {
    for id in ["1234-unknown", "../kept", ".hidden", "a/b"] {
        let run = |more: &[&str]| {
            let mut arguments = vec!["enter", id];
            arguments.extend(more);
            scene.finish(scene.fulgurite(&arguments).spawn().unwrap()).one_line(125, &[id]);
        };
        run(&[]);
        run(&["--remove"]);
    }
    let done = scene.finish(scene.fulgurite(&["enter"]).spawn().unwrap());
    done.one_line(0, &["no sandbox is kept"]);
}
