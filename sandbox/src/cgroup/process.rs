//! Facts about processes that name and guard our trees: who is alive, who is ours.
//!
//! A tree is named after the process that made it (pid, start time in clock ticks since boot, pid
//! namespace), so that a successor can tell a dead owner from a live one even when the pid has been used
//! again.

use std::fs;

/// Identity of a process: a pid alone can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_ticks: u64,
}

/// What we read from `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcStat {
    pub state: char,
    pub parent: u32,
    pub start_ticks: u64,
}

/// Parses `/proc/<pid>/stat`. The command name may hold spaces and parentheses, so fields count from the
/// last one.
pub(super) fn proc_stat(text: &str) -> Option<ProcStat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(ProcStat { state, parent, start_ticks })
}

fn read_stat(pid: u32) -> Option<ProcStat> {
    proc_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl ProcessIdentity {
    /// This process. The start time is 0 where `/proc` is not mounted.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start_ticks: read_stat(pid).map_or(0, |stat| stat.start_ticks) }
    }

    /// Whether this very process still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        read_stat(self.pid)
            .is_some_and(|stat| stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X'))
    }
}

/// The number of our pid namespace: pids of trees made in another one mean nothing to us.
pub(super) fn pid_namespace() -> Option<u64> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether a process is ours to move: ourselves, a descendant, or an ancestor that runs the same program
/// (the daemon, seen from its zygote).
pub(super) fn is_ours(pid: u32) -> bool {
    let me = std::process::id();
    let same_program = || {
        let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        program(me).is_some_and(|mine| program(pid) == Some(mine))
    };
    pid == me || (pid != 0 && (descends_from(pid, me) || (descends_from(me, pid) && same_program())))
}

fn descends_from(pid: u32, ancestor: u32) -> bool {
    let mut pid = pid;
    // A chain longer than this is not one that we made.
    for _ in 0..64 {
        match read_stat(pid) {
            Some(stat) if stat.parent == ancestor => return true,
            Some(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let tail = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2";
        let expected = Some(ProcStat { state: 'S', parent: 7, start_ticks: 777 });
        assert_eq!(proc_stat(&format!("12 (cat) {tail}")), expected);
        assert_eq!(proc_stat(&format!("12 (a ) (b)) {tail}")), expected);
        for text in ["", "12 (cat", "12 (cat)", "12 (cat) S", "12 (cat) S 7 1 1", "12 (cat) S x 1 1"] {
            assert_eq!(proc_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn identity() {
        let me = ProcessIdentity::current();
        assert!(me.is_alive() && me.start_ticks > 0);
        assert!(!ProcessIdentity { start_ticks: me.start_ticks + 1, ..me }.is_alive());
        assert!(is_ours(me.pid));
        assert!(!is_ours(1) || me.pid == 1);
        assert!(pid_namespace().is_some());
    }
}
