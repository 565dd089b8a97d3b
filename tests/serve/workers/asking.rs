//! Which worker a request gets, and what it is told.

use super::scene::{
    PLAIN, Way, Work, details, each, fake, one_shot_because, report, response, text, uuid_of, with,
    with_variables,
};
use crate::client::named;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Once;

pub fn one_process() {
    each(&[], |client, _, way| {
        let mut digests = BTreeSet::new();
        let uuids: BTreeSet<String> = (1..=4)
            .map(|number: u64| {
                let content = number.to_string();
                let work =
                    Work::new(way, &[], &["--read=in"]).map(|order| order.input("in", content.as_bytes()));
                let (report, worker) = report(client, &work);
                assert_eq!(report["counter"], number, "{way:?} {report}");
                assert_eq!(report["reads"]["in"]["text"], content, "{report}");
                assert_eq!(report["request_id"], 0);
                let inputs = report["inputs"].as_array().unwrap().iter();
                let inputs: Vec<[&str; 2]> =
                    inputs.map(|one| [0, 1].map(|at| one[at].as_str().unwrap())).collect();
                assert_eq!(
                    inputs.iter().map(|one| one[0]).collect::<Vec<_>>(),
                    ["flags", "in", "tools/worker"]
                );
                digests.insert(inputs[1][1].to_owned());
                if way.wire == "proto" {
                    assert_eq!(inputs[1][1], named(content.as_bytes()).hash);
                }
                let worker = worker.expect("no worker made it");
                assert_eq!((worker.request, worker.key_quality.as_str()), (number, "declared"));
                assert_eq!(worker.sealed, way.is_own(), "{worker:?}");
                uuid_of(&report)
            })
            .collect();
        assert_eq!((uuids.len(), digests.len()), (1, 4), "{way:?}: {uuids:?} {digests:?}");
    });
}

pub fn flag_files() {
    each(&[], |client, _, way| {
        let mut work = Work::new(way, &[], &["--x", "@more", "@@literal", "@repo//label:x", "-flagfile=z"])
            .map(|order| order.input("more", b"--y\n@even/more\n").input("even/more", b"--z\n"));
        work.order.command.arguments.push("--flagfile=kept".to_owned());
        let (report, _) = report(client, &work);
        let expected = ["--x", "--y", "--z", "@@literal", "@repo//label:x", "-flagfile=z", "--flagfile=kept"];
        assert_eq!(report["arguments"], Value::from(expected.to_vec()));
        let missing = Work::new(way, &[], &["@nowhere"]);
        let why = one_shot_because(&response(client, &missing));
        assert!(why.contains("'nowhere': file is not a declared input"), "{why}");
    });
}

pub fn mnemonics() {
    let flags = [
        "--worker_extra_flag=Shared=--extra-one",
        "--worker_extra_flag=Shared=--extra-two",
        "--worker_extra_flag=Other=--other",
    ];
    each(&flags, |client, _, way| {
        let asked = |mnemonic: &str, shared: bool| {
            let mut work = Work::new(way, &["--x"], &["--y"]);
            if shared {
                work = work.map(|order| order.property("worker-key-mnemonic", "Shared"));
            }
            report(&client.of_build("build", mnemonic), &work).0
        };
        let ends = |report: &Value, expected: &[&str]| {
            let argv = report["argv"].as_array().unwrap();
            let from = argv.iter().position(|one| one == "--persistent_worker").unwrap();
            assert_eq!(argv[from + 1..], expected.iter().map(|one| Value::from(*one)).collect::<Vec<_>>());
        };
        let (first, second) = (asked("Javac", true), asked("Kotlinc", true));
        assert_eq!(first["uuid"], second["uuid"], "{way:?}: two kinds with one key are one worker");
        assert_eq!((&first["counter"], &second["counter"]), (&Value::from(1), &Value::from(2)));
        ends(&first, &["--extra-one", "--extra-two"]);
        let (other, plain) = (asked("Other", false), asked("Javac", false));
        ends(&other, &["--other"]);
        ends(&plain, &[]);
        assert_ne!(other["uuid"], plain["uuid"], "flags are a part of the key");
    });
}

pub fn strict() {
    with(&["--experimental_worker_strict_flagfiles"], |client, _| {
        let good = Work::new(PLAIN, &["@@literal"], &["--x"]);
        let argv = report(client, &good).0["argv"].to_string();
        assert!(argv.contains("\"@@literal\""), "{argv}");
        let mut before = Work::new(PLAIN, &[], &["--x"]).map(|order| order.input("more", b"--y"));
        before.order.command.arguments.push("@more".to_owned());
        let why = one_shot_because(&response(client, &before));
        assert!(why.contains("has a @flagfile or --flagfile= argument before the end"), "{why}");
        let mut after = Work::new(PLAIN, &[], &["--x"]);
        after.order.command.arguments.push("--y".to_owned());
        let why = one_shot_because(&response(client, &after));
        assert!(why.contains("does not end with a @flagfile or --flagfile= argument"), "{why}");
    });
}

pub fn another_tool() {
    each(&[], |client, _, way| {
        let uuid = |work: &Work| uuid_of(&report(client, work).0);
        let flag = |flag: &str| uuid(&Work::new(way, &[flag], &["--x"]));
        let first = flag("--one");
        assert_eq!(first, flag("--one"));
        assert_ne!(first, flag("--two"), "flags are a part of the key, though the declared key is the same");
        let environment = Work::new(way, &["--one"], &["--x"]).variable("A", "b");
        assert_ne!(first, uuid(&environment), "so is the environment");
    });
}

