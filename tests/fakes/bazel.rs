//! `fulgurite-fake-worker` over both wires.

use crate::driver::{Spoken, WIRES, Wire, cancel, request};
use fulgurite_proto::bazel::{WorkRequest, WorkResponse};
use serde_json::json;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const WORKER: &str = env!("CARGO_BIN_EXE_fulgurite-fake-worker");

/// On both wires, in a directory of its own.
fn each(faults: &[&str], check: impl Fn(Wire, &mut Spoken, &std::path::Path)) {
    for wire in WIRES {
        let place = tempfile::tempdir().unwrap();
        let words: Vec<String> = [WORKER.to_owned()]
            .into_iter()
            .chain(faults.iter().map(|fault| format!("--fault={fault}")))
            .collect();
        let mut worker = Spoken::start(wire, place.path(), &words);
        check(wire, &mut worker, place.path());
    }
}

#[test]
fn one_process_takes_requests_one_after_the_other_and_tells_what_it_sees() {
    each(&[], |wire, worker, place| {
        fs::write(place.join("a"), "one").unwrap();
        let first = worker.report(&request(0, &["--read=a", "--read=b", "--list=.", "--stat=a", "x"]));
        let second = worker.report(&WorkRequest { verbosity: 10, ..request(0, &[]) });
        assert_eq!(first["uuid"], second["uuid"]);
        assert_eq!((&first["counter"], &second["counter"]), (&json!(1), &json!(2)));
        assert_eq!(first["reads"]["a"], json!({"text": "one"}));
        assert_eq!(first["reads"]["b"], json!({"error": "NotFound", "errno": 2}));
        assert_eq!(first["lists"]["."], json!(["a"]));
        assert_eq!(first["stats"]["a"]["bytes"], 3);
        let digest = if wire == Wire::Proto { "00ff" } else { "MDBmZg==" };
        assert_eq!(first["inputs"], json!([["in/a", digest]]));
        assert_eq!(first["arguments"][4], "x");
        assert_eq!(first["cwd"], fs::canonicalize(place).unwrap().to_str().unwrap());
        assert_eq!(second["verbosity"], 10);
        assert!(first["environment"]["PATH"].is_string());
    });
}

#[test]
fn orders_write_and_a_failed_one_is_told() {
    each(&[], |_, worker, place| {
        fs::create_dir(place.join("box")).unwrap();
        let orders = [
            "--write=a/b=text=1",
            "--append=a/b=+",
            "--copy=a/b=c",
            "--symlink=c=l",
            "--output=r",
            "--say=done",
            "--exit-code=3",
        ];
        let reply = worker.ask(&WorkRequest { sandbox_dir: "box".into(), ..request(9, &orders) });
        assert_eq!((reply.exit_code, reply.output.as_str(), reply.request_id), (3, "done\n", 9));
        assert_eq!(fs::read_to_string(place.join("box/c")).unwrap(), "text=1+");
        assert_eq!(fs::read_link(place.join("box/l")).unwrap().to_str(), Some("c"));
        assert!(fs::read_to_string(place.join("box/r")).unwrap().contains("\"sandbox_dir\":\"box\""));
        let reply = worker.ask(&request(10, &["--copy=none=d", "--require=none"]));
        assert_eq!(reply.exit_code, 1);
        assert_eq!(reply.output.matches("No such file").count(), 2, "{}", reply.output);
        let reply = worker.ask(&request(11, &["--fault=nonsense"]));
        assert_eq!((reply.exit_code, reply.output.contains("--list-faults")), (2, true));
    });
}

#[test]
fn requests_with_ids_run_at_the_same_time() {
    each(&[], |_, worker, place| {
        worker.send(&request(1, &["--wait-for=go"]));
        assert_eq!(worker.ask(&request(2, &[])).request_id, 2);
        fs::write(place.join("go"), "").unwrap();
        assert_eq!(worker.reply().unwrap().request_id, 1);
    });
}

