//! What a daemon tells of itself: numbers for Prometheus, a trace for Perfetto, events for who watches.

use crate::Alone;
use crate::action::Order;
use crate::client::Client;
use crate::daemon::{Daemon, Home, PATIENCE};
use crate::racing::{Pair, told};
use crate::workers::scene::{PLAIN, Way, Work, fake};
use fulgurite::observe::limits::EVENTS_MAX;
use fulgurite_proto::v1;
use fulgurite_proto::v1::event::Event as Told;
use fulgurite_proto::v1::local_client::LocalClient;
use fulgurite_sandbox::testing::settles;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use tonic::transport::Endpoint;

pub const ALONE: &[Alone] = &[
    ("observing::numbers_say_what_was_done", numbers),
    ("observing::numbers_are_only_where_they_are_wanted", unwanted),
    ("observing::numbers_of_workers_w14", numbers_of_workers),
    ("observing::numbers_of_races", numbers_of_races),
    ("observing::a_trace_has_a_row_for_each_slot_and_worker", trace),
    ("observing::a_trace_of_races_has_both_branches", trace_of_races),
    ("observing::a_killed_daemon_leaves_a_trace_that_can_be_replayed", killed),
    ("observing::a_run_leaves_a_trace", run_profile),
    ("observing::who_watches_sees_all_in_order", watching),
    ("observing::who_watches_sees_workers_and_races", watching_more),
    ("observing::a_slow_watcher_blocks_nobody_and_hears_it", slow),
];

const TOLD: &[&str] = &["--metrics", "127.0.0.1:0"];

/// Where numbers are told.
fn place(home: &Home) -> SocketAddr {
    let said = std::fs::read_to_string(home.path("stdout")).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("metrics at http://"));
    line.and_then(|line| line.strip_suffix("/metrics")).expect("no metrics are told").parse().unwrap()
}

/// Asks for a page, as an HTTP client without a library does.
fn get(at: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The samples of a page, by name and labels.
struct Page(BTreeMap<String, f64>);

impl Page {
    fn of(at: SocketAddr) -> Page {
        let answer = get(at, "GET /metrics");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("# EOF\n"), "{body}");
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        Page(body.lines().filter(|line| !line.starts_with('#')).map(sample).collect())
    }

    fn number(&self, name: &str) -> u64 {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0));
        *value as u64
    }

    /// Names without labels and without what stands behind those of histograms.
    fn families(&self) -> BTreeSet<String> {
        let family = |name: &String| {
            let name = name.split('{').next().unwrap();
            let of_times = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            of_times.unwrap_or(name).to_owned()
        };
        self.0.keys().map(family).collect()
    }

    /// Everything that is told stands in the document.
    fn check_documented(&self) {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let document = std::fs::read_to_string(document).unwrap();
        for family in self.families() {
            assert!(document.contains(&format!("| `{family}` |")), "{family} is not documented");
        }
    }
}

