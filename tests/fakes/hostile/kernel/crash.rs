//! K08: what a crash leaves behind.

use crate::facts::Facts;
use crate::report::Report;
use crate::{sys, walk};
use std::path::PathBuf;
use std::time::SystemTime;

/// K08.
pub fn core(facts: &Facts, report: &mut Report) {
    let begin = SystemTime::now();
    let scratch = walk::scratch(facts);
    for (name, signal) in [("SIGSEGV", libc::SIGSEGV), ("SIGABRT", libc::SIGABRT), ("SIGQUIT", libc::SIGQUIT)]
    {
        match crash(signal, scratch.as_ref()) {
            Ok(status) => {
                let died = sys::signal_of(status) == Some(signal);
                report.check(!died, format!("{name} did not kill: status {status:#x}"));
                report.check(libc::WCOREDUMP(status), format!("{name} dumped core"));
            }
            Err(e) => report.broke(format!("{name}: inconclusive: {}", sys::errname(e))),
        }
    }
    let fixed = ["/", "/var/crash", "/var/lib/systemd/coredump", "/var/lib/apport/coredump", "/cores"]
        .map(PathBuf::from);
    let places = fixed.into_iter().chain(walk::writable(facts)).chain(scratch).chain(std::env::current_dir());
    for place in places.collect::<std::collections::BTreeSet<_>>() {
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let fresh = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t >= begin);
            if fresh && name.contains("core") {
                report.broke(format!("{} appeared", entry.path().display()));
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    report.note(format!("core_pattern {}", pattern.trim()));
}

fn crash(signal: i32, directory: Option<&PathBuf>) -> Result<i32, i32> {
    let pid = sys::fork()?;
    if pid == 0 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure is valid; a default action and a signal to oneself have no memory arguments.
        unsafe {
            libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
            libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
            libc::signal(signal, libc::SIG_DFL);
            if let Some(directory) = directory {
                let _ = std::env::set_current_dir(directory);
            }
            libc::kill(libc::getpid(), signal);
        }
        sys::leave(7);
    }
    sys::wait(pid, 0)?.map(|(_, status)| status).ok_or(libc::ECHILD)
}
