//! What an action may use. Plain data: no file of any cgroup version is named here.
//!
//! `None` means unlimited. Swap is not a limit of its own: as soon as `memory_bytes_max` is set, swap is
//! zero, because a limit on memory without one on swap lets an action exceed it.

use super::CgroupError;

/// The most processes Linux can number (`PID_MAX_LIMIT`, include/linux/threads.h).
const PIDS_MAX: u32 = 4_194_304;
/// One pebibyte: beyond any machine, and far below what the kernel's page counter can hold.
const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// The kernel refuses a quota below one millisecond; our period is 100 ms (kernel/sched/core.c,
/// `min_cfs_quota_period`).
const CPU_MILLI_MIN: u32 = 10;
/// Ten thousand cores.
const CPU_MILLI_MAX: u32 = 10_000_000;

/// Resource limits of one sandbox's action. The default is no limit at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory (page cache included) above which the action is OOM-killed. Swap is then 0.
    pub memory_bytes_max: Option<u64>,
    /// Bytes of memory above which the action is throttled and reclaimed from (v2 only).
    pub memory_bytes_high: Option<u64>,
    /// Thousandths of a core, per 100 ms: 1000 is one core.
    pub cpu_milli_max: Option<u32>,
    /// Share under contention, 1 to 10000; the kernel's default is 100.
    pub cpu_weight: Option<u16>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
}

impl Limits {
    /// The names of the limits that are not left open.
    #[must_use]
    pub fn asked_for(&self) -> Vec<&'static str> {
        let names = [
            ("memory_bytes_max", self.memory_bytes_max.is_some()),
            ("memory_bytes_high", self.memory_bytes_high.is_some()),
            ("cpu_milli_max", self.cpu_milli_max.is_some()),
            ("cpu_weight", self.cpu_weight.is_some()),
            ("pids_max", self.pids_max.is_some()),
        ];
        names.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect()
    }

    /// Refuses limits that no kernel could honor or that could never act.
    ///
    /// # Errors
    /// [`CgroupError::InvalidLimit`] with the field and the reason.
    pub fn validate(&self) -> Result<(), CgroupError> {
        let page = super::page_bytes();
        check_memory("memory_bytes_max", self.memory_bytes_max, page)?;
        check_memory("memory_bytes_high", self.memory_bytes_high, page)?;
        if let (Some(high), Some(max)) = (self.memory_bytes_high, self.memory_bytes_max)
            && high > max
        {
            let why = format!("{high} bytes is above memory_bytes_max ({max} bytes) and would never act");
            return Err(CgroupError::InvalidLimit { limit: "memory_bytes_high", why });
        }
        check_range("cpu_milli_max", self.cpu_milli_max, CPU_MILLI_MIN, CPU_MILLI_MAX)?;
        check_range("cpu_weight", self.cpu_weight.map(u32::from), 1, 10_000)?;
        check_range("pids_max", self.pids_max, 1, PIDS_MAX)
    }
}

fn check_memory(limit: &'static str, value: Option<u64>, page: u64) -> Result<(), CgroupError> {
    let why = match value {
        Some(bytes) if bytes < page => format!("{bytes} bytes is less than one page ({page} bytes)"),
        Some(bytes) if bytes > MEMORY_BYTES_MAX => {
            format!("{bytes} bytes is more than {MEMORY_BYTES_MAX} (1 PiB); leave it out for no limit")
        }
        _ => return Ok(()),
    };
    Err(CgroupError::InvalidLimit { limit, why })
}

fn check_range(limit: &'static str, value: Option<u32>, least: u32, most: u32) -> Result<(), CgroupError> {
    match value {
        Some(value) if value < least || value > most => {
            let why = format!("{value} is not between {least} and {most}");
            Err(CgroupError::InvalidLimit { limit, why })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validate_refuses_the_impossible() {
        let none = Limits::default();
        let check = |limits: Limits, expected: Option<&str>| {
            let found = limits.validate().err().map(|error| error.to_string());
            match (&found, expected) {
                (None, None) => {}
                (Some(text), Some(part)) => assert!(text.contains(part), "{text:?} lacks {part:?}"),
                _ => panic!("{limits:?}: {found:?}, expected {expected:?}"),
            }
        };
        let max = |bytes| Limits { memory_bytes_max: Some(bytes), ..none.clone() };
        check(none.clone(), None);
        check(max(0), Some("less than one page"));
        check(max(super::super::page_bytes() - 1), Some("less than one page"));
        check(max(super::super::page_bytes()), None);
        check(max(u64::MAX), Some("1 PiB"));
        check(Limits { memory_bytes_high: Some(2 << 20), ..max(1 << 20) }, Some("would never act"));
        check(Limits { memory_bytes_high: Some(1 << 20), ..max(1 << 20) }, None);
        check(Limits { pids_max: Some(0), ..none.clone() }, Some("pids_max: 0 is not between 1"));
        check(Limits { pids_max: Some(u32::MAX), ..none.clone() }, Some("pids_max"));
        check(Limits { cpu_milli_max: Some(0), ..none.clone() }, Some("cpu_milli_max"));
        check(Limits { cpu_milli_max: Some(10), ..none.clone() }, None);
        check(Limits { cpu_weight: Some(0), ..none.clone() }, Some("cpu_weight"));
        check(Limits { cpu_weight: Some(10_001), ..none.clone() }, Some("cpu_weight"));
        check(Limits { cpu_weight: Some(10_000), ..none }, None);
    }
}
