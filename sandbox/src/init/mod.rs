//! Pid 1 of a sandbox: attaches mounts, starts actions, reaps, kills, reports.
//!
//! ```text
//!              ┌────────── Reset ◄─────────────┐
//!              ▼                               │
//!  create ► Ready ── Run ──► Running ── leader ended, or Kill ──► Draining ── nobody left ──► Quiet (Exited sent)
//! ```
//! The process that becomes the next action is already there in Ready: cloned into its cgroup, without privileges,
//! under its filter, waiting for a message. A run therefore costs one message, one mount and one `execve`.
//!
//! Invariants: no allocation, lock or panic after the clone; descriptors have the fixed numbers below; the end of
//! the control socket (the daemon is gone) kills everything; *quiet* means that `kill(-1)` found nobody and `wait4`
//! has no child left, which in a pid namespace is a proof.
//!
//! State here: uid 0 inside (an unprivileged uid outside), all capabilities in the sandbox's user namespace, none
//! outside of it.
#![allow(unsafe_code)]

pub mod action;
mod cellar;
mod clock;
pub mod hosted;
pub mod interpret;
mod networks;
pub mod nursery;
pub mod request;
mod sweeper;
pub mod wire;

use crate::plan::{Phase, machinery};
use crate::sys::raw::{self, Start};
use crate::sys::{Errno, Result, message, mount, process};
use clock::now_ns;
use interpret::{Context, Failed};
use request::Request;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use wire::{FromInit, ToInit};

/// The control socket.
pub const CONTROL: RawFd = 3;
/// The cgroup directory that actions start in (v2), or closed.
pub const CGROUP: RawFd = 4;
/// Descriptors from here on are free after the clone.
pub const FIRST_FREE: RawFd = 5;

/// What init knows while it serves.
struct Init<'a> {
    context: Context<'a>,
    /// Whether [`CGROUP`] is open.
    in_cgroup: bool,
    signals: OwnedFd,
    /// The waiting process and our end of its socket.
    parked: Option<Parked>,
    run: Run,
    /// A run that was canceled before it started.
    kill_ahead: u32,
    work_attached: bool,
    /// Of the worker that runs, if it is one.
    views: Option<hosted::Views>,
    /// What is at /work since a worker is over.
    left: Option<hosted::Left>,
    sweeper: sweeper::Sweeper,
    /// What the waiting process works on, its stack, and the mapped command.
    launch: action::Launch<'a>,
    stack: *mut u8,
    mapping: (*mut core::ffi::c_void, usize),
}

struct Parked {
    pid: i32,
    link: OwnedFd,
}

/// The facts of the current run.
#[derive(Default)]
struct Run {
    leader: i32,
    generation: u32,
    active: bool,
    leader_ended: bool,
    kill_requested: bool,
    report: wire::Exited,
}

/// Serves until the control socket closes. Never returns.
///
/// The descriptors must already be in place: [`CONTROL`], and [`CGROUP`] if `in_cgroup`.
pub fn serve(mut context: Context<'_>, in_cgroup: bool) -> ! {
    let control = fixed(CONTROL);
    let signals = match prepare(&mut context, control) {
        Ok(signals) => signals,
        Err(failed) => give_up(control, failed),
    };
    let stack = match new_stack(STACK_BYTES) {
        Ok(stack) => stack,
        Err(errno) => give_up(control, Failed { step: machinery::CREATE, errno }),
    };
    let mut init = Init {
        launch: action::Launch::new(context.plan),
        context,
        in_cgroup,
        signals,
        parked: None,
        run: Run::default(),
        kill_ahead: 0,
        work_attached: false,
        views: None,
        left: None,
        sweeper: sweeper::Sweeper::new(),
        stack,
        mapping: (core::ptr::null_mut(), 0),
    };
    if let Err(failed) = init.ready() {
        give_up(control, failed);
    }
    init.serve(control)
}

/// Bytes of the stack of the waiting process.
const STACK_BYTES: usize = 256 << 10;

/// A stack for the waiting process or a thread, made once.
fn new_stack(bytes: usize) -> Result<*mut u8> {
    let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
    let flags = rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::NORESERVE;
    // SAFETY: a new anonymous mapping, which is never unmapped.
    unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), bytes, protection, flags) }.map(<*mut _>::cast)
}

/// A descriptor with a fixed number, for the life of the process.
fn fixed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the fixed descriptors are opened before init starts to serve and are never closed by it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn give_up(control: BorrowedFd<'_>, failed: Failed) -> ! {
    let _ = FromInit::Failed { step: failed.step, errno: failed.errno.raw_os_error() }.send(control);
    process::exit_now(1)
}

