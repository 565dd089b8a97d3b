//! Capabilities: all of them go, from all five sets (capabilities(7)).
//!
//! ```text
//!   1. bounding      PR_CAPBSET_DROP for 0..=last      needs CAP_SETPCAP, so it is first
//!   2. ids           setresgid, setresuid              leaving id 0 empties effective and ambient
//!   3. permitted, effective, inheritable   capset 0
//!   4. ambient       PR_CAP_AMBIENT_CLEAR_ALL          empty already after 3; said all the same
//! ```
//!
//! Which numbers exist is the kernel's to say: it refuses to drop an unknown one with EINVAL, and may know
//! more than this table. So the bound is read from `/proc/sys/kernel/cap_last_cap`; the names are only for
//! messages.
//!
//! Proof: [`CapabilitySets::parse`] reads `/proc/<pid>/status`; only five empty sets count as dropped.

/// Where the kernel says what its last capability is (Linux 3.2).
pub const CAP_LAST_CAP_PATH: &str = "/proc/sys/kernel/cap_last_cap";

/// Capabilities by number, linux/capability.h, up to `CAP_CHECKPOINT_RESTORE` (Linux 5.9).
pub const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The sets are 64 bits wide, so no kernel has a higher number (`_LINUX_CAPABILITY_VERSION_3`).
const NUMBER_MAX: u8 = 63;

/// What the child does about capabilities, in the order of [`STEPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `prctl(PR_CAPBSET_DROP, n)` for each of [`CapabilityDrop::bounding`].
    DropBounding,
    /// `setresgid` and `setresuid`, groups first.
    ChangeIds,
    /// `capset` with three empty sets.
    EmptySets,
    /// `prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)` (Linux 4.3).
    ClearAmbient,
}

/// The order of the steps; see the module's drawing for why.
pub const STEPS: [Step; 4] = [Step::DropBounding, Step::ChangeIds, Step::EmptySets, Step::ClearAmbient];

/// The capabilities to drop on this kernel: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityDrop {
    last: u8,
}

/// Why the list is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// The kernel's file does not hold a number up to 63.
    #[error("cannot read the last capability from {CAP_LAST_CAP_PATH}: it says {0:?}")]
    BadLast(String),
    /// A line of `/proc/<pid>/status` is missing or no hexadecimal number.
    #[error("cannot read capabilities from the status of a process: no valid line {0}")]
    BadStatus(&'static str),
}

impl CapabilityDrop {
    /// From the text of [`CAP_LAST_CAP_PATH`].
    pub fn parse(text: &str) -> Result<CapabilityDrop, CapabilityError> {
        match text.trim().parse() {
            Ok(last) if last <= NUMBER_MAX => Ok(CapabilityDrop { last }),
            _ => Err(CapabilityError::BadLast(text.trim().to_owned())),
        }
    }

    /// The numbers to take out of the bounding set.
    pub fn bounding(&self) -> std::ops::RangeInclusive<u8> {
        0..=self.last
    }
}

/// The name of a capability, without the prefix; newer ones than the table have none.
pub fn name(number: u8) -> Option<&'static str> {
    NAMES.get(usize::from(number)).copied()
}

/// The five sets of a process (proc_pid_status(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilitySets {
    /// `CapInh`.
    pub inheritable: u64,
    /// `CapPrm`.
    pub permitted: u64,
    /// `CapEff`.
    pub effective: u64,
    /// `CapBnd`.
    pub bounding: u64,
    /// `CapAmb`.
    pub ambient: u64,
}

impl CapabilitySets {
    /// From the text of `/proc/<pid>/status`.
    pub fn parse(status: &str) -> Result<CapabilitySets, CapabilityError> {
        let set = |key: &'static str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
                .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
                .ok_or(CapabilityError::BadStatus(key))
        };
        Ok(CapabilitySets {
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            ambient: set("CapAmb")?,
        })
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        (self.inheritable | self.permitted | self.effective | self.bounding | self.ambient) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_capability_bounds_the_list() {
        let check = |text: &str, last: Option<u8>| {
            let drop = CapabilityDrop::parse(text).ok();
            assert_eq!(drop.map(|drop| *drop.bounding().end()), last, "{text:?}");
        };
        check("40\n", Some(40));
        check("37", Some(37));
        check("63\n", Some(63));
        check("64\n", None);
        check("-1\n", None);
        check("", None);
        check("forty", None);
    }

    #[test]
    fn names_are_where_the_kernel_has_them() {
        assert_eq!(name(0), Some("chown"));
        assert_eq!(name(8), Some("setpcap"));
        assert_eq!(name(21), Some("sys_admin"));
        assert_eq!(name(24), Some("sys_resource"));
        assert_eq!(name(37), Some("audit_read"));
        assert_eq!(name(40), Some("checkpoint_restore"));
        assert_eq!(name(41), None);
    }

    #[test]
    fn this_kernel_is_understood() {
        let text = std::fs::read_to_string(CAP_LAST_CAP_PATH).unwrap();
        assert!(*CapabilityDrop::parse(&text).unwrap().bounding().end() >= 37);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        CapabilitySets::parse(&status).unwrap();
    }

    #[test]
    fn only_five_empty_sets_are_empty() {
        let status = |bounding: &str| {
            format!("CapInh:\t0\nCapPrm:\t0000000000000000\nCapEff:\t0\nCapBnd:\t{bounding}\nCapAmb:\t0\n")
        };
        assert!(CapabilitySets::parse(&status("0000000000000000")).unwrap().is_empty());
        let sets = CapabilitySets::parse(&status("000001ffffffffff")).unwrap();
        assert_eq!(sets.bounding, 0x1ff_ffff_ffff);
        assert!(!sets.is_empty());
        assert_eq!(CapabilitySets::parse(&status("xyz")), Err(CapabilityError::BadStatus("CapBnd")));
        assert_eq!(CapabilitySets::parse("Name:\tcc\n"), Err(CapabilityError::BadStatus("CapInh")));
    }
}
