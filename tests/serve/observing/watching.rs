//! Events: in order, of all kinds, and without anybody who waits for a slow watcher.

use super::{AT_ONCE, fulgurite, with_worker, work};
use crate::Alone;
use crate::action::Order;
use crate::daemon::{Home, PATIENCE};
use crate::racing::{Pair, told};
use fulgurite::observe::limits::EVENTS_MAX;
use fulgurite_proto::v1;
use fulgurite_proto::v1::event::Event as Told;
use fulgurite_proto::v1::local_client::LocalClient;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use tonic::transport::Endpoint;

pub const ALONE: &[Alone] = &[
    ("observing::who_watches_sees_all_in_order", watching),
    ("observing::who_watches_sees_workers_and_races", watching_more),
    ("observing::a_slow_watcher_blocks_nobody_and_hears_it", slow),
];

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
