//! N09: what one action leaves for the next.

use super::keys;
use super::network::{connect_unix, unix_address};
use crate::facts::Facts;
use crate::report::Report;
use crate::sys;
use crate::walk;
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Common part of all names.
const MARK: &str = "fulgurite-n09";
/// Key of the System V objects.
const KEY: u64 = 0x4e30_3921;
/// Seconds that the planted process lives if nobody kills it.
const LIFE: u64 = 90;

/// Places to try beyond the writable set: someone may have forgotten one.
fn places(facts: &Facts) -> BTreeSet<PathBuf> {
    let fixed = [
        "/",
        "/dev",
        "/dev/shm",
        "/dev/mqueue",
        "/etc",
        "/home",
        "/root",
        "/run",
        "/run/lock",
        "/run/user",
        "/srv",
        "/var",
        "/var/cache",
        "/var/lock",
        "/var/log",
        "/var/run",
        "/var/spool",
        "/var/tmp",
        "/tmp",
        "/usr",
        "/usr/local",
        "/opt",
        "/work",
    ];
    fixed.map(PathBuf::from).into_iter().chain(walk::writable(facts)).collect()
}

/// N09-plant.
pub fn plant(facts: &Facts, report: &mut Report) {
    let mut planted = Vec::new();
    for place in places(facts) {
        let directory = place.join(format!(".{MARK}-dir"));
        if std::fs::write(place.join(format!(".{MARK}")), MARK).is_ok() {
            planted.push(format!("file:{}", place.display()));
        }
        if std::fs::create_dir(&directory).is_ok() {
            // A directory without rights is an obstacle for whoever cleans up.
            let _ = std::fs::write(directory.join("deep"), MARK);
            let _ = std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o000));
        }
        let _ = std::os::unix::fs::symlink("/", place.join(format!(".{MARK}-link")));
    }
    for (name, result) in [
        ("shm", sys::call(libc::SYS_shmget, &[KEY, 4096, 0o1666])),
        ("sem", sys::call(libc::SYS_semget, &[KEY, 1, 0o1666])),
        ("msg", sys::call(libc::SYS_msgget, &[KEY, 0o1666])),
        ("mqueue", queue(libc::O_CREAT | libc::O_RDWR)),
        ("key", keys::add(-4)),
    ] {
        if result.is_ok() {
            planted.push(name.to_string());
        }
    }
    if stray() {
        planted.push("process+socket".to_string());
    }
    report.held();
    report.note(format!("planted={} {}", planted.len(), planted.join(" ")));
}

/// A process of an own session that ignores signals, keeps a working directory and an abstract name.
fn stray() -> bool {
    let Ok(pid) = sys::fork() else { return false };
    if pid > 0 {
        let _ = sys::wait(pid, 0);
        return true;
    }
    // SAFETY: none of the calls has a memory argument but the name, which is a NUL-terminated literal.
    unsafe {
        libc::setsid();
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::prctl(libc::PR_SET_NAME, c"fulgurite-n09".as_ptr());
    }
    if !matches!(sys::fork(), Ok(0)) {
        sys::leave(0);
    }
    let (address, length) = unix_address(&format!("@{MARK}"));
    if let Ok(Ok(socket)) = sys::call(libc::SYS_socket, &[1, libc::SOCK_STREAM as u64, 0]).map(sys::own) {
        let fd = socket.as_raw_fd() as u64;
        let _ = sys::call(libc::SYS_bind, &[fd, address.as_ptr() as u64, length]);
        let _ = sys::call(libc::SYS_listen, &[fd, 8]);
        // Nobody shall wait for this process at the end of a pipe.
        for other in 0..256u64 {
            if other != fd {
                let _ = sys::call(libc::SYS_close, &[other]);
            }
        }
        std::thread::sleep(std::time::Duration::from_secs(LIFE));
    }
    sys::leave(0)
}

fn queue(flags: i32) -> Result<i64, i32> {
    let name = sys::cpath(MARK);
    let fd = sys::call(libc::SYS_mq_open, &[name.as_ptr() as u64, flags as u64, 0o666, 0])?;
    let _ = sys::call(libc::SYS_close, &[fd as u64]);
    Ok(fd)
}

/// N09-look.
pub fn look(facts: &Facts, report: &mut Report) {
    for place in places(facts) {
        for suffix in ["", "-dir", "-link"] {
            let path = place.join(format!(".{MARK}{suffix}"));
            report.check(std::fs::symlink_metadata(&path).is_ok(), format!("{} is there", path.display()));
        }
    }
    let known = places(facts);
    walk::everything(&mut |_| true, &mut |path, _| {
        let seen = path.parent().is_some_and(|p| known.contains(p));
        if !seen && path.file_name().is_some_and(|n| n.to_string_lossy().contains(MARK)) {
            report.broke(format!("{} is there", path.display()));
        }
    });
    for (name, result) in [
        ("segment", sys::call(libc::SYS_shmget, &[KEY, 0, 0])),
        ("semaphore", sys::call(libc::SYS_semget, &[KEY, 0, 0])),
        ("queue", sys::call(libc::SYS_msgget, &[KEY, 0])),
        ("message queue", queue(libc::O_RDONLY)),
    ] {
        report.check(result.is_ok(), format!("the {name} is there"));
    }
    let socket = connect_unix(&format!("@{MARK}"), libc::SOCK_STREAM);
    report.check(socket.is_ok(), "the abstract socket answers");
    for pid in sys::pids() {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        report.check(name.trim() == MARK, format!("the process is there: {pid}"));
    }
    for variable in &facts.start.environment {
        report.check(variable.to_string_lossy().contains(MARK), "the environment names the marker");
    }
    let here = std::env::current_dir().unwrap_or_default();
    report.check(!Path::new(&here).is_absolute(), "the working directory is gone");
}
