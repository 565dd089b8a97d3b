//! Workers that compile or run other people's code: Java, and Node on the package `@bazel/worker`.

use crate::driver::{Spoken, WIRES, Wire, cancel, request};
use fulgurite::demo::java_units::{JAVA_UNITS, java_units};
use fulgurite_proto::bazel::WorkRequest;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a script prints, or why it can't: then the test is skipped.
fn built(script: &str, test: &str) -> Option<String> {
    let run =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script)).output().unwrap();
    if run.status.success() {
        return Some(String::from_utf8(run.stdout).unwrap().trim().to_owned());
    }
    println!("SKIP {test}: {}", String::from_utf8_lossy(&run.stderr).trim());
    None
}

fn java(jar: &str) -> Vec<&str> {
    vec!["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-jar", jar]
}

#[test]
fn java_compiles_once_by_worker_and_by_multiplex_worker() {
    let Some(jar) = built("java-worker", "java-worker") else { return };
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    let units = java_units(3);
    for unit in &units {
        unit.write(&at.join("box")).unwrap();
    }
    let sources: Vec<String> = units.iter().map(|unit| unit.path.display().to_string()).collect();

    fs::write(at.join("box/args"), format!("{}\n--jar\nonce.jar\n", sources[0])).unwrap();
    let mut once = Command::new("java");
    once.args(&java(&jar)[1..]).arg("@args").current_dir(at.join("box"));
    let once = once.output();
    assert!(once.as_ref().is_ok_and(|run| run.status.success()), "{once:?}");
    let wanted = fs::read(at.join("box/once.jar")).unwrap();

    for wire in WIRES {
        let mut worker = Spoken::start(wire, &at.join("box"), &java(&jar));
        for round in 0..2 {
            let reply = worker.ask(&request(0, &["--jar", "single.jar", &sources[0]]));
            assert_eq!((reply.exit_code, reply.output.as_str()), (0, ""), "{wire:?} {round}");
            assert_eq!(fs::read(at.join("box/single.jar")).unwrap(), wanted);
        }
        let bad = worker.ask(&request(0, &["-d", "classes", "Nothing.java"]));
        assert_eq!((bad.exit_code, bad.output.contains("Nothing.java")), (1, true), "{}", bad.output);
        worker.send(&request(0, &["--pause_ms=600000", "-d", "classes", &sources[0]]));
        worker.send(&cancel(0));
        assert!(worker.reply().unwrap().was_cancelled);
        assert!(worker.end().success());

        let mut worker = Spoken::start(wire, at, &java(&jar));
        worker.send(&WorkRequest {
            sandbox_dir: "box".into(),
            ..request(7, &["--pause_ms=600000", "-d", "classes", &sources[1]])
        });
        for id in [1, 2] {
            let orders = ["--jar", "multi.jar", sources[0].as_str()];
            worker.send(&WorkRequest { sandbox_dir: "box".into(), ..request(id, &orders) });
            let reply = worker.reply().unwrap();
            assert_eq!((reply.request_id, reply.exit_code, reply.output.as_str()), (id, 0, ""));
        }
        assert_eq!(fs::read(at.join("box/multi.jar")).unwrap(), wanted);
        worker.send(&cancel(7));
        let cancelled = worker.reply().unwrap();
        assert_eq!((cancelled.request_id, cancelled.was_cancelled), (7, true));
    }
}

/// What the demo and the benchmarks compile does compile, and without a warning.
#[test]
fn java_units_compile() {
    let Some(jar) = built("java-worker", "java-worker") else { return };
    let place = tempfile::tempdir().unwrap();
    let units = java_units(JAVA_UNITS);
    let mut orders = vec!["-Xlint:all", "-Werror", "--jar", "all.jar"];
    let paths: Vec<String> = units.iter().map(|unit| unit.path.display().to_string()).collect();
    orders.extend(paths.iter().map(String::as_str));
    units.iter().for_each(|unit| unit.write(place.path()).unwrap());
    let mut worker = Spoken::start(Wire::Proto, place.path(), &java(&jar));
    let reply = worker.ask(&request(0, &orders));
    assert_eq!((reply.exit_code, reply.output.as_str()), (0, ""));
    assert!(fs::metadata(place.path().join("all.jar")).unwrap().len() > 500_000);
}

#[test]
fn node_works_on_somebody_elses_runtime() {
    let Some(script) = built("node-worker", "node-worker") else { return };
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("a"), "abc ").unwrap();
    fs::write(place.path().join("b"), "def").unwrap();
    // The runtime asks for a collection after each request.
    let mut worker = Spoken::start(Wire::Proto, place.path(), &["node", "--expose-gc", &script]);
    for round in 1..=2 {
        let reply = worker.ask(&request(0, &["--output=out/c", "a", "b"]));
        assert_eq!(reply.exit_code, 0, "{}", reply.output);
        assert!(reply.output.contains(&format!("request {round} declared 1")), "{}", reply.output);
        assert_eq!(fs::read_to_string(place.path().join("out/c")).unwrap(), "ABC DEF");
    }
    let bad = worker.ask(&request(0, &["--output=out/c", "none"]));
    assert_eq!((bad.exit_code, bad.output.contains("ENOENT")), (1, true), "{}", bad.output);
    assert!(worker.end().success());
    fs::write(place.path().join("args"), "--output=once\na\n").unwrap();
    let once = Command::new("node").args([&script, "@args"]).current_dir(place.path()).output().unwrap();
    assert!(once.status.success(), "{once:?}");
    assert_eq!(fs::read_to_string(place.path().join("once")).unwrap(), "ABC ");
}
