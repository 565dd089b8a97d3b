//! Races whose local branch runs straight in the exec root: what it left is gone before the cluster's outputs come, and
//! nothing of it lives that could write any more.

use super::{gate, until, until_gone};
use crate::Alone;
use crate::daemon::{Home, pids_with};
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub const ALONE: &[Alone] = &[
    ("racing::d06_d12_in_place_a_late_writer_is_gone_before_remote_publishes", remote_wins),
    ("racing::in_place_local_wins", local_wins),
    ("racing::in_place_a_failure_leaves_nothing", local_fails),
    ("racing::in_place_an_interrupt_leaves_nothing", interrupted),
    ("racing::in_place_a_killed_run_leaves_nothing_after_the_next", killed),
    ("racing::in_place_a_run_that_dies_while_it_publishes", dies_while_publishing),
];

/// What the cluster does: as it is told.
const THERE: &str =
    "mkfifo gate; read line < gate; echo \"$line\"; echo \"$line\" > out; mkdir -p d; echo new > d/in";

/// Here the command has a child that leaves its session, and that writes for as long as it lives.
const WRITES_LATE: &str =
    "(setsid sh -c 'while :; do echo late >> out; mkdir -p d/x; echo late > d/x/$$; done' \"$0\" &)
    echo partial > out; echo partial > d/partial; sleep 1000";

struct Tree {
    root: PathBuf,
    state: PathBuf,
    cluster: PathBuf,
}

