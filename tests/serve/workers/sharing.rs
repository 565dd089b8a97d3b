//! What a request sees, what stays of it, and who else sees that.

use super::scene::{PLAIN, Way, Work, details, each, report, tag, with};
use serde_json::Value;

pub fn own_inputs() {
    with(&[], |client, _| {
        for way in super::scene::WAYS.into_iter().filter(|way| way.is_own()) {
            let mut times = Value::Null;
            for name in ["one", "two", "three"] {
                let orders = ["--list=.", "--stat=kept", "--write=out/file=done", "--output=report"];
                let work = Work::new(way, &[], &orders)
                    .map(|order| order.input(&format!("src/{name}"), b"x").input("kept", b"kept"))
                    .map(|order| order.outputs(&["out/file", "report"]));
                let result = client.succeed(&work.order);
                let report: Value = serde_json::from_slice(&client.output(&result, "report")).unwrap();
                let listed = report["lists"]["."].to_string();
                for other in ["one", "two", "three"] {
                    assert_eq!(listed.contains(&format!("src/{other}")), other == name, "{listed}");
                }
                let now = report["stats"]["kept"]["modified_nanos"].clone();
                assert!(times.is_null() || times == now, "an input that stayed is newer: {times} {now}");
                times = now;
                assert_eq!(client.output(&result, "out/file"), b"done");
                let handoff = details(&result).handoff.unwrap();
                assert_eq!((handoff.copied, handoff.bytes_copied), (0, 0), "{handoff:?}");
            }
        }
    });
}

pub fn shared_view() {
    with(&["--set", "worker.view=shared", "--set", "worker.per_key_max=1"], |client, _| {
        for wire in super::scene::WIRES {
            let way = Way { wire, view: "shared" };
            let (mut inode, mut uuid) = (Value::Null, Value::Null);
            for name in ["one", "two", "three"] {
                let orders =
                    ["--list=.", "--stat=kept", "--write=out/file=done", "--write=junk=x", "--output=report"];
                let work = Work::new(way, &[], &orders).map(|order| {
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
            let spoiled = Work::new(way, &[], &["--write=kept=spoiled", "--symlink=/etc=src"]);
            client.succeed(&spoiled.map(|order| order.input("kept", b"kept")).order);
            let again = Work::new(way, &[], &["--read=kept", "--read=src/one"])
                .map(|order| order.input("kept", b"kept").input("src/one", b"x"));
            let (report, _) = report(client, &again);
            assert_eq!(report["reads"]["kept"]["text"], "kept");
            assert_eq!(report["reads"]["src/one"]["text"], "x");
            assert_eq!(report["uuid"], uuid);
        }
    });
}

/// A worker that remembers everything tells it to its own tenant only.
pub fn tenants() {
    each(&["--set", "instances.other.execution=true"], |client, _, way| {
        let asked = |instance: &str, secret: &str| {
            let work = Work::new(way, &["--fault=keep-arguments"], &[secret]);
            report(&client.of_instance(instance), &work).0
        };
        let (first, second) = (asked("", "--first-secret"), asked("", "--second-secret"));
        assert_eq!(first["uuid"], second["uuid"]);
        assert!(
            second["kept"].to_string().contains("--first-secret"),
            "this worker does not remember: {second}"
        );
        let other = asked("other", "--third-secret");
        assert_ne!(other["uuid"], first["uuid"]);
        assert_eq!(other["counter"], 1);
        assert!(!other.to_string().contains("first-secret"), "{other}");
        let back = asked("", "--fourth-secret");
        assert_eq!(back["uuid"], first["uuid"]);
        assert!(!back.to_string().contains("third-secret"), "{back}");
    });
}

/// What is in the store is whole, and what was there at the answer; who has the file open in that moment, and writes
/// at once, may be in it, and nobody later is.
pub fn late_writes() {
    each(&[], |client, _, way| {
        for fault in ["hold-open:write", "hold-mapped:write", "hold-mapped", "late-write", "late-write-fd"] {
            let flag = format!("--fault={fault}");
            let work = Work::new(way, &[&flag], &["--write=out=right", "--wait-for=flags"])
                .map(|order| order.outputs(&["out"]));
            // In one directory for all, the child of the first request writes into the second one's output.
            for _ in 0..if way.is_own() { 2 } else { 1 } {
                let result = client.succeed(&work.order);
                // Reading checks the bytes against their name.
                let written = client.output(&result, "out");
                let is_late = fault.ends_with(":write") && written.starts_with(b"LATE");
                assert!(written == b"right" || is_late, "{way:?} {fault}: {written:?}");
                assert_eq!(client.output(&result, "out"), written);
            }
        }
    });
}

pub fn uncached() {
    for (policy, kept) in [("all", [true, true]), ("keyed", [true, false]), ("none", [false, false])] {
        let setting = format!("worker.cache={policy}");
        with(&["--set", &setting], |client, _| {
            // One that declares a key, and one of which nothing is known but its program.
            for (declares, kept) in [true, false].into_iter().zip(kept) {
                let tag = tag();
                let work = Work::new(PLAIN, &[&tag], &["--write=out=x"]);
                let mut work = work.map(|order| order.outputs(&["out"]));
                if !declares {
                    work.order.action.platform = None;
                    work.order = work.order.property("supports-workers", "1");
                }
                work.order.action.do_not_cache = false;
                assert!(details(&client.succeed(&work.order)).persistent_worker.is_some());
                let digest = work.order.upload(client);
                assert_eq!(client.cached(&digest).is_some(), kept, "{policy} {declares}");
            }
        });
    }
}
