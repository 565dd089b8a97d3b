//! Workers of Buck2's protocol behind the door: launched with a socket of their own, each request with its own inputs,
//! environment and arguments; and whatever such a worker does wrong costs one action.

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, named};
use crate::daemon::{Home, PATIENCE};
use fulgurite_proto::{reapi, v1};
use fulgurite_sandbox::testing::settles;
use prost::Message;
use serde_json::{Value, json};
use std::sync::OnceLock;

pub const ALONE: &[Alone] = &[
    ("workers_buck2::one_process_for_many_actions", one_process),
    ("workers_buck2::each_request_sees_its_own_inputs", own_inputs),
    ("workers_buck2::arguments_are_split_and_not_expanded", arguments),
    ("workers_buck2::every_call_of_the_protocol_will_do", calls),
    ("workers_buck2::a_crash_costs_one_action", crashes),
    ("workers_buck2::what_is_no_answer_costs_one_action", nonsense),
    ("workers_buck2::who_never_serves_is_done_without", never_comes),
    ("workers_buck2::time_is_kept_by_the_worker_or_for_it", time),
    ("workers_buck2::a_canceled_caller_is_free_and_the_worker_returns", canceled),
    ("workers_buck2::a_start_is_given_up_when_the_daemon_ends", ends_at_start),
    ("workers_buck2::late_writes_reach_nobody", late_writes),
];

fn fake() -> Option<&'static (reapi::Digest, Vec<u8>)> {
    static FAKE: OnceLock<(reapi::Digest, Vec<u8>)> = OnceLock::new();
    let path = option_env!("CARGO_BIN_EXE_fulgurite-fake-buck2-worker")?;
    Some(FAKE.get_or_init(|| {
        let bytes = std::fs::read(path).unwrap();
        (named(&bytes), bytes)
    }))
}

/// Runs with a daemon of its own.
fn with(settings: &[&str], test: impl FnOnce(&Client, &Home)) {
    let Some((_, bytes)) = fake() else {
        return crate::skip("workers_buck2", "built without --features test-fakes");
    };
    let home = Home::new();
    let mut arguments = vec!["--slots", "5"];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    let daemon = home.start(&arguments);
    let client = daemon.client();
    client.put_large(bytes);
    test(&client, &home);
    drop(client);
    daemon.end(&home);
}

/// An action for the worker: its startup arguments, and one request's.
fn work(startup: &[&str], orders: &[&str]) -> Order {
    let program: Vec<&str> = ["tools/worker"].iter().chain(startup).copied().collect();
    let all: Vec<&str> = program.iter().chain(orders).copied().collect();
    let mut order = Order::of(&all).property("persistent-workers", "true").uncached();
    order = order.property("persistentWorkerProtocol", "buck2");
    order = order.property("fulgurite-worker-startup", &program.len().to_string());
    order.inputs.add_known("tools/worker", &fake().unwrap().0, true);
    order
}

fn details(result: &reapi::ActionResult) -> v1::ExecutionDetails {
    let metadata = result.execution_metadata.as_ref().unwrap();
    let ours = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("ExecutionDetails"));
    v1::ExecutionDetails::decode(ours.unwrap().value.as_slice()).unwrap()
}

/// The worker's report, and who made it.
fn report(client: &Client, order: &Order) -> (Value, v1::PersistentWorker) {
    let result = client.succeed(order);
    let text = client.stderr(&result);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let details = details(&result);
    let worker = details.persistent_worker;
    (report, worker.unwrap_or_else(|| panic!("no worker made it: {}", details.one_shot_because)))
}