fn word() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("place-{}-{}-end", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Tree {
    fn new(home: &Home) -> Tree {
        let root = home.path("tree");
        std::fs::create_dir_all(root.join("d")).unwrap();
        // Only who runs in the tree itself finds it there: it is no input.
        std::fs::write(root.join("here"), "").unwrap();
        std::fs::write(root.join("source"), "").unwrap();
        std::fs::write(root.join("out"), "old\n").unwrap();
        std::fs::write(root.join("d/old"), "old\n").unwrap();
        Tree { root, state: home.path("own"), cluster: home.path("socket") }
    }

    fn command(&self, here: &str, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.arg("run").arg(format!("--remote=unix:{}", self.cluster.display())).current_dir(&self.root);
        command.args(["--strategy", "dynamic", "--local-strategy", "standalone"]);
        command.args(["--dynamic_local_execution_delay=0", "--input", "source"]);
        command.args(["--output", "out", "--output", "d/", "--", "sh", "-c"]);
        command.arg(format!("if [ -e here ]; then {here}\nelse {THERE}\nfi")).arg(word);
        command.env("FULGURITE_STATE_DIR", &self.state).stdin(Stdio::null());
        command
    }

    fn begin(&self, here: &str, word: &str, failpoint: Option<&str>) -> Child {
        let mut command = self.command(here, word);
        command.envs(failpoint.map(|place| ("FULGURITE_FAILPOINT", place)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// All names below the tree, and the contents of `out`.
    fn seen(&self) -> (BTreeSet<String>, String) {
        let names = ["here", "source", "out", "d", "d/old", "d/partial", "d/x", "d/in"];
        let there = names.into_iter().filter(|name| self.root.join(name).exists());
        let out = std::fs::read_to_string(self.root.join("out")).unwrap_or_default();
        (there.map(str::to_owned).collect(), out)
    }

    fn check(&self, names: &[&str], out: &str) {
        let all = ["here", "source", "d"].iter().chain(names).map(|name| (*name).to_owned());
        assert_eq!(self.seen(), (all.collect(), out.to_owned()));
        let hidden: Vec<_> =
            std::fs::read_dir(&self.root).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert!(hidden.iter().all(|name| !name.to_string_lossy().starts_with(".fulgurite-")), "{hidden:?}");
    }

    fn until_it_writes(&self) {
        until("the late writer writes", || self.seen().1.contains("late") && self.root.join("d/x").exists());
    }
}

fn text(out: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

/// Runs `act` with a tree and a cluster, and checks that the cluster has nothing left.
fn with_cluster(act: impl FnOnce(&Tree, &crate::daemon::Daemon)) {
    let home = Home::new();
    let cluster = home.start(&[]);
    act(&Tree::new(&home), &cluster);
    cluster.end(&home);
}

fn remote_wins() {
    with_cluster(|tree, cluster| {
        let word = word();
        let child = tree.begin(WRITES_LATE, &word, None);
        tree.until_it_writes();
        gate(cluster, &word).say("remote");
        let out = child.wait_with_output().unwrap();
        assert_eq!((out.status.code(), text(&out)), (Some(0), ("remote\n".to_owned(), String::new())));
        // Nobody is waited for: who could still write would have to live.
        assert_eq!(pids_with(&word), Vec::<u32>::new());
        tree.check(&["out", "d/in"], "remote\n");
    });
}

fn local_wins() {
    with_cluster(|tree, cluster| {
        let word = word();
        let here = "read line < go; rm go; rm d/old; echo \"$line\"; echo \"$line\" > out; echo here > d/in";
        let status = Command::new("mkfifo").arg(tree.root.join("go")).status().unwrap();
        assert!(status.success());
        let child = tree.begin(here, &word, None);
        let waiting = gate(cluster, &word);
        std::fs::write(tree.root.join("go"), "local\n").unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!((out.status.code(), text(&out)), (Some(0), ("local\n".to_owned(), String::new())));
        tree.check(&["out", "d/in"], "local\n");
        until_gone(&word);
        drop(waiting);
        tree.check(&["out", "d/in"], "local\n");
    });
}

fn local_fails() {
    with_cluster(|tree, _| {
        let word = word();
        let here = "echo partial > out; echo partial > d/partial; echo said; exit 3";
        let out = tree.begin(here, &word, None).wait_with_output().unwrap();
        let (stdout, stderr) = text(&out);
        assert_eq!((out.status.code(), stdout.as_str()), (Some(3), "said\n"), "{stderr}");
        tree.check(&[], "");
        until_gone(&word);
    });
}

fn interrupted() {
    with_cluster(|tree, cluster| {
        let word = word();
        let child = tree.begin(WRITES_LATE, &word, None);
        tree.until_it_writes();
        let waiting = gate(cluster, &word);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
        tree.check(&[], "");
        until_gone(&word);
        drop(waiting);
    });
}

/// The next run of anything, which finishes or removes what a dead one left.
fn next(tree: &Tree) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    command.args(["run", "--input", "source", "--", "true"]).current_dir(&tree.root);
    let out = command.env("FULGURITE_STATE_DIR", &tree.state).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    text(&out).1
}

fn killed() {
    with_cluster(|tree, cluster| {
        let word = word();
        let mut child = tree.begin(WRITES_LATE, &word, None);
        tree.until_it_writes();
        let waiting = gate(cluster, &word);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        // It does not wait for the writer's end by itself: the next one does.
        let said = next(tree);
        assert!(said.contains("died half way were removed"), "{said}");
        tree.check(&[], "");
        until_gone(&word);
        tree.check(&[], "");
        assert_eq!(next(tree), "");
        drop(waiting);
    });
}

fn dies_while_publishing() {
    if !cfg!(feature = "test-fakes") {
        return crate::skip("racing::in_place_a_run_that_dies", "built without --features test-fakes");
    }
    let (none, all): (&[&str], &[&str]) = (&[], &["out", "d/in"]);
    for (place, names, out) in [
        ("commit.clear", none, ""),
        ("commit.intent", none, ""),
        ("commit.intended", all, "remote\n"),
        ("commit.renamed:1", all, "remote\n"),
        ("commit.finished:2", all, "remote\n"),
    ] {
        with_cluster(|tree, cluster| {
            let word = word();
            let child = tree.begin(WRITES_LATE, &word, Some(place));
            tree.until_it_writes();
            gate(cluster, &word).say("remote");
            let ended = child.wait_with_output().unwrap();
            assert_eq!(ended.status.signal(), Some(9), "{place}: {ended:?}");
            next(tree);
            tree.check(names, out);
            until_gone(&word);
            assert_eq!(next(tree), "", "{place}");
            tree.check(names, out);
        });
    }
}
