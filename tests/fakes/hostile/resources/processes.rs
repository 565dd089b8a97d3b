//! R01, R02 and R07: processes and threads.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, errname};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const MOST_PROCESSES: u64 = 4096;
const MOST_THREADS: usize = 8192;
/// What the counts bound takes no time on a machine; one that is emulated, and busy, gets to few threads in a second.
const SECONDS: u64 = 60;

/// Places in the shared counters.
const COUNT: usize = 0;
const REFUSED: usize = 1;
const ERRNO: usize = 2;
const STOP: usize = 3;
const BORN: usize = 4;

/// R01.
pub fn forks(facts: &Facts, report: &mut Report) {
    let Ok(shared) = sys::shared() else { return report.broke("inconclusive: no shared memory") };
    // Descendants whose parent ended come back here, so that all can be waited for.
    // SAFETY: neither call has memory arguments.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::setpgid(0, 0);
    }
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let first = std::process::id();
    breed(shared, deadline);
    while std::process::id() != first && shared[STOP].load(SeqCst) == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    if std::process::id() != first {
        sys::leave(0);
    }
    while shared[REFUSED].load(SeqCst) == 0
        && shared[COUNT].load(SeqCst) < MOST_PROCESSES
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Stay at the limit for a moment: that is when the rest of the host would suffer.
    std::thread::sleep(Duration::from_millis(300));
    let count = shared[BORN].load(SeqCst);
    shared[STOP].store(1, SeqCst);
    while sys::wait(-1, 0).is_ok() {}
    judge(
        facts,
        report,
        "processes",
        count,
        shared[REFUSED].load(SeqCst) > 0,
        shared[ERRNO].load(SeqCst) as i32,
    );
}

/// Forks until someone refuses; the children do the same. A place is taken before the fork, so the bound is strict;
/// those that were really born are counted apart, since others are always about to be refused.
fn breed(shared: &[AtomicU64; 8], deadline: Instant) {
    while shared[STOP].load(SeqCst) == 0 && shared[REFUSED].load(SeqCst) < 64 && Instant::now() < deadline {
        if shared[COUNT].fetch_add(1, SeqCst) >= MOST_PROCESSES {
            shared[COUNT].fetch_sub(1, SeqCst);
            return;
        }
        match sys::fork() {
            Ok(0) => _ = shared[BORN].fetch_add(1, SeqCst),
            Ok(_) => {}
            Err(e) => {
                shared[COUNT].fetch_sub(1, SeqCst);
                shared[ERRNO].store(u64::from(e.unsigned_abs()), SeqCst);
                shared[REFUSED].fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn judge(facts: &Facts, report: &mut Report, what: &str, count: u64, refused: bool, errno: i32) {
    report.check(!refused, format!("{count} {what} and no refusal in {SECONDS} s"));
    report.check(refused && errno != libc::EAGAIN, format!("refused with {} and not EAGAIN", errname(errno)));
    match facts.number("pids_limit") {
        Some(limit) => report.check(count > limit, format!("{count} {what} above the limit of {limit}")),
        None => report.note("no fact pids_limit"),
    }
    report.note(format!("{count} {what}"));
}

/// R02.
pub fn threads(facts: &Facts, report: &mut Report) {
    let stop = Arc::new(AtomicBool::new(false));
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let mut all = Vec::new();
    let mut refusal = None;
    while all.len() < MOST_THREADS && Instant::now() < deadline {
        let stop = Arc::clone(&stop);
        let body = move || {
            while !stop.load(SeqCst) {
                std::thread::park_timeout(Duration::from_secs(SECONDS));
            }
        };
        match std::thread::Builder::new().stack_size(16 << 10).spawn(body) {
            Ok(handle) => all.push(handle),
            Err(e) => {
                refusal = Some(e.raw_os_error().unwrap_or(libc::EAGAIN));
                break;
            }
        }
    }
    stop.store(true, SeqCst);
    let count = all.len() as u64;
    for handle in all {
        handle.thread().unpark();
        let _ = handle.join();
    }
    judge(facts, report, "threads", count, refusal.is_some(), refusal.unwrap_or(0));
}

/// Seconds that R07 lives at most if nobody kills it.
const LIFE: u64 = 60;

/// R07. Runs in the first process: the harness is meant to kill all of it.
pub fn stubborn(facts: &Facts, report: &mut Report) {
    deaf();
    let life = facts.number("stubborn_seconds").unwrap_or(LIFE).min(LIFE);
    let end = Instant::now() + Duration::from_secs(life);
    let mut stopped = Vec::new();
    for _ in 0..4 {
        match sys::fork() {
            Ok(0) => {
                let _ = sys::kill(std::process::id().cast_signed(), libc::SIGSTOP);
                spin(end);
                sys::leave(0);
            }
            Ok(pid) => stopped.push(pid),
            Err(e) => report.note(format!("fork: {}", errname(e))),
        }
    }
    for _ in 0..3 {
        daemon(end);
    }
    // Wakes nobody, but ends the stopped ones if this process was the only one that got killed.
    if sys::fork() == Ok(0) {
        // SAFETY: setsid has no memory arguments.
        unsafe { libc::setsid() };
        std::thread::sleep(Duration::from_secs(life + 1));
        for pid in stopped {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        sys::leave(0);
    }
    spin(end);
    for pid in stopped {
        let _ = sys::kill(pid, libc::SIGKILL);
        let _ = sys::wait(pid, 0);
    }
    report.broke(format!("still alive after {life} s"));
}

/// Leaves the session and the parent.
fn daemon(end: Instant) {
    let Ok(pid) = sys::fork() else { return };
    if pid > 0 {
        let _ = sys::wait(pid, 0);
        return;
    }
    // SAFETY: setsid has no memory arguments.
    unsafe { libc::setsid() };
    if matches!(sys::fork(), Ok(0)) {
        spin(end);
    }
    sys::leave(0)
}

fn deaf() {
    for signal in 1..=64 {
        // SAFETY: ignoring a signal has no memory arguments; KILL, STOP and the C library's own are refused.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // waitpid must still report children.
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

fn spin(end: Instant) {
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}
