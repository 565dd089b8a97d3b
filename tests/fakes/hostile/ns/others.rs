//! N07: other processes.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, attempt};
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

const REFUSALS: [i32; 5] = [libc::EPERM, libc::EACCES, libc::ESRCH, libc::ENOSYS, libc::ENOENT];

/// The processes of the battery itself.
fn own(facts: &Facts) -> BTreeSet<i32> {
    [facts.start.pid, std::process::id().cast_signed()].into()
}

/// Pid 1, everyone in /proc but the battery, the parent, and the daemon's pid on the host.
fn targets(facts: &Facts) -> BTreeSet<i32> {
    let own = own(facts);
    let mut all: BTreeSet<i32> = sys::pids().into_iter().chain([1, facts.start.parent]).collect();
    all.extend(facts.number("daemon_pid").and_then(|p| i32::try_from(p).ok()));
    all.retain(|pid| *pid > 0 && !own.contains(pid));
    all
}

/// N07.
pub fn attack(facts: &Facts, report: &mut Report) {
    let daemon = facts.number("daemon_pid").and_then(|p| i32::try_from(p).ok());
    for pid in targets(facts) {
        trace(report, pid);
        memory(report, pid);
        descriptors(report, pid);
        if Some(pid) == daemon {
            let there = sys::kill(pid, 0);
            report.check(there != Err(libc::ESRCH), format!("the daemon's pid {pid} is visible"));
        }
    }
    if daemon.is_none() {
        report.note("no fact daemon_pid");
    }
}

fn trace(report: &mut Report, pid: i32) {
    for (name, request) in [("ATTACH", 16u64), ("SEIZE", 0x4206)] {
        let result = attempt(|| {
            let r = sys::call(libc::SYS_ptrace, &[request, pid as u64, 0, 0]);
            if r.is_ok() {
                release(pid, request);
            }
            r
        });
        report.refused(&format!("ptrace {name} {pid}"), &result, &REFUSALS);
    }
}

/// Lets a traced process go on: the finding is that it could be traced, and the other cases need it alive.
fn release(pid: i32, request: u64) {
    const INTERRUPT: u64 = 0x4207;
    const DETACH: u64 = 17;
    if request != 16 {
        let _ = sys::call(libc::SYS_ptrace, &[INTERRUPT, pid as u64, 0, 0]);
    }
    for _ in 0..200 {
        if matches!(sys::wait(pid, libc::WNOHANG | libc::__WALL), Ok(Some(_))) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = sys::call(libc::SYS_ptrace, &[DETACH, pid as u64, 0, 0]);
    let _ = sys::kill(pid, libc::SIGCONT);
}

fn memory(report: &mut Report, pid: i32) {
    for file in [
        "mem",
        "environ",
        "maps",
        "smaps",
        "auxv",
        "pagemap",
        "syscall",
        "stack",
        "personality",
        "io",
        "map_files",
        "fdinfo",
    ] {
        for flags in [libc::O_RDONLY, libc::O_RDWR] {
            if flags == libc::O_RDWR && file != "mem" {
                continue;
            }
            let path = format!("/proc/{pid}/{file}");
            let read =
                sys::open(&path, flags).is_ok_and(|fd| flags == libc::O_RDWR || gives(&path, fd.as_raw_fd()));
            report.check(read, format!("{path} opens"));
        }
    }
    let mut byte = [0u8; 8];
    let local = [byte.as_mut_ptr() as u64, 8];
    let remote = [0x40_0000u64, 8];
    for (name, number) in [("read", libc::SYS_process_vm_readv), ("write", libc::SYS_process_vm_writev)] {
        let args = [pid as u64, local.as_ptr() as u64, 1, remote.as_ptr() as u64, 1, 0];
        let result = attempt(|| sys::raw(number, args));
        report.refused(&format!("process_vm {name} {pid}"), &result, &REFUSALS);
    }
}

/// Some of these files open for anyone and refuse, or give nothing, only when they are read.
fn gives(path: &str, fd: i32) -> bool {
    if std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_some()) {
        return true;
    }
    let mut byte = [0u8; 8];
    sys::call(libc::SYS_read, &[fd as u64, byte.as_mut_ptr() as u64, 8]).is_ok_and(|n| n > 0)
}

