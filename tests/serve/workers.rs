//! Persistent workers behind the door: the same process for many actions, each with its own inputs and nothing else;
//! and whatever a worker does wrong costs one action.

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, named};
use crate::daemon::{Daemon, Home, PATIENCE};
use fulgurite_proto::{reapi, v1};
use fulgurite_sandbox::testing::settles;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::OnceLock;

pub const ALONE: &[Alone] = &[
    ("workers::w1_one_process_for_many_actions", one_process),
    ("workers::w2_flag_files_are_expanded", flag_files),
    ("workers::w9_another_tool_is_another_worker", another_tool),
    ("workers::w10_w11_what_is_not_asked_for_is_not_there", not_asked_for),
    ("workers::w15_each_request_sees_its_own_inputs", own_inputs),
    ("workers::a_shared_view_has_the_inputs_of_one_request", shared_view),
    ("workers::w6_w8_a_crash_costs_one_action", crashes),
    ("workers::what_is_no_response_costs_one_action", nonsense),
    ("workers::w08_a_hang_ends_at_the_deadline", hangs),
    ("workers::w11_late_writes_reach_nobody", late_writes),
    ("workers::multiplex_requests_have_a_directory_each", multiplex),
    ("workers::a_canceled_caller_is_free_and_the_worker_returns", canceled),
    ("workers::policy_may_refuse_to_cache", uncached),
    ("workers::w17_logs_of_the_last_start_are_gone", old_logs),
];

const WIRES: [&str; 2] = ["proto", "json"];

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
fn with(arguments: &[&str], test: impl FnOnce(&Client, &Home)) {
    if fake().is_none() {
        return println!("SKIP workers: built without --features test-fakes");
    }
    let home = Home::new();
    let daemon: Daemon = home.start(&[&["--slots", "5"], arguments].concat());
    let client = daemon.client();
    client.put_large(&fake().unwrap().1);
    test(&client, &home);
    drop(client);
    daemon.end(&home);
}

/// An action for the worker: its startup arguments, and one request.
#[derive(Clone)]
pub struct Work {
    pub order: Order,
}

impl Work {
    pub fn new(wire: &str, startup: &[&str], orders: &[&str]) -> Work {
        let protocol = format!("--protocol={wire}");
        let mut arguments = vec!["tools/worker", &protocol];
        arguments.extend(startup);
        arguments.push("@flags");
        let mut order = Order::of(&arguments).property("persistentWorkerKey", "key");
        order = order.property("persistentWorkerProtocol", wire).uncached();
        order.inputs.add_known("tools/worker", &fake().unwrap().0, true);
        Work { order: order.input("flags", orders.join("\n").as_bytes()) }
    }

    fn map(mut self, change: impl FnOnce(Order) -> Order) -> Work {
        self.order = change(self.order);
        self
    }
}

fn response(client: &Client, work: &Work) -> reapi::ExecuteResponse {
    client.run(&work.order)
}

/// Its report, and who made it.
fn report(client: &Client, work: &Work) -> (Value, Option<v1::PersistentWorker>) {
    let result = client.succeed(&work.order);
    let text = client.stderr(&result);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (report, details(&result).persistent_worker)
}

fn details(result: &reapi::ActionResult) -> v1::ExecutionDetails {
    let metadata = result.execution_metadata.as_ref().unwrap();
    let ours = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("ExecutionDetails"));
    v1::ExecutionDetails::decode(ours.unwrap().value.as_slice()).unwrap()
}

fn text(client: &Client, response: &reapi::ExecuteResponse) -> String {
    client.stderr(response.result.as_ref().unwrap())
}

