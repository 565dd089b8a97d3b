//! The process that waits to become an action.
//!
//! It is cloned at the end of every reset and takes all steps on itself that do not depend on the command: own
//! namespaces, session, limits, no capabilities, the filter. Then it waits. When the request comes it takes its
//! standard streams, changes directory and executes. A failure is reported as `(step, errno)` over its socket,
//! which `execve` closes.
//!
//! State here after the first steps: the unprivileged user inside and outside, no capability anywhere.
use super::interpret::{Context, Failed};
use super::request::Request;
use super::wire::RUN_WITH_TERMINAL;
use crate::plan::Phase;
use crate::plan::wire::{PlanBytes, code};
use crate::sys::{Errno, Result, message, process};
use core::ffi::c_void;
use rustix::fd::{BorrowedFd, RawFd};

/// What init hands to the waiting process. They share memory: init writes here only while the process waits for its
/// message, and the process only reads.
pub struct Launch<'a> {
    plan: PlanBytes<'a>,
    fail_at: u32,
    link: RawFd,
    ipc_inherited: bool,
    request: Option<Request<'a>>,
}

impl<'a> Launch<'a> {
    /// Nothing to launch yet.
    #[must_use]
    pub fn new(plan: PlanBytes<'a>) -> Self {
        Launch { plan, fail_at: 0, link: -1, ipc_inherited: false, request: None }
    }

    /// For the next process: init's plan and state, and its socket.
    pub fn prepare(&mut self, context: &Context<'a>, link: RawFd) {
        let Context { plan, fail_at, ipc_inherited, .. } = *context;
        *self = Launch { plan, fail_at, link, ipc_inherited, request: None };
    }

    /// The command, before the message that lets the process go on.
    pub fn set_request(&mut self, request: Request<'a>) {
        self.request = Some(request);
    }

    /// Where the command starts.
    pub fn directory(&self) -> Result<&'a core::ffi::CStr> {
        self.request.as_ref().ok_or(Errno::BADF)?.directory()
    }

    /// Forgets the command.
    pub fn clear_request(&mut self) {
        self.request = None;
    }
}

/// Takes the action's steps and executes its program. Never returns.
///
/// # Safety
/// `launch` must point to a [`Launch`] that stays valid until this process executes or ends.
pub unsafe extern "C" fn become_action(launch: *mut c_void) -> ! {
    let launch = launch.cast::<Launch<'_>>();
    // SAFETY: the caller vouches for the pointer; init does not write until this process waits. The descriptor is
    // this process's copy of its end of the socket.
    let (mut context, link) = unsafe {
        let mut context = Context::new((*launch).plan, c"", (*launch).fail_at);
        context.ipc_inherited = (*launch).ipc_inherited;
        (context, BorrowedFd::borrow_raw((*launch).link))
    };
    let failed = match act(&mut context, link, launch) {
        Ok(()) => process::exit_now(0),
        Err(failed) => failed,
    };
    let mut bytes = [0u8; 8];
    bytes[..4].copy_from_slice(&failed.step.to_le_bytes());
    bytes[4..].copy_from_slice(&failed.errno.raw_os_error().to_le_bytes());
    let _ = message::send(link, &bytes, &[]);
    process::exit_now(127)
}

/// `Ok` only when init closed the socket: this process is not wanted any more.
fn act(
    context: &mut Context<'_>,
    link: BorrowedFd<'_>,
    launch: *const Launch<'_>,
) -> core::result::Result<(), Failed> {
    let mut number = context.run_from(1, Phase::Action)?;
    // Until here nothing is known of the action. What follows is all that its start costs.
    let at = |step: u32| move |errno: Errno| Failed { step, errno };
    message::send(link, b"r", &[]).map_err(at(number))?;
    let mut buffer = [0u8; message::BYTES_MAX];
    let mut descriptors = message::no_descriptors();
    let received = message::receive(link, &mut buffer, &mut descriptors, true);
    if received.map_err(at(number))?.is_none() {
        return Ok(());
    }
    let flags = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    context.fail_at = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
    context.guard(number).map_err(at(number))?;
    // SAFETY: init set the request before it sent the message, and leaves it alone until this process has executed or
    // ended.
    let request = unsafe { (*launch).request.as_ref() }.ok_or(at(number)(Errno::BADF))?;
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
                process::unblock_signals().map_err(at(number))?;
                return Err(at(number)(execute(request)));
            }
            _ => context.perform(&step).map_err(at(number))?,
        }
        number += 1;
    }
    Err(at(number)(Errno::BADMSG))
}

fn stdio(descriptors: &message::Descriptors, flags: u32) -> Result<()> {
    let [Some(stdin), Some(stdout), Some(stderr), ..] = descriptors else { return Err(Errno::BADF) };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    if flags & RUN_WITH_TERMINAL != 0 {
        rustix::process::ioctl_tiocsctty(stdin)?;
    }
    Ok(())
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
