//! Sweeping, below a tree of our own: what others left on this machine is theirs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{CgroupHost, ProcessIdentity, parse_tree_name, sweep_stale, tree_name};
use super::{Bench, Script};

/// The host as it would be if our tree's top directories were the places.
fn nested(bench: &Bench) -> CgroupHost {
    let mut host = bench.tree().host().clone();
    let mut tops = bench.tree().paths().into_iter();
    for dir in
        host.v2.iter_mut().map(|place| &mut place.dir).chain(host.v1.iter_mut().map(|place| &mut place.dir))
    {
        *dir = tops.next().unwrap();
    }
    host
}

fn make(tops: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let made: Vec<_> = tops.iter().map(|top| top.join(name)).collect();
    for dir in &made {
        std::fs::create_dir_all(dir.join("slot-0")).unwrap();
    }
    made
}

fn attach(dir: &Path, script: &Script) {
    std::fs::write(dir.join("cgroup.procs"), script.pid().as_raw_nonzero().to_string()).unwrap();
}

#[test]
fn trees_of_the_dead_go_and_those_of_the_living_stay() {
    let Some(bench) = Bench::new("trees_of_the_dead_go_and_those_of_the_living_stay", |_| vec![]) else {
        return;
    };
    let host = nested(&bench);
    let tops = bench.tree().paths();
    let mut gone = Command::new("true").spawn().unwrap();
    let dead = ProcessIdentity { pid: gone.id(), start_ticks: 1 };
    gone.wait().unwrap();
    let me = ProcessIdentity::current();
    let reused = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me };
    let stale = make(&tops, &tree_name(&dead, "a"));
    let also_stale = make(&tops, &tree_name(&reused, "b"));
    let mut kept = make(&tops, &tree_name(&me, "c"));
    let other_namespace =
        tree_name(&dead, "d").replace(&super::super::process::pid_namespace().unwrap().to_string(), "7");
    kept.extend(make(&tops, &other_namespace));
    kept.extend(make(&tops, "fulgurite-of-somebody-else"));
    let mut survivor = Script::new("sleep 30");
    stale.iter().for_each(|dir| attach(&dir.join("slot-0"), &survivor));
    // A killed process leaves its groups when it is reaped.
    let reaper = std::thread::spawn(move || survivor.wait());

    let report = sweep_stale(&host);
    assert_eq!(report.len(), 2 * tops.len(), "{report:?}");
    assert!(report.iter().all(|line| line.starts_with("removed ")), "{report:?}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&reaper.join().unwrap()), Some(9));
    assert!(stale.iter().chain(&also_stale).all(|dir| !dir.exists()), "{report:?}");
    assert!(kept.iter().all(|dir| dir.exists()), "{report:?}");
    assert!(sweep_stale(&host).is_empty());
    bench.finish();
}

#[test]
fn only_names_that_we_give() {
    let me = ProcessIdentity { pid: 12, start_ticks: 345 };
    let name = tree_name(&me, "x-1");
    assert_eq!(parse_tree_name(&name).map(|found| found.0), Some(me));
    for name in [
        "",
        "fulgurite-",
        "fulgurite-1-2.x",
        "fulgurite-1-2-3",
        "fulgurite-1-2-3-4.x",
        "x-1-2-3.x",
        "fulgurite-a-2-3.x",
    ] {
        assert_eq!(parse_tree_name(name), None, "{name}");
    }
}
