//! Whatever a worker does wrong costs one action, and is told.

use super::scene::{
    PLAIN, WIRES, Way, Work, details, each, listed, logs, one_shot_because, only_pid, report, response, tag,
    text, until_gone, uuid_of, with,
};
use crate::client::{Client, code};
use crate::daemon::{Home, PATIENCE};
use fulgurite_sandbox::testing::settles;
use serde_json::Value;
use tonic::Code;

/// The next request has another process.
fn is_replaced(client: &Client, way: Way, what: &str) {
    let (report, _) = report(client, &Work::new(way, &[], &["--x"]));
    assert_eq!(report["counter"], 1, "{way:?} {what}: no new worker");
}

pub fn crashes() {
    each(&["--set", "worker.on_crash=fail"], |client, _, way| {
        for (fault, says) in [("exit", "exited with code 7"), ("signal", "SIGSEGV"), ("signal:9", "SIGKILL")]
        {
            let flag = format!("--fault={fault}");
            let response = response(client, &Work::new(way, &[], &[&flag]));
            let said = text(client, &response);
            assert!(response.result.as_ref().unwrap().exit_code != 0);
            assert!(said.contains("did not return a WorkResponse") && said.contains(says), "{said}");
            assert!(said.contains("---8<---8<--- Start of log, file at "), "{said}");
            assert!(said.contains("as asked for"), "its last words are missing: {said}");
            is_replaced(client, way, fault);
        }
    });
}

pub fn retries() {
    each(&[], |client, _, way| {
        // The first request of a process crashes it; the retry does as well, being the first of the next.
        let response = response(client, &Work::new(way, &["--fault=exit@1"], &["--x"]));
        assert!(text(client, &response).contains("exited with code 7"));
        // The second one does: it is retried on a fresh worker, where it is the first.
        let work = |order: &str| Work::new(way, &["--fault=exit@2"], &[order]);
        assert_eq!(report(client, &work("--a")).0["counter"], 1);
        let (report, worker) = report(client, &work("--b"));
        assert_eq!((report["counter"].clone(), worker.unwrap().request), (Value::from(1), 1));
    });
    each(&["--set", "worker.on_crash=one-shot"], |client, _, way| {
        let why = one_shot_because(&response(client, &Work::new(way, &["--fault=exit"], &["--x"])));
        assert!(why.contains("exited with code 7"), "{why}");
    });
}

/// The faults, and what is said of each.
const NONSENSE: [(&str, &str); 12] = [
    ("junk", "WARNING: a library says something on standard output"),
    ("hex-junk", "Not UTF-8, printed as hex:"),
    ("endless-varint", "unparseable"),
    ("huge-length", "unparseable"),
    ("truncated", ""),
    ("unknown-id", "which it does not have"),
    ("id-range", "which it does not have"),
    ("false-cancel", "without having cancelled"),
    ("close-stdout", "did not return a WorkResponse"),
    ("bad-field", "unparseable"),
    ("bad-utf8", "unparseable"),
    ("junk-at-start", "unparseable"),
];

pub fn nonsense() {
    each(&["--set", "worker.on_crash=fail"], |client, _, way| {
        for (fault, says) in NONSENSE {
            // An endless string is no nonsense before its bound.
            if (way.wire, fault) == ("json", "huge-length") {
                continue;
            }
            let flag = format!("--fault={fault}");
            let (startup, orders): (&[&str], &[&str]) = if fault == "junk-at-start" {
                (&[&flag], &["--write=out=x"])
            } else {
                (&[], &["--write=out=x", &flag])
            };
            let work = Work::new(way, startup, orders).map(|order| order.outputs(&["out"]));
            let response = response(client, &work);
            let said = text(client, &response);
            let result = response.result.as_ref().unwrap();
            assert_ne!(result.exit_code, 0, "{way:?} {fault}");
            assert!(result.output_files.is_empty(), "{way:?} {fault}: {result:?}");
            assert!(said.contains(says), "{way:?} {fault}: {said}");
            assert!(said.len() < 32 << 10, "{way:?} {fault}: {} bytes are shown", said.len());
            if startup.is_empty() {
                is_replaced(client, way, fault);
            }
        }
        // The first reply stands, and the next request sees neither.
        let twice = Work::new(way, &[], &["--fault=double-reply", "--write=out=x"])
            .map(|order| order.outputs(&["out"]));
        let result = client.succeed(&twice.order);
        assert_eq!(client.output(&result, "out"), b"x");
    });
    // A request that comes while the second reply is on its way is retried, as after any crash.
    each(&[], |client, _, way| {
        let twice = Work::new(way, &[], &["--fault=double-reply"]);
        client.succeed(&twice.order);
        report(client, &Work::new(way, &[], &["--x"]));
    });
}

