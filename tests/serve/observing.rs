//! What a daemon tells of itself: numbers for Prometheus, a trace for Perfetto, events for who watches.

mod traces;
mod watching;

use crate::Alone;
use crate::action::Order;
use crate::client::Client;
use crate::daemon::{Daemon, Home, PATIENCE};
use crate::racing::{Pair, told};
use crate::workers::scene::{PLAIN, Way, Work, fake};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

pub const ALONE: &[&[Alone]] = &[NUMBERS, traces::ALONE, watching::ALONE];

const NUMBERS: &[Alone] = &[
    ("observing::numbers_say_what_was_done", numbers),
    ("observing::numbers_are_only_where_they_are_wanted", unwanted),
    ("observing::numbers_of_workers_w14", numbers_of_workers),
    ("observing::numbers_of_races", numbers_of_races),
];

/// Both sides of a race start at once, whatever was measured.
const AT_ONCE: &str = "--dynamic_local_execution_delay=0";

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
