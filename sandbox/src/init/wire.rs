//! Messages between a sandbox's owner and its init: one fixed-size record each, over a SEQPACKET socket.
//!
//! ```text
//! owner → init   Run { … } + request, stdin, stdout, stderr [, work mount] [, socket for answers]
//!                Kill { … }   Signal { … }   Rearm   Reset { … } [+ cgroup]
//!                Swap { … } [+ view]   Attach { … } + view   Detach { … }   Seal { … }
//! init → owner   Ready   Failed { step, errno }   Exited { … }
//! on the socket for answers, if one came along     Executed   Viewed { … } to each of Swap, Attach, Detach, Seal
//! ```
//! Answers have a socket of their own, so that whatever comes on the control socket means that the worker is over.
//!
//! Every record is 96 bytes: u32 kind, then fields in order, little-endian, zero-filled.
use crate::sys::{Errno, Result, message};
use rustix::fd::BorrowedFd;

/// Run: a detached mount to attach at /work comes along as the fifth descriptor.
pub const RUN_WITH_WORK: u32 = 1;
/// Run: standard input is a terminal that becomes the controlling terminal of the action's session.
pub const RUN_WITH_TERMINAL: u32 = 2;
/// Run: the action is a worker that stays; the socket for answers comes along as the last descriptor.
pub const RUN_HOSTED: u32 = 4;

/// Places for views beside each other, `/work/_w/0` and so on. Bounds what init keeps open for them; no multiplex
/// worker is given more requests at once (Bazel gives 8, a build at most as many as it has jobs).
pub const SLOTS_MAX: u32 = 256;

const LENGTH: usize = 96;
const READY: u32 = 1;
const FAILED: u32 = 2;
const EXITED: u32 = 3;
const EXECUTED: u32 = 4;
const VIEWED: u32 = 5;
const RUN: u32 = 11;
const KILL: u32 = 12;
const RESET: u32 = 13;
const SIGNAL: u32 = 14;
const REARM: u32 = 15;
const SWAP: u32 = 16;
const ATTACH: u32 = 17;
const DETACH: u32 = 18;
const SEAL: u32 = 19;
/// No place beside others, but /work itself.
pub const SLOT_NONE: u32 = u32::MAX;

/// From the owner to init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToInit {
    /// Start the action whose request, standard streams and perhaps work mount come along.
    Run {
        /// `RUN_*` bits.
        flags: u32,
        /// Fault injection: the step that shall fail; 0 for none.
        fail_at: u32,
        /// The number of the run, larger than any before.
        generation: u32,
    },
    /// Kill everything of this run; the report follows when all is quiet. If the run has not started yet, it is
    /// killed as soon as it does; if it is over, nothing happens.
    Kill {
        /// Which run.
        generation: u32,
    },
    /// Send a signal to the leader of this run, if it is still there.
    Signal {
        /// Which run.
        generation: u32,
        /// Which.
        number: i32,
    },
    /// Get ready for another action without a reset.
    Rearm,
    /// Make the sandbox like new. A new cgroup directory for actions may come along.
    Reset {
        /// Fault injection: the step that shall fail; 0 for none.
        fail_at: u32,
    },
    /// Replace the worker's view of /work by the mount that comes along, or by nothing if none does.
    Swap {
        /// Comes back with the answer.
        ticket: u32,
        /// Fault injection: the part of the exchange that shall fail; 0 for none.
        fail_at: u32,
    },
    /// Attach the mount that comes along at `/work/_w/<slot>`.
    Attach {
        /// Comes back with the answer.
        ticket: u32,
        /// Where.
        slot: u32,
    },
    /// Detach what was attached at `/work/_w/<slot>`.
    Detach {
        /// Comes back with the answer.
        ticket: u32,
        /// Where.
        slot: u32,
    },
    /// Make what is at /work, or at `/work/_w/<slot>`, read-only.
    Seal {
        /// Comes back with the answer.
        ticket: u32,
        /// Where; [`SLOT_NONE`] for /work and all below it.
        slot: u32,
    },
}

/// The answer to a change of a worker's view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewed {
    /// Of the message that this answers.
    pub ticket: u32,
    /// Why it failed; 0 if it did not.
    pub errno: i32,
    /// It failed half way and could not be taken back: the worker is being killed.
    pub broken: bool,
}

