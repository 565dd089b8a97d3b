//! Starting this program again, with the same command line and one more variable.
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command};

/// The program, started again.
#[derive(Debug)]
pub struct Again {
    child: Child,
    pidfd: OwnedFd,
}

/// Sends signals to it.
#[derive(Debug)]
pub struct SignalTarget(OwnedFd);

/// Starts this program again, as it was started, with `variable` set to `value`.
///
/// # Errors
/// When the program or a descriptor of it cannot be had.
pub fn again(variable: &str, value: &OsStr) -> io::Result<Again> {
    let child =
        Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).env(variable, value).spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Again { pidfd: pidfd_open(pid, PidfdFlags::empty())?, child })
}

impl Again {
    /// Readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// A handle that sends it signals, for another thread.
    #[must_use]
    pub fn signal_target(&self) -> Option<SignalTarget> {
        self.pidfd.try_clone().ok().map(SignalTarget)
    }

    /// Waits for its end; gives its exit code, or 128 plus its signal.
    pub fn code(&mut self) -> u8 {
        use std::os::unix::process::ExitStatusExt;
        match self.child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => u8::try_from(code).unwrap_or(1),
                (None, Some(signal)) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
                (None, None) => 1,
            },
            Err(_) => crate::failure::OWN_FAILURE,
        }
    }
}

impl SignalTarget {
    /// Sends a signal.
    pub fn send(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            // It may have ended already.
            let _ = pidfd_send_signal(&self.0, signal);
        }
    }
}