#[test]
fn cancels_are_honored_ignored_late_or_never_answered() {
    let ended = |worker: &mut Spoken, orders: &[&str]| {
        worker.send(&request(1, orders));
        worker.send(&cancel(1));
        worker.send(&cancel(77));
        worker.reply().unwrap()
    };
    let was_cancelled = WorkResponse { request_id: 1, was_cancelled: true, ..Default::default() };
    each(&[], |_, worker, _| {
        assert_eq!(ended(worker, &["--wait-for=never"]), was_cancelled);
        assert_eq!(ended(worker, &["--wait-for=never", "--fault=late-cancel:20"]), was_cancelled);
        let ignored = ended(worker, &["--sleep-ms=20", "--say=whole", "--fault=ignore-cancel"]);
        assert_eq!((ignored.was_cancelled, ignored.output.as_str()), (false, "whole\n"));
        worker.send(&request(5, &["--wait-for=never", "--fault=no-cancel-reply"]));
        worker.send(&cancel(5));
        assert_eq!(worker.ask(&request(6, &[])).request_id, 6, "5 is never answered");
    });
    each(&[], |_, worker, _| {
        worker.send(&request(0, &["--wait-for=never"]));
        worker.send(&cancel(0));
        assert_eq!(worker.reply().unwrap(), WorkResponse { request_id: 0, ..was_cancelled.clone() });
        assert_eq!(worker.report(&request(0, &[]))["counter"], 2);
    });
}

#[test]
fn it_ends_as_asked_for() {
    let status = |fault: &str| {
        let mut statuses = Vec::new();
        for wire in WIRES {
            let place = tempfile::tempdir().unwrap();
            let mut worker = Spoken::start(wire, place.path(), &[WORKER]);
            worker.send(&request(0, &[&format!("--fault={fault}")]));
            statuses.push(worker.wait());
        }
        assert_eq!(statuses[0], statuses[1], "{fault}");
        statuses[0]
    };
    assert_eq!(status("exit").code(), Some(7));
    assert_eq!(status("exit:0").code(), Some(0));
    assert_eq!(status("signal").signal(), Some(libc::SIGSEGV));
    assert_eq!(status("signal:9").signal(), Some(libc::SIGKILL));
    assert_eq!(status("truncated").code(), Some(0));
    assert_eq!(status("exit-after").code(), Some(0));
    each(&["exit-at-start"], |_, worker, _| assert_eq!(worker.wait().code(), Some(3)));
    for wire in WIRES {
        let place = tempfile::tempdir().unwrap();
        let mut worker = Spoken::start(wire, place.path(), &[WORKER, "--fault=exit@2"]);
        assert_eq!(worker.ask(&request(0, &[])).exit_code, 0);
        worker.send(&request(0, &[]));
        assert_eq!(worker.wait().code(), Some(7));
        assert!(Spoken::start(wire, place.path(), &[WORKER]).end().success(), "the end of stdin is an end");
    }
}

#[test]
fn bytes_on_stdout_are_as_bad_as_promised() {
    let check = |fault: &str, proto: &[u8], json: &[u8]| {
        each(&[fault], |wire, worker, _| {
            let wanted = if wire == Wire::Proto { proto } else { json };
            worker.send(&request(3, &["--say=x"]));
            assert_eq!(worker.bytes(wanted.len()), wanted, "{fault} {wire:?}");
            assert!(worker.is_alive() || fault == "truncated", "{fault} {wire:?}");
        });
    };
    check("junk", b"WARNING: a library", b"WARNING: a library");
    check("hex-junk", b"\xff\xfe", b"\xff\xfe");
    check("flood-stdout", &[0; 1 << 20], &[0; 1 << 20]);
    let huge = [255, 255, 255, 255, 255, 255, 255, 255, 127];
    check("huge-length", &huge, b"{\"exitCode\":0,\"output\":\"aaaaaaa");
    check("endless-varint", &[0xff; 65536], &[b'['; 1_000_000]);
    check("truncated", &[0xe8, 7, 8, 0], b"{\"exitCode\":0,\"requestId\":0");
    check(
        "unknown-id",
        &[5, 24, 0xc1, 0x9f, 0xab, 3],
        b"{\"exitCode\":0,\"output\":\"\",\"requestId\":7000001",
    );
    check("zero-id", &[0], b"{\"exitCode\":0,\"output\":\"\",\"requestId\":0");
    check("bad-field", &[7, 24, 3, 0x12, 100, b'a', b'b', b'c'], b"{\"exitCode\":\"none\",\"output\":[],");
    check(
        "bad-utf8",
        b"\x13\x12\x0fbefore \xfe\xfe after\x18\x03",
        b"{\"exitCode\":0,\"output\":\"before \xfe",
    );
    check("half", &[6, 0x12, 2], b"{\"exitCode\":");
    check("junk-at-start", b"Welcome to the compiler!\n", b"Welcome to the compiler!\n");
}

