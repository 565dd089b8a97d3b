//! R10: kernel objects of which there are only so many.

use crate::facts::Facts;
use crate::kernel::pty;
use crate::report::Report;
use crate::sys::{self, End, errname};
use crate::walk;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A kind of object: its name, the most that is made, and how one is made; `keep` holds descriptors.
struct Kind {
    name: &'static str,
    most: u64,
    make: fn(u64, &mut Vec<OwnedFd>) -> Result<(), i32>,
    remove: fn(u64),
}

const DESCRIPTORS: u64 = 65_536;
/// Common key of the System V objects; the number is added.
const KEY: u64 = 0x5230_0000;

const KINDS: &[Kind] = &[
    Kind { name: "inotify instances", most: 8192, make: inotify, remove: nothing },
    Kind { name: "ptys", most: 8192, make: terminal, remove: nothing },
    Kind { name: "pipes", most: DESCRIPTORS, make: pipe, remove: nothing },
    Kind { name: "memfds", most: DESCRIPTORS, make: memfd, remove: nothing },
    Kind { name: "sockets", most: DESCRIPTORS, make: socket, remove: nothing },
    Kind { name: "timers", most: 300_000, make: timer, remove: nothing },
    Kind { name: "SysV segments", most: 8192, make: segment, remove: remove_segment },
    Kind { name: "SysV semaphores", most: 40_000, make: semaphore, remove: remove_semaphore },
    Kind { name: "SysV queues", most: 40_000, make: queue, remove: remove_queue },
    Kind { name: "message queues", most: 4096, make: message_queue, remove: remove_message_queue },
];

/// R10.
pub fn exhaust(facts: &Facts, report: &mut Report) {
    raise_descriptors();
    for kind in KINDS {
        let Ok(shared) = sys::shared() else { return report.broke("inconclusive: no shared memory") };
        let end = sys::in_child(30, || make_all(kind, &shared[0]));
        let count = shared[0].load(SeqCst);
        for number in 0..count {
            (kind.remove)(number);
        }
        match end {
            End::Said(said) if said == b"all" => report.broke(format!("{count} {}, no refusal", kind.name)),
            End::Said(said) => {
                report.held();
                report.note(format!("{} after {count} {}", String::from_utf8_lossy(&said), kind.name));
            }
            End::Signal(libc::SIGKILL) => {
                report.held();
                report.note(format!("killed after {count} {}", kind.name));
            }
            End::Signal(s) => report.broke(format!("inconclusive: signal {s} after {count} {}", kind.name)),
            End::Hung => report.broke(format!("inconclusive: hung after {count} {}", kind.name)),
            End::NoFork(e) => report.broke(format!("inconclusive: fork {}", errname(e))),
        }
    }
    watches(facts, report);
}

fn make_all(kind: &Kind, count: &AtomicU64) -> Vec<u8> {
    let mut keep = Vec::new();
    let end = Instant::now() + Duration::from_secs(15);
    while count.load(SeqCst) < kind.most {
        if Instant::now() > end {
            return b"out of time".to_vec();
        }
        if let Err(e) = (kind.make)(count.load(SeqCst), &mut keep) {
            return errname(e).into_bytes();
        }
        count.fetch_add(1, SeqCst);
    }
    b"all".to_vec()
}

/// Raises the soft limit of descriptors as far as it goes.
pub fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid over both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

/// A watch needs an inode of its own; the toolchain has many. Too few of them is no refusal, hence only a note.
fn watches(_facts: &Facts, report: &mut Report) {
    let Ok(fd) = sys::call(libc::SYS_inotify_init1, &[0]).and_then(sys::own) else { return };
    let mut made = 0u64;
    let mut refusal = None;
    walk::everything(&mut |_| true, &mut |path, _| {
        if refusal.is_some() || made >= 200_000 {
            return;
        }
        let name = sys::cpath(path);
        // IN_OPEN, not following links.
        match sys::call(
            libc::SYS_inotify_add_watch,
            &[fd.as_raw_fd() as u64, name.as_ptr() as u64, 0x0200_0020],
        ) {
            Ok(_) => made += 1,
            Err(e @ (libc::ENOSPC | libc::ENOMEM)) => refusal = Some(e),
            Err(_) => {}
        }
    });
    let end = refusal.map_or("no refusal".to_string(), errname);
    report.note(format!("{made} inotify watches, {end}"));
}

