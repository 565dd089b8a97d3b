//! When workers come and go, and what they use.

use super::scene::{
    PLAIN, Work, details, each, fake, listed, logs, one_shot_because, only_pid, report, response, tag, text,
    until_gone, uuid_of, with,
};
use crate::daemon::{Home, PATIENCE, pids_with};
use fulgurite_proto::buildbarn::resourceusage::PosixResourceUsage;
use fulgurite_sandbox::testing::settles;
use prost::Message;

pub fn builds() {
    each(&["--set", "worker.quit_after_build=200ms"], |client, _, way| {
        let tag = tag();
        let asked = |build: &str| {
            let (report, _) = report(&client.of_build(build, ""), &Work::new(way, &[&tag], &["--x"]));
            (uuid_of(&report), report["counter"].as_u64().unwrap())
        };
        let first = asked("first");
        let second = asked("second");
        assert_ne!(first.0, second.0, "{way:?}: two builds have one worker");
        assert_eq!((first.1, second.1), (1, 1));
        until_gone(&tag);
        assert_eq!(asked("first").1, 1);
        until_gone(&tag);
    });
    with(&["--worker_quit_after_build"], |client, home| {
        let client = client.of_build("one", "");
        for counter in 1..=2 {
            assert_eq!(report(&client, &Work::new(PLAIN, &[], &["--x"])).0["counter"], counter);
        }
        assert!(listed(home, &[]).contains("worker"), "{}", listed(home, &[]));
    });
}

pub fn clean() {
    with(&[], |client, home| {
        let tag = tag();
        let mut uuids = Vec::new();
        for round in 0..2 {
            for way in super::scene::WAYS {
                let (report, _) = report(client, &Work::new(way, &[&tag], &["--x"]));
                assert_eq!(report["counter"], 1, "{way:?} in round {round}");
                uuids.push(uuid_of(&report));
            }
            let lines = listed(home, &[]);
            assert_eq!(lines.lines().count(), 5, "{lines}");
            assert_eq!(pids_with(&tag).len(), 4);
            let said = listed(home, &["--stop"]);
            assert_eq!(said, "stopped          4\nstill at work    0\n");
            assert!(pids_with(&tag).is_empty(), "the call has returned before they were gone");
        }
        uuids.sort();
        uuids.dedup();
        assert_eq!(uuids.len(), 8);
    });
}

pub fn no_directory() {
    each(&[], |client, home, way| {
        let directory = home.state().join("workers");
        // All ways do the same to the same directory.
        let _ = std::fs::remove_dir_all(&directory);
        let response = response(client, &Work::new(way, &[], &["--say=by itself"]));
        let why = one_shot_because(&response);
        assert!(why.contains("no worker can be started: cannot make its log"), "{why}");
        assert_eq!(text(client, &response), "by itself\n");
    });
    if fake().is_none() {
        return;
    }
    // Where it can never be made, nobody is left to wonder.
    let home = Home::new();
    std::fs::create_dir_all(home.state()).unwrap();
    std::fs::write(home.state().join("workers"), "").unwrap();
    let refused = home.refused(&["--unix", home.path("socket").to_str().unwrap()]);
    assert!(refused.stderr.contains("cannot keep persistent workers"), "{}", refused.stderr);
    let daemon = home.start(&["--set", "worker.enabled=false"]);
    daemon.client().put_large(&fake().unwrap().1);
    let alone = Work::new(PLAIN, &[], &["--say=by itself"]);
    assert_eq!(text(&daemon.client(), &response(&daemon.client(), &alone)), "by itself\n");
    daemon.end(&home);
}

pub fn old_logs() {
    if fake().is_none() {
        return println!("SKIP workers: built without --features test-fakes");
    }
    let home = Home::new();
    let count = || std::fs::read_dir(home.state().join("workers")).unwrap().count();
    let daemon = home.start(&[]);
    daemon.client().put_large(&fake().unwrap().1);
    for way in super::scene::WAYS {
        report(&daemon.client(), &Work::new(way, &[], &["--stderr=noise"]));
    }
    assert_eq!(count(), 4);
    assert!(settles(PATIENCE, || logs(&home).matches("noise").count() == 4), "{}", logs(&home));
    daemon.end(&home);
    let daemon = home.start(&[]);
    assert_eq!(count(), 0);
    daemon.end(&home);
}

/// Whether a process does not run because its control group is frozen; `None` where there is no freezer.
fn is_frozen(pid: u32) -> Option<bool> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut known = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"] {
            if controllers.is_empty() {
                let events = std::fs::read_to_string(format!("{root}{path}/cgroup.events"));
                known = events.ok().map(|text| text.contains("frozen 1")).or(known);
            } else if controllers == "freezer" && known != Some(true) {
                let state = std::fs::read_to_string(format!("{root}{path}/freezer.state"));
                known = state.ok().map(|text| text.trim() == "FROZEN").or(known);
            }
        }
    }
    known
}