fn one_process() {
    with(&[], |client, _| {
        for wire in WIRES {
            let uuids: BTreeSet<String> = (1..=4)
                .map(|number: u64| {
                    let content = number.to_string();
                    let work = Work::new(wire, &[], &["--read=in"])
                        .map(|order| order.input("in", content.as_bytes()));
                    let (report, worker) = report(client, &work);
                    assert_eq!(report["counter"], number, "{report}");
                    assert_eq!(report["reads"]["in"]["text"], content, "{report}");
                    assert_eq!(report["request_id"], 0);
                    let inputs: Vec<&str> = report["inputs"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter_map(|one| one[0].as_str())
                        .collect();
                    assert_eq!(inputs, ["flags", "in", "tools/worker"]);
                    let worker = worker.expect("no worker made it");
                    assert_eq!((worker.request, worker.key_quality.as_str()), (number, "declared"));
                    assert!(worker.sealed, "{worker:?}");
                    report["uuid"].as_str().unwrap().to_owned()
                })
                .collect();
            assert_eq!(uuids.len(), 1, "{wire}: {uuids:?}");
        }
    });
}

fn flag_files() {
    with(&[], |client, _| {
        let mut work =
            Work::new("proto", &[], &["--x", "@more", "@@literal", "@repo//label:x", "-flagfile=z"])
                .map(|order| order.input("more", b"--y\n@even/more\n").input("even/more", b"--z\n"));
        work.order.command.arguments.push("--flagfile=kept".to_owned());
        let (report, _) = report(client, &work);
        let expected = ["--x", "--y", "--z", "@@literal", "@repo//label:x", "-flagfile=z", "--flagfile=kept"];
        assert_eq!(report["arguments"], Value::from(expected.to_vec()));
        let missing = Work::new("proto", &[], &["@nowhere"]);
        let response = response(client, &missing);
        let why = details(response.result.as_ref().unwrap()).one_shot_because;
        assert!(why.contains("'nowhere': file is not a declared input"), "{why}");
    });
}

fn another_tool() {
    with(&[], |client, home| {
        let uuid = |work: &Work| report(client, work).0["uuid"].as_str().unwrap().to_owned();
        let flag = |flag: &str| uuid(&Work::new("proto", &[flag], &["--x"]));
        let first = flag("--one");
        assert_eq!(first, flag("--one"));
        assert_ne!(first, flag("--two"), "flags are a part of the key, though the declared key is the same");
        let environment = Work::new("proto", &["--one"], &["--x"]).map(|mut order| {
            let (name, value) = ("A".to_owned(), "b".to_owned());
            order.command.environment_variables.push(reapi::command::EnvironmentVariable { name, value });
            order
        });
        assert_ne!(first, uuid(&environment), "so is the environment");
        let marked = |lib: &str| {
            uuid(&Work::new("proto", &["--three"], &["--x"]).map(|mut order| {
                order.inputs.add_tool("tools/lib", lib.as_bytes());
                order
            }))
        };
        let old = marked("old");
        assert_eq!(old, marked("old"));
        assert_ne!(old, marked("new"));
        let said = home.said();
        assert!(said.contains("its files have changed on disk"), "{said}");
        assert!(said.contains("tools/lib: ") && said.contains(" -> "), "{said}");
    });
}

fn not_asked_for() {
    with(&[], |client, _| {
        let mut work = Work::new("proto", &[], &["--say=by itself"]);
        work.order.action.platform = None;
        let result = client.succeed(&work.order);
        assert!(details(&result).persistent_worker.is_none());
        assert_eq!(details(&result).one_shot_because, "");
        let bad = Work::new("smoke", &[], &["--say=by itself"]);
        let response = response(client, &bad);
        let why = details(response.result.as_ref().unwrap()).one_shot_because;
        assert!(why.contains("\"smoke\" is unknown"), "{why}");
        // Names of other dialects ask for one, and the key has then nothing but the program.
        let mut other = Work::new("proto", &[], &["--x"]);
        other.order.action.platform = None;
        other.order = other.order.property("supports-workers", "1");
        let (report, worker) = report(client, &other);
        assert_eq!(worker.unwrap().key_quality, "weak");
        assert!(!report["environment"].to_string().contains("FULGURITE"), "{report}");
    });
}

fn own_inputs() {
    with(&[], |client, _| {
        for wire in WIRES {
            for name in ["one", "two", "three"] {
                let work = Work::new(wire, &[], &["--list=.", "--write=out/file=done", "--output=report"])
                    .map(|order| order.input(&format!("src/{name}"), b"x").outputs(&["out/file", "report"]));
                let result = client.succeed(&work.order);
                let report: Value = serde_json::from_slice(&client.output(&result, "report")).unwrap();
                let listed = report["lists"]["."].to_string();
                for other in ["one", "two", "three"] {
                    assert_eq!(listed.contains(&format!("src/{other}")), other == name, "{listed}");
                }
                assert_eq!(client.output(&result, "out/file"), b"done");
                let handoff = details(&result).handoff.unwrap();
                assert_eq!((handoff.copied, handoff.bytes_copied), (0, 0), "{handoff:?}");
            }
        }
    });
}

fn shared_view() {
    with(&["--set", "worker.view=shared", "--set", "worker.per_key_max=1"], |client, _| {
        for wire in WIRES {
            let (mut inode, mut uuid) = (Value::Null, Value::Null);
            for name in ["one", "two", "three"] {
                let orders =
                    ["--list=.", "--stat=kept", "--write=out/file=done", "--write=junk=x", "--output=report"];
                let work = Work::new(wire, &[], &orders).map(|order| {
                    let order = order.input(&format!("src/{name}"), b"x").input("kept", b"kept");
                    order.outputs(&["out/file", "report"])
                });
                let result = client.succeed(&work.order);
                let report: Value = serde_json::from_slice(&client.output(&result, "report")).unwrap();
                let listed = report["lists"]["."].to_string();
                assert!(listed.contains(&format!("src/{name}")) && !listed.contains("junk"), "{listed}");
                for other in ["one", "two", "three"].iter().filter(|other| **other != name) {
                    assert!(!listed.contains(&format!("src/{other}")), "{listed}");
                }
                assert_eq!(client.output(&result, "out/file"), b"done");
                let now = report["stats"]["kept"].clone();
                assert!(inode.is_null() || inode == now, "an input that stayed was made anew: {inode} {now}");
                assert!(uuid.is_null() || uuid == report["uuid"], "another process");
                (inode, uuid) = (now, report["uuid"].clone());
            }
            // What the worker has changed is an input again for the next.
            let spoiled = Work::new(wire, &[], &["--write=kept=spoiled", "--symlink=/etc=src"]);
            client.succeed(&spoiled.map(|order| order.input("kept", b"kept")).order);
            let again = Work::new(wire, &[], &["--read=kept", "--read=src/one"])
                .map(|order| order.input("kept", b"kept").input("src/one", b"x"));
            let (report, _) = report(client, &again);
            assert_eq!(report["reads"]["kept"]["text"], "kept");
            assert_eq!(report["reads"]["src/one"]["text"], "x");
            assert_eq!(report["uuid"], uuid);
        }
    });
}

fn crashes() {
    with(&["--set", "worker.on_crash=fail"], |client, _| {
        for wire in WIRES {
            for (fault, says) in [("exit", "exited with code 7"), ("signal", "SIGSEGV")] {
                let fault = format!("--fault={fault}");
                let response = response(client, &Work::new(wire, &[], &[&fault]));
                let said = text(client, &response);
                assert!(response.result.as_ref().unwrap().exit_code != 0);
                assert!(said.contains("did not return a WorkResponse") && said.contains(says), "{said}");
                assert!(said.contains("---8<---8<--- Start of log, file at "), "{said}");
                let (report, _) = report(client, &Work::new(wire, &[], &["--x"]));
                assert_eq!(report["counter"], 1, "a new worker");
            }
        }
    });
    with(&[], |client, _| {
        // The first request of a process crashes it; the retry does as well, being the first of the next.
        let response = response(client, &Work::new("proto", &["--fault=exit@1"], &["--x"]));
        assert!(text(client, &response).contains("exited with code 7"));
        // The second one does: it is retried on a fresh worker, where it is the first.
        let work = |order: &str| Work::new("proto", &["--fault=exit@2"], &[order]);
        assert_eq!(report(client, &work("--a")).0["counter"], 1);
        let (report, worker) = report(client, &work("--b"));
        assert_eq!((report["counter"].clone(), worker.unwrap().request), (Value::from(1), 1));
    });
    with(&["--set", "worker.on_crash=one-shot"], |client, _| {
        let work = Work::new("proto", &["--fault=exit"], &["--x"]);
        let response = response(client, &work);
        let result = response.result.as_ref().unwrap();
        assert!(details(result).one_shot_because.contains("exited with code 7"), "{result:?}");
    });
}

fn nonsense() {
    with(&["--set", "worker.on_crash=fail"], |client, _| {
        for wire in WIRES {
            for (fault, says) in [
                ("junk", "unparseable"),
                ("hex-junk", "unparseable"),
                ("endless-varint", "unparseable"),
                ("huge-length", "unparseable"),
                ("truncated", ""),
                ("unknown-id", "which it does not have"),
                ("id-range", "which it does not have"),
                ("false-cancel", "without having cancelled"),
                ("close-stdout", "did not return a WorkResponse"),
                ("bad-field", ""),
            ] {
                // An endless string is no nonsense before its bound.
                if (wire, fault) == ("json", "huge-length") {
                    continue;
                }
                let fault_flag = format!("--fault={fault}");
                let response = response(client, &Work::new(wire, &[], &[&fault_flag]));
                let said = text(client, &response);
                assert_ne!(response.result.as_ref().unwrap().exit_code, 0, "{wire} {fault}");
                assert!(said.contains(says), "{wire} {fault}: {said}");
                let (report, _) = report(client, &Work::new(wire, &[], &["--x"]));
                assert_eq!(report["counter"], 1, "{wire} {fault}: a new worker");
            }
            // The first reply stands, and the next request sees neither.
            let twice = Work::new(wire, &[], &["--fault=double-reply", "--write=out=x"])
                .map(|order| order.outputs(&["out"]));
            let result = client.succeed(&twice.order);
            assert_eq!(client.output(&result, "out"), b"x");
            report(client, &Work::new(wire, &[], &["--x"]));
        }
    });
}

fn hangs() {
    with(&[], |client, _| {
        for fault in ["--fault=hang", "--fault=stop", "--fault=half"] {
            let work = Work::new("proto", &[], &[fault]).map(|order| order.timeout(1));
            let response = response(client, &work);
            let status = response.status.clone().unwrap_or_default();
            assert_eq!(status.code, tonic::Code::DeadlineExceeded as i32, "{fault}: {status:?}");
            let (report, _) = report(client, &Work::new("proto", &[], &["--x"]));
            assert_eq!(report["counter"], 1, "{fault}: a new worker");
        }
    });
}

fn late_writes() {
    with(&[], |client, _| {
        for fault in ["hold-open:write", "hold-mapped", "late-write", "late-write-fd"] {
            let fault = format!("--fault={fault}");
            let work = Work::new("proto", &[&fault], &["--write=out=right", "--wait-for=flags"])
                .map(|order| order.outputs(&["out"]));
            for _ in 0..2 {
                let result = client.succeed(&work.order);
                assert_eq!(client.output(&result, "out"), b"right", "{fault}");
            }
        }
    });
}

fn multiplex() {
    with(&[], |client, _| {
        for wire in WIRES {
            let work = |number: usize| {
                let name = format!("in{number}");
                Work::new(
                    wire,
                    &["--multiplex"],
                    &["--list=.", "--sleep-ms=300", "--write=out=x", "--output=report"],
                )
                .map(|order| order.input(&name, b"x").outputs(&["out", "report"]))
                .map(|order| order.property("supports-multiplex-workers", "1"))
                .map(|order| order.property("supports-multiplex-sandboxing", "1"))
            };
            let running: Vec<_> = (0..4)
                .map(|number| {
                    let digest = work(number).order.upload(client);
                    (number, client.execute(&digest))
                })
                .collect();
            let mut ids = BTreeSet::new();
            let mut uuids = BTreeSet::new();
            for (number, running) in running {
                let response = running.response();
                let result = response.result.unwrap();
                assert_eq!(result.exit_code, 0, "{}", client.stderr(&result));
                let report: Value = serde_json::from_slice(&client.output(&result, "report")).unwrap();
                let listed = report["lists"]["."].to_string();
                for other in 0..4 {
                    assert_eq!(listed.contains(&format!("in{other}")), other == number, "{listed}");
                }
                assert!(report["sandbox_dir"].as_str().unwrap().starts_with("_w/"), "{report}");
                ids.insert(report["request_id"].as_i64().unwrap());
                uuids.insert(report["uuid"].as_str().unwrap().to_owned());
            }
            assert_eq!(ids, (1..=4).collect(), "{wire}");
            assert_eq!(uuids.len(), 1, "{wire}");
        }
    });
}

fn canceled() {
    with(&["--set", "worker.finish_max=60s", "--set", "worker.per_key_max=1"], |client, home| {
        for cancels in ["0", "1"] {
            let work = |orders: &[&str]| {
                Work::new("proto", &[], orders)
                    .map(|order| order.property("supports-worker-cancellation", cancels))
            };
            let (before, _) = report(client, &work(&["--x"]));
            let begun = format!("--stderr=begun {cancels}");
            let digest = work(&[&begun, "--sleep-ms=1000"]).order.upload(client);
            let running = client.execute(&digest);
            let said = || {
                let logs = std::fs::read_dir(home.state().join("workers")).unwrap();
                logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect::<String>()
            };
            assert!(settles(PATIENCE, || said().contains(&begun["--stderr=".len()..])));
            client.cancel(&running.name.clone()).unwrap();
            drop(running.try_response());
            // The worker has finished or given up what nobody reads, and goes on: there is only one.
            let (after, _) = report(client, &work(&["--y"]));
            assert_eq!(after["uuid"], before["uuid"]);
            assert!(after["counter"].as_u64().unwrap() >= 3, "{after}");
        }
    });
}

fn uncached() {
    for (policy, kept) in [("all", true), ("none", false)] {
        let setting = format!("worker.cache={policy}");
        with(&["--set", &setting], |client, _| {
            let mut work = Work::new("proto", &[], &["--write=out=x"]).map(|order| order.outputs(&["out"]));
            work.order.action.do_not_cache = false;
            client.succeed(&work.order);
            let digest = work.order.upload(client);
            assert_eq!(client.cached(&digest).is_some(), kept, "{policy}");
        });
    }
}

fn old_logs() {
    if fake().is_none() {
        return println!("SKIP workers: built without --features test-fakes");
    }
    let home = Home::new();
    let logs = || std::fs::read_dir(home.state().join("workers")).unwrap().count();
    let daemon = home.start(&[]);
    daemon.client().put_large(&fake().unwrap().1);
    report(&daemon.client(), &Work::new("proto", &[], &["--stderr=noise"]));
    assert_eq!(logs(), 1);
    daemon.end(&home);
    let daemon = home.start(&[]);
    assert_eq!(logs(), 0);
    daemon.end(&home);
}
