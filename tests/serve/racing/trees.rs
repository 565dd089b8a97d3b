//! Races whose outputs are published into a tree: no byte of a loser is ever seen there.

use super::{AT_ONCE, Gate, Pair, TOLD, counter, counters, gate, pids_below, start_racing, until};
use crate::Alone;
use crate::daemon::Home;
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub const ALONE: &[Alone] = &[
    ("racing::d12_no_byte_of_the_loser_is_in_the_tree", no_byte_of_the_loser),
    ("racing::d08_an_interrupted_run_leaves_nothing", interrupted),
    ("racing::runs_choose_where", runs_choose),
    ("racing::d01_d05_mnemonics_choose_where", mnemonics_choose),
    ("racing::remote_alone_says_so_to_a_run", remote_alone),
];

/// A directory beside a daemon's state, and runs in it.
struct Tree {
    root: PathBuf,
    socket: PathBuf,
}

fn word() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("tree-{}-{}-end", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Tree {
    fn new(home: &Home) -> Tree {
        let root = home.path("tree");
        std::fs::create_dir_all(root.join("d")).unwrap();
        let tree = Tree { root, socket: home.path("socket") };
        tree.write_old();
        tree
    }

    fn write_old(&self) {
        std::fs::write(self.root.join("out"), "old\n").unwrap();
        std::fs::write(self.root.join("d/in"), "old\n").unwrap();
    }

    fn command(&self, options: &[&str], script: &str, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.arg("run").arg(format!("--daemon={}", self.socket.display())).current_dir(&self.root);
        command.args(["--input", "d", "--output", "out", "--output", "d/"]).args(options);
        command.args(["--", "sh", "-c", script, word]).stdin(Stdio::null());
        command
    }

    /// An action that does what it is told, on its way.
    fn begin(&self, word: &str) -> Child {
        // Its inputs are the tree of before, with what is an output as well.
        let mut command = self.command(&[], TOLD, word);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn seen(&self) -> Seen {
        let read = |name: &str| match std::fs::read_to_string(self.root.join(name)) {
            Ok(text) => text,
            Err(error) => format!("{error}"),
        };
        let list = |dir: &Path| -> BTreeSet<String> {
            let entries = std::fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let (out, within) = (read("out"), read("d/in"));
        let mut names = list(&self.root.join("d"));
        // Nothing of ours is beside the outputs, not even for a moment.
        let beside = list(&self.root).into_iter().filter(|name| !matches!(name.as_str(), "d" | "out"));
        names.extend(beside.map(|name| format!("../{name}")));
        Seen { out, within, names }
    }
}

/// What a reader of the tree sees.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    out: String,
    within: String,
    names: BTreeSet<String>,
}

/// Reads a tree until it is told to stop.
struct Watcher {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeSet<Seen>>,
}

impl Watcher {
    fn start(tree: &Tree) -> Watcher {
        let over = Arc::new(AtomicBool::new(false));
        let (is_over, tree) = (over.clone(), Tree { root: tree.root.clone(), socket: PathBuf::new() });
        let thread = std::thread::spawn(move || {
            let mut all = BTreeSet::new();
            while !is_over.load(Ordering::SeqCst) {
                all.insert(tree.seen());
            }
            all
        });
        Watcher { over, thread }
    }

    fn end(self) -> BTreeSet<Seen> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn text(out: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

fn until_gone(pair: &Pair, word: &str) {
    until("nothing of it runs", || {
        [&pair.racing, &pair.cluster].iter().all(|daemon| pids_below(daemon, word).is_empty())
    });
}

fn no_byte_of_the_loser() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let tree = Tree::new(&pair.here);
    for winner in ["local", "remote"] {
        tree.write_old();
        let word = word();
        let watcher = Watcher::start(&tree);
        let child = tree.begin(&word);
        let (here, there) = pair.gates(&word);
        let (wins, loses): (Gate, Gate) = if winner == "local" { (here, there) } else { (there, here) };
        wins.say(winner);
        let out = child.wait_with_output().unwrap();
        assert_eq!((out.status.code(), text(&out)), (Some(0), (format!("{winner}\n"), String::new())));
        // The loser goes on to the end of what it does, if it is not dead.
        drop(loses);
        until_gone(&pair, &word);
        let (old, new) = ("old\n".to_owned(), format!("{winner}\n"));
        for seen in watcher.end() {
            let is_whole = [&old, &new].contains(&&seen.out) && [&old, &new].contains(&&seen.within);
            assert!(is_whole && seen.names.iter().eq(["in"]), "{winner}: {seen:?}");
        }
        let last = tree.seen();
        assert_eq!((&last.out, &last.within), (&new, &new));
        let names: BTreeSet<_> =
            std::fs::read_dir(&tree.root).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert!(names.iter().eq(["d", "out"]), "{names:?}");
    }
    pair.end();
}

fn interrupted() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let tree = Tree::new(&pair.here);
    let word = word();
    let child = tree.begin(&word);
    let gates = pair.gates(&word);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    until_gone(&pair, &word);
    until("nothing is under way", || {
        [&pair.here, &pair.there].iter().all(|home| counters(home, &["running", "queued"]) == [0, 0])
    });
    drop(gates);
    let seen = tree.seen();
    assert_eq!((seen.out.as_str(), seen.within.as_str(), seen.names.len()), ("old\n", "old\n", 1));
    pair.end();
}

/// Runs an action that must come to one side only.
fn runs_on_one(pair: &Pair, tree: &Tree, options: &[&str], side: &str) {
    let daemon = if side == "local" { &pair.racing } else { &pair.cluster };
    let word = word();
    let mut command = tree.command(options, TOLD, &word);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    gate(daemon, &word).say(side);
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out)), (Some(0), (format!("{side}\n"), String::new())));
    assert_eq!(tree.seen().out, format!("{side}\n"));
    assert_eq!(counter(&pair.here, &format!("{side} wins")), 1);
    assert_eq!(counter(&pair.here, "raced"), 0, "it started on both sides");
}