fn inotify(_: u64, keep: &mut Vec<OwnedFd>) -> Result<(), i32> {
    keep.push(sys::own(sys::call(libc::SYS_inotify_init1, &[0])?)?);
    Ok(())
}

fn terminal(_: u64, keep: &mut Vec<OwnedFd>) -> Result<(), i32> {
    let (master, slave) = pty()?;
    keep.extend([master, slave]);
    Ok(())
}

fn pipe(_: u64, keep: &mut Vec<OwnedFd>) -> Result<(), i32> {
    let (read, write) = std::io::pipe().map_err(|e| e.raw_os_error().unwrap_or(libc::EMFILE))?;
    keep.extend([read.into(), write.into()]);
    Ok(())
}

fn memfd(_: u64, keep: &mut Vec<OwnedFd>) -> Result<(), i32> {
    let name = c"hostile";
    keep.push(sys::own(sys::call(libc::SYS_memfd_create, &[name.as_ptr() as u64, 0])?)?);
    Ok(())
}

fn socket(_: u64, keep: &mut Vec<OwnedFd>) -> Result<(), i32> {
    keep.push(sys::own(sys::call(libc::SYS_socket, &[1, libc::SOCK_STREAM as u64, 0])?)?);
    Ok(())
}

fn timer(_: u64, _: &mut Vec<OwnedFd>) -> Result<(), i32> {
    let mut id = 0i32;
    sys::call(libc::SYS_timer_create, &[libc::CLOCK_MONOTONIC as u64, 0, &raw mut id as u64]).map(drop)
}

fn segment(number: u64, _: &mut Vec<OwnedFd>) -> Result<(), i32> {
    sys::call(libc::SYS_shmget, &[KEY + number, 4096, 0o1600]).map(drop)
}

fn semaphore(number: u64, _: &mut Vec<OwnedFd>) -> Result<(), i32> {
    sys::call(libc::SYS_semget, &[KEY + number, 1, 0o1600]).map(drop)
}

fn queue(number: u64, _: &mut Vec<OwnedFd>) -> Result<(), i32> {
    sys::call(libc::SYS_msgget, &[KEY + number, 0o1600]).map(drop)
}

fn message_queue(number: u64, keep: &mut Vec<OwnedFd>) -> Result<(), i32> {
    let name = sys::cpath(format!("hostile-r10-{number}"));
    let flags = (libc::O_CREAT | libc::O_RDWR) as u64;
    keep.push(sys::own(sys::call(libc::SYS_mq_open, &[name.as_ptr() as u64, flags, 0o600, 0])?)?);
    Ok(())
}

fn nothing(_: u64) {}

fn remove_segment(number: u64) {
    if let Ok(id) = sys::call(libc::SYS_shmget, &[KEY + number, 0, 0]) {
        let _ = sys::call(libc::SYS_shmctl, &[id as u64, 0, 0]);
    }
}

fn remove_semaphore(number: u64) {
    if let Ok(id) = sys::call(libc::SYS_semget, &[KEY + number, 0, 0]) {
        let _ = sys::call(libc::SYS_semctl, &[id as u64, 0, 0, 0]);
    }
}

fn remove_queue(number: u64) {
    if let Ok(id) = sys::call(libc::SYS_msgget, &[KEY + number, 0]) {
        let _ = sys::call(libc::SYS_msgctl, &[id as u64, 0, 0]);
    }
}

fn remove_message_queue(number: u64) {
    let name = sys::cpath(format!("hostile-r10-{number}"));
    let _ = sys::call(libc::SYS_mq_unlink, &[name.as_ptr() as u64]);
}