fn one_process() {
    with(&[], |client, _| {
        let mut uuids = Vec::new();
        for number in 1..=4u64 {
            let content = number.to_string();
            let mut order = work(&["--own"], &["--read=in", "--x", "--write=out/file=made"]);
            order = order.input("in", content.as_bytes()).outputs(&["out/file"]);
            let (name, value) = ("WORD".to_owned(), "said".to_owned());
            order.command.environment_variables = vec![reapi::command::EnvironmentVariable { name, value }];
            let result = client.succeed(&order);
            assert_eq!(client.output(&result, "out/file"), b"made");
            let handoff = details(&result).handoff.unwrap();
            assert_eq!((handoff.copied, handoff.bytes_copied), (0, 0), "{handoff:?}");
            let (report, worker) = report(client, &order);
            assert_eq!(report["counter"], 2 * number, "{report}");
            assert_eq!(report["reads"]["in"]["text"], content, "{report}");
            assert_eq!(report["argv"], json!(["tools/worker", "--own"]));
            assert_eq!(report["arguments"], json!(["--read=in", "--x", "--write=out/file=made"]));
            assert_eq!(report["variables"], json!({"WORD": "said"}));
            assert_eq!((&report["via"], &report["cwd"]), (&json!("Exec"), &json!("/work")));
            let environment = json!({"WORD": "said", "PWD": "/work", "WORKER_SOCKET": "/work/_w/socket"});
            assert_eq!(report["environment"], environment, "as it is launched");
            assert_eq!((worker.request, worker.key_quality.as_str()), (2 * number, "weak"));
            assert!(worker.sealed, "{worker:?}");
            uuids.push(report["uuid"].clone());
        }
        uuids.dedup();
        assert_eq!(uuids.len(), 1, "{uuids:?}");
    });
}

fn own_inputs() {
    for view in ["own", "shared"] {
        with(&[&format!("worker.view={view}")], |client, _| {
            let mut uuid = Value::Null;
            for name in ["one", "two", "three"] {
                let mut order = work(&[], &["--list=.", "--write=spoiled=x", "--remove=tools/worker"]);
                order = order.input(&format!("src/{name}"), b"x");
                let result = client.succeed(&order);
                let report: Value = serde_json::from_str(&client.stderr(&result)).unwrap();
                let mut expected = vec![format!("src/{name}"), "tools/worker".to_owned()];
                expected.splice(0..0, ["src/".to_owned()]);
                expected.insert(2, "tools/".to_owned());
                assert_eq!(report["lists"]["."], json!(expected), "{view}");
                assert!(uuid.is_null() || uuid == report["uuid"], "{view}: another process");
                uuid = report["uuid"].clone();
            }
        });
    }
}

fn arguments() {
    with(&[], |client, _| {
        // As Buck2 has it for other servers: files of arguments at the end, which the worker reads itself.
        let mut order = Order::of(&["tools/worker", "--own", "@flags", "--flagfile=more"]).uncached();
        order = order.property("persistentWorkerKey", "k").property("persistentWorkerProtocol", "buck2");
        order.inputs.add_known("tools/worker", &fake().unwrap().0, true);
        let (report, worker) = report(client, &order);
        assert_eq!(report["arguments"], json!(["@flags", "--flagfile=more"]));
        assert_eq!(
            (&report["argv"], worker.key_quality.as_str()),
            (&json!(["tools/worker", "--own"]), "declared")
        );
        // Nothing says what of it is the request's: it runs by itself, where it finds that it is no worker.
        order.command.arguments = vec!["tools/worker".to_owned(), "--x".to_owned()];
        let result = client.run(&order).result.unwrap();
        assert_eq!(result.exit_code, 3);
        assert!(client.stderr(&result).contains("WORKER_SOCKET is not set"), "{}", client.stderr(&result));
        let why = details(&result).one_shot_because;
        assert!(why.contains("do not contain exactly one @flagfile"), "{why}");
        let result = client.run(&order.property("fulgurite-worker-startup", "3")).result.unwrap();
        let why = details(&result).one_shot_because;
        assert!(why.contains("has 2 arguments, and 3 are said to start the worker"), "{why}");
        assert_eq!(result.exit_code, 3);
    });
}