fn runs_choose() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let tree = Tree::new(&pair.here);
    for side in ["local", "remote"] {
        runs_on_one(&pair, &tree, &["--exec-strategy", side], side);
    }
    assert_eq!(counter(&pair.there, "runs"), 1);
    pair.end();
}

fn mnemonics_choose() {
    let lists = [
        // The last one counts.
        "--dynamic_remote_strategy=Here=remote",
        "--dynamic_remote_strategy=Here=",
        "--dynamic_local_strategy=There=standalone",
        "--dynamic_local_strategy=Nowhere=standalone",
        "--dynamic_remote_strategy=Nowhere=",
    ];
    let pair = Pair::start(&[&[AT_ONCE], &lists[..]].concat(), &[]);
    let tree = Tree::new(&pair.here);
    for (mnemonic, side) in [("Here", "local"), ("There", "remote")] {
        runs_on_one(&pair, &tree, &["--mnemonic", mnemonic], side);
    }
    let out = tree.command(&["--mnemonic", "Nowhere"], "true", &word()).output().unwrap();
    let (_, said) = text(&out);
    let wanted = "No usable dynamic_local_strategy or dynamic_remote_strategy found for action Nowhere";
    assert_eq!((out.status.code(), said.contains(wanted)), (Some(125), true), "{said}");
    pair.end();
}

fn remote_alone() {
    let (here, nowhere) = (Home::new(), Home::new());
    let racing = start_racing(&here, &nowhere, &[]);
    let tree = Tree::new(&here);
    let ran = |strategy: &str| {
        let script = "echo new > out; echo new > d/in";
        tree.command(&["--exec-strategy", strategy], script, &word()).output().unwrap()
    };
    let out = ran("remote");
    let (_, said) = text(&out);
    assert_eq!(out.status.code(), Some(125), "{said}");
    assert!(said.contains("remote") && !said.contains("panicked"), "{said}");
    assert_eq!(tree.seen().out, "old\n");
    let out = ran("remote_local_fallback");
    assert_eq!((out.status.code(), tree.seen().out.as_str()), (Some(0), "new\n"), "{:?}", text(&out));
    racing.end(&here);
}