#[test]
fn replies_too_many_too_slow_too_large() {
    each(&["double-reply"], |_, worker, _| {
        assert_eq!(worker.ask(&request(4, &[])).exit_code, 0);
        let second = worker.reply().unwrap();
        assert_eq!((second.request_id, second.exit_code), (4, 1));
    });
    each(&["id-range"], |_, worker, _| {
        worker.send(&request(4, &[]));
        let ids: Vec<i32> = (0..1000).map(|_| worker.reply().unwrap().request_id).collect();
        assert_eq!((ids[0], ids[999], ids.contains(&4), ids.contains(&5)), (-496, 504, false, true));
    });
    each(&["dribble"], |_, worker, _| assert_eq!(worker.ask(&request(4, &["--say=x"])).output, "x\n"));
    each(&["big-output:5000000"], |_, worker, _| {
        assert_eq!(worker.ask(&request(4, &[])).output.len(), 5_000_000);
    });
    each(&["false-cancel"], |_, worker, _| assert!(worker.ask(&request(4, &[])).was_cancelled));
    each(&["no-work"], |_, worker, place| {
        assert_eq!(worker.ask(&request(4, &["--write=a=b"])).exit_code, 0);
        assert!(!place.join("a").exists());
    });
    each(&["keep-arguments"], |_, worker, _| {
        worker.ask(&request(4, &["secret"]));
        assert_eq!(worker.report(&request(5, &["mine"]))["kept"], json!([["secret"], ["mine"]]));
    });
}

#[test]
fn outputs_change_after_the_reply() {
    for fault in ["late-write:1", "late-write-fd:1", "hold-open:write", "hold-mapped:write"] {
        each(&[fault], |wire, worker, place| {
            let output = place.join("out");
            let order = ["--write=out=a text that is longer than what comes late", "--say=x"];
            assert_eq!(worker.ask(&request(0, &order)).output, "x\n", "{fault} {wire:?}");
            // The event itself: the file has other bytes.
            while !fs::read(&output).unwrap().starts_with(b"LATE") {
                std::thread::yield_now();
            }
        });
    }
    for fault in ["hold-open", "hold-mapped"] {
        each(&[fault], |_, worker, place| {
            let report = worker.report(&request(0, &["--write=out=held"]));
            let process = format!("/proc/{}", report["pid"]);
            let out = fs::canonicalize(place.join("out")).unwrap();
            let is_open = fs::read_dir(format!("{process}/fd"))
                .unwrap()
                .any(|entry| fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == out));
            let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
            let is_mapped =
                maps.lines().any(|line| line.ends_with(out.to_str().unwrap()) && line.contains("rw-s"));
            assert_eq!((is_open, is_mapped), (fault == "hold-open", fault == "hold-mapped"));
        });
    }
}

#[test]
fn children_memory_and_a_closed_stdout() {
    each(&["fork-children:2"], |_, worker, _| {
        let report = worker.report(&request(0, &[]));
        let children = report["children"].as_array().unwrap();
        assert_eq!(children.len(), 2);
        for child in children {
            let pid =
                rustix::process::Pid::from_raw(i32::try_from(child.as_i64().unwrap()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    });
    each(&["eat-memory:64"], |_, worker, _| {
        let report = worker.report(&request(0, &[]));
        let statm = fs::read_to_string(format!("/proc/{}/statm", report["pid"])).unwrap();
        let resident_pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(resident_pages * 4096 >= 64 << 20, "{statm}");
    });
    each(&["close-stdout"], |_, worker, _| {
        worker.send(&request(0, &[]));
        assert_eq!(worker.reply(), None);
        assert!(worker.is_alive());
    });
    each(&["stop"], |_, worker, _| {
        worker.send(&request(0, &[]));
        worker.continue_when_stopped();
        assert_eq!(worker.reply().unwrap().exit_code, 0);
    });
}

#[test]
fn once_is_the_same_work() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("args"), "--write=out=text\n@more\n--exit-code=4\n").unwrap();
    fs::write(place.path().join("more"), "--say=said\n").unwrap();
    let run = Command::new(WORKER).arg("@args").current_dir(place.path()).output().unwrap();
    assert_eq!((run.status.code(), run.stderr.as_slice()), (Some(4), &b"said\n"[..]));
    assert_eq!(fs::read_to_string(place.path().join("out")).unwrap(), "text");
    let run = Command::new(WORKER).arg("--list-faults").output().unwrap();
    assert!(String::from_utf8(run.stdout).unwrap().lines().count() > 35);
}