/// What a run gave, as init saw it. Times are CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exited {
    /// Raw wait status of the leader.
    pub status: i32,
    /// The action step that failed before the program started; 0 for none.
    pub failed_step: u32,
    /// Why it failed.
    pub failed_errno: i32,
    /// Processes that were still there when the leader had ended.
    pub stragglers: u32,
    /// User CPU of all that were reaped.
    pub user_us: u64,
    /// System CPU of all that were reaped.
    pub system_us: u64,
    /// The largest resident set of any of them.
    pub max_rss_bytes: u64,
    /// When the request arrived.
    pub received_ns: u64,
    /// When the waiting process was let go.
    pub started_ns: u64,
    /// When the leader had ended.
    pub ended_ns: u64,
    /// When nobody was left.
    pub quiet_ns: u64,
}

/// From init to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromInit {
    /// A lease can start.
    Ready {
        /// How long it took to make the sandbox like new; of the first lease, to make it.
        took_us: u64,
    },
    /// A step failed. Numbers of [`crate::plan::machinery`] stand for the machinery between the steps.
    Failed {
        /// Which step.
        step: u32,
        /// Why.
        errno: i32,
    },
    /// The action is over and all is quiet.
    Exited(Exited),
    /// The worker's program has been executed.
    Executed,
    /// The worker's view was changed, or not.
    Viewed(Viewed),
}

struct Writer {
    bytes: [u8; LENGTH],
    at: usize,
}

impl Writer {
    fn new(kind: u32) -> Self {
        let mut writer = Writer { bytes: [0; LENGTH], at: 0 };
        writer.small(kind);
        writer
    }
    fn small(&mut self, value: u32) {
        if let Some(slot) = self.bytes.get_mut(self.at..self.at + 4) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        self.at += 4;
    }
    fn wide(&mut self, value: u64) {
        if let Some(slot) = self.bytes.get_mut(self.at..self.at + 8) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        self.at += 8;
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn small(&mut self) -> u32 {
        let value = self.bytes.get(self.at..self.at + 4).and_then(|slice| slice.try_into().ok());
        self.at += 4;
        value.map_or(0, u32::from_le_bytes)
    }
    fn wide(&mut self) -> u64 {
        let value = self.bytes.get(self.at..self.at + 8).and_then(|slice| slice.try_into().ok());
        self.at += 8;
        value.map_or(0, u64::from_le_bytes)
    }
}

fn receive<'b>(
    socket: BorrowedFd<'_>,
    buffer: &'b mut [u8; message::BYTES_MAX],
    descriptors: &mut message::Descriptors,
    wait: bool,
) -> Result<Option<(u32, Reader<'b>)>> {
    let Some(length) = message::receive(socket, buffer, descriptors, wait)? else { return Ok(None) };
    if length != LENGTH {
        return Err(Errno::BADMSG);
    }
    let mut reader = Reader { bytes: &buffer[..LENGTH], at: 0 };
    let kind = reader.small();
    Ok(Some((kind, reader)))
}

impl ToInit {
    /// Sends the message with its descriptors.
    pub fn send(&self, socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let writer = match self {
            ToInit::Run { flags, fail_at, generation } => {
                let mut writer = Writer::new(RUN);
                writer.small(*flags);
                writer.small(*fail_at);
                writer.small(*generation);
                writer
            }
            ToInit::Kill { generation } => {
                let mut writer = Writer::new(KILL);
                writer.small(*generation);
                writer
            }
            ToInit::Rearm => Writer::new(REARM),
            ToInit::Signal { generation, number } => {
                let mut writer = Writer::new(SIGNAL);
                writer.small(*generation);
                writer.small(*number as u32);
                writer
            }
            ToInit::Reset { fail_at } => {
                let mut writer = Writer::new(RESET);
                writer.small(*fail_at);
                writer
            }
            ToInit::Swap { ticket, fail_at } => pair(SWAP, *ticket, *fail_at),
            ToInit::Attach { ticket, slot } => pair(ATTACH, *ticket, *slot),
            ToInit::Detach { ticket, slot } => pair(DETACH, *ticket, *slot),
            ToInit::Seal { ticket, slot } => pair(SEAL, *ticket, *slot),
        };
        message::send(socket, &writer.bytes, descriptors)
    }

