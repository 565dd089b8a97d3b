//! The hostile battery, run from inside actions: every case must hold, and nothing may be left or touched outside.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::planted::{Planted, UNIT};
use crate::scene::{Finished, Scene, Who, skip};

both! {
    file_system: hostile_file_system_as_root, hostile_file_system_as_user;
    namespaces: hostile_namespaces_as_root, hostile_namespaces_as_user;
    kernel: hostile_kernel_as_root, hostile_kernel_as_user;
    residue: hostile_residue_as_root, hostile_residue_as_user;
    with_declared_inputs: hostile_with_inputs_as_root, hostile_with_inputs_as_user;
    with_fake_root: hostile_with_fake_root_as_root, hostile_with_fake_root_as_user;
    forks: hostile_forks_as_root, hostile_forks_as_user;
    threads: hostile_threads_as_root, hostile_threads_as_user;
    anonymous_memory: hostile_memory_as_root, hostile_memory_as_user;
    other_memory: hostile_other_memory_as_root, hostile_other_memory_as_user;
    disk: hostile_disk_as_root, hostile_disk_as_user;
    tmpfs: hostile_tmpfs_as_root, hostile_tmpfs_as_user;
    stubborn: hostile_stubborn_as_root, hostile_stubborn_as_user;
    zombies: hostile_zombies_as_root, hostile_zombies_as_user;
    flood: hostile_flood_as_root, hostile_flood_as_user;
    objects: hostile_objects_as_root, hostile_objects_as_user;
}

/// Cases that say `skipped`, and why that is right.
const EXPECTED_SKIPS: &[(&str, Who, &str)] = &[];

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 256 * MIB;
const PIDS: u64 = 128;

/// A scene with everything planted and the battery among its inputs.
struct Harness<'a> {
    scene: &'a Scene,
    planted: Planted,
    before: BTreeMap<PathBuf, Witness>,
}

/// What an input file is like.
#[derive(Debug, PartialEq, Eq)]
struct Witness {
    content: Vec<u8>,
    mode: u32,
    owner: u32,
    inode: u64,
    modified_ns: i128,
}

fn witness(root: &Path) -> BTreeMap<PathBuf, Witness> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let meta = std::fs::symlink_metadata(entry.path()).unwrap();
            let content = if meta.is_file() { std::fs::read(entry.path()).unwrap() } else { Vec::new() };
            let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
            let (mode, owner, inode) = (meta.mode(), meta.uid(), meta.ino());
            found.insert(entry.path(), Witness { content, mode, owner, inode, modified_ns });
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    found
}

