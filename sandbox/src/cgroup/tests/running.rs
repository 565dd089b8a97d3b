//! Actions in the real hierarchies: what they use, how they are stopped.

use std::os::unix::process::ExitStatusExt as _;

use super::super::Limits;
use super::{Bench, PATIENCE, Script, eventually};

const SIGKILL: i32 = 9;

#[test]
fn an_oom_kill_is_counted_with_its_peak() {
    let Some(bench) = Bench::new("an_oom_kill_is_counted_with_its_peak", |host| vec![&host.memory]) else {
        return;
    };
    let mut slot = bench.tree().slot(0).unwrap();
    let limit = 32 << 20;
    slot.set_limits(&Limits { memory_bytes_max: Some(limit), ..Limits::default() }).unwrap();
    slot.rebase().unwrap();
    let mut script = Script::new("exec dd if=/dev/zero of=/dev/null bs=256M count=1").join(&slot).go();
    assert_eq!(script.wait().signal(), Some(SIGKILL));
    let usage = slot.usage().unwrap();
    // A group kill counts its first victim twice.
    let most = if usage.sources.oom_kills == Some("memory.events") { 2 } else { 1 };
    assert!((1..=most).contains(&usage.oom_kills.unwrap()), "{usage:?}");
    if bench.tree().host().memory_peak.is_yes() {
        let peak = usage.memory_peak_bytes.unwrap();
        assert!(peak <= limit && peak > limit * 9 / 10, "peak {peak} of {limit}");
    }
    slot.rebase().unwrap();
    let usage = slot.usage().unwrap();
    assert_eq!(usage.oom_kills, Some(0), "{usage:?}");
    assert!(usage.memory_peak_bytes.unwrap_or(0) < limit / 2, "{usage:?}");
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn forks_beyond_the_limit_are_denied_and_counted() {
    let Some(bench) =
        Bench::new("forks_beyond_the_limit_are_denied_and_counted", |host| vec![&host.pids, &host.kill])
    else {
        return;
    };
    let mut slot = bench.tree().slot(0).unwrap();
    slot.set_limits(&Limits { pids_max: Some(6), ..Limits::default() }).unwrap();
    slot.rebase().unwrap();
    let mut script =
        Script::new("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 30 & done; exit 0").join(&slot).go();
    assert!(!script.wait().success(), "the shell forked beyond the limit");
    assert!(slot.usage().unwrap().pids_denied >= Some(1));
    assert!(slot.kill_action().unwrap());
    assert!(slot.wait_quiet(PATIENCE).unwrap());
    slot.rebase().unwrap();
    assert_eq!(slot.usage().unwrap().pids_denied, Some(0));
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn kill_stops_all_of_the_action_and_only_that() {
    let Some(bench) = Bench::new("kill_stops_all_of_the_action_and_only_that", |host| vec![&host.kill])
    else {
        return;
    };
    let slot = bench.tree().slot(0).unwrap();
    assert_eq!(slot.populated(), Some(false));
    let mut init = Script::new("sleep 30");
    slot.init_leaf().unwrap().attach(init.pid()).unwrap();
    let mut action = Script::new("sleep 30 & sleep 30 & wait").join(&slot).go();
    assert_eq!(slot.populated(), Some(true));
    assert!(!slot.wait_quiet(std::time::Duration::from_millis(5)).unwrap());
    assert!(slot.kill_action().unwrap());
    assert!(slot.wait_quiet(PATIENCE).unwrap());
    assert_eq!(slot.populated(), Some(false));
    assert_eq!(action.wait().signal(), Some(SIGKILL));
    assert!(init.child.try_wait().unwrap().is_none(), "the init died too");
    drop(init);
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn freeze_and_thaw() {
    let Some(bench) = Bench::new("freeze_and_thaw", |host| vec![&host.freeze, &host.kill]) else { return };
    let slot = bench.tree().slot(0).unwrap();
    let mut script = Script::new("exit 7").join(&slot);
    assert!(slot.freeze().unwrap());
    eventually("frozen", || slot.frozen() == Some(true));
    script = script.go();
    assert_eq!(slot.frozen(), Some(true), "a write to it must not thaw it");
    assert!(script.child.try_wait().unwrap().is_none(), "it ran while frozen");
    assert!(slot.thaw().unwrap());
    assert_eq!(script.wait().code(), Some(7));
    // A frozen action can still be killed.
    let mut script = Script::new("sleep 30").join(&slot).go();
    slot.freeze().unwrap();
    eventually("frozen again", || slot.frozen() == Some(true));
    assert!(slot.kill_action().unwrap());
    assert_eq!(script.wait().signal(), Some(SIGKILL));
    drop(script);
    slot.thaw().unwrap();
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn usage_counts_from_the_last_rebase() {
    let Some(bench) = Bench::new("usage_counts_from_the_last_rebase", |_| vec![]) else { return };
    let mut slot = bench.tree().slot(0).unwrap();
    let burn =
        "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/dev/null bs=20M count=1";
    assert!(Script::new(burn).join(&slot).go().wait().success());
    let used = slot.usage().unwrap();
    let cpu_us = |usage: super::super::Usage| usage.cpu_user_us.unwrap() + usage.cpu_system_us.unwrap();
    if used.sources.cpu.is_some() {
        assert!(cpu_us(used) > 10_000, "{used:?}");
    }
    if used.sources.memory_peak.is_some() {
        assert!(used.memory_peak_bytes.unwrap() > 20 << 20, "{used:?}");
    }
    slot.rebase().unwrap();
    let rest = slot.usage().unwrap();
    if used.sources.cpu.is_some() {
        assert!(cpu_us(rest) < cpu_us(used) / 4, "{rest:?}");
    }
    assert!(rest.memory_peak_bytes.unwrap_or(0) < 10 << 20, "{rest:?}");
    assert_eq!(rest.oom_kills.unwrap_or(0), 0);
    eprintln!("first {used:?}\nrest {rest:?}");
    slot.destroy().unwrap();
    bench.finish();
}

#[test]
fn a_busy_slot_is_quarantined_in_bounded_time() {
    let Some(bench) = Bench::new("a_busy_slot_is_quarantined_in_bounded_time", |_| vec![]) else { return };
    let slot = bench.tree().slot(0).unwrap();
    let script = Script::new("sleep 30").join(&slot);
    let paths = slot.paths();
    let error = slot.destroy().unwrap_err();
    let super::super::CgroupError::Quarantined { paths: left, .. } = &error else { panic!("{error}") };
    assert!(!left.is_empty() && left.iter().all(|path| paths.contains(path) && path.exists()), "{error}");
    let left = super::super::remove_quarantined(left.clone());
    drop(script);
    eventually("the quarantine is empty", || super::super::remove_quarantined(left.clone()).is_empty());
    bench.finish();
}
