//! Workers with several requests at a time, each in a directory of its own.

use super::scene::{WIRES, Work, logs, report, response, tag, text, uuid_of, with};
use crate::client::{Client, Running, code};
use crate::daemon::{Home, PATIENCE};
use fulgurite_proto::reapi;
use fulgurite_sandbox::testing::settles;
use serde_json::Value;
use std::collections::BTreeSet;
use tonic::Code;

/// Sends a request, and waits until the worker has it.
fn begin(client: &Client, home: &Home, work: &Work) -> Running {
    let mut work = work.clone();
    let word = format!("begun{}", tag());
    let orders = format!("--stderr={word}\n{}", work.order.inputs.text("flags"));
    work.order = work.order.input("flags", orders.as_bytes());
    let running = client.execute(&work.order.upload(client));
    assert!(settles(PATIENCE, || logs(home).contains(&word)), "{word}: {}", logs(home));
    running
}

/// The report of a request that has succeeded.
fn reported(client: &Client, response: reapi::ExecuteResponse) -> Value {
    let result = response.result.unwrap();
    let said = client.stderr(&result);
    assert_eq!(result.exit_code, 0, "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

pub fn directories() {
    with(&[], |client, _| {
        for wire in WIRES {
            let work = |number: usize| {
                let name = format!("in{number}");
                let orders = ["--list=.", "--sleep-ms=300", "--write=out=x", "--output=report"];
                Work::of_many(wire, &[], &orders)
                    .map(|order| order.input(&name, b"x").outputs(&["out", "report"]))
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
            // An id never comes again.
            let (next, _) = report(client, &Work::of_many(wire, &[], &["--x"]));
            assert_eq!(next["request_id"], 5);
        }
    });
}

/// A second worker of the same kind starts while the first is at work, and neither touches the other's directories.
pub fn two_processes() {
    with(&[], |client, home| {
        for wire in WIRES {
            let work = |name: &str, orders: &[&str]| {
                Work::of_many(wire, &[&format!("--{name}")], orders)
                    .map(|order| order.property("worker-key-mnemonic", "Same").input(name, b"x"))
            };
            let first = begin(client, home, &work("one", &["--sleep-ms=1500", "--list=.", "--read=one"]));
            let (second, _) = report(client, &work("two", &["--list=.", "--read=two"]));
            let first = reported(client, first.response());
            assert_ne!(uuid_of(&first), uuid_of(&second));
            for (report, own, other) in [(first, "one", "two"), (second, "two", "one")] {
                assert_eq!(report["reads"][own]["text"], "x");
                assert!(!report["lists"]["."].to_string().contains(&format!("\"{other}\"")), "{report}");
                assert_eq!(report["request_id"], 1);
            }
        }
    });
}

pub fn bad_answer() {
    with(&["--set", "worker.on_crash=fail"], |client, home| {
        for wire in WIRES {
            let work = |orders: &[&str]| Work::of_many(wire, &[], orders);
            let good = begin(client, home, &work(&["--sleep-ms=1500"]));
            let bad = response(client, &work(&["--fault=bad-utf8"]));
            let said = text(client, &bad);
            let is_known = wire == "proto";
            if is_known {
                // Whose answer it is can be read: the others go on.
                assert_eq!(bad.result.as_ref().unwrap().exit_code, 1, "{said}");
                assert!(said.contains("Its output is not UTF-8"), "{said}");
                assert_eq!(reported(client, good.response())["counter"], 1);
            } else {
                // What is no JSON is nobody's answer. The other is retried alone, whatever becomes of crashes.
                assert!(said.contains("unparseable"), "{said}");
                assert_eq!(reported(client, good.response())["request_id"], 1);
            }
        }
    });
}

/// The others are retried once, each by itself, and only the one that is to blame fails.
pub fn crash() {
    with(&["--set", "worker.on_crash=fail"], |client, home| {
        for wire in WIRES {
            let work = |orders: &[&str]| Work::of_many(wire, &[], orders);
            // In the first process the n-th request gets no answer; in the next they come in other places.
            let (first, _) = report(client, &work(&["--x"]));
            let others: Vec<Running> = (2..=8)
                .map(|place| begin(client, home, &work(&[&format!("--fault=mute@{place}")])))
                .collect();
            let guilty = response(client, &work(&["--fault=exit"]));
            assert!(text(client, &guilty).contains("exited with code 7"), "{guilty:?}");
            assert_ne!(guilty.result.unwrap().exit_code, 0);
            for other in others {
                assert_ne!(reported(client, other.response())["uuid"], first["uuid"]);
            }
        }
    });
}

/// Its deadline is the end of its request alone; the others do not wait for theirs, which are an hour away.
pub fn stopped() {
    with(&[], |client, home| {
        for wire in WIRES {
            for fault in ["--fault=stop", "--fault=half"] {
                let startup = tag();
                let work = |orders: &[&str]| Work::of_many(wire, &[&startup], orders);
                let (first, _) = report(client, &work(&["--x"]));
                let others: Vec<Running> = (2..=4)
                    .map(|place| begin(client, home, &work(&[&format!("--fault=mute@{place}")])))
                    .collect();
                let late = response(client, &work(&[fault]).map(|order| order.timeout(1)));
                assert_eq!(code(late.status.as_ref()), Code::DeadlineExceeded, "{wire} {fault}: {late:?}");
                let uuids: BTreeSet<String> =
                    others.into_iter().map(|other| uuid_of(&reported(client, other.response()))).collect();
                assert_eq!(uuids.len(), 1, "{wire} {fault}: {uuids:?}");
                assert!(!uuids.contains(&uuid_of(&first)));
            }
        }
    });
}

/// A worker that can cancel is asked to, and stays.
pub fn late() {
    with(&[], |client, home| {
        for wire in WIRES {
            let work = |orders: &[&str]| {
                Work::of_many(wire, &[], orders)
                    .map(|order| order.property("supports-worker-cancellation", "1"))
            };
            let (first, _) = report(client, &work(&["--x"]));
            let other = begin(client, home, &work(&["--sleep-ms=3000"]));
            let late = response(client, &work(&["--sleep-ms=100000"]).map(|order| order.timeout(1)));
            assert_eq!(code(late.status.as_ref()), Code::DeadlineExceeded, "{wire}: {late:?}");
            let other = reported(client, other.response());
            assert_eq!((&other["uuid"], &other["counter"]), (&first["uuid"], &Value::from(2)));
            let (next, _) = report(client, &work(&["--y"]));
            assert_eq!((&next["uuid"], &next["counter"]), (&first["uuid"], &Value::from(4)));
        }
    });
}