fn numbers() {
    let home = Home::new();
    let daemon = home.start(&[TOLD, &["--slots", "3"]].concat());
    let (client, at) = (daemon.client(), place(&home));
    let good = Order::sh("cat in > out; echo printed").input("in", b"input").outputs(&["out"]);
    client.succeed(&good);
    client.succeed(&good);
    client.run(&Order::sh("exit 3"));
    client.run(&Order::sh("sleep 60").timeout(1));
    let page = Page::of(at);
    let actions = |outcome: &str, strategy: &str| {
        page.number(&format!("fulgurite_actions_total{{outcome=\"{outcome}\",strategy=\"{strategy}\"}}"))
    };
    assert_eq!((actions("succeeded", "sandboxed"), actions("succeeded", "cached")), (1, 1));
    assert_eq!((actions("failed", "sandboxed"), actions("timed_out", "sandboxed")), (1, 1));
    for phase in ["queue", "stage", "run", "collect"] {
        let name = format!("fulgurite_action_phase_seconds_count{{phase=\"{phase}\"}}");
        assert_eq!(page.number(&name), 3, "{phase}");
    }
    assert_eq!(page.number("fulgurite_action_seconds_count{strategy=\"sandboxed\"}"), 3);
    assert!(page.number("fulgurite_store_blobs") > 0 && page.number("fulgurite_store_bytes") > 0);
    assert!(page.number("fulgurite_store_blobs_added_total{how=\"renamed\"}") > 0);
    assert_eq!(page.number("fulgurite_slots"), 3);
    assert_eq!(page.number("fulgurite_actions_running"), 0);
    assert_eq!(page.number("fulgurite_action_cache_lookups_total{found=\"yes\"}"), 1);
    assert_eq!(page.number("fulgurite_sandboxes{pool=\"actions\",state=\"leased\"}"), 0);
    assert!(page.number("fulgurite_sandboxes_made_total{pool=\"actions\"}") >= 3);
    // Resets are told when their sandboxes are used again.
    assert!(page.number("fulgurite_action_phase_seconds_count{phase=\"reset\"}") <= 3);
    page.check_documented();
    // Where there is no terminal, it is drawn once.
    let shown = String::from_utf8(fulgurite(&home, &["top"]).output().unwrap().stdout).unwrap();
    assert!(shown.contains(" 0 of 3 run, 0 wait\n") && !shown.contains('\x1b'), "{shown}");
    drop(client);
    daemon.end(&home);
}

fn unwanted() {
    let home = Home::new();
    let daemon = home.start(TOLD);
    let at = place(&home);
    // Those who say nothing keep nobody from asking.
    let silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(at).unwrap()).collect();
    assert!(get(at, "GET /").starts_with("HTTP/1.1 404 "));
    let refused = get(at, "POST /metrics");
    assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET"), "{refused}");
    assert!(get(at, "nonsense").starts_with("HTTP/1.1 400 "));
    Page::of(at).check_documented();
    drop(silent);
    daemon.end(&home);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = taken.local_addr().unwrap().to_string();
    let ended = home.refused(&["--listen", "127.0.0.1:0", "--metrics", &there]);
    assert!(
        !ended.status.success() && ended.stderr.contains("cannot listen at 127.0.0.1:"),
        "{}",
        ended.stderr
    );
    let daemon = home.start(&[]);
    assert!(!std::fs::read_to_string(home.path("stdout")).unwrap().contains("metrics"));
    daemon.end(&home);
}

/// A daemon that has the fake worker.
fn with_worker(arguments: &[&str]) -> Option<(Home, Daemon, Client)> {
    let Some(fake) = fake() else {
        crate::skip("observing", "built without --features test-fakes");
        return None;
    };
    let home = Home::new();
    let daemon = home.start(arguments);
    let client = daemon.client();
    client.put_large(&fake.1);
    Some((home, daemon, client))
}

fn work(wire: &'static str, number: usize) -> Order {
    Work::new(Way { wire, ..PLAIN }, &[], &["--read=in"]).order.input("in", number.to_string().as_bytes())
}

fn numbers_of_workers() {
    let Some((home, daemon, client)) = with_worker(TOLD) else { return };
    (0..3).for_each(|number| drop(client.succeed(&work("proto", number))));
    (0..2).for_each(|number| drop(client.succeed(&work("json", number))));
    let page = Page::of(place(&home));
    assert_eq!(page.number("fulgurite_actions_total{outcome=\"succeeded\",strategy=\"worker\"}"), 5);
    let of = |family: &str| -> Vec<u64> {
        let samples = page.0.iter().filter(|(name, _)| name.starts_with(&format!("{family}{{")));
        samples.map(|(_, value)| *value as u64).collect()
    };
    let mut requests = of("fulgurite_worker_requests");
    requests.sort_unstable();
    assert_eq!(requests, [2, 3]);
    let memory = of("fulgurite_worker_memory_kib");
    assert!(memory.len() == 2 && memory.iter().all(|kib| *kib > 0), "{memory:?}");
    assert_eq!(of("fulgurite_worker_starts_total").iter().sum::<u64>(), 2);
    assert_eq!(of("fulgurite_workers").iter().sum::<u64>(), 2);
    assert_eq!(of("fulgurite_io_backend"), [1]);
    assert_eq!(of("fulgurite_worker_ends_total").len(), 0);
    page.check_documented();
    // A crash is a reason of its own.
    client.run(&Work::new(PLAIN, &["--fault=exit@1"], &["--x"]).order);
    let page = Page::of(place(&home));
    let crashed =
        page.0.iter().find(|(name, _)| name.contains("worker_ends_total") && name.contains("crashed"));
    assert!(crashed.is_some(), "{:#?}", page.0);
    drop(client);
    daemon.end(&home);
}

