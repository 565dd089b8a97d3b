//! The local API by its own client: paths in, outputs published into a tree.

use crate::daemon::{Home, PATIENCE};
use fulgurite_sandbox::testing::settles;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A tree beside a daemon's state, and the client.
struct Scene {
    home: Home,
    tree: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let home = Home::new();
        let tree = home.path("tree");
        std::fs::create_dir(&tree).unwrap();
        Scene { home, tree }
    }

    fn fulgurite(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.arg(verb).current_dir(&self.tree).stdin(Stdio::null());
        command.env("FULGURITE_DAEMON", self.home.path("socket"));
        command
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        let command = ["--", "sh", "-c", script];
        self.fulgurite("run").arg("--daemon").args(options).args(command).output().unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.tree.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.tree.join(name)).ok()
    }

    fn status(&self) -> String {
        text(&self.fulgurite("status").output().unwrap().stdout)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn outputs_are_published_and_cached() {
    let scene = Scene::new();
    let daemon = scene.home.start(&[]);
    scene.write("in", "1");
    let script =
        "cat in > out; mkdir -p d/e; echo x > d/e/f; ln -s e d/l; chmod +x out; echo said; echo err >&2";
    let options = ["--input", "in", "--output", "out", "--output", "d/"];
    for _ in 0..2 {
        let ran = scene.run(&options, script);
        assert_eq!((text(&ran.stdout), text(&ran.stderr)), ("said\n".to_owned(), "err\n".to_owned()));
        assert!(ran.status.success());
        assert_eq!(
            (scene.read("out").unwrap(), scene.read("d/l/f").unwrap()),
            ("1".to_owned(), "x\n".to_owned())
        );
        assert_eq!(std::fs::metadata(scene.tree.join("out")).unwrap().permissions().mode() & 0o777, 0o755);
        // The second time both are there already.
        scene.write("d/stale", "");
    }
    assert_eq!(scene.read("d/stale"), Some(String::new()), "written after the second run");
    let ran = scene.run(&options, script);
    assert!(ran.status.success() && scene.read("d/stale").is_none(), "{}", text(&ran.stderr));
    scene.write("in", "2");
    assert!(scene.run(&options, script).status.success());
    assert_eq!(scene.read("out").unwrap(), "2");
    daemon.end(&scene.home);
}

fn failures_publish_nothing_and_are_told() {
    let scene = Scene::new();
    let daemon = scene.home.start(&[]);
    scene.write("out", "old");
    let failed = scene.run(&["--output", "out"], "echo new > out; exit 7");
    assert_eq!(failed.status.code(), Some(7));
    assert!(text(&failed.stderr).contains("sh exited with 7"));
    assert_eq!(scene.read("out").unwrap(), "old");
    let failed = scene.run(&["--output", "out", "--outputs-on-failure"], "echo new > out; exit 7");
    assert_eq!(failed.status.code(), Some(7));
    assert_eq!(scene.read("out").unwrap(), "new\n");
    let missing = scene.run(&["--output", "other"], "true");
    assert_eq!(missing.status.code(), Some(125));
    assert!(text(&missing.stderr).contains("did not make other"), "{}", text(&missing.stderr));
    let input = scene.run(&["--input", "none"], "true");
    assert!(text(&input.stderr).contains("cannot find input \"none\""), "{}", text(&input.stderr));
    let late = scene.run(&["--timeout", "200ms"], "sleep 60");
    assert_eq!(late.status.code(), Some(124), "{}", text(&late.stderr));
    let rootfs = scene.run(&["--rootfs", "/"], "true");
    assert!(text(&rootfs.stderr).contains("--rootfs cannot be had from a daemon"));
    let hidden = scene.run(&["--input", "out"], "test -e hidden || echo none");
    assert_eq!(text(&hidden.stdout), "none\n");
    daemon.end(&scene.home);
}

/// The inodes of all blobs of a store.
fn blob_inodes(home: &Home) -> Vec<u64> {
    let mut inodes = Vec::new();
    let shards = std::fs::read_dir(home.state().join("store/objects/sha256")).unwrap();
    for blob in shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap()) {
        inodes.push(blob.unwrap().metadata().unwrap().ino());
    }
    inodes
}