    /// Receives one message; `None` when the owner is gone.
    pub fn receive(socket: BorrowedFd<'_>, descriptors: &mut message::Descriptors) -> Result<Option<Self>> {
        let mut buffer = [0; message::BYTES_MAX];
        let Some((kind, mut reader)) = receive(socket, &mut buffer, descriptors, true)? else {
            return Ok(None);
        };
        match kind {
            RUN => Ok(Some(ToInit::Run {
                flags: reader.small(),
                fail_at: reader.small(),
                generation: reader.small(),
            })),
            KILL => Ok(Some(ToInit::Kill { generation: reader.small() })),
            REARM => Ok(Some(ToInit::Rearm)),
            SIGNAL => Ok(Some(ToInit::Signal { generation: reader.small(), number: reader.small() as i32 })),
            RESET => Ok(Some(ToInit::Reset { fail_at: reader.small() })),
            SWAP => Ok(Some(ToInit::Swap { ticket: reader.small(), fail_at: reader.small() })),
            ATTACH => Ok(Some(ToInit::Attach { ticket: reader.small(), slot: reader.small() })),
            DETACH => Ok(Some(ToInit::Detach { ticket: reader.small(), slot: reader.small() })),
            SEAL => Ok(Some(ToInit::Seal { ticket: reader.small(), slot: reader.small() })),
            _ => Err(Errno::BADMSG),
        }
    }
}

impl FromInit {
    /// Sends the message.
    pub fn send(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let writer = match self {
            FromInit::Ready { took_us } => {
                let mut writer = Writer::new(READY);
                writer.wide(*took_us);
                writer
            }
            FromInit::Failed { step, errno } => {
                let mut writer = Writer::new(FAILED);
                writer.small(*step);
                writer.small(*errno as u32);
                writer
            }
            FromInit::Exited(report) => exited(report),
            FromInit::Executed => Writer::new(EXECUTED),
            FromInit::Viewed(Viewed { ticket, errno, broken }) => {
                let mut writer = pair(VIEWED, *ticket, *errno as u32);
                writer.small(u32::from(*broken));
                writer
            }
        };
        message::send(socket, &writer.bytes, &[])
    }

    /// Receives one message; `None` when init is gone. `EAGAIN` only when `wait` is false.
    pub fn receive(socket: BorrowedFd<'_>, wait: bool) -> Result<Option<Self>> {
        let mut buffer = [0; message::BYTES_MAX];
        let mut descriptors = message::no_descriptors();
        let Some((kind, mut reader)) = receive(socket, &mut buffer, &mut descriptors, wait)? else {
            return Ok(None);
        };
        match kind {
            READY => Ok(Some(FromInit::Ready { took_us: reader.wide() })),
            FAILED => Ok(Some(FromInit::Failed { step: reader.small(), errno: reader.small() as i32 })),
            EXITED => Ok(Some(FromInit::Exited(Exited {
                status: reader.small() as i32,
                failed_step: reader.small(),
                failed_errno: reader.small() as i32,
                stragglers: reader.small(),
                user_us: reader.wide(),
                system_us: reader.wide(),
                max_rss_bytes: reader.wide(),
                received_ns: reader.wide(),
                started_ns: reader.wide(),
                ended_ns: reader.wide(),
                quiet_ns: reader.wide(),
            }))),
            EXECUTED => Ok(Some(FromInit::Executed)),
            VIEWED => Ok(Some(FromInit::Viewed(Viewed {
                ticket: reader.small(),
                errno: reader.small() as i32,
                broken: reader.small() != 0,
            }))),
            _ => Err(Errno::BADMSG),
        }
    }
}

fn pair(kind: u32, first: u32, second: u32) -> Writer {
    let mut writer = Writer::new(kind);
    writer.small(first);
    writer.small(second);
    writer
}

fn exited(report: &Exited) -> Writer {
    let mut writer = Writer::new(EXITED);
    writer.small(report.status as u32);
    writer.small(report.failed_step);
    writer.small(report.failed_errno as u32);
    writer.small(report.stragglers);
    for value in [
        report.user_us,
        report.system_us,
        report.max_rss_bytes,
        report.received_ns,
        report.started_ns,
        report.ended_ns,
        report.quiet_ns,
    ] {
        writer.wide(value);
    }
    writer
}