const AT_ONCE: &str = "--dynamic_local_execution_delay=0";

fn numbers_of_races() {
    let pair = Pair::start(&[TOLD, &[AT_ONCE]].concat(), &[]);
    let client = pair.racing.client();
    for line in ["local", "remote"] {
        let order = told();
        let running = client.execute(&order.upload(&client));
        let (here, there) = pair.gates(order.word());
        // The other gate closes with its branch.
        let winner = if line == "local" { here } else { there };
        winner.say(line);
        running.response();
    }
    let page = Page::of(place(&pair.here));
    for winner in ["local", "remote"] {
        assert_eq!(page.number(&format!("fulgurite_races_total{{outcome=\"{winner}\"}}")), 1);
    }
    assert_eq!(page.number("fulgurite_races_both_started_total"), 2);
    let starts = |side: &str| -> u64 {
        let prefix = format!("fulgurite_race_branch_starts_total{{side=\"{side}\"");
        page.0.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, value)| *value as u64).sum()
    };
    assert_eq!((starts("local"), starts("remote")), (2, 2));
    assert_eq!(page.number("fulgurite_actions_total{outcome=\"succeeded\",strategy=\"remote\"}"), 1);
    assert_eq!(page.number("fulgurite_remote_breaker_open"), 0);
    assert!(page.number("fulgurite_remote_bytes_total{direction=\"up\"}") > 0);
    assert!(page.number("fulgurite_remote_bytes_total{direction=\"down\"}") > 0);
    page.check_documented();
    let status = object(fulgurite(&pair.here, &["status", "--json"]));
    assert_eq!(status["race"]["won"]["local"], 1, "{status}");
    assert_eq!(status["race"]["won"]["remote"], 1, "{status}");
    let whys = status["race"]["local_started"].as_object().unwrap();
    assert_eq!(whys.values().map(|value| value.as_u64().unwrap()).sum::<u64>(), 2, "{status}");
    drop(client);
    pair.end();
}

fn fulgurite(home: &Home, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    command.args(arguments).env("FULGURITE_DAEMON", home.path("socket")).stdin(Stdio::null());
    command
}