fn outputs_come_from_the_store_as_configured() {
    let script = "echo one > out; echo two > tool; chmod +x tool; mkdir d; echo three > d/f";
    let options = ["--output", "out", "--output", "tool", "--output", "d/"];
    for (way, shares) in [("hardlink", true), ("copy", false), ("auto", false)] {
        let scene = Scene::new();
        let daemon = scene.home.start(&["--set", &format!("execution.handoff={way}")]);
        // The second result comes out of the cache.
        for _ in 0..2 {
            let ran = scene.run(&options, script);
            assert!(ran.status.success(), "{way}: {}", text(&ran.stderr));
            let blobs = blob_inodes(&scene.home);
            let look = |name: &str| {
                let stat = std::fs::metadata(scene.tree.join(name)).unwrap();
                (stat.permissions().mode() & 0o777, blobs.contains(&stat.ino()))
            };
            let plain = if shares { (0o444, true) } else { (0o644, false) };
            assert_eq!([look("out"), look("d/f"), look("tool")], [plain, plain, (0o755, false)], "{way}");
            assert_eq!(scene.read("d/f").unwrap(), "three\n");
        }
        // Also replacing a link of it leaves a blob as it is.
        assert!(scene.run(&["--output", "out"], "echo four > out").status.success());
        daemon.end(&scene.home);
        scene.home.check_blobs();
    }
    let scene = Scene::new();
    let daemon = scene.home.start(&["--set", "execution.handoff=reflink"]);
    let ran = scene.run(&options, script);
    match ran.status.success() {
        true => crate::skip("local::handoff", "this filesystem has reflinks"),
        false => {
            let why = text(&ran.stderr);
            assert!(why.contains("execution.handoff demands reflink") && why.contains("\"auto\""), "{why}");
            assert!(scene.read("out").is_none(), "something was published");
        }
    }
    daemon.end(&scene.home);
}

fn the_network_and_the_report_are_those_of_a_run_without() {
    let scene = Scene::new();
    let daemon = scene.home.start(&[]);
    let look = "grep -q 127.0.0.1 /proc/net/fib_trie && echo up || echo down";
    for (options, seen) in
        [(&[][..], "up\n"), (&["--network", "loopback"], "up\n"), (&["--network", "none"], "down\n")]
    {
        let ran = scene.run(options, look);
        assert_eq!(text(&ran.stdout), seen, "{options:?}: {}", text(&ran.stderr));
    }
    let ran = scene.run(&["--network", "host"], look);
    assert!(!ran.status.success() && text(&ran.stderr).contains("no network"), "{}", text(&ran.stderr));
    let ran = scene.run(&["--stats", "stats"], "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done");
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let stats: serde_json::Value = serde_json::from_str(&scene.read("stats").unwrap()).unwrap();
    assert!(stats["cpu_user_us"].as_u64().unwrap() > 0, "{stats}");
    assert!(stats["memory_peak_bytes"].as_u64().unwrap() > 0, "{stats}");
    assert!(stats["enforced"].as_object().is_some_and(|names| !names.is_empty()), "{stats}");
    daemon.end(&scene.home);
}

fn who_leaves_cancels_the_run() {
    let scene = Scene::new();
    let daemon = scene.home.start(&[]);
    let mut client = scene.fulgurite("run");
    let mut client = client
        .args(["--daemon", "--output", "out", "--", "sh", "-c", "echo > out; sleep 1000"])
        .spawn()
        .unwrap();
    assert!(settles(PATIENCE, || scene.status().contains("running          1")), "{}", scene.status());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(client.id()).unwrap()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(130));
    assert!(settles(PATIENCE, || scene.status().contains("running          0")), "{}", scene.status());
    assert!(scene.read("out").is_none());
    daemon.end(&scene.home);
    let nobody = scene.run(&[], "true");
    assert_eq!(nobody.status.code(), Some(125));
    assert!(text(&nobody.stderr).contains("hint: start one: fulgurite serve"), "{}", text(&nobody.stderr));
}

fn rewrap_takes_the_flags_of_rewrapper() {
    let scene = Scene::new();
    let daemon = scene.home.start(&[]);
    std::fs::create_dir(scene.tree.join("out")).unwrap();
    scene.write("a.in", "A");
    scene.write("list", "a.in\n");
    let mut command = scene.fulgurite("rewrap");
    command.current_dir(scene.tree.join("out"));
    command.args(["-exec_root=..", "--labels=type=tool,lang=sh", "-input_list_paths=../list"]);
    command.args(["-exec_strategy=local", "-output_files=out/b,c", "-env_var_allowlist=WORD"]);
    command.args(["--", "sh", "-c", "cat ../a.in > b; echo $WORD > ../c"]).env("WORD", "word");
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(
        (scene.read("out/b").unwrap(), scene.read("c").unwrap()),
        ("A".to_owned(), "word\n".to_owned())
    );
    let mut outside = scene.fulgurite("rewrap");
    outside.args(["--exec_root=out", "--", "true"]);
    assert!(text(&outside.output().unwrap().stderr).contains("is not below the exec root"));
    daemon.end(&scene.home);
}

pub const ALONE: &[crate::Alone] = &[
    ("local::outputs_are_published_and_cached", outputs_are_published_and_cached),
    ("local::failures_publish_nothing_and_are_told", failures_publish_nothing_and_are_told),
    ("local::outputs_come_from_the_store_as_configured", outputs_come_from_the_store_as_configured),
    (
        "local::network_and_report_are_those_of_a_run_without",
        the_network_and_the_report_are_those_of_a_run_without,
    ),
    ("local::who_leaves_cancels_the_run", who_leaves_cancels_the_run),
    ("local::rewrap_takes_the_flags_of_rewrapper", rewrap_takes_the_flags_of_rewrapper),
];
