//! `fulgurite config` as a program: what it prints, and how it fails.

use crate::scene::{Finished, Scene};

both! {
    values_and_origins: values_and_origins_as_root, values_and_origins_as_user;
    checked_files: checked_files_as_root, checked_files_as_user;
}

fn config(scene: &Scene, environment: &[(&str, &str)], arguments: &[&str]) -> Finished {
    let mut command = scene.fulgurite(&["config"]);
    command.args(arguments).envs(environment.iter().copied());
    scene.finish(command.spawn().unwrap())
}

fn values_and_origins(scene: &Scene) {
    let file = scene.write("own.toml", "# comment\nlog = \"warn\"\n[execution]\nslots = 2\n");
    let file = file.to_str().unwrap();
    let environment = [("FULGURITE_EXECUTION_PIDS_MAX", "77"), ("FULGURITE_LOG", "error")];
    let arguments = ["--config", file, "--slots", "3", "--unix", "own.sock"];
    let text = config(scene, &environment, &arguments).silent().text();
    let line = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        line.split("  # ").map(|part| part.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(line("execution.slots"), ["execution.slots = 3", "flag --slots"]);
    assert_eq!(line("execution.pids_max"), ["execution.pids_max = 77", "env FULGURITE_EXECUTION_PIDS_MAX"]);
    assert_eq!(line("log"), ["log = \"error\"", "env FULGURITE_LOG"]);
    assert_eq!(line("execution.stage"), ["execution.stage = \"auto\"", "default"]);
    assert_eq!(line("state_dir")[1], "env FULGURITE_STATE_DIR");
    let socket = scene.root().canonicalize().unwrap().join("own.sock");
    assert_eq!(line("listen")[0], format!("listen = [\"unix:{}\"]", socket.display()));
    let json = config(scene, &[], &["--config", file, "--json"]).silent();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let log = json["values"].as_array().unwrap().iter().find(|value| value["key"] == "log").unwrap();
    assert_eq!(log["value"], "warn");
    assert_eq!(log["origin"], serde_json::json!({ "kind": "file", "path": file, "line": 2 }));
}

fn checked_files(scene: &Scene) {
    let example = config(scene, &[], &["--example"]).silent().text();
    let path = scene.write("example.toml", example);
    let environment = [("FULGURITE_STORE_DURABILITY", "not looked at")];
    let checked = config(scene, &environment, &["--check", path.to_str().unwrap()]).silent();
    assert_eq!(checked.text(), "");
    let wrong = scene.write("wrong.toml", "[store]\nsise_bytes_max = 1\n");
    let parts = ["wrong.toml:2", "`store.sise_bytes_max`", "hint: did you mean `store.size_bytes_max`?"];
    config(scene, &[], &["--check", wrong.to_str().unwrap()]).one_line(125, &parts);
    config(scene, &[], &["--config", "gone.toml"]).one_line(125, &["gone.toml", "No such file"]);
    config(scene, &[], &["--set", "slots"]).one_line(125, &["KEY=VALUE"]);
    let parts = ["env FULGURITE_STORE_DURABILITY", "maybe", "process"];
    config(scene, &[("FULGURITE_STORE_DURABILITY", "maybe")], &[]).one_line(125, &parts);
}