pub fn changed_files() {
    let changed = || [&fake().unwrap().1[..], b"\nchanged"].concat();
    let uploaded = Once::new();
    each(&[], |client, home, way| {
        let asked = |program: &[u8], library: &str| {
            let mut work = Work::new(way, &["--changing"], &["--x"]);
            work.order.inputs.add_known("tools/worker", &named(program), true);
            work.order.inputs.mark("tools/worker");
            work.order.inputs.add_tool("tools/lib", library.as_bytes());
            let (report, worker) = report(client, &work);
            assert_eq!(worker.unwrap().key_quality, "marked");
            (uuid_of(&report), report["counter"].as_u64().unwrap())
        };
        let program = changed();
        uploaded.call_once(|| client.put_large(&program));
        let old = asked(&fake().unwrap().1, "old");
        assert_eq!(asked(&fake().unwrap().1, "old"), (old.0.clone(), 2), "{way:?}: nothing has changed");
        let other_program = asked(&program, "old");
        assert_ne!(old.0, other_program.0);
        let other_library = asked(&program, "new");
        assert_ne!(other_program.0, other_library.0);
        assert_eq!(asked(&program, "new"), (other_library.0, 2));
        let said = home.said();
        let line = |path: &str, old: &[u8], new: &[u8]| {
            let line = format!("{path}: {} -> {}", named(old).hash, named(new).hash);
            assert!(said.contains(&line), "{way:?}: no {line} in {said}");
        };
        assert!(said.contains("its files have changed on disk"), "{said}");
        line("tools/worker", &fake().unwrap().1, &program);
        line("tools/lib", b"old", b"new");
    });
}

pub fn not_asked_for() {
    with(&[], |client, _| {
        let mut work = Work::new(PLAIN, &[], &["--say=by itself"]);
        work.order.action.platform = None;
        let result = client.succeed(&work.order);
        assert!(details(&result).persistent_worker.is_none());
        assert_eq!(details(&result).one_shot_because, "");
        let smoke = Way { wire: "smoke", ..PLAIN };
        let why = one_shot_because(&response(client, &Work::new(smoke, &[], &["--say=by itself"])));
        assert!(why.contains("\"smoke\" is unknown"), "{why}");
        for view in ["own", "shared"] {
            // Names of other dialects ask for one, and the key has then nothing but the program.
            let mut other = Work::new(PLAIN, &[], &["--x"]);
            other.order.action.platform = None;
            other.order =
                other.order.property("supports-workers", "1").property("fulgurite-worker-view", view);
            let (report, worker) = report(client, &other);
            assert_eq!(worker.unwrap().key_quality, "weak");
            assert!(!report["environment"].to_string().contains("FULGURITE"), "{report}");
        }
    });
}

pub fn no_secrets() {
    with_variables(&[], &[("SECRET_OF_THE_DAEMON", "in plain sight")], |client, _| {
        for way in super::scene::WAYS {
            let work = Work::new(way, &[], &["--read=/proc/self/environ", "--list=/proc/self/fd"]);
            let (report, _) = report(client, &work.variable("ASKED", "for"));
            let all = report.to_string();
            assert!(
                all.contains("ASKED") && !all.contains("SECRET") && !all.contains("plain sight"),
                "{all}"
            );
        }
    });
}

/// All of them reach the worker, in one request; and its view has them.
pub fn large_root() {
    const DIRECTORIES: usize = 100;
    const FILES: usize = 1000;
    with(&[], |client, _| {
        let text_digest = client.put(b"the same in all");
        let orders = ["--stat=d7/f123", "--read=d99/f999", "--output=report"];
        let mut work = Work::new(PLAIN, &[], &orders).map(|order| order.outputs(&["report"]));
        for directory in 0..DIRECTORIES {
            for file in 0..FILES {
                let path = format!("d{directory}/f{file}");
                work.order.inputs.add_known(&path, &text_digest, false);
            }
        }
        // One directory a hundred times: few blobs, many files.
        for counter in 1..=2 {
            let result = client.succeed(&work.order);
            let worker = details(&result).persistent_worker;
            assert!(worker.is_some(), "{}", details(&result).one_shot_because);
            let report: Value = serde_json::from_slice(&client.output(&result, "report")).unwrap();
            assert_eq!(report["counter"], counter);
            // Those, the worker, and its flags.
            assert_eq!(report["inputs"].as_array().unwrap().len(), DIRECTORIES * FILES + 2);
            assert_eq!(report["reads"]["d99/f999"]["text"], "the same in all");
            assert_eq!(report["stats"]["d7/f123"]["bytes"], 15);
        }
        if std::env::var_os("FULGURITE_IT_HEAVY").is_none() {
            return;
        }
        // A list that does not fit into one message is not cut: the action runs by itself.
        let long = "n".repeat(200);
        let mut work = Work::new(PLAIN, &[], &["--say=by itself"]);
        for directory in 0..3 * DIRECTORIES / 2 {
            for file in 0..FILES {
                let path = format!("{long}{directory}/{long}{file}");
                work.order.inputs.add_known(&path, &text_digest, false);
            }
        }
        let response = response(client, &work);
        let why = one_shot_because(&response);
        assert!(why.contains("a request with 150002 inputs is"), "{why}");
        assert_eq!(text(client, &response), "by itself\n");
    });
}
