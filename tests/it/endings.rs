//! How a command can end, and the exit code and the line that tell it.

use crate::scene::Scene;

both! {
    own_exit_codes: own_exit_codes_as_root, own_exit_codes_as_user;
    signals: signals_as_root, signals_as_user;
    timeout: timeout_as_root, timeout_as_user;
    timeout_of_the_stubborn: timeout_of_the_stubborn_as_root, timeout_of_the_stubborn_as_user;
    kill_delay_lets_traps_run: kill_delay_lets_traps_run_as_root, kill_delay_lets_traps_run_as_user;
    kill_delay_has_an_end: kill_delay_has_an_end_as_root, kill_delay_has_an_end_as_user;
    not_found: not_found_as_root, not_found_as_user;
    not_executable: not_executable_as_root, not_executable_as_user;
    stragglers_die: stragglers_die_as_root, stragglers_die_as_user;
}

fn own_exit_codes(scene: &Scene) {
    scene.sh(&[], "exit 0").silent();
    for code in [1, 2, 71, 255] {
        let line = format!("/bin/sh exited with code {code} (hint: --keep-on-failure");
        scene.sh(&[], &format!("exit {code}")).one_line(code, &[&line]);
    }
    // Codes that Fulgurite uses itself are passed on all the same.
    for code in [124, 125, 126, 127, 134] {
        scene.sh(&[], &format!("exit {code}")).one_line(code, &["/bin/sh exited with code"]);
    }
}

fn signals(scene: &Scene) {
    for (name, number) in [("ABRT", 6), ("KILL", 9), ("SEGV", 11), ("TERM", 15), ("USR1", 10)] {
        let line = format!("/bin/sh ended by signal {number} (SIG{name})");
        scene.sh(&[], &format!("kill -{name} $$")).one_line(128 + number, &[&line]);
    }
}

fn timeout(scene: &Scene) {
    let done =
        scene.sh(&["--timeout", "2", "--output", "out"], "echo partly > out; echo said; exec sleep 1000");
    let done = done.one_line(124, &["/bin/sh timed out after 2 s", "raise --timeout"]);
    assert_eq!(done.text(), "said\n");
    assert_eq!(scene.names("."), [""; 0]);
}

fn timeout_of_the_stubborn(scene: &Scene) {
    let script = "trap '' TERM INT HUP ALRM; (trap '' TERM; setsid sleep 1000 & ) ; while :; do :; done";
    scene.sh(&["--timeout", "200ms"], script).one_line(124, &["timed out"]);
}

fn kill_delay_lets_traps_run(scene: &Scene) {
    let script = "trap 'echo trapped; exit 17' TERM; echo on; while :; do sleep 0.05; done";
    let done = scene.sh(&["--timeout", "2", "--kill-delay", "30"], script).expect(17);
    assert_eq!(done.text(), "on\ntrapped\n");
}

fn kill_delay_has_an_end(scene: &Scene) {
    let script = "trap 'echo no' TERM; while :; do sleep 0.05; done";
    scene.sh(&["--timeout", "0.2", "--kill-delay", "0.3"], script).one_line(124, &["timed out"]);
}

fn not_found(scene: &Scene) {
    scene.run(&[], &["no-such-program"]).one_line(127, &["cannot execute no-such-program: not found"]);
    scene.run(&[], &["/no/such/program"]).one_line(127, &["cannot execute /no/such/program: not found"]);
    scene.run(&[], &["./here"]).one_line(127, &["cannot execute ./here"]);
    scene.write("script", "#!/no/such/shell\n");
    make_executable(scene, "script");
    scene.run(&[], &["./script"]).one_line(127, &["cannot execute ./script"]);
    scene.run(&[], &[""]).one_line(127, &["cannot execute"]);
}

fn not_executable(scene: &Scene) {
    scene.write("plain", "#!/bin/sh\n");
    scene.run(&[], &["./plain"]).one_line(126, &["cannot execute ./plain", "ermission denied"]);
    scene.make_dir("dir");
    scene.run(&[], &["./dir"]).one_line(126, &["cannot execute ./dir"]);
    scene.run(&[], &["/"]).one_line(126, &["cannot execute /"]);
    scene.write("garbage", "\u{7f}ELF nonsense");
    make_executable(scene, "garbage");
    scene.run(&[], &["./garbage"]).one_line(126, &["cannot execute ./garbage"]);
}

fn make_executable(scene: &Scene, name: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(scene.root().join(name), PermissionsExt::from_mode(0o755)).unwrap();
}

fn stragglers_die(scene: &Scene) {
    let script =
        "setsid sleep 1000 > /dev/null 2>&1 & (sleep 1000 &) ; (sleep 1000 & kill -STOP $!) ; echo done";
    assert_eq!(scene.sh(&[], script).silent().text(), "done\n");
}
