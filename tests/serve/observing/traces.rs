//! Traces: rows, spans, and what a killed daemon leaves.

use super::{AT_ONCE, fulgurite, object, with_worker, work};
use crate::Alone;
use crate::action::Order;
use crate::daemon::{Home, PATIENCE};
use crate::racing::{Pair, told};
use fulgurite_sandbox::testing::settles;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub const ALONE: &[Alone] = &[
    ("observing::a_trace_has_a_row_for_each_slot_and_worker", trace),
    ("observing::a_trace_of_races_has_both_branches", trace_of_races),
    ("observing::a_killed_daemon_leaves_a_trace_that_can_be_replayed", killed),
    ("observing::a_run_leaves_a_trace", run_profile),
];

fn events(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The names of rows, by group and number.
fn rows(events: &[Value]) -> BTreeMap<(u64, u64), String> {
    let named = events.iter().filter(|event| event["name"] == "thread_name");
    let row = |event: &Value| {
        let number = |name: &str| event[name].as_u64().unwrap();
        ((number("pid"), number("tid")), event["args"]["name"].as_str().unwrap().to_owned())
    };
    named.map(row).collect()
}

/// Spans of a category or name, with the names of their rows.
fn spans<'a>(events: &'a [Value], field: &str, value: &str) -> Vec<(&'a Value, String)> {
    let rows = rows(events);
    let found = events.iter().filter(|event| event["ph"] == "X" && event[field] == value);
    found
        .map(|event| (event, rows[&(event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap())].clone()))
        .collect()
}

fn within(inner: &Value, outer: &Value) -> bool {
    let span = |event: &Value| {
        let from = event["ts"].as_u64().unwrap();
        (from, from + event["dur"].as_u64().unwrap())
    };
    let ((from, until), (outer_from, outer_until)) = (span(inner), span(outer));
    from >= outer_from && until <= outer_until
}

fn trace() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let profile = file.path().to_str().unwrap().to_owned();
    let Some((home, daemon, client)) = with_worker(&["--slots", "1", "--profile", &profile]) else { return };
    client.succeed(&work("proto", 1));
    client.succeed(&work("proto", 2));
    // With one slot and two sandboxes, the third waits for a reset.
    for number in 0..4 {
        client.succeed(&Order::sh(&format!("echo {number} > out")).outputs(&["out"]));
    }
    drop(client);
    daemon.end(&home);
    let events = events(file.path());
    let actions = spans(&events, "cat", "action");
    assert_eq!(actions.len(), 6);
    assert!(actions.iter().all(|(_, row)| row == "slot 0"), "{actions:?}");
    let by: Vec<&str> =
        actions.iter().map(|(event, _)| event["args"]["strategy"].as_str().unwrap()).collect();
    assert_eq!(by, ["worker", "worker", "sandboxed", "sandboxed", "sandboxed", "sandboxed"]);
    for (name, count) in [("stage", 6), ("run", 6), ("collect", 4)] {
        let phases = spans(&events, "name", name);
        assert_eq!(phases.len(), count, "{name}");
        let is_inside = |phase: &Value| actions.iter().any(|(action, _)| within(phase, action));
        assert!(phases.iter().all(|(phase, row)| row == "slot 0" && is_inside(phase)), "{phases:?}");
    }
    assert!(!spans(&events, "name", "reset").is_empty());
    let requests = spans(&events, "cat", "request");
    assert_eq!(requests.len(), 2);
    assert!(
        requests.iter().all(|(_, row)| row.starts_with("worker 1 ") || row.starts_with("worker 0 ")),
        "{requests:?}"
    );
    let waited = events.iter().filter(|event| event["cat"] == "queue").count();
    assert_eq!(waited, 12);
    let ends = events.iter().filter(|event| event["ph"] == "i").map(|event| event["name"].as_str().unwrap());
    let ends: Vec<&str> = ends.collect();
    assert!(ends.len() == 2 && ends[0] == "start" && ends[1].starts_with("end: "), "{ends:?}");
}