fn calls() {
    with(&[], |client, _| {
        let (no_exec, no_execute) = ("--fault=no-exec", "--fault=no-execute");
        for (startup, via) in
            [(&[][..], "Exec"), (&[no_exec], "Execute"), (&[no_exec, no_execute], "ExecuteStream")]
        {
            for count in 1..=3 {
                let (report, _) = report(client, &work(startup, &["--x"]));
                assert_eq!((&report["via"], &report["counter"]), (&json!(via), &json!(count)));
            }
        }
        let order = work(&["--own"], &["--x"]).property("supports-worker-cancellation", "0");
        assert_eq!(report(client, &order).0["via"], "Execute", "nobody would cancel it");
        let result = client.run(&work(&[no_exec, no_execute, "--fault=no-stream"], &["--x"])).result.unwrap();
        let said = client.stderr(&result);
        assert!(said.contains("does not implement ExecuteStream"), "{said}");
        assert_ne!(result.exit_code, 0);
        let result = client.run(&work(&[], &["--exit-code=7", "--say=no"])).result.unwrap();
        assert_eq!((result.exit_code, client.stderr(&result).as_str()), (7, "no\n"));
    });
}

fn crashes() {
    with(&["worker.on_crash=fail"], |client, _| {
        for (fault, says) in
            [("exit", "exited with code 7"), ("signal", "SIGKILL"), ("unavailable", "as asked for")]
        {
            let result = client.run(&work(&[], &[&format!("--fault={fault}")])).result.unwrap();
            let said = client.stderr(&result);
            assert_ne!(result.exit_code, 0);
            assert!(said.contains("did not return a WorkResponse") && said.contains(says), "{fault}: {said}");
            assert!(said.contains("---8<---8<--- Start of log, file at "), "{said}");
            let (report, _) = report(client, &work(&[], &["--x"]));
            assert_eq!(report["counter"], 1, "{fault}: a new worker");
        }
    });
    with(&["worker.on_crash=one-shot"], |client, _| {
        let result = client.run(&work(&["--fault=exit"], &["--x"])).result.unwrap();
        assert!(details(&result).one_shot_because.contains("exited with code 7"), "{result:?}");
        assert_eq!(result.exit_code, 3, "by itself it is no worker");
    });
}

fn nonsense() {
    with(&["worker.on_crash=fail"], |client, _| {
        let stream = ["--fault=no-exec", "--fault=no-execute"];
        let cases: [(&[&str], &str, &str); 7] = [
            (&[], "big-stderr", "Exec failed"),
            (&stream, "unknown-id", "which does not wait for an answer"),
            (&stream, "no-response", "is empty"),
            (&stream, "close-stream", "as asked for"),
            (&["--fault=garbage"], "x", "Exec"),
            (&["--fault=drop"], "x", "Exec"),
            (&stream, "big-stderr:20000000", "ExecuteStream failed"),
        ];
        for (startup, fault, says) in cases {
            let result = client.run(&work(startup, &[&format!("--fault={fault}")])).result.unwrap();
            let said = client.stderr(&result);
            assert_ne!(result.exit_code, 0, "{startup:?} {fault}");
            assert!(said.contains(says), "{startup:?} {fault}: {said}");
            if startup.is_empty() || startup == stream {
                let (report, _) = report(client, &work(startup, &["--x"]));
                assert_eq!(report["counter"], 1, "{fault}: a new worker");
            }
        }
        // The first answer stands; the second ends the worker, before or with the next command.
        client.succeed(&work(&stream, &["--fault=double-reply", "--say=x"]));
        let large = client.succeed(&work(&[], &["--fault=big-stderr:10000000"]));
        let kept = client.stderr(&large);
        assert!(kept.ends_with("output cut after 4 MiB]") && kept.len() < 5 << 20, "{}", kept.len());
    });
}

fn never_comes() {
    with(&["worker.connect_max=1s"], |client, _| {
        for (fault, says) in [
            ("never-listen", "failed to connect within `1` seconds"),
            ("symlink", "it is no socket"),
            ("exit-at-start", "Worker exited before connecting: it exited with code 3"),
        ] {
            let result = client.run(&work(&[&format!("--fault={fault}")], &["--x"])).result.unwrap();
            let why = details(&result).one_shot_because;
            assert!(why.contains(says), "{fault}: {why}");
            assert!(why.contains("no worker can be started"), "{fault}: {why}");
            assert_eq!(result.exit_code, 3, "by itself it is no worker");
        }
        let (report, _) = report(client, &work(&["--fault=slow-start:300"], &["--x"]));
        assert_eq!(report["counter"], 1);
    });
}

