//! `fulgurite run --worker`: by a daemon, whose worker stays for the next command, and without one.

use crate::Alone;
use crate::daemon::{Home, pids_with};
use fulgurite_sandbox::testing::settles;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const ALONE: &[Alone] = &[
    ("local_workers::a_worker_stays_warm_between_commands", warm),
    ("local_workers::a_changed_tool_is_another_worker", another_tool),
    ("local_workers::who_runs_without_a_worker_is_told", without),
    ("local_workers::no_daemon_is_needed", no_daemon),
    ("local_workers::what_cannot_go_to_a_worker_is_refused", refused),
];

/// A tree with both workers in it, beside a daemon's state.
struct Scene {
    home: Home,
    tree: PathBuf,
}

/// One command.
struct Ran {
    output: Output,
    stats: Value,
}

impl Ran {
    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// What the worker reports.
    fn report(&self) -> Value {
        assert!(self.output.status.success(), "{}", self.stderr());
        serde_json::from_slice(&self.output.stderr)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stderr()))
    }

    fn worker(&self) -> &Value {
        &self.stats["persistent_worker"]
    }
}

impl Scene {
    fn new() -> Option<Scene> {
        let workers = [
            ("worker", option_env!("CARGO_BIN_EXE_fulgurite-fake-worker")),
            ("buck2", option_env!("CARGO_BIN_EXE_fulgurite-fake-buck2-worker")),
        ];
        if workers.iter().any(|(_, path)| path.is_none()) {
            crate::skip("local_workers", "built without --features test-fakes");
            return None;
        }
        let home = Home::new();
        let tree = home.path("tree");
        std::fs::create_dir_all(tree.join("tools")).unwrap();
        for (name, path) in workers {
            std::fs::copy(path.unwrap(), tree.join("tools").join(name)).unwrap();
        }
        Some(Scene { home, tree })
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.tree.join(name), text).unwrap();
    }

    /// Runs with these options and this command, and all of the tree as input.
    fn run(&self, options: &[&str], command: &[&str]) -> Ran {
        let stats = self.home.path("stats.json");
        let _ = std::fs::remove_file(&stats);
        let mut run = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        run.arg("run").current_dir(&self.tree).stdin(Stdio::null());
        run.env("FULGURITE_DAEMON", self.home.path("socket"));
        run.env("FULGURITE_STATE_DIR", self.own_state());
        run.arg("--stats").arg(&stats).args(options).arg("--").args(command);
        let output = run.output().unwrap();
        let stats = std::fs::read(&stats).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        Ran { output, stats }
    }

    /// Of runs without a daemon.
    fn own_state(&self) -> PathBuf {
        self.home.path("own-state")
    }
}

/// Options and command of each wire, but for what is asked.
const WIRES: [(&str, &[&str], &[&str]); 5] = [
    ("proto", &[], &["tools/worker", "--protocol=proto", "@flags"]),
    ("json", &[], &["tools/worker", "--protocol=json", "@flags"]),
    ("multiplex-proto", &[], &["tools/worker", "--protocol=proto", "--multiplex", "@flags"]),
    ("multiplex-json", &[], &["tools/worker", "--protocol=json", "--multiplex", "@flags"]),
    ("buck2", &["--worker-startup", "1"], &["tools/buck2"]),
];

fn warm() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.home.start(&[]);
    for (wire, options, command) in WIRES {
        let mut uuid = Value::Null;
        for number in 1..=3u64 {
            let write = format!("--write=out=made {number}");
            scene.write("flags", &write);
            let options = [&["--daemon", "--worker", wire, "--output", "out"], options].concat();
            let command: Vec<&str> =
                command.iter().copied().chain((wire == "buck2").then_some(write.as_str())).collect();
            let ran = scene.run(&options, &command);
            let report = ran.report();
            assert_eq!(std::fs::read_to_string(scene.tree.join("out")).unwrap(), format!("made {number}"));
            assert!(uuid.is_null() || uuid == report["uuid"], "{wire}: another process");
            uuid = report["uuid"].clone();
            let told =
                (&ran.worker()["request"], &ran.worker()["key_quality"], &ran.stats["one_shot_because"]);
            assert_eq!(told, (&json!(number), &json!("weak"), &Value::Null), "{wire}: {}", ran.stats);
            assert_eq!((&ran.stats["outcome"], &ran.stats["exit_code"]), (&json!("exited"), &json!(0)));
            assert_eq!(
                (&ran.stats["cached"], &ran.stats["outputs"]["published"]),
                (&json!(false), &json!(1))
            );
        }
    }
    daemon.end(&scene.home);
}

fn another_tool() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.home.start(&[]);
    scene.write("tools/lib", "old");
    let run = |asked: &str| {
        scene.write("flags", asked);
        let options = ["--daemon", "--worker", "proto", "--worker-tool", "tools", "--worker-key", "k"];
        scene.run(&options, &["tools/worker", "--protocol=proto", "@flags"])
    };
    let uuid = |ran: &Ran| ran.report()["uuid"].clone();
    let first = run("--a");
    assert_eq!((&first.worker()["key_quality"], &first.worker()["request"]), (&json!("marked"), &json!(1)));
    assert_eq!(uuid(&run("--b")), uuid(&first));
    scene.write("tools/lib", "new");
    let other = run("--c");
    assert_ne!(uuid(&other), uuid(&first));
    assert_eq!(other.worker()["request"], 1);
    let said = scene.home.said();
    assert!(said.contains("its files have changed on disk") && said.contains("tools/lib: "), "{said}");
    // The same again is out of the cache, and says who had made it.
    let cached = run("--c");
    assert_eq!((&cached.stats["cached"], cached.worker()), (&json!(true), other.worker()));
    daemon.end(&scene.home);
}

