//! What tests of workers have in common: the fake worker, daemons for it, and actions that ask for it.

use crate::action::Order;
use crate::client::{Client, named};
use crate::daemon::{Daemon, Home, PATIENCE, pids_with};
use fulgurite_proto::{reapi, v1};
use fulgurite_sandbox::testing::settles;
use prost::Message;
use serde_json::Value;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A wire and a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub wire: &'static str,
    pub view: &'static str,
}

/// Both of Bazel's wires, sandboxed request by request, and with one directory for all.
pub const WAYS: [Way; 4] = [
    Way { wire: "proto", view: "own" },
    Way { wire: "json", view: "own" },
    Way { wire: "proto", view: "shared" },
    Way { wire: "json", view: "shared" },
];

/// The wire and the view that are there without a word.
pub const PLAIN: Way = WAYS[0];

pub const WIRES: [&str; 2] = ["proto", "json"];

impl Way {
    pub fn is_own(self) -> bool {
        self.view == "own"
    }
}

thread_local! {
    /// By what the daemons of this test talk to workers, if not by what they like.
    static BACKEND: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs a test whose daemons talk to workers over epoll.
pub fn on_epoll(test: fn()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            BACKEND.set(None);
        }
    }
    BACKEND.set(Some("epoll"));
    let _reset = Reset;
    test();
}

/// The worker that other tests use as well, with every fault by flag.
pub fn fake() -> Option<&'static (reapi::Digest, Vec<u8>)> {
    static FAKE: OnceLock<(reapi::Digest, Vec<u8>)> = OnceLock::new();
    let path = option_env!("CARGO_BIN_EXE_fulgurite-fake-worker")?;
    Some(FAKE.get_or_init(|| {
        let bytes = std::fs::read(path).unwrap();
        (named(&bytes), bytes)
    }))
}

/// Runs with a daemon of its own.
pub fn with(arguments: &[&str], test: impl FnOnce(&Client, &Home)) {
    with_variables(arguments, &[], test);
}

/// The same, with variables in the daemon's environment.
pub fn with_variables(arguments: &[&str], variables: &[(&str, &str)], test: impl FnOnce(&Client, &Home)) {
    if fake().is_none() {
        return println!("SKIP workers: built without --features test-fakes");
    }
    let home = Home::new();
    let backend = BACKEND.get();
    let mut variables = variables.to_vec();
    variables.extend(backend.map(|backend| ("FULGURITE_WORKER_IPC", backend)));
    let daemon: Daemon = home.start_with(&[&["--slots", "9"], arguments].concat(), &variables);
    if let Some(backend) = backend {
        assert!(home.said().contains(&format!("talked to by {backend}")), "{}", home.said());
    }
    let client = daemon.client();
    client.put_large(&fake().unwrap().1);
    test(&client, &home);
    drop(client);
    daemon.end(&home);
}

/// Runs each way with one daemon, all at the same time.
pub fn each(arguments: &[&str], test: impl Fn(&Client, &Home, Way) + Sync) {
    with(arguments, |client, home| {
        std::thread::scope(|scope| {
            for way in WAYS {
                let test = &test;
                scope.spawn(move || test(client, home, way));
            }
        });
    });
}

/// An action for the worker: its startup arguments, and one request.
#[derive(Clone)]
pub struct Work {
    pub order: Order,
}

impl Work {
    pub fn new(way: Way, startup: &[&str], orders: &[&str]) -> Work {
        let protocol = format!("--protocol={}", way.wire);
        let mut arguments = vec!["tools/worker", &protocol];
        arguments.extend(startup);
        arguments.push("@flags");
        let mut order = Order::of(&arguments).property("persistentWorkerKey", "key");
        order = order.property("persistentWorkerProtocol", way.wire).uncached();
        order = order.property("fulgurite-worker-view", way.view);
        order.inputs.add_known("tools/worker", &fake().unwrap().0, true);
        Work { order: order.input("flags", orders.join("\n").as_bytes()) }
    }

    /// One of many at a time, each with a directory.
    pub fn of_many(wire: &'static str, startup: &[&str], orders: &[&str]) -> Work {
        let way = Way { wire, view: "own" };
        Work::new(way, &[&["--multiplex"], startup].concat(), orders)
            .map(|order| order.property("supports-multiplex-workers", "1"))
            .map(|order| order.property("supports-multiplex-sandboxing", "1"))
    }

    pub fn map(mut self, change: impl FnOnce(Order) -> Order) -> Work {
        self.order = change(self.order);
        self
    }

    /// With a variable for the worker and all that it starts.
    pub fn variable(mut self, name: &str, value: &str) -> Work {
        let (name, value) = (name.to_owned(), value.to_owned());
        let variable = reapi::command::EnvironmentVariable { name, value };
        self.order.command.environment_variables.push(variable);
        self
    }
}

/// A startup argument that no other worker has, by which its process is found.
pub fn tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("--tag=worker-{}-{}-end", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The one process with this tag.
pub fn only_pid(tag: &str) -> u32 {
    let pids = pids_with(tag);
    assert_eq!(pids.len(), 1, "{tag}: {pids:?}");
    pids[0]
}

/// Waits until no process has this tag.
pub fn until_gone(tag: &str) {
    let mut left = Vec::new();
    let is_gone = settles(PATIENCE, || {
        left = pids_with(tag);
        left.is_empty()
    });
    assert!(is_gone, "{tag} stays: {left:?}");
}

pub fn response(client: &Client, work: &Work) -> reapi::ExecuteResponse {
    client.run(&work.order)
}

/// Its report, and who made it.
pub fn report(client: &Client, work: &Work) -> (Value, Option<v1::PersistentWorker>) {
    let result = client.succeed(&work.order);
    let text = client.stderr(&result);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (report, details(&result).persistent_worker)
}

/// Of a report.
pub fn uuid_of(report: &Value) -> String {
    report["uuid"].as_str().unwrap().to_owned()
}

pub fn details(result: &reapi::ActionResult) -> v1::ExecutionDetails {
    let metadata = result.execution_metadata.as_ref().unwrap();
    let ours = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("ExecutionDetails"));
    v1::ExecutionDetails::decode(ours.unwrap().value.as_slice()).unwrap()
}

pub fn text(client: &Client, response: &reapi::ExecuteResponse) -> String {
    client.stderr(response.result.as_ref().unwrap())
}

/// Why it ran without a worker.
pub fn one_shot_because(response: &reapi::ExecuteResponse) -> String {
    details(response.result.as_ref().unwrap()).one_shot_because
}

/// What all workers of the daemon of this home wrote to standard error.
pub fn logs(home: &Home) -> String {
    let logs = std::fs::read_dir(home.state().join("workers")).unwrap();
    logs.flatten().map(|log| std::fs::read_to_string(log.path()).unwrap_or_default()).collect()
}

/// What `fulgurite workers` prints.
pub fn listed(home: &Home, options: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    let out = command.arg("workers").arg("--daemon").arg(home.path("socket")).args(options).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
