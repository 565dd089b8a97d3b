//! Resource limits, accounting and killing by control groups: v2, v1, and hybrid hosts with both.
//!
//! ```text
//!  v2 (also a hybrid's unified tree)             v1 (each hierarchy used: memory, cpu, pids)
//!  <place>                                       <our own group>
//!   └─ fulgurite-<pid>-<start>-<ns>.<label>       └─ fulgurite-<pid>-<start>-<ns>.<label>
//!       ├─ daemon      ours, where we had to move      └─ slot-N     init and action: limits hold for both
//!       └─ slot-N      branch
//!           ├─ init    leaf: the sandbox's init
//!           └─ action  leaf: the action; limits and kill act here
//! ```
//!
//! [`CgroupHost::probe`] says what this host gives. [`CgroupTree::create`] makes our top directories, one
//! [`CgroupTree::slot`] serves one sandbox, [`sweep_stale`] removes what a killed predecessor left.
//!
//! On v1 a slot is one directory for init and action, because moving a process costs an RCU grace period (5
//! to 20 ms); so the init is moved once, and what it starts is there already.
//!
//! Invariants: a limit that was asked for and cannot be applied is an error; every written value is read
//! back; only a [`Cgroup<Leaf>`] admits a process; we remove only directories that bear our own name; no
//! `Drop` here waits.
//!
//! Limits: no io limits; no v1 freezer (a pure v1 host has neither kill nor freeze, and the sandbox's init
//! must kill); v1 has no `memory.high`. Groups are never threaded.
//!
//! With the mount option `nsdelegate`, an init that lives in a cgroup namespace rooted at its `init` leaf
//! can't start processes in `action`: unshare that namespace from the slot, or not at all.

mod detect;
mod error;
mod kill;
mod limits;
mod meter;
mod mounts;
mod node;
pub mod parse;
mod place;
mod process;
mod setting;
mod slot;
mod sweep;
mod tree;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

pub use detect::{Availability, CgroupHost, Layout, Missing, Observer, V1Place};
pub use error::CgroupError;
pub use kill::GroupKill;
pub use limits::Limits;
pub use meter::{Sources, Usage};
pub use node::{Branch, Cgroup, Fresh, Leaf};
pub use place::{Place, Room};
pub use process::ProcessIdentity;
pub use slot::Slot;
pub use sweep::{has_stale, remove_quarantined, sweep_stale};
pub use tree::CgroupTree;

use std::sync::OnceLock;

/// The period of CPU quotas, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel's default of `cpu.weight`.
const CPU_WEIGHT_DEFAULT: u16 = 100;
/// What the name of every directory of ours begins with.
const TREE_PREFIX: &str = "fulgurite-";

/// A resource controller that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory.
    Memory,
    /// CPU bandwidth and weight.
    Cpu,
    /// CPU accounting: a controller of its own on v1 only.
    Cpuacct,
    /// Number of processes.
    Pids,
    /// Block I/O (`blkio` on v1).
    Io,
}

impl Controller {
    /// The name on v2.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }

    fn v1_name(self) -> &'static str {
        if self == Self::Io { "blkio" } else { self.name() }
    }

    fn from_v2_name(name: &str) -> Option<Self> {
        [Self::Memory, Self::Cpu, Self::Pids, Self::Io]
            .into_iter()
            .find(|controller| controller.name() == name)
    }
}

/// The name of a tree made by a process: the pid namespace is part of it, because a pid means nothing
/// outside.
fn tree_name(owner: &ProcessIdentity, label: &str) -> String {
    let namespace = process::pid_namespace().unwrap_or(0);
    format!("{TREE_PREFIX}{}-{}-{namespace}.{label}", owner.pid, owner.start_ticks)
}

/// The owner and pid namespace in the name of a tree; `None` if it is not such a name.
fn parse_tree_name(name: &str) -> Option<(ProcessIdentity, u64)> {
    let (identity, _label) = name.strip_prefix(TREE_PREFIX)?.split_once('.')?;
    let mut numbers = identity.split('-');
    let pid = numbers.next()?.parse().ok()?;
    let start_ticks = numbers.next()?.parse().ok()?;
    let namespace = numbers.next()?.parse().ok()?;
    numbers.next().is_none().then_some((ProcessIdentity { pid, start_ticks }, namespace))
}

/// CPU time per period, microseconds, of a limit in thousandths of a core.
fn quota_us(milli: u32) -> u64 {
    u64::from(milli) * CPU_PERIOD_US / 1000
}

/// The size of a memory page. Read from the auxiliary vector; 4096 where `/proc` is not mounted.
fn page_bytes() -> u64 {
    const AT_PAGESZ: u64 = 6;
    static PAGE: OnceLock<u64> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
        let mut words = vector.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            if key == AT_PAGESZ && value.is_power_of_two() {
                return value;
            }
        }
        4096
    })
}
