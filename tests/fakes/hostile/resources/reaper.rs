//! R08: pid 1 under fire.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys;
use std::io::Read;
use std::time::{Duration, Instant};

const ORPHANS: usize = 64;

/// R08.
pub fn survive(_facts: &Facts, report: &mut Report) {
    reaped(report, "before the signals");
    let mut reached = 0;
    for signal in 1..=64 {
        reached += usize::from(sys::kill(1, signal).is_ok());
    }
    std::thread::sleep(Duration::from_millis(100));
    let stat = std::fs::read_to_string("/proc/1/stat").unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|r| r.chars().next()).unwrap_or('?');
    report.check(matches!(state, 'T' | 't' | 'Z' | 'X' | '?'), format!("pid 1 is in state {state}"));
    report.note(format!("pid 1 could be sent {reached} signals"));
    reaped(report, "after the signals");
    // Zombies of a parent that never waits; they become pid 1's when this process ends.
    for _ in 0..ORPHANS {
        if sys::fork() == Ok(0) {
            sys::leave(0);
        }
    }
}

/// Leaves grandchildren, and sees them go.
fn reaped(report: &mut Report, when: &str) {
    let Some(orphans) = orphans() else { return report.broke(format!("inconclusive: no orphans {when}")) };
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut left = orphans.clone();
    while !left.is_empty() && Instant::now() < deadline {
        left.retain(|pid| std::path::Path::new(&format!("/proc/{pid}/stat")).exists());
        std::thread::sleep(Duration::from_millis(20));
    }
    report.check(!left.is_empty(), format!("{} of {} orphans not reaped {when}", left.len(), orphans.len()));
}

fn orphans() -> Option<Vec<i32>> {
    let (mut read, write) = std::io::pipe().ok()?;
    let mut parents = Vec::new();
    for _ in 0..ORPHANS {
        let Ok(pid) = sys::fork() else { break };
        if pid == 0 {
            if let Ok(grandchild) = sys::fork() {
                if grandchild == 0 {
                    std::thread::sleep(Duration::from_millis(100));
                } else {
                    let _ = std::io::Write::write_all(&mut &write, &grandchild.to_le_bytes());
                }
            }
            sys::leave(0);
        }
        parents.push(pid);
    }
    for pid in parents {
        let _ = sys::wait(pid, 0);
    }
    drop(write);
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes).ok()?;
    let pids: Vec<i32> =
        bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    (!pids.is_empty()).then_some(pids)
}
