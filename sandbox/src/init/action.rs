//! The process that waits to become an action.
//!
//! It is cloned at the end of every reset and takes all steps on itself that do not depend on the command: own
//! namespaces, session, limits, no capabilities, the filter. Then it waits. When the request comes it takes its
//! standard streams, changes directory and executes. A failure is reported as `(step, errno)` over its socket,
//! which `execve` closes.
//!
//! State here after the first steps: the unprivileged user inside and outside, no capability anywhere.
use super::interpret::{Context, Failed};
use super::request::{BYTES_MAX, Request};
use super::wire::RUN_WITH_TERMINAL;
use crate::plan::Phase;
use crate::plan::wire::code;
use crate::sys::{Errno, Result, message, process};
use rustix::fd::{AsFd, OwnedFd};

/// Takes the action's steps and executes its program. Never returns.
pub fn become_action(context: &mut Context<'_>, link: OwnedFd) -> ! {
    let failed = match act(context, &link) {
        Ok(()) => process::exit_now(0),
        Err(failed) => failed,
    };
    let mut bytes = [0u8; 8];
    bytes[..4].copy_from_slice(&failed.step.to_le_bytes());
    bytes[4..].copy_from_slice(&failed.errno.raw_os_error().to_le_bytes());
    let _ = message::send(link.as_fd(), &bytes, &[]);
    process::exit_now(127)
}

/// `Ok` only when init closed the socket: this process is not wanted any more.
fn act(context: &mut Context<'_>, link: &OwnedFd) -> core::result::Result<(), Failed> {
    let mut number = context.run_from(1, Phase::Action)?;
    // Until here nothing is known of the action. What follows is all that its start costs.
    let at = |step: u32| move |errno: Errno| Failed { step, errno };
    message::send(link.as_fd(), b"r", &[]).map_err(at(number))?;
    let mut buffer = [0u8; message::BYTES_MAX];
    let mut descriptors = message::no_descriptors();
    let received = message::receive(link.as_fd(), &mut buffer, &mut descriptors, true);
    if received.map_err(at(number))?.is_none() {
        return Ok(());
    }
    let flags = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    context.fail_at = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
    context.guard(number).map_err(at(number))?;
    let request = descriptors[0].take().ok_or(at(number)(Errno::BADF))?;
    let mapped = map(&request).map_err(at(number))?;
    let request = Request::open(mapped).map_err(at(number))?;
    number += 1;
    while let Some(step) = context.plan.step(number) {
        context.guard(number).map_err(at(number))?;
        match step.code() {
            code::STDIO => stdio(&descriptors, flags).map_err(at(number))?,
            code::CHANGE_DIRECTORY => {
                request.directory().and_then(rustix::process::chdir).map_err(at(number))?;
            }
            code::CLOSE_DESCRIPTORS => process::close_on_exec_from(3).map_err(at(number))?,
            code::EXEC => {
                process::reset_signals().map_err(at(number))?;
                return Err(at(number)(execute(&request)));
            }
            _ => context.perform(&step).map_err(at(number))?,
        }
        number += 1;
    }
    Err(at(number)(Errno::BADMSG))
}

fn stdio(descriptors: &message::Descriptors, flags: u32) -> Result<()> {
    for (number, descriptor) in descriptors[1..4].iter().enumerate() {
        let descriptor = descriptor.as_ref().ok_or(Errno::BADF)?;
        super::place(descriptor.as_fd(), number as i32)?;
        // SAFETY: fcntl(2) with F_SETFD takes integers; 0 to 2 are this process's own streams.
        crate::sys::check(i64::from(unsafe { libc::fcntl(number as i32, libc::F_SETFD, 0) }))?;
    }
    if flags & RUN_WITH_TERMINAL != 0 {
        // SAFETY: TIOCSCTTY takes an integer; this process leads a session without a terminal.
        crate::sys::check(i64::from(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }))?;
    }
    Ok(())
}

/// Maps the request privately, so that offsets can be turned into pointers in place.
fn map<'a>(request: &OwnedFd) -> Result<&'a mut [u8]> {
    let size = usize::try_from(rustix::fs::fstat(request)?.st_size).map_err(|_| Errno::BADMSG)?;
    if size == 0 || size > BYTES_MAX {
        return Err(Errno::BADMSG);
    }
    let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
    // SAFETY: a new private mapping of a sealed memfd; it is never unmapped before execve or exit, so that any
    // lifetime holds. The size is that of the file, which its seals keep as it is.
    unsafe {
        let address = rustix::mm::mmap(
            core::ptr::null_mut(),
            size,
            protection,
            rustix::mm::MapFlags::PRIVATE,
            request,
            0,
        )?;
        Ok(core::slice::from_raw_parts_mut(address.cast::<u8>(), size))
    }
}

/// Tries the candidates in order, as execvp(3) does: a missing one is passed over, a forbidden one remembered.
fn execute(request: &Request<'_>) -> Errno {
    let mut answer = Errno::NOENT;
    for index in 0..request.candidates() {
        let program = match request.candidate(index) {
            Ok(program) => program,
            Err(errno) => return errno,
        };
        // SAFETY: `Request::open` checked both arrays: null-terminated, each pointer at a string in the mapping.
        match unsafe { process::exec(program, request.arguments(), request.variables()) } {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => answer = Errno::ACCESS,
            errno => return errno,
        }
    }
    answer
}
