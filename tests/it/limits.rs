//! Limits that hold, limits that cannot be applied, and the statistics that tell what was used.

use serde_json::Value;

use crate::scene::{Scene, skip};

both! {
    statistics: statistics_as_root, statistics_as_user;
    statistics_of_every_ending: statistics_of_every_ending_as_root, statistics_of_every_ending_as_user;
    memory: memory_as_root, memory_as_user;
    processes: processes_as_root, processes_as_user;
    cpu: cpu_as_root, cpu_as_user;
    limits_that_cannot_be: limits_that_cannot_be_as_root, limits_that_cannot_be_as_user;
    burner: burner_as_root, burner_as_user;
}

const KEYS: [&str; 17] = [
    "outcome",
    "message",
    "exit_code",
    "signal",
    "oom",
    "wall_us",
    "cpu_user_us",
    "cpu_system_us",
    "cpu_source",
    "memory_peak_bytes",
    "memory_source",
    "oom_kills",
    "pids_denied",
    "stragglers",
    "enforced",
    "phases",
    "outputs",
];
const ENFORCED: [&str; 7] = [
    "no_new_privs",
    "capabilities_dropped",
    "seccomp_instructions",
    "landlock_abi",
    "rlimits",
    "limits",
    "missing",
];
const PHASES: [&str; 8] =
    ["runtime_us", "sandbox_us", "stage_us", "start_us", "run_us", "quiet_us", "collect_us", "publish_us"];
const OUTPUTS: [&str; 4] = ["published", "handoff", "bytes_copied", "undeclared"];

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted<const N: usize>(mut names: [&'static str; N]) -> Vec<&'static str> {
    names.sort_unstable();
    names.to_vec()
}

/// Runs a script with `--stats`, and reads them.
fn stats_of(scene: &Scene, options: &[&str], script: &str, code: i32) -> Value {
    let file = scene.dir().join("stats.json");
    let mut all = vec!["--stats", file.to_str().unwrap()];
    all.extend(options);
    scene.sh(&all, script).expect(code);
    let stats = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    stats
}

fn statistics(scene: &Scene) {
    let stats = stats_of(scene, &["--output", "o", "--list-undeclared"], "echo o > o; echo u > u", 0);
    assert_eq!(keys(&stats), sorted(KEYS));
    assert_eq!(keys(&stats["enforced"]), sorted(ENFORCED));
    assert_eq!(keys(&stats["phases"]), sorted(PHASES));
    assert_eq!(keys(&stats["outputs"]), sorted(OUTPUTS));
    assert_eq!((&stats["outcome"], &stats["exit_code"]), (&"exited".into(), &0.into()));
    assert_eq!((&stats["signal"], &stats["oom"]), (&Value::Null, &false.into()));
    assert_eq!(stats["outputs"]["published"], 1);
    assert_eq!(stats["outputs"]["undeclared"], serde_json::json!(["u"]));
    for enforced in ["no_new_privs", "capabilities_dropped", "rlimits"] {
        assert_eq!(stats["enforced"][enforced], true, "{enforced}");
    }
    assert!(stats["enforced"]["seccomp_instructions"].as_u64().unwrap() > 10);
    assert!(stats["wall_us"].as_u64().unwrap() >= stats["phases"]["run_us"].as_u64().unwrap());
    let done = scene.sh(&["--stats", "-"], "echo mixed in").silent();
    let (first, json) = done.text().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(first, "mixed in");
    assert_eq!(keys(&serde_json::from_str(&json).unwrap()), sorted(KEYS));
}

fn statistics_of_every_ending(scene: &Scene) {
    let check = |options: &[&str], script: &str, code: i32, outcome: &str| {
        let stats = stats_of(scene, options, script, code);
        assert_eq!(stats["outcome"], outcome, "{stats:#}");
        stats
    };
    assert_eq!(check(&[], "exit 7", 7, "exited")["exit_code"], 7);
    assert_eq!(check(&[], "kill -SEGV $$", 139, "signaled")["signal"], 11);
    check(&["--timeout", "0.2"], "sleep 1000", 124, "timed_out");
    let left = check(&[], "setsid sleep 1000 >&- 2>&- & sleep 0.1; exit 1", 1, "exited");
    assert!(left["stragglers"].as_u64().unwrap() >= 1, "{left:#}");
}

fn memory(scene: &Scene) {
    if !scene.can_limit("memory") {
        return skip("memory-limit", "this user can apply no memory limit here");
    }
    let eater = "x=x; while :; do x=$x$x; done";
    let done = scene.sh(&["--memory", "24M"], eater);
    done.one_line(137, &["ran out of memory (peak ", "limit 25165824 bytes)", "raise --memory"]);
    let stats = stats_of(scene, &["--memory", "24M"], eater, 137);
    assert_eq!((&stats["outcome"], &stats["oom"]), (&"out_of_memory".into(), &true.into()));
    assert!(stats["oom_kills"].as_u64().unwrap() >= 1);
    let peak = stats["memory_peak_bytes"].as_u64().unwrap();
    assert!((12 << 20..=25_165_824).contains(&peak), "{peak}");
    assert_eq!(stats["enforced"]["limits"]["memory_bytes"], 25_165_824);
    // A child that dies of it, with a parent that hides it, is told as well.
    let hidden = scene.sh(&["--memory", "24M"], &format!("sh -c '{eater}'; exit 0")).expect(137);
    assert!(hidden.stderr.lines().last().unwrap().contains("ran out of memory"), "{}", hidden.stderr);
    scene.sh(&["--memory", "1000M"], "true").silent();
}

fn processes(scene: &Scene) {
    if !scene.can_limit("pids") {
        return skip("pids-limit", "this user can apply no limit of processes here");
    }
    let script = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; exit 0";
    let file = scene.dir().join("stats.json");
    let done = scene.sh(&["--pids", "16", "--stats", file.to_str().unwrap()], script);
    assert!(done.stderr.contains("fork"), "{}", done.stderr);
    let stats: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(stats["pids_denied"].as_u64().unwrap() >= 1, "{stats:#}");
    assert_eq!(stats["enforced"]["limits"]["pids"], 16);
}

fn cpu(scene: &Scene) {
    if !scene.can_limit("cpu") {
        return skip("cpu-limit", "this user can apply no cpu limit here");
    }
    let stats = stats_of(scene, &["--cpus", "0.5"], "true", 0);
    assert_eq!(stats["enforced"]["limits"]["cpu_milli"], 500);
}

/// An ordinary user without delegated cgroups: a limit that was asked for is an error, and nothing runs.
fn limits_that_cannot_be(scene: &Scene) {
    for (what, option, value) in
        [("memory", "--memory", "1G"), ("cpu", "--cpus", "1"), ("pids", "--pids", "64")]
    {
        if scene.can_limit(what) {
            // Then it is tested that it holds.
            continue;
        }
        let options = [option, value, "--strategy", "standalone"];
        scene.sh(&options, "echo ran > ran").one_line(125, &["limit", "hint: "]);
        assert_eq!(scene.names("."), [""; 0]);
    }
}

fn burner(scene: &Scene) {
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; head -c 4000000000 /dev/zero > /dev/null";
    let stats = stats_of(scene, &[], script, 0);
    assert!(stats["cpu_user_us"].as_u64().unwrap() > 0, "{stats:#}");
    assert!(stats["cpu_system_us"].as_u64().unwrap() > 0, "{stats:#}");
    assert!(stats["memory_peak_bytes"].as_u64().unwrap() > 0, "{stats:#}");
    let source = if scene.can_limit("memory") { "cgroup" } else { "rusage" };
    assert_eq!(stats["memory_source"], source);
}
