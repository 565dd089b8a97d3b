//! `--keep-on-failure`: the sandbox outlives `fulgurite run` in a keeper, until `fulgurite enter --remove`.
//!
//! ```text
//! run --keep-on-failure = front ── starts itself again ──► worker: runs the command
//!                           ▲                                 │ failed: exit code over front.sock
//!                           └─ exits with it ◄────────────────┘ lives on as the keeper, listens on enter.sock
//! ```
//! The processes of the command are dead by then; its files in /work and /tmp are as it left them. A keeper ends after
//! [`KEPT_AT_MOST`], and everything of the sandbox with it. Sockets lie in a directory that only the user can enter.
use super::signals::{BlockedSignals, Interruption};
use crate::failure::{Failure, OWN_FAILURE, tell};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::sandbox::{Action, Sandbox};
use fulgurite_sandbox::sys::{Errno, message};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use rustix::time::Timespec;
use std::ffi::CString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a kept sandbox waits to be entered.
pub const KEPT_AT_MOST: Duration = Duration::from_secs(24 * 3600);
/// Tells the worker where its sockets are.
pub const VARIABLE: &str = "FULGURITE_KEEPER_DIR";
/// Asks a keeper for a shell; the name of the terminal type follows.
pub const ENTER: &[u8] = b"enter ";
/// Asks a keeper to end.
pub const REMOVE: &[u8] = b"remove";

/// Where the sockets of kept sandboxes are.
#[must_use]
pub fn kept_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("kept")
}

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let text = format!("cannot {what} {}", path.display());
    move |error| Failure::new(format!("{text}: {error}"))
}

/// Runs this command line again as the worker, and waits until it ends or keeps a sandbox.
///
/// # Errors
/// When the directory, the socket or the process cannot be made.
pub fn supervise(signals: BlockedSignals, state_dir: &Path) -> Result<u8, Failure> {
    let id = format!("{}-{}", std::process::id(), crate::cli::random_word());
    let dir = kept_dir(state_dir).join(&id);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&dir).map_err(failed("make", &dir))?;
    let front = listener(&dir.join("front.sock"))?;
    let worker = crate::cli::reexec::again(VARIABLE, dir.as_os_str());
    let mut worker =
        worker.map_err(|error| Failure::new(format!("cannot start fulgurite again: {error}")))?;
    let forward = worker.signal_target();
    signals
        .forward_in_background(move |signal| {
            if let Some(target) = &forward {
                target.send(signal);
            }
        })
        .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
    let code = loop {
        let ended = worker.pidfd();
        let mut events = [PollFd::new(&front, PollFlags::IN), PollFd::from_borrowed_fd(ended, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::new(format!("cannot wait for the command: {errno}"))),
        }
        if !events[0].revents().is_empty()
            && let Some(code) = told_code(&front)
        {
            tell(format_args!(
                "kept as {id} (hint: fulgurite enter {id}, then fulgurite enter --remove {id})"
            ));
            return Ok(code);
        }
        if !events[1].revents().is_empty() {
            break worker.code();
        }
    };
    // Nothing was kept; what is left of the directory is empty.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(code)
}

fn told_code(front: &OwnedFd) -> Option<u8> {
    let connection = accept_with(front, SocketFlags::CLOEXEC).ok()?;
    let mut buffer = [0; message::BYTES_MAX];
    let length =
        message::receive(connection.as_fd(), &mut buffer, &mut message::no_descriptors(), true).ok()??;
    (length == 1).then(|| buffer[0])
}

/// A listening socket that keeps message boundaries.
fn listener(path: &Path) -> Result<OwnedFd, Failure> {
    let make = || -> Result<OwnedFd, Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 4)?;
        Ok(socket)
    };
    make().map_err(|errno| Failure::new(format!("cannot listen on {}: {errno}", path.display())))
}

/// A connection to such a socket.
///
/// # Errors
/// The kernel's: `ENOENT` and `ECONNREFUSED` when nobody listens.
pub fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The worker's side.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
}

