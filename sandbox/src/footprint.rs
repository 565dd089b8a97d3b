//! How much memory processes use, from proc: for hosts whose cgroups do not count it.
use std::path::PathBuf;

/// Processes that are looked at; what a sandbox has beyond is not counted. More than any worker has, and few enough
/// that a fork bomb does not keep the caller.
const PROCESSES_MAX: usize = 1024;

/// Bytes that `pid` and all that descend from it use: the share of each (`Pss`), or its resident set where that cannot
/// be read. `None` when there is no such process, or the kernel does not list children.
pub(crate) fn of_tree(pid: u32) -> Option<u64> {
    let mut pids = vec![pid];
    let mut sum = of(pid)?;
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        for child in children(pid)? {
            if pids.len() >= PROCESSES_MAX {
                break;
            }
            pids.push(child);
            // One that has just ended uses nothing any more.
            sum = sum.saturating_add(of(child).unwrap_or(0));
        }
    }
    Some(sum)
}

/// The children of all threads; none if it has ended meanwhile. `None`: CONFIG_PROC_CHILDREN is off.
fn children(pid: u32) -> Option<Vec<u32>> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Some(Vec::new()) };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
}

fn of(pid: u32) -> Option<u64> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let rollup = std::fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).and_then(kib);
    share.or_else(|| {
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        // A zombie has no memory, and no line about it.
        Some(status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(kib).unwrap_or(0))
    })
}

fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_one_that_is_not_there_none() {
        assert!(of_tree(std::process::id()).unwrap() > 4096);
        assert_eq!(of_tree(u32::MAX), None);
        assert_eq!(kib("   12 kB"), Some(12 << 10));
        assert_eq!(kib(""), None);
    }

    #[test]
    fn children_count() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(children(std::process::id()).unwrap().contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