fn trace_of_races() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let pair = Pair::start(&[AT_ONCE, "--profile", file.path().to_str().unwrap()], &[]);
    let client = pair.racing.client();
    for line in ["local", "remote"] {
        let order = told();
        let running = client.execute(&order.upload(&client));
        let (here, there) = pair.gates(order.word());
        let (winner, _loser) = if line == "local" { (here, there) } else { (there, here) };
        winner.say(line);
        running.response();
    }
    drop(client);
    pair.end();
    let events = events(file.path());
    let actions = spans(&events, "cat", "action");
    assert_eq!(actions.len(), 2);
    for (name, prefix) in [("local", "slot "), ("remote", "remote of slot ")] {
        let branches = spans(&events, "name", name);
        assert_eq!(branches.len(), 2, "{name}");
        assert!(branches.iter().all(|(_, row)| row.starts_with(prefix)), "{branches:?}");
        assert!(branches.iter().all(|(branch, _)| actions.iter().any(|(action, _)| within(branch, action))));
        assert!(branches.iter().all(|(branch, _)| branch["args"]["why"].is_string()), "{branches:?}");
    }
    let moments: BTreeSet<&str> = events
        .iter()
        .filter(|event| event["ph"] == "i")
        .map(|event| event["name"].as_str().unwrap())
        .collect();
    assert!(moments.contains("claim local") && moments.contains("claim remote"), "{moments:?}");
    assert!(moments.contains("abort local") && moments.contains("abort remote"), "{moments:?}");
}

fn killed() {
    let home = Home::new();
    let profile = home.path("out.json");
    let daemon = home.start(&["--profile", profile.to_str().unwrap()]);
    let client = daemon.client();
    for number in 0..5 {
        client.succeed(&Order::sh(&format!("echo {number}")));
    }
    let read = || std::fs::read_to_string(&profile).unwrap();
    // What was told is written without being asked for.
    assert!(settles(PATIENCE, || read().matches("\"cat\":\"action\"").count() == 5), "{}", read());
    daemon.kill();
    drop(client);
    let text = read();
    assert!(!text.trim_end().ends_with(']'), "it was killed");
    let simulate = [
        "bench",
        "simulate",
        "--trace",
        profile.to_str().unwrap(),
        "--json",
        "--policy",
        "local-only,fulgurite",
    ];
    let report = object(fulgurite(&home, &simulate));
    let counts: Vec<&Value> = report["cases"].as_array().unwrap().iter().map(|case| &case["n"]).collect();
    assert!(!counts.is_empty() && counts.iter().all(|count| **count == 5), "{report}");
    // The next one begins anew.
    let daemon = home.start(&["--profile", profile.to_str().unwrap()]);
    daemon.end(&home);
    assert_eq!(spans(&events(&profile), "cat", "action").len(), 0);
}

fn run_profile() {
    let home = Home::new();
    let (tree, profile) = (home.path("tree"), home.path("run.json"));
    std::fs::create_dir(&tree).unwrap();
    let daemon = home.start(&[]);
    for options in [&["--stats", "/dev/null"][..], &["--daemon"]] {
        let mut command = fulgurite(&home, &["run"]);
        command.args(options).arg("--profile").arg(&profile).arg("--output").arg("out").current_dir(&tree);
        let ran = command.args(["--", "sh", "-c", "echo 1 > out"]).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let events = events(&profile);
        let action = spans(&events, "cat", "action");
        assert_eq!((action.len(), action[0].1.as_str()), (1, "run"));
        assert_eq!(action[0].0["args"]["mnemonic"], "sh");
        let phases = spans(&events, "cat", "phase");
        let names: Vec<&str> = phases.iter().map(|(phase, _)| phase["name"].as_str().unwrap()).collect();
        assert!(["stage", "run", "publish"].iter().all(|phase| names.contains(phase)), "{names:?}");
        std::fs::remove_file(&profile).unwrap();
    }
    daemon.end(&home);
}