pub fn hangs() {
    each(&[], |client, _, way| {
        for fault in ["hang", "stop", "half"] {
            let (tag, flag) = (tag(), format!("--fault={fault}"));
            let work = |orders: &[&str]| Work::new(way, &[&tag], orders);
            let (before, _) = report(client, &work(&["--x"]));
            let response = response(client, &work(&[&flag]).map(|order| order.timeout(1)));
            assert_eq!(
                code(response.status.as_ref()),
                Code::DeadlineExceeded,
                "{way:?} {fault}: {response:?}"
            );
            let (after, _) = report(client, &work(&["--x"]));
            assert_eq!(after["counter"], 1, "{way:?} {fault}: no new worker");
            assert_ne!(before["uuid"], after["uuid"]);
        }
    });
}

/// Resident memory of a process, now and at most.
fn resident_kib(pid: u32) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

pub fn big_output() {
    with(&[], |client, home| {
        for wire in WIRES {
            let way = Way { wire, ..PLAIN };
            report(client, &Work::new(way, &[], &["--x"]));
            let [before, _] = resident_kib(home.last_pid());
            let result = client.succeed(&Work::new(way, &[], &["--fault=big-output"]).order);
            let said = client.stderr(&result);
            assert!(said.len() > 1 << 20 && said.len() < 5 << 20, "{wire}: {} bytes", said.len());
            assert!(said.trim_end().ends_with("output cut after 4 MiB]"), "nobody says that it is cut");
            let [_, most] = resident_kib(home.last_pid());
            assert!(most < before + (48 << 10), "{wire}: 64 MiB of text took {} KiB", most - before);
            let (after, _) = report(client, &Work::new(way, &[], &["--x"]));
            assert_eq!(after["counter"], 3, "a talkative worker is no bad one");
        }
    });
}

pub fn deaf() {
    each(&[], |client, home, way| {
        let tag = tag();
        let work = Work::new(way, &[&tag, "--fault=deaf"], &["--x"]).map(|order| order.timeout(2));
        let response = response(client, &work);
        assert_eq!(code(response.status.as_ref()), Code::DeadlineExceeded, "{response:?}");
        until_gone(&tag);
        for log in std::fs::read_dir(home.state().join("workers")).unwrap().flatten() {
            let length = log.metadata().unwrap().len();
            assert!(length <= (1 << 20) + 4096, "{length} bytes in {log:?}");
        }
    });
}

/// The kernel's kill is told with both numbers, retried once, and is then the action's own end.
pub fn out_of_memory() {
    const LIMIT: u64 = 192 << 20;
    let limit = ["--set", "execution.memory_default=192MiB", "--set", "execution.memory_max=192MiB"];
    each(&limit, |client, home, way| {
        let response = response(client, &Work::new(way, &[], &["--fault=eat-memory:600"]));
        assert_eq!(code(response.status.as_ref()), Code::ResourceExhausted, "{response:?}");
        let said = text(client, &response);
        let limit = format!("limit {LIMIT} bytes");
        assert!(said.contains("ran out of memory (peak ") && said.contains(&limit), "{way:?}: {said}");
        let logged = settles(PATIENCE, || {
            let said = home.said();
            let lines =
                said.lines().filter(|line| line.contains("a worker has ended") && line.contains(&limit));
            lines.count() >= 2
        });
        assert!(logged, "{way:?}: {}", home.said());
        // Only the second request of a process eats: it is retried, and nobody hears of it.
        let work = |order: &str| Work::new(way, &["--fault=eat-memory:600@2"], &[order]);
        assert_eq!(report(client, &work("--a")).0["counter"], 1);
        assert_eq!(report(client, &work("--b")).0["counter"], 1, "{way:?}: not on a fresh worker");
    });
    with(&[&limit[..], &["--set", "worker.on_crash=one-shot"]].concat(), |client, _| {
        let response = response(client, &Work::new(PLAIN, &[], &["--fault=eat-memory:600"]));
        assert_eq!(code(response.status.as_ref()), Code::ResourceExhausted, "{response:?}");
        let why = one_shot_because(&response);
        assert!(why.contains("ran out of memory (peak "), "{why}");
    });
}