fn prepare(context: &mut Context<'_>, control: BorrowedFd<'_>) -> core::result::Result<OwnedFd, Failed> {
    let _ = control;
    let wrap = |errno| Failed { step: machinery::CREATE, errno };
    process::block_signals().map_err(wrap)?;
    context.run(Phase::Create)?;
    process::child_signal_fd().map_err(wrap)
}

impl Init<'_> {
    /// Prepares a lease: private mounts and a waiting process; then says so.
    fn ready(&mut self) -> core::result::Result<(), Failed> {
        let began_ns = now_ns();
        self.context.run(Phase::Lease)?;
        self.context.remember_lease();
        self.park_and_tell(began_ns)
    }

    fn park_and_tell(&mut self, began_ns: u64) -> core::result::Result<(), Failed> {
        self.park()?;
        let wrap = |errno| Failed { step: machinery::PARK, errno };
        let took_us = now_ns().saturating_sub(began_ns) / 1000;
        FromInit::Ready { took_us }.send(fixed(CONTROL)).map_err(wrap)
    }

    /// Clones the process that becomes the next action. It shares this memory until it executes the command, so that
    /// the clone copies nothing and the execution has nothing to tear down.
    fn park(&mut self) -> core::result::Result<(), Failed> {
        let wrap = |errno| Failed { step: machinery::PARK, errno };
        self.context.restart_pids();
        self.unmap_request();
        let (ours, theirs) = message::pair().map_err(wrap)?;
        let cgroup = self.in_cgroup.then_some(CGROUP);
        self.launch.prepare(&self.context, theirs.as_raw_fd());
        let start = Start {
            stack: self.stack,
            stack_bytes: STACK_BYTES,
            entry: action::become_action,
            argument: (&raw mut self.launch).cast(),
        };
        // SAFETY: the last child on this stack has executed its command or ended, since a lease is over only when all
        // is quiet. `launch` lives as long as init, which never moves it while it serves, and init writes to it only
        // while the child waits for a message.
        let pid = unsafe { raw::clone_sharing_memory(0, cgroup, start) }.map_err(wrap)?;
        drop(theirs);
        self.parked = Some(Parked { pid, link: ours });
        self.await_parked()
    }

    /// Maps the command of a run, for the child to execute from.
    fn map_request(&mut self, request: &OwnedFd) -> Result<()> {
        let size = usize::try_from(rustix::fs::fstat(request)?.st_size).map_err(|_| Errno::BADMSG)?;
        if size == 0 || size > request::BYTES_MAX {
            return Err(Errno::BADMSG);
        }
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a new private mapping of a sealed memfd, whose seals keep its size; `unmap_request` is the only one
        // to end it, when no child shares this memory any more.
        let bytes = unsafe {
            let flags = rustix::mm::MapFlags::PRIVATE;
            let address = rustix::mm::mmap(core::ptr::null_mut(), size, protection, flags, request, 0)?;
            self.mapping = (address, size);
            core::slice::from_raw_parts_mut(address.cast::<u8>(), size)
        };
        self.launch.set_request(Request::open(bytes)?);
        Ok(())
    }

    fn unmap_request(&mut self) {
        let (address, size) = core::mem::replace(&mut self.mapping, (core::ptr::null_mut(), 0));
        self.launch.clear_request();
        if size != 0 {
            // SAFETY: the mapping is the one that `map_request` made; nobody refers to it any more.
            let _ = unsafe { rustix::mm::munmap(address, size) };
        }
    }

    /// Waits until the process has taken all steps that do not depend on the command, or says which one failed.
    fn await_parked(&mut self) -> core::result::Result<(), Failed> {
        let wrap = |errno| Failed { step: machinery::PARK, errno };
        let parked = self.parked.as_ref().ok_or(wrap(Errno::CHILD))?;
        let mut buffer = [0u8; message::BYTES_MAX];
        let received =
            message::receive(parked.link.as_fd(), &mut buffer, &mut message::no_descriptors(), true)
                .map_err(wrap)?;
        match received {
            Some(1) => Ok(()),
            Some(8) => Err(Failed {
                step: word(&buffer, 0),
                errno: Errno::from_raw_os_error(word(&buffer, 4) as i32),
            }),
            _ => Err(wrap(Errno::CHILD)),
        }
    }

    fn serve(&mut self, control: BorrowedFd<'static>) -> ! {
        loop {
            let [from_control, from_children, from_worker] = {
                let signals = self.signals.as_fd();
                let worker = self.starting_worker();
                let mut events = [
                    PollFd::from_borrowed_fd(control, PollFlags::IN),
                    PollFd::from_borrowed_fd(signals, PollFlags::IN),
                    PollFd::from_borrowed_fd(worker.unwrap_or(control), PollFlags::IN),
                ];
                let count = if worker.is_some() { 3 } else { 2 };
                match poll(&mut events[..count], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => process::exit_now(1),
                }
                let ready = |index: usize| index < count && !events[index].revents().is_empty();
                [ready(0), ready(1), ready(2)]
            };
            if from_worker {
                self.executed();
            }
            if from_children {
                let mut buffer = [0u8; 256];
                let _ = rustix::io::read(&self.signals, &mut buffer[..]);
                self.reap();
            }
            if from_control {
                self.obey(control);
            }
        }
    }

    fn obey(&mut self, control: BorrowedFd<'static>) {
        let mut descriptors = message::no_descriptors();
        let message = match ToInit::receive(control, &mut descriptors) {
            Ok(Some(message)) => message,
            // The daemon is gone: everything in the pid namespace goes with its pid 1.
            Ok(None) | Err(_) => process::exit_now(0),
        };
        let result = match message {
            ToInit::Run { flags, fail_at, generation } => {
                self.start(&mut descriptors, [flags, fail_at], generation)
            }
            ToInit::Kill { generation } => {
                self.kill(generation);
                Ok(())
            }
            ToInit::Rearm => self.rearm(),
            ToInit::Signal { generation, number } => {
                self.signal(generation, number);
                Ok(())
            }
            ToInit::Swap { .. } | ToInit::Attach { .. } | ToInit::Detach { .. } | ToInit::Seal { .. } => {
                self.change_view(&message, descriptors[0].take());
                Ok(())
            }
            ToInit::Reset { fail_at } => {
                self.context.fail_at = fail_at;
                let renewed = descriptors[0].take();
                let placed = renewed.map_or(Ok(()), |cgroup| place(cgroup.as_fd(), CGROUP));
                placed.map_err(|errno| Failed { step: machinery::RESET, errno }).and_then(|()| self.reset())
            }
        };
        if let Err(failed) = result {
            let _ = FromInit::Failed { step: failed.step, errno: failed.errno.raw_os_error() }.send(control);
        }
    }

    fn kill(&mut self, generation: u32) {
        if self.run.active && self.run.generation == generation {
            self.run.kill_requested = true;
            let _ = process::kill_all_others();
        } else if generation > self.run.generation {
            self.kill_ahead = generation;
        }
    }

    fn signal(&self, generation: u32, number: i32) {
        use rustix::process::{Pid, Signal, kill_process};
        if self.run.active
            && !self.run.leader_ended
            && self.run.generation == generation
            && let (Some(pid), Some(signal)) =
                (Pid::from_raw(self.run.leader), Signal::from_named_raw(number))
        {
            // The leader is our child and not reaped yet, so that the pid is still its own.
            let _ = kill_process(pid, signal);
        }
    }

    /// Attaches the view of the inputs and lets the waiting process go on.
    fn start(
        &mut self,
        descriptors: &mut message::Descriptors,
        [flags, fail_at]: [u32; 2],
        generation: u32,
    ) -> core::result::Result<(), Failed> {
        let received_ns = now_ns();
        let wrap = |errno| Failed { step: machinery::START, errno };
        if self.run.active {
            return Err(wrap(Errno::BUSY));
        }
        let request = descriptors[0].take().ok_or(wrap(Errno::BADF))?;
        self.map_request(&request).map_err(wrap)?;
        let with_work = flags & wire::RUN_WITH_WORK != 0;
        let work = if with_work { Some(descriptors[4].take().ok_or(wrap(Errno::BADF))?) } else { None };
        if flags & wire::RUN_HOSTED != 0 {
            let answers = descriptors[4 + usize::from(with_work)].take().ok_or(wrap(Errno::BADF))?;
            let directory = self.launch.directory().map_err(wrap)?;
            let views = hosted::Views::begin(answers, work, directory)?;
            // SAFETY: nobody moves init while it serves.
            unsafe { views.start(&mut self.sweeper) };
            self.views = Some(views);
            self.work_attached = true;
        } else if let Some(work) = work {
            mount::attach_at(work.as_fd(), mount::here(), c"work").map_err(wrap)?;
            self.work_attached = true;
        }
        let parked = self.parked.as_ref().ok_or(wrap(Errno::CHILD))?;
        let mut borrowed = [fixed(CONTROL); 3];
        for (slot, descriptor) in borrowed.iter_mut().zip(descriptors.iter().skip(1)) {
            *slot = descriptor.as_ref().ok_or(wrap(Errno::BADF))?.as_fd();
        }
        let mut bytes = [0u8; 8];
        bytes[..4].copy_from_slice(&flags.to_le_bytes());
        bytes[4..].copy_from_slice(&fail_at.to_le_bytes());
        message::send(parked.link.as_fd(), &bytes, &borrowed).map_err(wrap)?;
        self.run = Run { leader: parked.pid, generation, active: true, ..Run::default() };
        self.run.report.received_ns = received_ns;
        self.run.report.started_ns = now_ns();
        if self.kill_ahead == generation {
            self.kill(generation);
        }
        Ok(())
    }

    /// Takes in all children that have ended; after the leader, nobody stays.
    fn reap(&mut self) {
        loop {
            match process::reap_any(false) {
                Ok(Some(child)) => self.note(child),
                Ok(None) => {
                    if self.run.active && (self.run.leader_ended || self.run.kill_requested) {
                        let _ = process::kill_all_others();
                    }
                    return;
                }
                Err(_) => break,
            }
        }
        // No child is left. A process that is not a child of ours cannot exist once the leader and all that were
        // handed to us are reaped, but that is asked, not believed.
        if self.run.active
            && self.run.leader_ended
            && let Err(Errno::SRCH) = process::kill_all_others()
        {
            self.report();
        }
    }

    fn note(&mut self, child: process::Reaped) {
        if !self.run.active {
            if self.parked.as_ref().is_some_and(|parked| parked.pid == child.pid) {
                self.parked = None;
            }
            return;
        }
        let report = &mut self.run.report;
        report.user_us += child.user_us;
        report.system_us += child.system_us;
        report.max_rss_bytes = report.max_rss_bytes.max(child.max_rss_bytes);
        if child.pid == self.run.leader {
            report.status = child.status;
            report.ended_ns = now_ns();
            self.run.leader_ended = true;
            let _ = self.read_failure();
        } else if self.run.leader_ended && child.status & 0x7f == libc::SIGKILL {
            report.stragglers += 1;
        }
    }

    /// If the leader could not become the action, it said why before it ended. Whether it said nothing.
    fn read_failure(&mut self) -> bool {
        let Some(parked) = self.parked.take() else { return true };
        let mut buffer = [0u8; message::BYTES_MAX];
        let mut descriptors = message::no_descriptors();
        let said = message::receive(parked.link.as_fd(), &mut buffer, &mut descriptors, false);
        if let Ok(Some(8)) = said {
            self.run.report.failed_step = word(&buffer, 0);
            self.run.report.failed_errno = word(&buffer, 4) as i32;
        }
        matches!(said, Ok(None))
    }

    fn report(&mut self) {
        self.run.report.quiet_ns = now_ns();
        self.run.active = false;
        // Whoever waits for an answer is told that there will be none.
        self.sweeper.quit();
        let left = self.views.take().map(hosted::Views::leave);
        // What is mounted later is mounted on what was there before.
        self.left = self.left.take().or(left);
        let _ = FromInit::Exited(self.run.report).send(fixed(CONTROL));
    }

    /// Clones another waiting process; everything else stays.
    fn rearm(&mut self) -> core::result::Result<(), Failed> {
        let wrap = |errno| Failed { step: machinery::PARK, errno };
        if self.run.active || self.parked.is_some() {
            return Err(wrap(Errno::BUSY));
        }
        self.park_and_tell(now_ns())
    }

    /// Makes this sandbox indistinguishable from a new one, or fails.
    fn reset(&mut self) -> core::result::Result<(), Failed> {
        let began_ns = now_ns();
        let wrap = |errno| Failed { step: machinery::RESET, errno };
        if self.run.active {
            return Err(wrap(Errno::BUSY));
        }
        if let Some(parked) = self.parked.take() {
            // It has not run: end it, so that the new one starts from the new mounts.
            drop(parked);
            let _ = process::kill_all_others();
            while process::reap_any(true).is_ok() {}
        }
        self.sweeper.end();
        if let Some(left) = self.left.take() {
            left.end().map_err(wrap)?;
        } else if self.work_attached {
            mount::detach(c"/work").map_err(wrap)?;
        }
        self.work_attached = false;
        self.context.renew_lease()?;
        self.context.leave_ipc().map_err(wrap)?;
        self.context.renew_network().map_err(wrap)?;
        self.park_and_tell(began_ns)
    }
}

fn word(buffer: &[u8; message::BYTES_MAX], at: usize) -> u32 {
    buffer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Moves `fd` to the fixed number `to`, replacing what was there.
pub(crate) fn place(fd: BorrowedFd<'_>, to: RawFd) -> Result<()> {
    // SAFETY: dup3(2) takes integers. The caller owns the number `to` in this fresh process.
    let ret = unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) };
    crate::sys::check(i64::from(ret)).map(drop)
}

/// Moves the zygote's socket to number 3 of a process that has just been cloned; what was there is closed.
pub(crate) fn take_number_three(socket: OwnedFd) -> Result<OwnedFd> {
    use rustix::fd::{FromRawFd, IntoRawFd};
    place(socket.as_fd(), CONTROL)?;
    // Closing the rest closes the original; it must not be closed a second time.
    let _ = socket.into_raw_fd();
    // SAFETY: `place` has just made this descriptor, and nobody else owns it in this process.
    Ok(unsafe { OwnedFd::from_raw_fd(CONTROL) })
}