fn object(mut command: Command) -> Value {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

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

/// A `status --watch --json` that runs.
struct Watching {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watching {
    /// Returns when nothing that happens can be missed any more.
    fn start(home: &Home) -> Watching {
        let mut command = fulgurite(home, &["status", "--watch", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("watching"), "{said}");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Watching { child, lines }
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The next event of these kinds; others are passed over.
    fn next_of(&mut self, kinds: &[&str]) -> Value {
        loop {
            let event = self.next().expect("the stream has ended");
            if kinds.contains(&event["event"].as_str().unwrap()) {
                return event;
            }
        }
    }

    /// The daemon ends, and the stream with it.
    fn end(mut self) {
        while self.next().is_some() {}
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

fn watching() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let client = daemon.client();
    let mut watching = Watching::start(&home);
    let order = Order::sh("echo x > out").outputs(&["out"]);
    client.succeed(&order);
    client.succeed(&order);
    client.run(&Order::sh("exit 3"));
    let actions = ["queued", "started", "ended"];
    let seen: Vec<Value> = (0..7).map(|_| watching.next_of(&actions)).collect();
    let kinds: Vec<&str> = seen.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["queued", "started", "ended", "ended", "queued", "started", "ended"]);
    let strategies: Vec<&Value> = seen.iter().map(|event| &event["strategy"]).collect();
    assert_eq!((strategies[2], strategies[3]), (&Value::from("sandboxed"), &Value::from("cached")));
    assert_eq!((&seen[2]["exit_code"], &seen[6]["exit_code"]), (&Value::from("0"), &Value::from("3")));
    // The same names all the way.
    for fate in [&seen[0..3], &seen[4..7]] {
        let names: BTreeSet<(&str, &str)> = fate
            .iter()
            .map(|event| (event["action"].as_str().unwrap(), event["digest"].as_str().unwrap()))
            .collect();
        assert_eq!(names.len(), 1, "{fate:?}");
    }
    assert_eq!(seen[3]["digest"], seen[0]["digest"]);
    let sequences: Vec<u64> = seen.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted_by(|one, other| one < other), "{sequences:?}");
    drop(client);
    daemon.end(&home);
    watching.end();
}

fn watching_more() {
    let Some((home, daemon, client)) = with_worker(&[]) else { return };
    let mut watching = Watching::start(&home);
    client.succeed(&work("proto", 1));
    let started = watching.next_of(&["worker-started"]);
    let ended = watching.next_of(&["ended"]);
    assert_eq!(ended["strategy"], "worker", "{ended}");
    // At least two samples, as Bazel has them in its profile.
    for _ in 0..2 {
        let sample = watching.next_of(&["worker"]);
        assert_eq!((&sample["worker"], &sample["key"]), (&started["worker"], &started["key"]));
        assert!(sample["memory_kib"].as_u64().unwrap() > 0, "{sample}");
    }
    drop(client);
    daemon.end(&home);
    watching.end();
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let mut watching = Watching::start(&pair.here);
    let order = told();
    let running = client.execute(&order.upload(&client));
    let (here, _there) = pair.gates(order.word());
    here.say("local");
    running.response();
    let race = watching.next_of(&["race"]);
    assert_eq!(
        (&race["outcome"], &race["local_why"]),
        (&Value::from("local"), &Value::from("at_once")),
        "{race}"
    );
    assert_eq!(watching.next_of(&["ended"])["digest"], race["digest"]);
    drop(client);
    pair.end();
    watching.end();
}

fn slow() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let client = daemon.client();
    let order = Order::sh("true");
    client.succeed(&order);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut stream = runtime.block_on(async {
        let socket = format!("unix://{}", home.path("socket").display());
        // What nobody has read is at most a kilobyte.
        let endpoint = Endpoint::new(socket).unwrap().initial_stream_window_size(1024);
        let mut local = LocalClient::new(endpoint.connect().await.unwrap());
        local.watch(v1::WatchRequest {}).await.unwrap().into_inner()
    });
    let count = EVENTS_MAX as u64 + 500;
    let action = order.upload(&client);
    // All are answered, though the watcher reads nothing.
    for _ in 0..count {
        client.execute(&action).only_response();
    }
    let (mut seen, mut missed, mut last) = (0, 0, 0);
    while seen + missed < count {
        let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, stream.message()).await });
        let event = next.expect("the stream stands still").unwrap().expect("the stream has ended");
        assert!(event.sequence > last, "{event:?}");
        match event.event {
            Some(Told::Lagged(v1::Lagged { events })) => {
                missed += events;
                assert_eq!(event.sequence, last + events + 1);
            }
            Some(Told::Outcome(outcome)) => {
                assert!(outcome.cached);
                seen += 1;
            }
            _ => {}
        }
        last = event.sequence;
    }
    assert!(missed > 0 && seen >= EVENTS_MAX as u64 / 2, "{seen} were told, {missed} missed");
    drop((client, stream, runtime));
    daemon.end(&home);
}
