//! Slots of the real hierarchies: limits, delegation, renewal, removal.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use super::super::{CgroupError, CgroupHost, CgroupTree, Controller, Limits, Slot};
use super::{Bench, Script};

fn file_of(slot: &Slot, controller: &str, file_v2: &str, file_v1: &str) -> PathBuf {
    let v1 = slot.paths().into_iter().find(|path| path.join(file_v1).exists());
    let v2 = slot.action_leaf().map(|leaf| leaf.path().join(file_v2)).filter(|path| path.exists());
    v2.or(v1.map(|dir| dir.join(file_v1))).unwrap_or_else(|| panic!("no file of {controller}"))
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_string()
}

#[test]
fn limits_read_back() {
    let Some(bench) = Bench::new("limits_read_back", |host| vec![&host.memory, &host.cpu, &host.pids]) else {
        return;
    };
    let mut slot = bench.tree().slot(0).unwrap();
    let memory = |slot: &Slot| text(file_of(slot, "memory", "memory.max", "memory.limit_in_bytes"));
    let limits = |bytes: u64| Limits {
        memory_bytes_max: Some(bytes),
        cpu_milli_max: Some(1500),
        cpu_weight: Some(200),
        pids_max: Some(33),
        ..Limits::default()
    };
    for bytes in [64 << 20, 128 << 20, 32 << 20, 100_000_001] {
        slot.set_limits(&limits(bytes)).unwrap();
        assert_eq!(memory(&slot), (bytes / 4096 * 4096).to_string());
    }
    let quota = text(file_of(&slot, "cpu", "cpu.max", "cpu.cfs_quota_us"));
    assert_eq!(quota.split(' ').next(), Some("150000"));
    let weight = text(file_of(&slot, "cpu", "cpu.weight", "cpu.shares"));
    assert!(["200", "2048"].contains(&weight.as_str()), "{weight}");
    assert_eq!(text(file_of(&slot, "pids", "pids.max", "pids.max")), "33");
    slot.set_limits(&Limits::default()).unwrap();
    assert!(["max", "9223372036854771712"].contains(&memory(&slot).as_str()));
    assert_eq!(text(file_of(&slot, "pids", "pids.max", "pids.max")), "max");
    assert_eq!(slot.limits(), Some(&Limits::default()));
    slot.destroy().unwrap();
    bench.finish();
}

/// All actions together weigh as many processes as there are processors, or each would weigh a fraction of one.
#[test]
fn the_tree_weighs_as_much_as_its_processors_can_run() {
    let Some(bench) = Bench::new("the_tree_weighs_as_much_as_its_processors_can_run", |host| vec![&host.cpu])
    else {
        return;
    };
    let processors = std::thread::available_parallelism().unwrap().get();
    let tops = bench.tree().paths();
    let read = |file: &str| {
        let text = tops.iter().find_map(|top| std::fs::read_to_string(top.join(file)).ok())?;
        text.trim().parse::<usize>().ok()
    };
    let (shares, weight) = (read("cpu.shares"), read("cpu.weight"));
    let expected =
        (shares.map(|_| (1024 * processors).min(1 << 18)), weight.map(|_| (100 * processors).min(10_000)));
    assert_eq!((shares, weight), expected);
    assert!(shares.or(weight).is_some(), "neither file is there: {tops:?}");
    bench.finish();
}

