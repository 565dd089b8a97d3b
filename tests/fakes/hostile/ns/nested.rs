//! N01, N03 and N13: new namespaces and those of others.

use crate::facts::{Facts, digits};
use crate::report::Report;
use crate::sys::{self, Attempt, attempt};
use std::os::fd::AsRawFd;

/// Name in /proc/PID/ns and clone flag.
const KINDS: &[(&str, i32)] = &[
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", 0x80),
];

const REFUSALS: [i32; 3] = [libc::EPERM, libc::ENOSPC, libc::ENOSYS];

/// N01.
pub fn create(_facts: &Facts, report: &mut Report) {
    for &(name, flag) in KINDS {
        let flag = u64::from(flag.cast_unsigned());
        let user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        for (with, flags) in
            [("", flag), (" with user", flag | user), (" with high bits", flag | user | (1 << 40))]
        {
            let result = attempt(|| sys::call(libc::SYS_unshare, &[flags]));
            // unshare, unlike clone, looks at all bits.
            let allowed =
                if flags >> 32 == 0 { &REFUSALS[..] } else { &[libc::EPERM, libc::ENOSYS, libc::EINVAL] };
            report.refused(&format!("unshare {name}{with}"), &result, allowed);
            // CLONE_NEWTIME overlaps the exit signal of clone(2) and so exists only for unshare and clone3.
            if flag != 0x80 {
                let result = attempt(|| clone(flags));
                report.refused(&format!("clone {name}{with}"), &result, &REFUSALS);
            }
        }
        for flags in [flag, flag | user] {
            let result = attempt(|| clone3(flags));
            report.refused(&format!("clone3 {flags:#x}"), &result, &REFUSALS);
        }
    }
    if let Attempt::Errno(e) = attempt(|| clone3(0))
        && e != libc::ENOSYS
    {
        report.note(format!("plain clone3 gives {} where the C library expects ENOSYS", sys::errname(e)));
    }
    let text = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    report.note(format!("max_user_namespaces {}", text("/proc/sys/user/max_user_namespaces")));
}

/// A child in new namespaces; it ends at once.
fn clone(flags: u64) -> Result<i64, i32> {
    let pid = sys::raw(libc::SYS_clone, [flags | libc::SIGCHLD as u64, 0, 0, 0, 0, 0])?;
    finish(pid)
}

fn clone3(flags: u64) -> Result<i64, i32> {
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let args = [flags, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let pid = sys::call(libc::SYS_clone3, &[args.as_ptr() as u64, 64])?;
    finish(pid)
}

fn finish(pid: i64) -> Result<i64, i32> {
    if pid == 0 {
        sys::leave(0);
    }
    let _ = sys::wait(i32::try_from(pid).unwrap_or(-1), 0);
    Ok(pid)
}

/// N03.
pub fn compare(facts: &Facts, report: &mut Report) {
    for &(name, _) in KINDS.iter().filter(|(n, _)| *n != "time") {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}"));
        let own = own.ok().and_then(|p| digits(&p.to_string_lossy()));
        let key = format!("host_ns_{name}");
        match (facts.inode(&key), own) {
            (Some(host), Some(own)) => report.check(host == own, format!("{name} is the host's namespace")),
            (None, _) => report.note(format!("no fact {key}")),
            (_, None) => report.note(format!("cannot read the own {name} namespace")),
        }
        // The inode numbers of the initial namespaces are constants of the kernel.
        report.check(
            own.is_some_and(|n| (0xefff_fff8..=0xefff_ffff).contains(&n)),
            format!("{name} is an initial namespace"),
        );
    }
    for pid in sys::pids() {
        for &(name, flag) in KINDS {
            join(report, pid, name, flag);
        }
        let result = attempt(|| {
            let pidfd = sys::own(sys::call(libc::SYS_pidfd_open, &[pid as u64, 0])?)?;
            sys::call(
                libc::SYS_setns,
                &[pidfd.as_raw_fd() as u64, u64::from(libc::CLONE_NEWNS.cast_unsigned())],
            )
        });
        report.fails(&format!("setns by pidfd of {pid}"), &result);
    }
    parents(report);
}

fn join(report: &mut Report, pid: i32, name: &str, flag: i32) {
    for file in [name.to_string(), format!("{name}_for_children")] {
        let path = format!("/proc/{pid}/ns/{file}");
        let result = attempt(|| {
            let fd = sys::open(&path, libc::O_RDONLY)?;
            sys::call(libc::SYS_setns, &[fd.as_raw_fd() as u64, 0])
        });
        report.fails(&format!("setns {path}"), &result);
        let typed = attempt(|| {
            let fd = sys::open(&path, libc::O_RDONLY)?;
            sys::call(libc::SYS_setns, &[fd.as_raw_fd() as u64, u64::from(flag.cast_unsigned())])
        });
        report.fails(&format!("typed setns {path}"), &typed);
    }
}

/// A descriptor of the parent namespace would be a handle on the host's.
fn parents(report: &mut Report) {
    const NS_GET_PARENT: u64 = 0xb702;
    for name in ["user", "pid"] {
        let Ok(fd) = sys::open(format!("/proc/self/ns/{name}"), libc::O_RDONLY) else { continue };
        let result = attempt(|| sys::call(libc::SYS_ioctl, &[fd.as_raw_fd() as u64, NS_GET_PARENT]));
        report.fails(&format!("NS_GET_PARENT of {name}"), &result);
    }
}

/// N13.
pub fn nest(_facts: &Facts, report: &mut Report) {
    for (name, flags) in
        [("user", libc::CLONE_NEWUSER), ("user and pid", libc::CLONE_NEWUSER | libc::CLONE_NEWPID)]
    {
        let result = attempt(|| descend(33, flags));
        match result {
            Attempt::Did(depth) => report.check(depth > 0, format!("{name} namespaces nested {depth} deep")),
            other => report.refused(name, &other, &REFUSALS),
        }
    }
}

/// How many levels could be made below this process.
fn descend(left: i64, flags: i32) -> Result<i64, i32> {
    // SAFETY: getegid has no preconditions.
    let (uid, gid) = (crate::kernel::own_uid(), unsafe { libc::getegid() });
    if left == 0 || sys::call(libc::SYS_unshare, &[u64::from(flags.cast_unsigned())]).is_err() {
        return Ok(0);
    }
    // Without mapped ids the next level would be refused for that reason alone.
    let _ = std::fs::write("/proc/self/setgroups", "deny");
    let _ = std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"));
    let _ = std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"));
    let pid = sys::fork()?;
    if pid == 0 {
        let below = descend(left - 1, flags).unwrap_or(0);
        sys::leave(i32::try_from(below).unwrap_or(0));
    }
    let status = sys::wait(pid, 0)?.map_or(0, |(_, status)| status);
    Ok(1 + i64::from(libc::WEXITSTATUS(status)))
}
