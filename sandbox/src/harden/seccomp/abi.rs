//! The syscall ABIs that the profile knows: how the kernel names them, and their tables of numbers.
//!
//! An x86_64 kernel answers to three: its own, i386 (int 0x80 and 32-bit programs), and x32 (64-bit entry
//! with bit 30 of the number set). x32 reports the architecture of x86_64, so it is told apart by the number.

use super::numbers::{self, Run};

/// A syscall ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86, on an x86_64 kernel with `CONFIG_IA32_EMULATION`.
    I386,
    /// 64-bit Arm.
    Aarch64,
}

impl Abi {
    /// The first number of x32: `__X32_SYSCALL_BIT`, asm/unistd.h.
    pub const X32_BIT: u32 = 0x4000_0000;

    /// The ABI of this build, or `None` where there is no reviewed table.
    pub const fn native() -> Option<Abi> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Abi::X86_64)
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
            Some(Abi::Aarch64)
        } else {
            None
        }
    }

    /// `AUDIT_ARCH_*` of linux/audit.h: what the filter sees as the architecture.
    pub const fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
        }
    }

    /// The name of a syscall number, or `None` if the number is not assigned or not reviewed.
    pub fn name(self, number: u32) -> Option<&'static str> {
        // The last run that starts at or before the number; a number past its end lies in a hole.
        let runs = self.runs();
        let (first, names) = runs[..runs.partition_point(|(first, _)| *first <= number)].last()?;
        names.split(' ').nth(usize::try_from(number - first).ok()?)
    }

    /// The number of a syscall, or `None` if this ABI has none of this name.
    pub fn number(self, name: &str) -> Option<u32> {
        self.assigned().find(|(_, candidate)| *candidate == name).map(|(number, _)| number)
    }

    /// All assigned numbers with their names, ascending.
    pub fn assigned(self) -> impl Iterator<Item = (u32, &'static str)> {
        self.runs().iter().flat_map(|(first, names)| (*first..).zip(names.split(' ')))
    }

    fn runs(self) -> &'static [Run] {
        match self {
            Abi::X86_64 => numbers::X86_64,
            Abi::I386 => numbers::I386,
            Abi::Aarch64 => numbers::AARCH64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Abi;
    use crate::harden::seccomp::NEWEST_REVIEWED;

    #[test]
    fn runs_ascend_and_end_at_the_newest_reviewed() {
        for (abi, count) in [(Abi::X86_64, 383), (Abi::I386, 459), (Abi::Aarch64, 325)] {
            let numbers: Vec<u32> = abi.assigned().map(|(number, _)| number).collect();
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{abi:?}");
            assert_eq!(numbers.last(), Some(&NEWEST_REVIEWED), "{abi:?}");
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }

    #[test]
    fn names_and_numbers_are_inverse() {
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64] {
            for (number, name) in abi.assigned() {
                assert_eq!(abi.name(number), Some(name));
                assert_eq!(abi.number(name), Some(number), "{abi:?} {name}");
            }
            assert_eq!(abi.name(NEWEST_REVIEWED + 1), None);
            assert_eq!(abi.name(u32::MAX), None);
        }
        assert_eq!(Abi::X86_64.name(337), None);
        assert_eq!(Abi::X86_64.name(423), None);
        assert_eq!(Abi::X86_64.number("socketcall"), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_are_those_of_libc() {
        let check = |number: libc::c_long, name: &str| {
            assert_eq!(Abi::X86_64.number(name), u32::try_from(number).ok(), "{name}");
        };
        check(libc::SYS_read, "read");
        check(libc::SYS_ioctl, "ioctl");
        check(libc::SYS_socket, "socket");
        check(libc::SYS_clone, "clone");
        check(libc::SYS_chmod, "chmod");
        check(libc::SYS_ptrace, "ptrace");
        check(libc::SYS_mknod, "mknod");
        check(libc::SYS_personality, "personality");
        check(libc::SYS_pivot_root, "pivot_root");
        check(libc::SYS_quotactl, "quotactl");
        check(libc::SYS_tkill, "tkill");
        check(libc::SYS_keyctl, "keyctl");
        check(libc::SYS_mknodat, "mknodat");
        check(libc::SYS_unshare, "unshare");
        check(libc::SYS_setns, "setns");
        check(libc::SYS_kcmp, "kcmp");
        check(libc::SYS_bpf, "bpf");
        check(libc::SYS_rseq, "rseq");
        check(libc::SYS_pidfd_send_signal, "pidfd_send_signal");
        check(libc::SYS_clone3, "clone3");
        check(libc::SYS_mount_setattr, "mount_setattr");
        check(libc::SYS_quotactl_fd, "quotactl_fd");
        check(libc::SYS_fchmodat2, "fchmodat2");
        check(libc::SYS_mseal, "mseal");
    }
}