#[test]
fn swap_is_off_under_a_memory_limit() {
    let Some(bench) = Bench::new("swap_is_off_under_a_memory_limit", |host| vec![&host.memory]) else {
        return;
    };
    let mut slot = bench.tree().slot(0).unwrap();
    slot.set_limits(&Limits { memory_bytes_max: Some(1 << 24), ..Limits::default() }).unwrap();
    let found = slot.paths().into_iter().find_map(|dir| {
        let v2 = std::fs::read_to_string(dir.join("memory.swap.max")).ok().map(|text| (text, "0"));
        v2.or(std::fs::read_to_string(dir.join("memory.memsw.limit_in_bytes"))
            .ok()
            .map(|text| (text, "16777216")))
    });
    match found {
        Some((text, expected)) => assert_eq!(text.trim(), expected),
        None => eprintln!("SKIP swap_is_off_under_a_memory_limit: this kernel has no swap accounting"),
    }
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn what_is_missing_is_an_error_and_changes_nothing() {
    let Some(bench) = Bench::new("what_is_missing_is_an_error_and_changes_nothing", |host| vec![&host.pids])
    else {
        return;
    };
    let mut host = CgroupHost::clone(bench.tree().host());
    let has_v1_memory = host.v1_places().iter().any(|place| place.controllers.contains(&Controller::Memory));
    if has_v1_memory {
        let mut slot = bench.tree().slot(0).unwrap();
        let limits = Limits { memory_bytes_high: Some(1 << 24), pids_max: Some(5), ..Limits::default() };
        let error = slot.set_limits(&limits).unwrap_err();
        assert!(matches!(error, CgroupError::LimitUnavailable { limit: "memory_bytes_high", .. }), "{error}");
        assert_eq!(text(file_of(&slot, "pids", "pids.max", "pids.max")), "max");
        assert_eq!(slot.limits(), Some(&Limits::default()));
    }
    bench.finish();
    // The same with a controller that nobody gives.
    host = CgroupHost::probe_at("", "", &super::super::Observer::current());
    let error = CgroupTree::create(&host, "none").unwrap_err();
    assert!(matches!(error, CgroupError::NoPlace { .. }), "{error}");
}

#[test]
fn an_existing_slot_is_not_taken_twice() {
    let Some(bench) = Bench::new("an_existing_slot_is_not_taken_twice", |_| vec![]) else { return };
    let slot = bench.tree().slot(3).unwrap();
    let error = bench.tree().slot(3).unwrap_err().to_string();
    assert!(error.contains("create cgroup") && error.contains("slot-3"), "{error}");
    assert!(
        slot.paths().iter().all(|path| path.exists()),
        "the failed attempt removed directories of the other"
    );
    drop(slot);
    bench.tree().slot(3).unwrap().destroy().unwrap();
    bench.finish();
}

#[test]
fn fifty_slots_leave_nothing() {
    let Some(bench) = Bench::new("fifty_slots_leave_nothing", |_| vec![]) else { return };
    let start = std::time::Instant::now();
    let slots: Vec<_> = (0..50).map(|index| bench.tree().slot(index).unwrap()).collect();
    let made = start.elapsed();
    let paths: Vec<_> = slots.iter().flat_map(|slot| slot.paths()).collect();
    slots.into_iter().for_each(|slot| slot.destroy().unwrap());
    eprintln!("50 slots: made in {made:?}, removed in {:?}", start.elapsed() - made);
    assert!(paths.iter().all(|path| !path.exists()));
    bench.finish();
}

#[test]
fn a_dropped_tree_takes_its_slots_along() {
    let Some(bench) = Bench::new("a_dropped_tree_takes_its_slots_along", |_| vec![]) else { return };
    let slots: Vec<_> = (0..3).map(|index| bench.tree().slot(index).unwrap()).collect();
    bench.finish();
    drop(slots);
}

#[test]
fn a_renewed_leaf_has_the_same_limits_and_owner() {
    let Some(bench) = Bench::new("a_renewed_leaf_has_the_same_limits_and_owner", |host| vec![&host.events])
    else {
        return;
    };
    let mut slot = bench.tree().slot(0).unwrap();
    let limits = Limits { pids_max: Some(9), ..Limits::default() };
    let limited = bench.tree().host().pids.is_yes();
    if limited {
        slot.set_limits(&limits).unwrap();
    }
    let uid = if rustix::process::geteuid().is_root() { 65534 } else { rustix::process::geteuid().as_raw() };
    slot.delegate_to(uid, rustix::process::getegid().as_raw()).unwrap();
    let inode = |slot: &Slot| rustix::fs::fstat(slot.action_leaf_fd().unwrap()).unwrap().st_ino;
    let before = inode(&slot);
    slot.renew_action_leaf().unwrap();
    assert_ne!(inode(&slot), before);
    let procs = slot.action_leaf().unwrap().path().join("cgroup.procs");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(procs).unwrap()), uid);
    if limited {
        assert_eq!(text(file_of(&slot, "pids", "pids.max", "pids.max")), "9");
        assert_eq!(slot.limits(), Some(&limits));
    }
    slot.usage().unwrap();
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn a_delegated_uid_may_enter_the_action_leaf_from_init() {
    const NOBODY: u32 = 65534;
    let Some(bench) =
        Bench::new("a_delegated_uid_may_enter_the_action_leaf_from_init", |host| vec![&host.events])
    else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIP a_delegated_uid_may_enter_the_action_leaf_from_init: only root may become another uid"
        );
        return bench.finish();
    }
    let mut slot = bench.tree().slot(0).unwrap();
    let procs = slot.action_leaf().unwrap().path().join("cgroup.procs");
    let enter = |slot: &Slot| {
        let script = format!("echo $$ > {}", procs.display());
        let script = Script::with(&script, |command| {
            command.uid(NOBODY).gid(NOBODY);
        });
        slot.init_leaf().unwrap().attach(script.pid()).unwrap();
        script.go().wait().success()
    };
    assert!(!enter(&slot), "nobody got in without delegation");
    slot.delegate_to(NOBODY, NOBODY).unwrap();
    assert!(enter(&slot), "nobody did not get in");
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn a_kill_goes_first_until_the_leaf_is_renewed() {
    let Some(bench) =
        Bench::new("a_kill_goes_first_until_the_leaf_is_renewed", |host| vec![&host.cpu, &host.kill])
    else {
        return;
    };
    let mut slot = bench.tree().slot(0).unwrap();
    let weight = |slot: &crate::cgroup::Slot| {
        let all = slot.paths();
        let read =
            |file: &str| all.iter().rev().find_map(|path| std::fs::read_to_string(path.join(file)).ok());
        read("cpu.shares").or_else(|| read("cpu.weight")).unwrap_or_default().trim().to_owned()
    };
    let usual = weight(&slot);
    slot.group_kill().unwrap().kill().unwrap();
    assert_ne!(weight(&slot), usual);
    slot.renew_action_leaf().unwrap();
    assert_eq!(weight(&slot), usual);
    slot.destroy().unwrap();
    bench.finish();
}
