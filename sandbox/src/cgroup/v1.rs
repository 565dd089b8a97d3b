//! The v1 driver: limits become settings of the slot's directory in each hierarchy.
//!
//! | limit | file | unlimited |
//! |---|---|---|
//! | `memory_bytes_max` | `memory.limit_in_bytes`, `memory.memsw.limit_in_bytes` (with swap) the same | -1 |
//! | `memory_bytes_high` | none: `memory.soft_limit_in_bytes` does not throttle | |
//! | `cpu_milli_max` | `cpu.cfs_quota_us`, `cpu.cfs_period_us` = 100 ms | -1 |
//! | `cpu_weight` | `cpu.shares`, 1024 for a weight of 100 | 1024 |
//! | `pids_max` | `pids.max` | `max` |
//!
//! The kernel keeps `limit <= memsw` at every moment, so raising writes memsw first and lowering writes it
//! last. Pure: nothing is written here.

use super::setting::Setting;
use super::{CPU_PERIOD_US, Controller, Limits};

/// The settings that lead from `old` to `new`, in the order of writing. `old` is `None` if it is not known.
pub(super) fn settings(old: Option<&Limits>, new: &Limits) -> Vec<Setting> {
    let mut list = Vec::new();
    match old {
        None => {
            memory(&mut list, None, true);
            memory(&mut list, new.memory_bytes_max, false);
        }
        Some(old) if old.memory_bytes_max != new.memory_bytes_max => {
            let limit = |limits: &Limits| limits.memory_bytes_max.unwrap_or(u64::MAX);
            memory(&mut list, new.memory_bytes_max, limit(new) > limit(old));
        }
        Some(_) => {}
    }
    if old.is_none_or(|old| old.cpu_milli_max != new.cpu_milli_max) {
        let quota = new.cpu_milli_max.map_or("-1".to_string(), |milli| super::quota_us(milli).to_string());
        let period = CPU_PERIOD_US.to_string();
        list.push(Setting::new("cpu_milli_max", Controller::Cpu, "cpu.cfs_period_us", period));
        list.push(Setting::new("cpu_milli_max", Controller::Cpu, "cpu.cfs_quota_us", quota));
    }
    if old.is_none_or(|old| old.cpu_weight != new.cpu_weight) {
        list.push(Setting::new("cpu_weight", Controller::Cpu, "cpu.shares", shares(new.cpu_weight)));
    }
    if old.is_none_or(|old| old.pids_max != new.pids_max) {
        let value = new.pids_max.map_or("max".to_string(), |pids| pids.to_string());
        list.push(Setting::new("pids_max", Controller::Pids, "pids.max", value));
    }
    list
}

/// The kernel's default of `cpu.shares`.
pub(super) const SHARES_DEFAULT: u32 = 1024;
/// The most that it takes (`MAX_SHARES` in kernel/sched/sched.h).
pub(super) const SHARES_MAX: u32 = 1 << 18;

/// The value of `cpu.shares` for a weight.
pub(super) fn shares(weight: Option<u16>) -> String {
    let weight = u32::from(weight.unwrap_or(super::CPU_WEIGHT_DEFAULT));
    // 2 is the least that the kernel takes.
    (weight * SHARES_DEFAULT / u32::from(super::CPU_WEIGHT_DEFAULT)).max(2).to_string()
}

fn memory(list: &mut Vec<Setting>, bytes: Option<u64>, raise: bool) {
    let value = bytes.map_or("-1".to_string(), |bytes| bytes.to_string());
    let setting =
        |file| Setting::new("memory_bytes_max", Controller::Memory, file, value.clone()).bytes(bytes);
    let limit = setting("memory.limit_in_bytes");
    let with_swap = setting("memory.memsw.limit_in_bytes").optional();
    list.extend(if raise { [with_swap, limit] } else { [limit, with_swap] });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_order_keeps_the_limit_below_memsw() {
        let check = |old: Option<Option<u64>>, new: Option<u64>, expected: &[&str]| {
            let limits = |memory_bytes_max| Limits { memory_bytes_max, ..Limits::default() };
            let old = old.map(limits);
            let found: Vec<_> = settings(old.as_ref(), &limits(new))
                .iter()
                .filter(|setting| setting.controller == Controller::Memory)
                .map(|setting| format!("{}={}", setting.file.trim_start_matches("memory."), setting.value))
                .collect();
            assert_eq!(found, expected);
        };
        check(Some(None), Some(8192), &["limit_in_bytes=8192", "memsw.limit_in_bytes=8192"]);
        check(Some(Some(8192)), Some(4096), &["limit_in_bytes=4096", "memsw.limit_in_bytes=4096"]);
        check(Some(Some(4096)), Some(8192), &["memsw.limit_in_bytes=8192", "limit_in_bytes=8192"]);
        check(Some(Some(4096)), None, &["memsw.limit_in_bytes=-1", "limit_in_bytes=-1"]);
        check(Some(Some(4096)), Some(4096), &[]);
        let unknown = [
            "memsw.limit_in_bytes=-1",
            "limit_in_bytes=-1",
            "limit_in_bytes=4096",
            "memsw.limit_in_bytes=4096",
        ];
        check(None, Some(4096), &unknown);
    }

    #[test]
    fn cpu_and_pids() {
        let limits =
            Limits { cpu_milli_max: Some(250), cpu_weight: Some(1), pids_max: Some(9), ..Limits::default() };
        let files = |list: Vec<Setting>| -> Vec<String> {
            list.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
        };
        let set = ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=25000", "cpu.shares=10", "pids.max=9"];
        assert_eq!(files(settings(Some(&Limits::default()), &limits)), set);
        let clear = ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1", "cpu.shares=1024", "pids.max=max"];
        assert_eq!(files(settings(Some(&limits), &Limits::default())), clear);
    }
}