/// Between two requests a worker has nothing to say: if it dies or writes then, no request pays for it.
pub fn unasked() {
    each(&["--set", "worker.on_crash=fail"], |client, home, way| {
        let tag = tag();
        let work = |orders: &[&str]| Work::new(way, &[&tag], orders);
        let (first, worker) = report(client, &work(&["--x"]));
        let number = worker.unwrap().number.to_string();
        let pid = rustix::process::Pid::from_raw(only_pid(&tag).try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until_gone(&tag);
        // The daemon hears of it a moment later: a request that is given to it until then pays.
        let is_listed =
            || listed(home, &[]).lines().any(|line| line.split(' ').next() == Some(number.as_str()));
        assert!(settles(PATIENCE, || !is_listed()), "{}", listed(home, &[]));
        let (second, _) = report(client, &work(&["--x"]));
        assert_eq!((&second["counter"], first["uuid"] == second["uuid"]), (&Value::from(1), false));
    });
    // It says something after its answer: it is replaced, by the next request or by the clock.
    each(&[], |client, _, way| {
        let tag = tag();
        let work = |orders: &[&str]| Work::new(way, &[&tag], orders);
        report(client, &work(&["--x"]));
        client.succeed(&work(&["--fault=junk-after"]).order);
        let (after, _) = report(client, &work(&["--y"]));
        assert_eq!(after["counter"], 1, "{way:?}: its junk was taken for a part of the next answer");
        client.succeed(&work(&["--fault=junk-after"]).order);
        until_gone(&tag);
    });
}

pub fn unanswered_cancel() {
    let settings = ["--set", "worker.cancel_grace=200ms", "--set", "worker.per_key_max=1"];
    each(&settings, |client, home, way| {
        for fault in ["no-cancel-reply", "ignore-cancel"] {
            let work = |orders: &[&str]| {
                Work::new(way, &[&format!("--{fault}")], orders)
                    .map(|order| order.property("supports-worker-cancellation", "1"))
            };
            let (before, _) = report(client, &work(&["--x"]));
            cancel_one(client, home, &work(&[&format!("--fault={fault}"), "--sleep-ms=100000"]), way, fault);
            let (after, _) = report(client, &work(&["--y"]));
            assert_eq!(after["counter"], 1, "{way:?} {fault}");
            assert_ne!(after["uuid"], before["uuid"]);
        }
    });
}

/// Cancels a request once its worker has begun it.
fn cancel_one(client: &Client, home: &Home, work: &Work, way: Way, word: &str) {
    let mut work = work.clone();
    let word = format!("begun {way:?} {word}");
    let mut orders = vec![format!("--stderr={word}")];
    orders.extend(work.order.inputs.text("flags").lines().map(str::to_owned));
    work.order = work.order.input("flags", orders.join("\n").as_bytes());
    let running = client.execute(&work.order.upload(client));
    assert!(settles(PATIENCE, || logs(home).contains(&word)), "{word}: {}", logs(home));
    client.cancel(&running.name.clone()).unwrap();
    drop(running.try_response());
}

pub fn canceled() {
    each(&["--set", "worker.finish_max=60s", "--set", "worker.per_key_max=1"], |client, home, way| {
        for (cancels, fault) in
            [("0", ""), ("1", ""), ("1", "--fault=late-cancel:200"), ("1", "--fault=ignore-cancel")]
        {
            let name = format!("--case={cancels}{fault}");
            let work = |orders: &[&str]| {
                Work::new(way, &[&name.replace("fault=", "")], orders)
                    .map(|order| order.property("supports-worker-cancellation", cancels))
            };
            let (before, _) = report(client, &work(&["--x"]));
            cancel_one(client, home, &work(&[fault, "--sleep-ms=1000"]), way, &name);
            // The worker has finished or given up what nobody reads, and goes on: there is only one.
            let (after, worker) = report(client, &work(&["--y"]));
            assert_eq!(uuid_of(&after), uuid_of(&before), "{way:?} {name}");
            assert_eq!((after["counter"].clone(), worker.unwrap().request), (Value::from(3), 3));
            assert!(!after.to_string().contains("sleep-ms"), "a late reply was taken for another's: {after}");
        }
        let details = details(&client.succeed(&Work::new(way, &["--case=0"], &["--z"]).order));
        assert_eq!(details.one_shot_because, "");
    });
}