fn time() {
    with(&[], |client, _| {
        let late = |order: Order| {
            let response = client.run(&order.timeout(1));
            let status = response.status.clone().unwrap_or_default();
            assert_eq!(status.code, tonic::Code::DeadlineExceeded as i32, "{status:?}");
            client.stderr(response.result.as_ref().unwrap())
        };
        let before = report(client, &work(&[], &["--x"])).0;
        assert_eq!(late(work(&[], &["--wait-for=never"])), "timed out\n");
        let (after, _) = report(client, &work(&[], &["--x"]));
        assert_eq!((&after["uuid"], &after["counter"]), (&before["uuid"], &json!(3)), "it has kept its time");
        for startup in [&[][..], &["--fault=mute"]] {
            let said = late(work(startup, &["--fault=hang"]));
            assert!(said.contains("did not return a WorkResponse in 1 s"), "{said}");
        }
        assert_eq!(report(client, &work(&[], &["--x"])).0["counter"], 1, "a new worker");
    });
}

fn canceled() {
    let cases = [
        // It gives up when it is told.
        ("--own", "60s", "60s", true),
        // It cannot be told, and finishes.
        ("--fault=no-exec", "60s", "60s", true),
        // It cannot be told, and may not finish.
        ("--fault=no-exec", "60s", "1ms", false),
        // It does not listen.
        ("--fault=ignore-cancel", "100ms", "60s", false),
    ];
    for (startup, grace, finish, returns) in cases {
        let settings = [
            format!("worker.cancel_grace={grace}"),
            format!("worker.finish_max={finish}"),
            "worker.per_key_max=1".to_owned(),
        ];
        with(&settings.each_ref().map(String::as_str), |client, home| {
            let (before, _) = report(client, &work(&[startup], &["--x"]));
            let told = startup == "--own";
            // One that is told waits for ever; the others for long enough to be seen.
            let wait = if told { "--wait-for=never" } else { "--sleep-ms=1500" };
            let digest = work(&[startup], &["--stderr=has begun", wait]).upload(client);
            let running = client.execute(&digest);
            let said = || {
                let logs = std::fs::read_dir(home.state().join("workers")).unwrap();
                logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect::<String>()
            };
            assert!(settles(PATIENCE, || said().contains("has begun")));
            client.cancel(&running.name.clone()).unwrap();
            drop(running.try_response());
            let (after, _) = report(client, &work(&[startup], &["--y"]));
            assert_eq!(after["uuid"] == before["uuid"], returns, "{startup} {grace} {finish}");
            assert_eq!(after["counter"], if returns { 3 } else { 1 }, "{startup} {grace} {finish}");
        });
    }
}

fn ends_at_start() {
    with(&["worker.connect_max=1h", "drain_timeout=1s"], |client, home| {
        let order = work(&["--fault=never-listen"], &["--x", "--stays"]);
        let mut running = client.execute(&order.upload(client));
        running.until_executing();
        let has_log =
            || std::fs::read_dir(home.state().join("workers")).is_ok_and(|mut logs| logs.next().is_some());
        assert!(settles(PATIENCE, has_log), "no worker was started");
        // That the daemon ends at all, and leaves nothing, is what is shown.
    });
}

fn late_writes() {
    with(&[], |client, _| {
        for number in 0..3 {
            let order =
                work(&["--fault=hold-open"], &["--write=out=right", &format!("--{number}"), "--say=x"]);
            let result = client.succeed(&order.outputs(&["out"]));
            assert_eq!(client.output(&result, "out"), b"right");
            assert!(!details(&result).persistent_worker.unwrap().sealed, "somebody could still write");
        }
        // And nobody has changed the blob since.
        assert_eq!(client.read(&named(b"right")), b"right");
    });
}
