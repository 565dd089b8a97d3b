//! K05: typing into the terminal of whoever started the action.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, attempt};
use std::os::fd::{AsRawFd, OwnedFd};

const REQUESTS: &[(&str, u64)] = &[("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c), ("TIOCCONS", 0x541d)];

/// K05.
pub fn inject(_facts: &Facts, report: &mut Report) {
    for fd in 0..3 {
        for &(name, request) in REQUESTS {
            for high in [0, 1 << 32, 0xffff_ffff << 32] {
                let result = attempt(|| push(fd, request | high));
                report.fails(&format!("{name} on descriptor {fd}, high {high:#x}"), &result);
            }
        }
    }
    match sys::open("/dev/tty", libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK) {
        Ok(_) => report.broke("there is a controlling terminal"),
        Err(_) => report.held(),
    }
    own_terminal(report);
}

fn push(fd: i32, request: u64) -> Result<i64, i32> {
    // A NUL pushed into a terminal by mistake is nothing that anyone executes; as a TIOCLINUX subcommand it is invalid.
    let byte = 0u8;
    sys::call(libc::SYS_ioctl, &[fd as u64, request, &raw const byte as u64])
}

/// With an own terminal as the controlling one the kernel has no reason of its own to refuse; only a filter has.
fn own_terminal(report: &mut Report) {
    let mut opened = false;
    for &(name, request) in REQUESTS {
        for high in [0, 1u64 << 32, 0x8000_0000u64 << 32] {
            let result = attempt(|| {
                // The end of the master hangs up on its session.
                // SAFETY: neither call has memory arguments.
                unsafe {
                    libc::setsid();
                    libc::signal(libc::SIGHUP, libc::SIG_IGN);
                }
                let (_master, slave) = pty()?;
                sys::call(libc::SYS_ioctl, &[slave.as_raw_fd() as u64, libc::TIOCSCTTY, 0])?;
                // Also as stdio, the way an action with a terminal would have it.
                // SAFETY: both descriptors are open.
                unsafe { libc::dup2(slave.as_raw_fd(), 0) };
                push(0, request | high)
            });
            opened |= !matches!(result, sys::Attempt::Errno(libc::ENOENT | libc::ENXIO));
            report.fails(&format!("{name} on an own pty, high {high:#x}"), &result);
        }
    }
    if !opened {
        report.note("no pty could be opened");
    }
}

/// A fresh pseudo terminal: master and slave.
pub fn pty() -> Result<(OwnedFd, OwnedFd), i32> {
    let master = sys::open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    let unlocked = 0i32;
    sys::call(libc::SYS_ioctl, &[master.as_raw_fd() as u64, libc::TIOCSPTLCK, &raw const unlocked as u64])?;
    let slave = sys::call(
        libc::SYS_ioctl,
        &[
            master.as_raw_fd() as u64,
            libc::TIOCGPTPEER,
            (libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as u64,
        ],
    )?;
    Ok((master, sys::own(slave)?))
}
