//! `fulgurite enter`: a shell in a sandbox that `--keep-on-failure` kept.
//!
//! On a terminal the shell gets a pseudo terminal of its own, and this process passes everything on; the user's
//! terminal itself never gets into the sandbox.
use super::keep::{self, ENTER, REMOVE, kept_dir};
use super::run_args::state_dir;
use crate::failure::{Failure, put, tell};
use clap::Args;
use fulgurite_sandbox::sys::{Errno, message};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// What `enter` takes.
#[derive(Args, Clone, Debug)]
pub struct EnterArgs {
    /// Which kept sandbox; without it, they are listed
    pub id: Option<String>,
    /// Remove it instead
    #[arg(long, requires = "id")]
    pub remove: bool,
}

/// Runs `fulgurite enter`; gives the shell's exit code.
///
/// # Errors
/// When there is no such sandbox, or its keeper does not answer.
pub fn enter(args: &EnterArgs) -> Result<u8, Failure> {
    let dir = kept_dir(&state_dir());
    let Some(id) = &args.id else { return list(&dir) };
    if id.contains('/') || id.starts_with('.') {
        return Err(Failure::new(format!("{id:?} is not the name of a kept sandbox")));
    }
    let guest = keep::connect(&dir.join(id).join("enter.sock")).map_err(|errno| match errno {
        Errno::NOENT | Errno::CONNREFUSED => Failure::new(format!("there is no kept sandbox {id}"))
            .hint(Some("fulgurite enter without a name lists them")),
        errno => Failure::new(format!("cannot reach kept sandbox {id}: {errno}")),
    })?;
    if args.remove {
        ask(&guest, REMOVE, &[])?;
        return answer(&guest);
    }
    let stdin = io::stdin();
    if isatty(&stdin) { on_terminal(&guest) } else { plain(&guest) }
}

fn list(dir: &PathBuf) -> Result<u8, Failure> {
    let mut names: Vec<String> = Vec::new();
    for item in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let alive = keep::connect(&item.path().join("enter.sock")).is_ok();
        match item.file_name().into_string() {
            Ok(name) if alive => names.push(name),
            // The keeper was killed; its directory holds nothing but sockets.
            Ok(_) if !item.path().join("front.sock").exists() || !alive => {
                let _ = std::fs::remove_dir_all(item.path());
            }
            _ => {}
        }
    }
    names.sort();
    if names.is_empty() {
        tell("no sandbox is kept (hint: fulgurite run --keep-on-failure)");
    }
    put(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(0)
}

fn ask(guest: &OwnedFd, request: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    message::send(guest.as_fd(), request, descriptors)
        .map_err(|errno| Failure::new(format!("cannot ask the keeper: {errno}")))
}

fn answer(guest: &OwnedFd) -> Result<u8, Failure> {
    let mut buffer = [0; message::BYTES_MAX];
    match message::receive(guest.as_fd(), &mut buffer, &mut message::no_descriptors(), true) {
        Ok(Some(_)) => Ok(buffer[0]),
        Ok(None) | Err(_) => Err(Failure::new("the keeper has ended, and the sandbox with it")),
    }
}

fn request() -> Vec<u8> {
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    let mut request = ENTER.to_vec();
    request.extend(term.bytes().take(64));
    request
}

fn plain(guest: &OwnedFd) -> Result<u8, Failure> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    ask(guest, &request(), &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    answer(guest)
}

/// Gives the terminal its settings back, however the shell ends.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn on_terminal(guest: &OwnedFd) -> Result<u8, Failure> {
    let failed = |errno: Errno| Failure::new(format!("cannot make a pseudo terminal: {errno}"));
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(failed)?;
    grantpt(&ours).map_err(failed)?;
    unlockpt(&ours).map_err(failed)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .map_err(failed)?;
    if let Ok(size) = tcgetwinsize(io::stdin()) {
        tcsetwinsize(&ours, size).map_err(failed)?;
    }
    let before = tcgetattr(io::stdin()).map_err(failed)?;
    let mut raw = before.clone();
    raw.make_raw();
    ask(guest, &request(), &[theirs.as_fd(), theirs.as_fd(), theirs.as_fd()])?;
    drop(theirs);
    tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
    let restore = Restore(before);
    let copy = |error: io::Error| Failure::new(format!("cannot copy to the pseudo terminal: {error}"));
    let to_shell = File::from(ours.try_clone().map_err(copy)?);
    // The thread ends with the process: it waits for a key that may never come.
    std::thread::Builder::new()
        .name("fulgurite-keys".to_owned())
        .spawn(move || pass_on(io::stdin(), to_shell))
        .map_err(copy)?;
    pass_on(File::from(ours), io::stdout());
    drop(restore);
    answer(guest)
}

/// Copies until the source ends; a pseudo terminal ends with `EIO`.
fn pass_on(mut source: impl Read, mut target: impl Write) {
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        let written = buffer.get(..count).map(|bytes| target.write_all(bytes).and_then(|()| target.flush()));
        if !matches!(written, Some(Ok(()))) {
            return;
        }
    }
}
