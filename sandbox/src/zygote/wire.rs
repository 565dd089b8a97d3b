//! Messages between the daemon and its zygote: one request, one answer, over a SEQPACKET socket.
//!
//! ```text
//! View { … }        + plan, tree…                                          → Done + mount namespace
//! Spawn { ids, … } + plan, mount namespace, control [, two cgroups] [, tree…] → Done { pid } + pidfd
//! Fork                      + socket                           → Done { pid } + pidfd
//! UserNamespace { map }                                        → Done + namespace
//! ```
//! Any request may be answered by `Failed { step, errno }`; numbers of `plan::machinery` stand for the machinery
//! between the steps.
use crate::sys::{Errno, Result, message};
use rustix::fd::{BorrowedFd, OwnedFd};

/// The longest id map that fits in a request.
pub const MAP_BYTES_MAX: usize = 200;

/// From the daemon to the zygote.
#[derive(Clone, Copy, Debug)]
pub enum ToZygote {
    /// Build the view of the plan that comes along; the answer has its mount namespace.
    View {
        /// Fault injection: the step that shall fail; 0 for none.
        fail_at: u32,
    },
    /// Clone a sandbox's init in a copy of the view that comes along. The trees that it attaches for itself come along
    /// too.
    Spawn {
        /// Fault injection.
        fail_at: u32,
        /// Whether the two cgroup directories come along.
        in_cgroup: bool,
        /// User and group of init outside.
        init_id: u32,
        /// User and group of the actions outside; the same as `init_id` where only one can be mapped.
        action_id: u32,
    },
    /// Clone another zygote that serves the socket that comes along.
    Fork,
    /// Make a user namespace with this map of user and group ids, for idmapped mounts.
    UserNamespace {
        /// Lines for uid_map and gid_map.
        map: [u8; MAP_BYTES_MAX],
        /// How many bytes of `map` count.
        length: usize,
    },
}

/// From the zygote to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromZygote {
    /// It is done; `pid` where a process was made.
    Done {
        /// Pid of the new process, or 0.
        pid: u32,
    },
    /// A step failed.
    Failed {
        /// Which step, or 0.
        step: u32,
        /// Why.
        errno: i32,
    },
}

const VIEW: u32 = 1;
const SPAWN: u32 = 2;
const FORK: u32 = 3;
const USER_NAMESPACE: u32 = 4;
const DONE: u32 = 11;
const FAILED: u32 = 12;

fn words(buffer: &mut [u8; message::BYTES_MAX], values: &[u32]) -> usize {
    for (slot, value) in buffer.chunks_exact_mut(4).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    values.len() * 4
}

fn word(buffer: &[u8; message::BYTES_MAX], index: usize) -> u32 {
    buffer.get(index * 4..index * 4 + 4).and_then(|slice| slice.try_into().ok()).map_or(0, u32::from_le_bytes)
}

impl ToZygote {
    /// Sends the request with its descriptors.
    pub fn send(&self, socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut buffer = [0u8; message::BYTES_MAX];
        let length = match self {
            ToZygote::View { fail_at } => words(&mut buffer, &[VIEW, *fail_at]),
            ToZygote::Spawn { fail_at, in_cgroup, init_id, action_id } => {
                words(&mut buffer, &[SPAWN, *fail_at, u32::from(*in_cgroup), *init_id, *action_id])
            }
            ToZygote::Fork => words(&mut buffer, &[FORK]),
            ToZygote::UserNamespace { map, length } => {
                let head = words(&mut buffer, &[USER_NAMESPACE, *length as u32]);
                buffer.get_mut(head..head + MAP_BYTES_MAX).ok_or(Errno::MSGSIZE)?.copy_from_slice(map);
                head + MAP_BYTES_MAX
            }
        };
        message::send(socket, buffer.get(..length).ok_or(Errno::MSGSIZE)?, descriptors)
    }

    /// Receives one request; `None` when the daemon is gone.
    pub fn receive(socket: BorrowedFd<'_>, descriptors: &mut message::Descriptors) -> Result<Option<Self>> {
        let mut buffer = [0u8; message::BYTES_MAX];
        if message::receive(socket, &mut buffer, descriptors, true)?.is_none() {
            return Ok(None);
        }
        let request = match word(&buffer, 0) {
            VIEW => ToZygote::View { fail_at: word(&buffer, 1) },
            SPAWN => ToZygote::Spawn {
                fail_at: word(&buffer, 1),
                in_cgroup: word(&buffer, 2) != 0,
                init_id: word(&buffer, 3),
                action_id: word(&buffer, 4),
            },
            FORK => ToZygote::Fork,
            USER_NAMESPACE => {
                let mut map = [0u8; MAP_BYTES_MAX];
                map.copy_from_slice(buffer.get(8..8 + MAP_BYTES_MAX).ok_or(Errno::BADMSG)?);
                ToZygote::UserNamespace { map, length: (word(&buffer, 1) as usize).min(MAP_BYTES_MAX) }
            }
            _ => return Err(Errno::BADMSG),
        };
        Ok(Some(request))
    }
}

impl FromZygote {
    /// Sends the answer, with a descriptor where one belongs to it.
    pub fn send(&self, socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut buffer = [0u8; message::BYTES_MAX];
        let length = match self {
            FromZygote::Done { pid } => words(&mut buffer, &[DONE, *pid]),
            FromZygote::Failed { step, errno } => words(&mut buffer, &[FAILED, *step, *errno as u32]),
        };
        message::send(socket, buffer.get(..length).ok_or(Errno::MSGSIZE)?, descriptors)
    }

    /// Receives the answer; `None` when the zygote is gone.
    pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Self, Option<OwnedFd>)>> {
        let mut buffer = [0u8; message::BYTES_MAX];
        let mut descriptors = message::no_descriptors();
        if message::receive(socket, &mut buffer, &mut descriptors, true)?.is_none() {
            return Ok(None);
        }
        let answer = match word(&buffer, 0) {
            DONE => FromZygote::Done { pid: word(&buffer, 1) },
            FAILED => FromZygote::Failed { step: word(&buffer, 1), errno: word(&buffer, 2) as i32 },
            _ => return Err(Errno::BADMSG),
        };
        Ok(Some((answer, descriptors[0].take())))
    }
}
