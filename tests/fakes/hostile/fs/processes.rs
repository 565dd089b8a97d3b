//! F05, F06 and F07: ways out through other processes and inherited descriptors.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, errname, place};
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// F05.
pub fn roots(_facts: &Facts, report: &mut Report) {
    let Ok(own) = place("/") else { return report.broke("cannot look at /") };
    for base in tasks() {
        if let Ok(there) = place(base.join("root/.")) {
            report.check(there != own, format!("{}/root is another root", base.display()));
        } else {
            report.held();
        }
        climb(report, &base.join("cwd"), own);
        for entry in std::fs::read_dir(base.join("fd")).into_iter().flatten().flatten() {
            climb(report, &entry.path(), own);
        }
        for name in ["cwd", "root", "exe"] {
            let target = std::fs::read_link(base.join(name)).unwrap_or_default();
            let odd = target.to_string_lossy().starts_with("(unreachable)");
            report.check(odd, format!("{}/{name} is {}", base.display(), target.display()));
        }
    }
    let mut buffer = [0u8; 4096];
    // The system call itself, because the C library hides an unreachable directory.
    let n = sys::call(libc::SYS_getcwd, &[buffer.as_mut_ptr() as u64, buffer.len() as u64]);
    report.check(n.is_err() || buffer[0] != b'/', "the working directory is unreachable");
}

/// Every process and every thread.
fn tasks() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/proc/self"), PathBuf::from("/proc/thread-self")];
    for pid in sys::pids() {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let threads = std::fs::read_dir(base.join("task")).into_iter().flatten().flatten();
        all.extend(threads.map(|t| t.path()));
        all.push(base);
    }
    all
}

/// Enters a directory through a magic link and goes up until it cannot.
fn climb(report: &mut Report, link: &Path, own: (u64, u64, u64)) {
    if !std::fs::metadata(link).is_ok_and(|m| m.is_dir()) {
        return report.held();
    }
    let top = place(link.join("../".repeat(64)));
    report.check(top.is_ok_and(|t| t != own), format!("{} leads to another root", link.display()));
}

/// F06.
pub fn descriptors(facts: &Facts, report: &mut Report) {
    for (fd, target) in &facts.start.descriptors {
        report.check(*fd > 2, format!("descriptor {fd} is {target}"));
    }
    for fd in 0..3 {
        kind(report, fd);
        reach(report, fd);
    }
    let stdin = sys::open("/proc/self/fd/0", libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY).is_ok();
    let regular = std::fs::metadata("/proc/self/fd/0").is_ok_and(|m| m.is_file());
    report.check(stdin && regular, "stdin can be reopened for writing");
}

fn kind(report: &mut Report, fd: i32) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let Ok(meta) = std::fs::metadata(format!("/proc/self/fd/{fd}")) else {
        return report.note(format!("descriptor {fd} is closed"));
    };
    let kind = meta.file_type();
    report.check(kind.is_dir(), format!("descriptor {fd} is a directory"));
    report.check(kind.is_socket(), format!("descriptor {fd} is a socket"));
    // SAFETY: isatty has no memory arguments.
    report.check(unsafe { libc::isatty(fd) } == 1, format!("descriptor {fd} is a terminal"));
    let null = kind.is_char_device() && meta.rdev() == libc::makedev(1, 3);
    report.check(kind.is_char_device() && !null, format!("descriptor {fd} is a device other than null"));
    report.check(kind.is_block_device(), format!("descriptor {fd} is a block device"));
    let word = match () {
        () if kind.is_file() => "file",
        () if kind.is_fifo() => "pipe",
        () if null => "null",
        () => "other",
    };
    report.note(format!("{fd} {word}"));
}

/// stdio may be a file, but not a step to its directory.
fn reach(report: &mut Report, fd: i32) {
    let name = c"..";
    let how = libc::O_PATH as u64;
    let opened = sys::call(libc::SYS_openat, &[fd as u64, name.as_ptr() as u64, how]);
    report.check(opened.is_ok(), format!("`..` of descriptor {fd}"));
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    if target.is_absolute() && !target.starts_with("/dev") && !target.exists() {
        report.note(format!("descriptor {fd} shows a path of the host: {}", target.display()));
    }
}

/// F07.
pub fn executables(facts: &Facts, report: &mut Report) {
    let mut links: Vec<String> = sys::pids().iter().map(|p| format!("/proc/{p}/exe")).collect();
    links.push(format!("/proc/{}/exe", facts.start.parent));
    links.push("/proc/1/exe".to_string());
    links.push("/proc/self/exe".to_string());
    links.sort();
    links.dedup();
    for link in links {
        overwrite(report, &link, &sys::cpath(&link));
        if let Ok(target) = std::fs::read_link(&link) {
            overwrite(report, &format!("{link} by its path"), &sys::cpath(&target));
        }
        // The way of CVE-2019-5736: hold the inode, and wait until nobody executes it.
        if let Ok(held) = sys::open(&link, libc::O_PATH) {
            let again = format!("/proc/self/fd/{}", held.as_raw_fd());
            overwrite(report, &format!("{link} by O_PATH"), &sys::cpath(again));
        }
    }
    let maps = std::fs::read_to_string("/proc/1/maps").unwrap_or_default();
    for line in maps.lines().filter_map(|l| l.split_whitespace().nth(5)).filter(|p| p.starts_with('/')) {
        overwrite(report, &format!("{line}, mapped by pid 1"), &sys::cpath(line));
    }
}

/// The battery's own program may be an input of the action, hence on its private layer; F11 is about those.
fn own_copy(path: &CString) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let same = sys::identity(path).is_ok_and(|i| sys::identity("/proc/self/exe").is_ok_and(|own| own == i));
    same && crate::walk::is_private_kind(path)
}

fn overwrite(report: &mut Report, what: &str, path: &CString) {
    if own_copy(path) {
        return report.note("the battery's own program is on a private layer");
    }
    for flags in [libc::O_WRONLY, libc::O_RDWR] {
        let flags = (flags | libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let r = sys::call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path.as_ptr() as u64, flags]);
        match r {
            Ok(_) => report.broke(format!("{what} opened for writing")),
            Err(e @ (libc::ETXTBSY | libc::EBUSY)) => {
                report.broke(format!("{what}: {}, so the rights are there", errname(e)))
            }
            Err(_) => report.held(),
        }
    }
}