impl<'a> Harness<'a> {
    fn new(scene: &'a Scene, more: &[(&str, String)]) -> Harness<'a> {
        let planted = Planted::new(scene);
        let program = scene.path("fulgurite-hostile");
        std::fs::copy(env!("CARGO_BIN_EXE_fulgurite-hostile"), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        scene.own(&program);
        scene.write("input.txt", "an input\n");
        scene.write("dir/other.txt", "another input\n");
        let inputs = ["/work/input.txt", "/work/dir/other.txt"].join(&UNIT.to_string());
        let mut facts = vec![("input_files", inputs), ("pids_limit", PIDS.to_string())];
        facts.push(("memory_limit", MEMORY.to_string()));
        facts.extend(more.iter().map(|(key, value)| (*key, value.clone())));
        scene.write("facts.txt", planted.facts(scene, &facts));
        let before = witness(&scene.root());
        Harness { scene, planted, before }
    }

    /// `fulgurite run` of the battery, which tells its own pid as the daemon's by writing it to the facts first.
    fn command(&self, options: &[&str], cases: &[&str]) -> Command {
        let mut action = vec!["./fulgurite-hostile", "--facts", "facts.txt"];
        action.extend(cases);
        let run = self.scene.run_command(options, &action);
        let mut command = self.scene.command("/bin/sh");
        let script = "sed -i '/^daemon_pid=/d' facts.txt; echo daemon_pid=$$ >> facts.txt; exec \"$@\"";
        command.args(["-c", script, "harness"]).arg(run.get_program()).args(run.get_args());
        command
    }

    fn run(&mut self, options: &[&str], cases: &[&str]) -> Finished {
        let done = self.scene.finish(self.command(options, cases).spawn().unwrap());
        self.untouched();
        done
    }

    /// Inputs and what is planted are as before; only the facts were changed, by the harness.
    fn untouched(&mut self) {
        let facts = self.scene.root().join("facts.txt");
        let mut after = witness(&self.scene.root());
        let (old, new) = (self.before.remove(&facts), after.remove(&facts));
        assert!(old.is_some() && new.is_some());
        assert!(self.before == after, "inputs changed: {:?}", after.keys());
        self.before.insert(facts, new.unwrap());
        self.planted.untouched();
    }

    /// Runs cases that come back, all of which must hold.
    fn holds(&mut self, options: &[&str], cases: &[&str]) -> Vec<String> {
        let done = self.run(options, cases);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let judged = judge(self.scene, &text);
        assert!(done.stderr.is_empty() && done.code() == 0, "{}: {}\n{text}", done.code(), done.stderr);
        assert!(judged.len() >= cases.len(), "{text}");
        judged
    }

    /// Runs a case that the memory limit must end, if it does not end by itself.
    fn dies_of_memory(&mut self, options: &[&str], case: &str, memory: u64) {
        let limit = memory.to_string();
        let mut all = vec!["--memory", &limit];
        all.extend(options);
        let done = self.run(&all, &[case]);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(text.starts_with(&format!("{case} started\n")), "{text}\n{}", done.stderr);
        judge(self.scene, &text);
        eprintln!("{case}: exit {} {}", done.code(), done.stderr.trim_end());
        if done.code() != 0 {
            let expected = format!("limit {memory} bytes)");
            done.one_line(137, &["ran out of memory (peak ", &expected]);
        }
    }
}

/// The verdicts of a run: a line each, shown, and none of them broken or skipped unexpectedly.
fn judge(scene: &Scene, text: &str) -> Vec<String> {
    let mut judged = Vec::new();
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.ends_with(" started")) {
        let mut words = line.splitn(3, ' ');
        let (case, verdict) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let skipped = EXPECTED_SKIPS.iter().any(|(name, who, _)| *name == case && *who == scene.who);
        match verdict {
            "held" => {}
            "skipped" if skipped => {}
            _ => wrong.push(line.to_owned()),
        }
        eprintln!("{line}");
        judged.push(line.to_owned());
    }
    assert!(wrong.is_empty(), "not held:\n{}", wrong.join("\n"));
    judged
}

/// The options that limit as far as this identity can, and a loud skip for each case that needs more.
fn can_limit(scene: &Scene, what: &str, cases: &[&str]) -> bool {
    let can = scene.can_limit(what);
    if !can {
        cases.iter().for_each(|case| skip(case, &format!("this user can apply no {what} limit here")));
    }
    can
}

fn file_system(scene: &Scene) {
    assert_eq!(Harness::new(scene, &[]).holds(&["--timeout", "1800"], &["F"]).len(), 13);
}

fn namespaces(scene: &Scene) {
    assert!(Harness::new(scene, &[]).holds(&["--timeout", "1800"], &["N"]).len() >= 14);
}

fn kernel(scene: &Scene) {
    assert_eq!(Harness::new(scene, &[]).holds(&["--timeout", "1800"], &["K"]).len(), 8);
}

/// What one action left, the next does not find: of the same user, and of another.
fn residue(scene: &Scene) {
    let mut harness = Harness::new(scene, &[]);
    let planted = harness.holds(&["--timeout", "1800"], &["N09-plant"]);
    assert!(planted[0].contains("planted=") && !planted[0].contains("planted=0"), "{planted:?}");
    harness.holds(&["--timeout", "1800"], &["N06", "N08", "N09-look"]);
    harness.holds(&["--timeout", "1800", "--fake-root"], &["N06", "N08", "N09-look"]);
}

fn with_declared_inputs(scene: &Scene) {
    let mut harness = Harness::new(scene, &[]);
    let inputs = ["fulgurite-hostile", "facts.txt", "input.txt", "dir"];
    let mut options: Vec<&str> = inputs.iter().flat_map(|input| ["--input", input]).collect();
    options.extend(["--timeout", "1800", "--network", "none"]);
    harness.holds(&options, &["all"]);
}

fn with_fake_root(scene: &Scene) {
    let mut harness = Harness::new(scene, &[("inside_uid", "0".to_owned())]);
    harness.holds(&["--fake-root", "--timeout", "1800"], &["all"]);
}

fn forks(scene: &Scene) {
    let mut harness = Harness::new(scene, &[]);
    if can_limit(scene, "pids", &["R01"]) {
        harness.holds(&["--pids", "128", "--timeout", "1800"], &["R01"]);
    }
}

fn threads(scene: &Scene) {
    let mut harness = Harness::new(scene, &[]);
    if can_limit(scene, "pids", &["R02"]) {
        harness.holds(&["--pids", "128", "--timeout", "1800"], &["R02"]);
    }
}

fn anonymous_memory(scene: &Scene) {
    let mut harness = Harness::new(scene, &[]);
    if !can_limit(scene, "memory", &["R03"]) {
        return;
    }
    let stats = scene.dir().join("stats");
    let done = harness.run(&["--memory", "256M", "--stats", stats.to_str().unwrap()], &["R03"]);
    // Without memory.oom.group, which version 1 lacks, the kernel kills one process, and the others may have a word
    // before Fulgurite kills them.
    let text = done.text();
    assert!(text.starts_with("R03 started\n") && !text.contains("broken"), "{text}");
    done.one_line(137, &["ran out of memory (peak ", "limit 268435456 bytes)"]);
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
    assert_eq!((&stats["outcome"], &stats["oom"]), (&"out_of_memory".into(), &true.into()));
    assert!(stats["memory_peak_bytes"].as_u64().unwrap() > MEMORY / 2, "{stats:#}");
}

fn other_memory(scene: &Scene) {
    let cases = ["R04-memfd", "R04-tmpfs", "R04-pipe", "R04-sysv"];
    let mut harness = Harness::new(scene, &[]);
    if can_limit(scene, "memory", &cases) {
        cases.iter().for_each(|case| harness.dies_of_memory(&["--timeout", "1800"], case, MEMORY));
    }
}

/// A layer on a filesystem with a size: that is where its bound comes from.
const ON_A_TMPFS: &str = r#"
mount -t tmpfs -o size=64m,nr_inodes=2000,mode=700 bounded "$1" || exit 99
place=$1 uid=$2; shift 2
if test "$(id -u)" = "$uid"; then exec "$@"; fi
chown "$uid:$uid" "$place"
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
"#;

fn disk(scene: &Scene) {
    let facts = [("disk_places", "/work".to_owned()), ("disk_limit", (64 * MIB).to_string())];
    let mut harness =
        Harness::new(scene, &[facts.as_slice(), &[("inode_limit", "2000".to_owned())]].concat());
    let layers = scene.dir().join("layers");
    std::fs::create_dir(&layers).unwrap();
    scene.own(&layers);
    let run =
        harness.command(&["--layer-dir", layers.to_str().unwrap(), "--timeout", "1800"], &["R05", "R06"]);
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command.arg(if is_root { "-m" } else { "-Urm" }).args(["sh", "-c", ON_A_TMPFS, "disk"]).arg(&layers);
    command
        .arg(if is_root { scene.uid() } else { 0 }.to_string())
        .arg(run.get_program())
        .args(run.get_args());
    command.env("FULGURITE_STATE_DIR", scene.state()).env(crate::scene::MARK, &scene.mark);
    command.current_dir(scene.root()).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let Ok(child) = command.spawn() else { return skip("", "there is no unshare(1)") };
    let done = scene.finish(child).silent();
    assert_eq!(judge(scene, &done.text()).len(), 2);
    harness.untouched();
    skip("R05-on-the-layers-own-disk", "a layer has no quota; its bound is that of --layer-dir");
}

/// /tmp and /dev/shm of the sandbox are charged to its memory.
fn tmpfs(scene: &Scene) {
    if !can_limit(scene, "memory", &["R05-tmp", "R05-shm", "R06-tmp", "R06-shm"]) {
        return;
    }
    for place in ["/tmp", "/dev/shm"] {
        let memory = 64 * MIB;
        let facts = [
            ("disk_places", place.to_owned()),
            ("disk_limit", (128 * MIB).to_string()),
            ("inode_limit", "1000000".to_owned()),
        ];
        let mut harness = Harness::new(scene, &facts);
        harness.dies_of_memory(&["--timeout", "1800"], "R05", memory);
        harness.dies_of_memory(&["--timeout", "1800"], "R06", memory);
    }
}

fn stubborn(scene: &Scene) {
    // Long enough for a machine that is emulated to get to the first line.
    let mut harness = Harness::new(scene, &[]);
    let done = harness.run(&["--timeout", "5"], &["R07"]);
    assert_eq!(done.text(), "R07 started\n");
    done.one_line(124, &["timed out after 5 s"]);
    let done = harness.run(&["--timeout", "5", "--kill-delay", "0.2"], &["R07"]);
    assert_eq!(done.text(), "R07 started\n");
    done.one_line(124, &["timed out after 5 s"]);
}

fn zombies(scene: &Scene) {
    Harness::new(scene, &[]).holds(&["--timeout", "1800"], &["R08"]);
}

/// Output goes to the caller's file as it is, without a bound: whoever wants one sets it on the file.
fn flood(scene: &Scene) {
    const FLOOD: u64 = 64 * MIB;
    let mut harness = Harness::new(scene, &[("flood_bytes", FLOOD.to_string())]);
    let (out, err) = (scene.dir().join("out"), scene.dir().join("err"));
    let mut command = harness.command(&["--timeout", "1800"], &["R09"]);
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    scene.finish(command.spawn().unwrap()).expect(0);
    harness.untouched();
    for (flooded, other, case) in [(&out, &err, "R09"), (&err, &out, "R09-stderr")] {
        let held = format!("{case} held 1 refused; note: wrote {FLOOD} bytes of {FLOOD}");
        let other = std::fs::read(other).unwrap();
        assert!(other.windows(held.len()).any(|window| window == held.as_bytes()), "{case} did not hold");
        // What is not the flood are a few lines.
        let length = std::fs::metadata(flooded).unwrap().len();
        assert!((FLOOD..FLOOD + 1024).contains(&length), "{case}: {length}");
    }
}

fn objects(scene: &Scene) {
    let mut harness = Harness::new(scene, &[]);
    let limited = ["--memory", "256M", "--pids", "128", "--timeout", "1800"];
    let options = if scene.can_limit("memory") { &limited[..] } else { &limited[4..] };
    harness.holds(options, &["R10"]);
}
