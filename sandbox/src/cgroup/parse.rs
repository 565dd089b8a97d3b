//! Pure parsers of cgroup control files, of both versions.
//!
//! Most of these files are *flat keyed*: one `key value` pair a line. Kernels add keys over time, so an
//! unknown key is skipped, a missing one is `None`, and a value that is not a number counts as missing.
//! Nothing here panics or does I/O; deciding whether a missing field is an error is the caller's.

use super::Controller;

/// `cpu.stat` (v2; exists without the cpu controller), microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// Time in user mode.
    pub user_us: Option<u64>,
    /// Time in the kernel.
    pub system_us: Option<u64>,
}

/// `memory.events` or `memory.events.local` (v2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Times usage passed `memory.high`.
    pub high: Option<u64>,
    /// Times usage was about to pass `memory.max`.
    pub max: Option<u64>,
    /// Times an allocation was about to fail.
    pub oom: Option<u64>,
    /// Processes killed by any kind of OOM killer.
    pub oom_kill: Option<u64>,
    /// Times the whole group was killed (Linux 5.17).
    pub oom_group_kill: Option<u64>,
}

/// `memory.oom_control` (v1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OomControl {
    /// 1 where the OOM killer is off and tasks hang instead.
    pub oom_kill_disable: Option<u64>,
    /// 1 while the group is out of memory.
    pub under_oom: Option<u64>,
    /// Processes killed (Linux 4.13).
    pub oom_kill: Option<u64>,
}

/// `cgroup.events` (v2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupEvents {
    /// Whether any live process is in the group or below.
    pub populated: Option<bool>,
    /// Whether all of them are frozen (Linux 5.2).
    pub frozen: Option<bool>,
}

/// One line of a pressure file: how long tasks stalled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds since the group was made.
    pub total_us: u64,
}

/// `memory.pressure`, `cpu.pressure` or `io.pressure` (PSI, Linux 4.20).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task stalled.
    pub some: Option<PressureLine>,
    /// All tasks stalled at once.
    pub full: Option<PressureLine>,
}

/// Reads `cpu.stat`.
pub fn cpu_stat(text: &str) -> CpuStat {
    CpuStat { user_us: flat(text, "user_usec"), system_us: flat(text, "system_usec") }
}

/// Reads `memory.events` and `memory.events.local`.
pub fn memory_events(text: &str) -> MemoryEvents {
    MemoryEvents {
        high: flat(text, "high"),
        max: flat(text, "max"),
        oom: flat(text, "oom"),
        oom_kill: flat(text, "oom_kill"),
        oom_group_kill: flat(text, "oom_group_kill"),
    }
}

/// Reads v1 `memory.oom_control`.
pub fn oom_control(text: &str) -> OomControl {
    OomControl {
        oom_kill_disable: flat(text, "oom_kill_disable"),
        under_oom: flat(text, "under_oom"),
        oom_kill: flat(text, "oom_kill"),
    }
}

/// Reads `cgroup.events`.
pub fn cgroup_events(text: &str) -> CgroupEvents {
    CgroupEvents { populated: flag(flat(text, "populated")), frozen: flag(flat(text, "frozen")) }
}

/// Reads `pids.events` (both versions): how many forks the limit refused.
pub fn pids_events(text: &str) -> Option<u64> {
    flat(text, "max")
}

/// Reads a file with a single number, such as `memory.peak`; `max` is `None`.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Reads `io.stat`: bytes read and written, summed over devices.
pub fn io_stat(text: &str) -> (u64, u64) {
    let mut sums = (0u64, 0u64);
    for pair in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        let value = pair.1.parse().unwrap_or(0);
        match pair.0 {
            "rbytes" => sums.0 = sums.0.saturating_add(value),
            "wbytes" => sums.1 = sums.1.saturating_add(value),
            _ => {}
        }
    }
    sums
}

/// Reads a pressure file.
pub fn pressure(text: &str) -> Pressure {
    let mut found = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("some") => found.some = pressure_line(words),
            Some("full") => found.full = pressure_line(words),
            _ => {}
        }
    }
    found
}

fn pressure_line<'a>(words: impl Iterator<Item = &'a str>) -> Option<PressureLine> {
    let mut line = PressureLine::default();
    let mut has_total = false;
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "avg10" => line.avg10 = percent(value)?,
            "avg60" => line.avg60 = percent(value)?,
            "avg300" => line.avg300 = percent(value)?,
            "total" => {
                line.total_us = value.parse().ok()?;
                has_total = true;
            }
            _ => {}
        }
    }
    has_total.then_some(line)
}