pub fn idle() {
    let settings = ["--set", "worker.freeze_after=100ms", "--set", "worker.idle_max=1h"];
    each(&settings, |client, _, way| {
        let tag = tag();
        let work = || Work::new(way, &[&tag], &["--x"]);
        let (first, _) = report(client, &work());
        let pid = only_pid(&tag);
        if is_frozen(pid).is_none() {
            return println!("SKIP workers: no freezer here");
        }
        assert!(settles(PATIENCE, || is_frozen(pid) == Some(true)), "{way:?}: it is not frozen");
        let (second, _) = report(client, &work());
        assert_eq!((&second["uuid"], &second["counter"]), (&first["uuid"], &2.into()));
        assert!(settles(PATIENCE, || is_frozen(pid) == Some(true)), "{way:?}: it is not frozen again");
    });
    let settings = ["--set", "worker.freeze_after=100ms", "--set", "worker.idle_max=700ms"];
    each(&settings, |client, home, way| {
        let tag = tag();
        let work = || Work::new(way, &[&tag], &["--x"]);
        report(client, &work());
        // Frozen, thawed, and ended.
        until_gone(&tag);
        assert_eq!(report(client, &work()).0["counter"], 1);
        assert!(settles(PATIENCE, || home.said().contains("nobody wanted it for 0 s")), "{}", home.said());
    });
}

/// The largest of the idle ones goes, and no more than have to.
pub fn memory() {
    with(&["--set", "worker.memory_max=250MiB"], |client, home| {
        let eats = |mebibytes: u32| {
            let (tag, fault) = (tag(), format!("--fault=eat-memory:{mebibytes}@1"));
            (tag.clone(), Work::new(PLAIN, &[&tag, &fault], &["--x"]))
        };
        let [small, large, middle] = [20, 180, 80].map(eats);
        let uuids = [&small, &large, &middle].map(|(_, work)| uuid_of(&report(client, work).0));
        until_gone(&large.0);
        let said = home.said();
        assert!(said.contains("workers use more memory than the limit ("), "{said}");
        assert!(said.contains(&format!(" > {} KB)", 250 << 10)), "{said}");
        // Those that stay are those that were.
        for (at, (_, work)) in [(0, &small), (2, &middle)] {
            let (report, _) = report(client, work);
            assert_eq!((&report["counter"], uuid_of(&report)), (&2.into(), uuids[at].clone()));
        }
        assert_eq!(report(client, &large.1).0["counter"], 1);
    });
}

/// Of requests that come one by one: processor time is that between question and answer, the peak that of its life.
pub fn usage() {
    each(&[], |client, _, way| {
        let used = |orders: &[&str]| {
            let result = client.succeed(&Work::new(way, &[], orders).order);
            let metadata = result.execution_metadata.as_ref().unwrap();
            let posix =
                metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("POSIXResourceUsage"));
            let usage = PosixResourceUsage::decode(posix.unwrap().value.as_slice()).unwrap();
            let micros = |time: Option<prost_types::Duration>| {
                time.map_or(0, |time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1000)
            };
            let micros = micros(usage.user_time) + micros(usage.system_time);
            (micros, details(&result).memory_peak_bytes)
        };
        let first = used(&["--x"]);
        let eater = used(&["--fault=eat-memory:100"]);
        let last = used(&["--y"]);
        assert!(
            eater.1 > 100 << 20 && eater.1 > first.1 && last.1 >= eater.1,
            "{way:?}: {first:?} {eater:?} {last:?}"
        );
        // Touching 25,600 pages costs more than answering.
        assert!(eater.0 > last.0, "{way:?}: {first:?} {eater:?} {last:?}");
    });
    with(&[], |client, _| {
        let result = client.succeed(&Work::of_many("proto", &[], &["--fault=eat-memory:50"]).order);
        assert_eq!(details(&result).memory_peak_bytes, 0, "of several at a time nobody knows whose it is");
    });
}

pub fn children() {
    each(&[], |client, home, way| {
        // The environment goes on to children, of whatever session.
        let mark = tag();
        let work = |orders: &[&str]| Work::new(way, &["--forks"], orders).variable("MARK", &mark);
        client.succeed(&work(&["--fault=fork-children:4"]).order);
        assert_eq!(pids_with(&mark).len(), 5, "{way:?}");
        // They may stay as long as their worker does.
        report(client, &work(&["--x"]));
        assert_eq!(pids_with(&mark).len(), 5, "{way:?}");
        response(client, &work(&["--fault=signal:9"]));
        // The retry has killed itself as well.
        until_gone(&mark);
        assert!(!home.said().contains("cannot be killed"), "{}", home.said());
    });
}
