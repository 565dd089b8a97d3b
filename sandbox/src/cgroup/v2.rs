//! The v2 driver: limits become settings of the action leaf.
//!
//! | limit | file | unlimited |
//! |---|---|---|
//! | `memory_bytes_max` | `memory.max`, and `memory.swap.max` = 0 | `max` |
//! | `memory_bytes_high` | `memory.high` | `max` |
//! | `cpu_milli_max` | `cpu.max`, period 100 ms | `max 100000` |
//! | `cpu_weight` | `cpu.weight` | 100 |
//! | `pids_max` | `pids.max` | `max` |
//!
//! `memory.oom.group` is 1 from the start: an action that lost a process to the OOM killer has failed, and
//! all of it shall go at once. Pure: nothing is written here.

use super::setting::Setting;
use super::{CPU_PERIOD_US, Controller, Limits};

/// The most that `cpu.weight` takes (cgroup-v2.rst).
pub(super) const WEIGHT_MAX: u32 = 10_000;

/// The settings that a new action leaf gets once.
pub(super) fn initial() -> Vec<Setting> {
    vec![Setting::new("memory_bytes_max", Controller::Memory, "memory.oom.group", "1".into()).optional()]
}

/// The settings that lead from `old` to `new`, in the order of writing. `old` is `None` if it is not known.
pub(super) fn settings(old: Option<&Limits>, new: &Limits) -> Vec<Setting> {
    let mut list = Vec::new();
    let number = |value: Option<u64>| value.map_or("max".to_string(), |value| value.to_string());
    let memory =
        |limit, file, value| Setting::new(limit, Controller::Memory, file, number(value)).bytes(value);
    if old.is_none_or(|old| old.memory_bytes_max != new.memory_bytes_max) {
        list.push(memory("memory_bytes_max", "memory.max", new.memory_bytes_max));
        let swap = new.memory_bytes_max.map(|_| 0);
        list.push(memory("memory_bytes_max", "memory.swap.max", swap).optional());
    }
    if old.is_none_or(|old| old.memory_bytes_high != new.memory_bytes_high) {
        list.push(memory("memory_bytes_high", "memory.high", new.memory_bytes_high));
    }
    if old.is_none_or(|old| old.cpu_milli_max != new.cpu_milli_max) {
        let quota = number(new.cpu_milli_max.map(super::quota_us));
        let value = format!("{quota} {CPU_PERIOD_US}");
        list.push(Setting::new("cpu_milli_max", Controller::Cpu, "cpu.max", value));
    }
    if old.is_none_or(|old| old.cpu_weight != new.cpu_weight) {
        let value = new.cpu_weight.unwrap_or(super::CPU_WEIGHT_DEFAULT).to_string();
        list.push(Setting::new("cpu_weight", Controller::Cpu, "cpu.weight", value));
    }
    if old.is_none_or(|old| old.pids_max != new.pids_max) {
        let value = number(new.pids_max.map(u64::from));
        list.push(Setting::new("pids_max", Controller::Pids, "pids.max", value));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs() {
        let check = |old: Option<&Limits>, new: &Limits, expected: &[&str]| {
            let found: Vec<_> = settings(old, new)
                .iter()
                .map(|setting| format!("{}={}", setting.file, setting.value))
                .collect();
            assert_eq!(found, expected);
        };
        let none = Limits::default();
        let some = Limits {
            memory_bytes_max: Some(1 << 20),
            memory_bytes_high: Some(1 << 19),
            cpu_milli_max: Some(1500),
            cpu_weight: Some(50),
            pids_max: Some(7),
        };
        let set = [
            "memory.max=1048576",
            "memory.swap.max=0",
            "memory.high=524288",
            "cpu.max=150000 100000",
            "cpu.weight=50",
            "pids.max=7",
        ];
        let clear = [
            "memory.max=max",
            "memory.swap.max=max",
            "memory.high=max",
            "cpu.max=max 100000",
            "cpu.weight=100",
            "pids.max=max",
        ];
        check(Some(&none), &none, &[]);
        check(Some(&some), &some, &[]);
        check(Some(&none), &some, &set);
        check(Some(&some), &none, &clear);
        check(None, &none, &clear);
        check(Some(&some), &Limits { pids_max: Some(8), ..some.clone() }, &["pids.max=8"]);
    }
}
