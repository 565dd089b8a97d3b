//! The end of an action by its cgroup: killed in one write, and first in line to die.
//!
//! ```text
//!   kill ─► weight of the slot: the most there is ─► cgroup.kill: SIGKILL to all ─► each takes a processor, and ends
//!                    └───────────── the slot is renewed: as it was ◄─────────────────────────────┘
//! ```
//! A killed process needs a processor to end. Where others compute, fifty of them would wait for their turn one after
//! the other; nothing in the slot can do anything but end, so that they may go first.
//!
//! Limits: where the weight cannot be had, they wait like all others.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::node::{Cgroup, Leaf};
use super::{CgroupError, Limits};

/// Files by which an action is killed, from any thread. Of no effect once the action's leaf was renewed.
#[derive(Debug)]
pub struct GroupKill {
    kill: OwnedFd,
    weight: Option<(OwnedFd, Weight)>,
}

/// Where a slot's share of the processors is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// `cpu.weight`.
    V2,
    /// `cpu.shares`.
    V1,
}

impl Weight {
    const fn file(self) -> &'static str {
        match self {
            Weight::V2 => "cpu.weight",
            Weight::V1 => "cpu.shares",
        }
    }

    fn usual(self, limits: Option<&Limits>) -> String {
        match self {
            Weight::V2 => super::CPU_WEIGHT_DEFAULT.to_string(),
            Weight::V1 => super::v1::shares(limits.and_then(|limits| limits.cpu_weight)),
        }
    }

    /// The most that the kernel takes.
    const fn most(self) -> &'static [u8] {
        match self {
            Weight::V2 => b"10000",
            Weight::V1 => b"262144",
        }
    }
}

impl GroupKill {
    /// `None` if `leaf` cannot be killed. `group` is the slot's, for its weight.
    pub(super) fn open<G>(
        leaf: &Cgroup<Leaf>,
        group: Option<(&Cgroup<G>, Weight)>,
    ) -> Result<Option<GroupKill>, CgroupError> {
        let Some(kill) = leaf.open_existing("cgroup.kill", OFlags::WRONLY)? else { return Ok(None) };
        let weight = match group {
            Some((group, weight)) => {
                group.open_existing(weight.file(), OFlags::WRONLY)?.map(|file| (file, weight))
            }
            None => None,
        };
        Ok(Some(GroupKill { kill, weight }))
    }

    /// Kills all of the action.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn kill(&self) -> Result<(), Errno> {
        if let Some((file, weight)) = &self.weight {
            // It dies without it, too.
            let _ = rustix::io::pwrite(file, weight.most(), 0);
        }
        rustix::io::pwrite(&self.kill, b"1", 0).map(drop)
    }

    /// Makes the slot's weight what it is while nobody dies.
    pub(super) fn restore(&self, limits: Option<&Limits>) -> Result<(), Errno> {
        let Some((file, weight)) = &self.weight else { return Ok(()) };
        rustix::io::pwrite(file, weight.usual(limits).as_bytes(), 0).map(drop)
    }
}