impl Keeper {
    /// The keeper that the front asked for, if this process is the worker.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        std::env::var_os(VARIABLE).map(|dir| Keeper { dir: PathBuf::from(dir) })
    }

    /// If the front is killed, this process gets a SIGTERM: nobody would hear of the sandbox. Call it after the last
    /// change of credentials, which would undo it (prctl(2), `PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn end_with_front(&self) -> Result<(), Failure> {
        let failed = |errno| Failure::new(format!("cannot watch the process that waits: {errno}"));
        set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
        let name = self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let front = name.split('-').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        // It may be gone already.
        if getppid() != front {
            kill_process(getpid(), Signal::TERM).map_err(failed)?;
        }
        Ok(())
    }

    /// Tells the front the exit code, then serves until the sandbox is removed, its time is over or a signal comes.
    pub fn keep(&self, sandbox: &mut Sandbox, code: u8, variables: &[CString], interruption: &Interruption) {
        let served = self.serve(sandbox, code, variables, interruption);
        if let Err(failure) = served {
            tell(&failure);
        }
    }

    fn serve(
        &self,
        sandbox: &mut Sandbox,
        code: u8,
        variables: &[CString],
        interruption: &Interruption,
    ) -> Result<(), Failure> {
        let door = listener(&self.dir.join("enter.sock"))?;
        let front = connect(&self.dir.join("front.sock"))
            .map_err(|errno| Failure::new(format!("cannot tell that the sandbox is kept: {errno}")))?;
        detach().map_err(|errno| Failure::new(format!("cannot leave the terminal: {errno}")))?;
        let _ = set_parent_process_death_signal(None);
        let _ = message::send(front.as_fd(), &[code], &[]);
        drop(front);
        let end = Instant::now() + KEPT_AT_MOST;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: 0 };
            let event = interruption.event();
            let mut events =
                [PollFd::new(&door, PollFlags::IN), PollFd::from_borrowed_fd(event, PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
            if interruption.number().is_some() {
                return Ok(());
            }
            let Ok(guest) = accept_with(&door, SocketFlags::CLOEXEC) else { continue };
            if !self.admit(sandbox, guest.as_fd(), variables) {
                return Ok(());
            }
        }
    }
}

impl Keeper {
    /// Serves one guest. False: the sandbox is to be removed.
    fn admit(&self, sandbox: &mut Sandbox, guest: BorrowedFd<'_>, variables: &[CString]) -> bool {
        let mut buffer = [0; message::BYTES_MAX];
        let mut descriptors = message::no_descriptors();
        let Ok(Some(length)) = message::receive(guest, &mut buffer, &mut descriptors, true) else {
            return true;
        };
        let request = buffer.get(..length).unwrap_or(&[]);
        if request == REMOVE {
            // Before the answer: whoever has it finds the sandbox on no list.
            let _ = std::fs::remove_dir_all(&self.dir);
            let _ = message::send(guest, &[0], &[]);
            return false;
        }
        let Some(term) = request.strip_prefix(ENTER) else { return true };
        let [Some(stdin), Some(stdout), Some(stderr), ..] = &descriptors else { return true };
        let mut variables = variables.to_vec();
        variables.extend(CString::new([b"TERM=", term].concat()).ok());
        let code = match sandbox.rearm() {
            Err(_) => OWN_FAILURE,
            Ok(()) => {
                let outcome = sandbox.run(&Action {
                    arguments: &[c"/bin/sh".to_owned()],
                    variables: &variables,
                    directory: c"/work",
                    stdin: stdin.as_fd(),
                    stdout: stdout.as_fd(),
                    stderr: stderr.as_fd(),
                    work: None,
                    limits: &Limits::default(),
                    timeout: None,
                    kill_delay: Duration::ZERO,
                    terminal: rustix::termios::isatty(stdin),
                    fail_at: 0,
                });
                match outcome.end {
                    End::Exited(code) => u8::try_from(code).unwrap_or(1),
                    _ => OWN_FAILURE,
                }
            }
        };
        let _ = message::send(guest, &[code], &[]);
        sandbox.is_sound()
    }
}

impl Drop for Keeper {
    /// The front does this as well, unless it was killed.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Lets go of the terminal and of whoever waits for the end of our output.
fn detach() -> Result<(), Errno> {
    // A process group leader cannot start a session; the worker is none.
    let _ = rustix::process::setsid();
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}