fn descriptors(report: &mut Report, pid: i32) {
    for fd in 0..4u64 {
        let result = attempt(|| {
            let pidfd = sys::own(sys::call(libc::SYS_pidfd_open, &[pid as u64, 0])?)?;
            sys::call(libc::SYS_pidfd_getfd, &[pidfd.as_raw_fd() as u64, fd, 0])
        });
        report.fails(&format!("pidfd_getfd {pid} {fd}"), &result);
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        report.check(link.is_ok(), format!("/proc/{pid}/fd/{fd} can be followed"));
    }
    let kcmp = attempt(|| sys::call(libc::SYS_kcmp, &[pid as u64, std::process::id().into(), 1, 0, 0]));
    report.refused(&format!("kcmp {pid}"), &kcmp, &REFUSALS);
}

/// N07-init.
pub fn init(facts: &Facts, report: &mut Report) {
    let mut targets = targets(facts);
    targets.insert(1);
    for pid in targets {
        report.fails(&format!("signal 0 to {pid}"), &sys::kill(pid, 0).into());
        // Both set what is set already: the right to do so is the finding.
        let nice = attempt(|| {
            let now = 20 - sys::call(libc::SYS_getpriority, &[0, pid as u64])?;
            sys::call(libc::SYS_setpriority, &[0, pid as u64, now as u64])
        });
        report.fails(&format!("renice {pid}"), &nice);
        let mut limit = [0u64; 2];
        let place = limit.as_mut_ptr() as u64;
        let read = attempt(|| sys::call(libc::SYS_prlimit64, &[pid as u64, 7, 0, place]));
        report.fails(&format!("prlimit of {pid}"), &read);
        let set = attempt(|| {
            let mut mask = [0u64; 16];
            let place = mask.as_mut_ptr() as u64;
            sys::call(libc::SYS_sched_getaffinity, &[pid as u64, 128, place])?;
            sys::call(libc::SYS_sched_setaffinity, &[pid as u64, 128, place])
        });
        report.fails(&format!("sched_setaffinity of {pid}"), &set);
    }
}

/// N07-pidns.
pub fn pid_namespace(facts: &Facts, report: &mut Report) {
    let me = std::fs::read_link("/proc/self").unwrap_or_default();
    let real = std::process::id().to_string();
    report.check(
        me.as_os_str() != real.as_str(),
        format!("/proc belongs to another pid namespace: {}", me.display()),
    );
    let listed = sys::pids();
    let limit = facts.number("max_pids").unwrap_or(8);
    report.check(listed.len() as u64 > limit, format!("{} processes are listed", listed.len()));
    let comm = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    report.note(format!("pid 1 is {}", comm.trim()));
    report.check(matches!(comm.trim(), "systemd" | "init" | "dumb-init"), "pid 1 is the host's");
    report.check(!listed.contains(&1), "pid 1 is hidden, so nothing was compared");
    let daemon = facts.number("daemon_pid").and_then(|p| i32::try_from(p).ok());
    let own = own(facts);
    report.check(daemon.is_some_and(|d| listed.contains(&d) && !own.contains(&d)), "the daemon is listed");
    // What /proc hides (hidepid), a signal finds.
    let maximum =
        std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|t| t.trim().parse().ok());
    let top: i32 = maximum.unwrap_or(65536).min(200_000);
    let threads =
        |pid: i32| listed.iter().any(|p| std::path::Path::new(&format!("/proc/{p}/task/{pid}")).exists());
    let hidden: Vec<i32> = (2..top)
        .filter(|p| sys::kill(*p, 0) != Err(libc::ESRCH) && !listed.contains(p) && !threads(*p))
        .take(5)
        .collect();
    report.check(!hidden.is_empty(), format!("unlisted processes {hidden:?}"));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let chain = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
    report.check(chain.split_whitespace().count() > 1, format!("NSpid shows an outer pid: {}", chain.trim()));
}