fn percent(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Reads `cgroup.controllers` or `cgroup.subtree_control`, keeping the controllers that we know.
pub fn controllers(text: &str) -> Vec<Controller> {
    let mut found: Vec<_> = text.split_ascii_whitespace().filter_map(Controller::from_v2_name).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Reads `cgroup.procs`. A process of another pid namespace shows as 0 and is kept as such: it is *somebody*.
pub fn pids(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// The value of `key` in a flat keyed file; the first one wins.
pub fn flat(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { value.trim().parse().ok() } else { None }
    })
}

fn flag(value: Option<u64>) -> Option<bool> {
    match value {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GARBAGE: [&str; 7] =
        ["", "\n\n", "max", "oom_kill", "oom_kill x\n", "\u{0}\u{ff} 1", "some total=\nfull"];

    #[test]
    fn flat_files() {
        let check =
            |text: &str, expected: MemoryEvents| assert_eq!(memory_events(text), expected, "{text:?}");
        let none = MemoryEvents::default();
        check(
            "low 0\nhigh 3\nmax 41\noom 2\noom_kill 1\noom_group_kill 1\nsock_throttled 0\n",
            MemoryEvents {
                high: Some(3),
                max: Some(41),
                oom: Some(2),
                oom_kill: Some(1),
                oom_group_kill: Some(1),
            },
        );
        check("oom_kill 7", MemoryEvents { oom_kill: Some(7), ..none });
        check("oom_kill -1\nhigh 99999999999999999999999\n", none);
        check("oom_kill_other 4\n", none);
        for text in GARBAGE {
            check(text, none);
        }
        let control = oom_control("oom_kill_disable 0\nunder_oom 0\noom_kill 12\n");
        assert_eq!(control, OomControl { oom_kill_disable: Some(0), under_oom: Some(0), oom_kill: Some(12) });
        assert_eq!(oom_control("oom_kill_disable 0\nunder_oom 0\n").oom_kill, None);
        let stat = cpu_stat("usage_usec 30\nuser_usec 10\nsystem_usec 20\nnice_usec 0\n");
        assert_eq!(stat, CpuStat { user_us: Some(10), system_us: Some(20) });
        assert_eq!(cpu_stat("user_usec ten"), CpuStat::default());
        assert_eq!(pids_events("max 5\n"), Some(5));
        assert_eq!(pids_events("maximum 5\n"), None);
        assert_eq!(number("4096\n"), Some(4096));
        assert_eq!(number("max\n"), None);
    }

    #[test]
    fn events() {
        let check = |text: &str, populated, frozen| {
            assert_eq!(cgroup_events(text), CgroupEvents { populated, frozen }, "{text:?}");
        };
        check("populated 1\nfrozen 0\n", Some(true), Some(false));
        check("populated 0\n", Some(false), None);
        check("populated 2\nfrozen yes\n", None, None);
        for text in GARBAGE {
            check(text, None, None);
        }
    }

    #[test]
    fn pressures() {
        let full = "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let found = pressure(full);
        assert_eq!(found.some, Some(PressureLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 123 }));
        assert_eq!(found.full.map(|line| line.total_us), Some(7));
        assert_eq!(pressure("some avg10=0.00 total=9 extra=1\n").full, None);
        assert_eq!(pressure("some avg10=NaN total=9\n"), Pressure::default());
        assert_eq!(pressure("some avg10=0.00\n"), Pressure::default());
        for text in GARBAGE {
            assert_eq!(pressure(text), Pressure::default(), "{text:?}");
        }
    }

    #[test]
    fn io_and_lists() {
        let text = "8:0 rbytes=100 wbytes=5 rios=1 wios=1 dbytes=0 dios=0\n253:1 rbytes=1 wbytes=2\n7:0 \n";
        assert_eq!(io_stat(text), (101, 7));
        assert_eq!(io_stat("8:0 rbytes=x wbytes=18446744073709551615\n8:1 wbytes=1"), (0, u64::MAX));
        let all = [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Io];
        assert_eq!(controllers("cpuset cpu io memory hugetlb pids rdma misc\n"), all);
        assert_eq!(controllers("pids pids \n"), [Controller::Pids]);
        assert_eq!(controllers("\n"), []);
        assert_eq!(pids("1\n22\nx\n0\n"), [1, 22, 0]);
        for text in GARBAGE {
            assert_eq!((io_stat(text), pids(text)), ((0, 0), vec![]), "{text:?}");
        }
    }
}