fn without() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.home.start(&[]);
    let options = ["--daemon", "--worker", "buck2", "--worker-startup", "2"];
    let ran = scene.run(&options, &["tools/buck2", "--fault=exit-at-start", "--x"]);
    assert_eq!(ran.output.status.code(), Some(3), "by itself it is no worker");
    let why = "no worker can be started: Worker exited before connecting: it exited with code 3";
    assert!(ran.stderr().contains(&format!("ran by itself, without a worker: {why}")), "{}", ran.stderr());
    assert!(ran.stats["one_shot_because"].as_str().unwrap().starts_with(why), "{}", ran.stats);
    assert_eq!(ran.worker(), &Value::Null);
    scene.write("flags", "@nowhere");
    let ran = scene.run(&["--daemon", "--worker", "json"], &["tools/worker", "--protocol=json", "@flags"]);
    let why = ran.stats["one_shot_because"].as_str().unwrap_or_default();
    assert!(why.contains("'nowhere': file is not a declared input"), "{}: {}", ran.stats, ran.stderr());
    // A worker that crashes is neither: there is no exit code to give.
    scene.write("flags", "--fine");
    let ran = scene.run(&["--daemon", "--worker", "proto"], &["/bin/true", "@flags"]);
    assert_eq!(ran.output.status.code(), Some(125), "{}", ran.stderr());
    assert!(ran.stderr().contains("its worker crashed") && !ran.stderr().contains("no worker ran"));
    assert_eq!(ran.stats["outcome"], "failed");
    daemon.end(&scene.home);
    let daemon = scene.home.start(&["--set", "worker.enabled=false"]);
    let ran = scene.run(&["--daemon", "--worker", "proto"], &["/bin/echo", "@flags"]);
    assert_eq!(ran.output.stdout, b"@flags\n");
    assert!(ran.stderr().contains("no worker ran the command"), "{}", ran.stderr());
    daemon.end(&scene.home);
}

fn no_daemon() {
    let Some(scene) = Scene::new() else { return };
    for (wire, options, command) in WIRES {
        let write = format!("--write=out=made by {wire}");
        scene.write("flags", &write);
        let word = format!("--local-workers-{wire}-{}", std::process::id());
        let mut command = command.to_vec();
        command.insert(1, &word);
        let mut options = [&["--worker", wire, "--output", "out"], options].concat();
        if wire == "buck2" {
            command.push(&write);
            options = ["--worker", wire, "--output", "out", "--worker-startup", "2"].to_vec();
        }
        let ran = scene.run(&options, &command);
        assert_eq!(ran.report()["counter"], 1, "{wire}");
        assert_eq!(ran.worker()["request"], 1, "{}", ran.stats);
        assert_eq!(std::fs::read_to_string(scene.tree.join("out")).unwrap(), format!("made by {wire}"));
        assert!(
            settles(crate::daemon::PATIENCE, || pids_with(&word).is_empty()),
            "{wire}: the worker lives on"
        );
    }
    let failed = scene.run(&["--worker", "proto"], {
        scene.write("flags", "--exit-code=7\n--say=no");
        &["tools/worker", "--protocol=proto", "@flags"]
    });
    assert_eq!(failed.output.status.code(), Some(7));
    assert!(failed.stderr().starts_with("no\n"), "{}", failed.stderr());
    // Beside a run that goes on there is another store.
    let stores = scene.own_state().join("run-worker");
    let lock = std::fs::File::options().write(true).open(stores.join("0.lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    scene.write("flags", "--beside");
    assert!(!stores.join("1").exists());
    scene.run(&["--worker", "proto"], &["tools/worker", "--protocol=proto", "@flags"]).report();
    assert!(stores.join("1").exists());
    check_nothing_is_left(&stores);
}

fn check_nothing_is_left(stores: &Path) {
    for part in ["layers", "spools", "store/temporary"] {
        let dir = stores.join("0").join(part);
        assert_eq!(std::fs::read_dir(&dir).map_or(0, Iterator::count), 0, "left in {}", dir.display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(stores.to_str().unwrap()), "{mounts}");
}

fn refused() {
    let Some(scene) = Scene::new() else { return };
    let command = ["tools/worker", "--protocol=proto", "@flags"];
    scene.write("flags", "--x");
    let check = |options: &[&str], command: &[&str], says: &str| {
        let ran = scene.run(options, command);
        assert_eq!(ran.output.status.code(), Some(125), "{options:?}: {}", ran.stderr());
        assert!(ran.stderr().contains(says), "{options:?}: {}", ran.stderr());
        assert_eq!(ran.stderr().lines().count(), 1, "{}", ran.stderr());
    };
    check(&["--worker", "smoke"], &command, "possible values: proto, json, multiplex-proto");
    check(&["--worker", "proto"], &["tools/worker", "x"], "this worker action, because");
    check(&["--worker", "proto", "--strategy", "standalone"], &command, "--strategy standalone");
    check(&["--worker", "proto", "--rootfs", "/"], &command, "--rootfs cannot be had by a worker");
    check(&["--worker-key", "k"], &command, "--worker <PROTOCOL>");
    let daemon = scene.home.start(&[]);
    let tool = ["--daemon", "--worker", "proto", "--worker-tool", "tools/none"];
    check(
        &tool,
        &command,
        "tools/none is none of the inputs, and a worker's tool has to be one (hint: declare it",
    );
    daemon.end(&scene.home);
}
