//! K06: clocks, priorities and limits.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, attempt};
use std::io::Write;

const REFUSALS: [i32; 4] = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EROFS];

/// K06.
pub fn raise(facts: &Facts, report: &mut Report) {
    clocks(report);
    scheduling(report);
    out_of_memory(facts, report);
    limits(report);
}

fn clocks(report: &mut Report) {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    // The present time: if it gets through, nothing is lost but microseconds.
    let day = libc::timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1000 };
    let set = attempt(|| sys::call(libc::SYS_settimeofday, &[&raw const day as u64, 0]));
    report.refused("settimeofday", &set, &REFUSALS);
    for (name, clock) in [("REALTIME", libc::CLOCK_REALTIME), ("TAI", libc::CLOCK_TAI)] {
        let set = attempt(|| sys::call(libc::SYS_clock_settime, &[clock as u64, &raw const now as u64]));
        report.refused(&format!("clock_settime({name})"), &set, &[&REFUSALS[..], &[libc::EINVAL]].concat());
    }
    // ADJ_MAXERROR with the largest error: a note to the clock discipline, no step of the clock.
    let mut timex = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: zeroes are a valid timex; only two plain fields are written.
    unsafe {
        (*timex.as_mut_ptr()).modes = 4;
        (*timex.as_mut_ptr()).maxerror = 16_000_000;
    }
    let place = timex.as_mut_ptr() as u64;
    report.refused("adjtimex", &attempt(|| sys::call(libc::SYS_adjtimex, &[place])), &REFUSALS);
    report.refused("clock_adjtime", &attempt(|| sys::call(libc::SYS_clock_adjtime, &[0, place])), &REFUSALS);
}

fn scheduling(report: &mut Report) {
    let priority = 1i32;
    for (name, policy) in [("FIFO", libc::SCHED_FIFO), ("RR", libc::SCHED_RR)] {
        let set = attempt(|| {
            sys::call(libc::SYS_sched_setscheduler, &[0, policy as u64, &raw const priority as u64])
        });
        report.refused(&format!("sched_setscheduler({name})"), &set, &REFUSALS);
    }
    // size 48, SCHED_DEADLINE; runtime, deadline and period in nanoseconds.
    let deadline: [u64; 6] = [48 | (6 << 32), 0, 0, 10_000_000, 30_000_000, 30_000_000];
    let set = attempt(|| sys::call(libc::SYS_sched_setattr, &[0, deadline.as_ptr() as u64, 0]));
    report.refused("sched_setattr(DEADLINE)", &set, &[&REFUSALS[..], &[libc::EBUSY]].concat());
    for nice in [-1i32, -5, -20] {
        let set = attempt(|| sys::call(libc::SYS_setpriority, &[0, 0, nice as u64]));
        report.refused(&format!("nice {nice}"), &set, &REFUSALS);
    }
    // IOPRIO_WHO_PROCESS, class RT, level 0.
    let set = attempt(|| sys::call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]));
    report.refused("ioprio_set(RT)", &set, &REFUSALS);
    let own_autogroup = std::fs::OpenOptions::new().write(true).open("/proc/self/autogroup");
    if own_autogroup.is_ok_and(|mut f| f.write_all(b"-20").is_ok()) {
        report.broke("autogroup nice -20");
    }
}

fn out_of_memory(facts: &Facts, report: &mut Report) {
    let start = facts.start.oom_score_adj;
    for value in [start - 1, -1000] {
        for file in ["/proc/self/oom_score_adj", "/proc/thread-self/oom_score_adj"] {
            let result = attempt(|| {
                let mut f = std::fs::OpenOptions::new()
                    .write(true)
                    .open(file)
                    .map_err(|e| e.raw_os_error().unwrap_or(0))?;
                f.write_all(value.to_string().as_bytes()).map_err(|e| e.raw_os_error().unwrap_or(0))?;
                Ok(value.into())
            });
            if value < -1000 || value > start {
                continue;
            }
            report.fails(&format!("{file} to {value} from {start}"), &result);
        }
    }
}

fn limits(report: &mut Report) {
    for resource in 0..16u64 {
        let mut now = [0u64; 2];
        let _ = sys::call(libc::SYS_prlimit64, &[0, resource, 0, now.as_mut_ptr() as u64]);
        if now[1] == u64::MAX {
            continue;
        }
        for hard in [now[1] + 1, u64::MAX] {
            let more = [now[0], hard];
            let set = attempt(|| sys::call(libc::SYS_prlimit64, &[0, resource, more.as_ptr() as u64, 0]));
            report.refused(
                &format!("raise hard limit {resource} from {} to {hard}", now[1]),
                &set,
                &REFUSALS,
            );
        }
    }
}
