//! The profile: which rule holds for a syscall under given switches. This is the specification of the filter.
//!
//! [`Profile::evaluate`] answers for one `seccomp_data` directly from the tables. The compiled program must
//! give the same answer for every input.
//!
//! The number -1 is what a tracer writes to cancel a syscall. It reaches the filter and, like every number
//! that the kernel has not assigned, answers ENOSYS; it is no x32 call though its bit 30 is set (libseccomp
//! decides alike).

use super::abi::Abi;
use super::numbers::NEWEST_REVIEWED;
use super::rules::{GROUPS, WITHOUT_I386, WITHOUT_PTRACE};
use super::verdict::{Answer, Verdict};

/// Which variant of the profile an action gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// The ABI of the kernel.
    pub native: Abi,
    /// Filter i386 calls by a table of their own instead of killing the process. Means nothing unless
    /// `native` is [`Abi::X86_64`].
    pub allow_i386: bool,
    /// Let ptrace through.
    pub allow_ptrace: bool,
}

/// What the filter sees: `struct seccomp_data` of linux/seccomp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallData {
    /// The syscall number.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Address of the instruction. The profile does not look at it.
    pub instruction_pointer: u64,
    /// The six argument registers.
    pub args: [u64; 6],
}

/// The verdict on one syscall number of one ABI, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The number.
    pub number: u32,
    /// The name, if the number is assigned and reviewed.
    pub name: Option<&'static str>,
    /// How it is answered.
    pub verdict: Verdict,
    /// Why.
    pub reason: &'static str,
}

impl Profile {
    /// The ABI that an architecture value stands for under this profile; `None` is killed.
    pub fn abi(&self, arch: u32) -> Option<Abi> {
        self.abis().find(|abi| abi.audit_arch() == arch)
    }

    /// The ABIs that are filtered by number: the native one first.
    pub fn abis(&self) -> impl Iterator<Item = Abi> + use<> {
        let i386 = (self.native == Abi::X86_64 && self.allow_i386).then_some(Abi::I386);
        [Some(self.native), i386].into_iter().flatten()
    }

    /// The rule for one syscall number of an ABI.
    pub fn rule(&self, abi: Abi, number: u32) -> Rule {
        let fixed = |answer, reason| Rule { number, name: None, verdict: Verdict::Always(answer), reason };
        let Some(name) = abi.name(number) else {
            return match number {
                u32::MAX => fixed(Answer::Enosys, "canceled by a tracer"),
                Abi::X32_BIT.. if abi == Abi::X86_64 => fixed(Answer::KillProcess, "x32: a foreign ABI"),
                _ if number > NEWEST_REVIEWED => fixed(Answer::Enosys, "newer than the reviewed table"),
                _ => fixed(Answer::Enosys, "not assigned"),
            };
        };
        let replaced = [(self.allow_ptrace, WITHOUT_PTRACE), (self.allow_i386, WITHOUT_I386)];
        let group = replaced
            .iter()
            .filter(|(allowed, _)| !allowed)
            .map(|(_, group)| group)
            .chain(GROUPS)
            .find(|group| group.has(name));
        match group {
            Some(group) => Rule { number, name: Some(name), verdict: group.verdict, reason: group.reason },
            None => Rule { name: Some(name), ..fixed(Answer::Enosys, "not reviewed") },
        }
    }

    /// The answer to one syscall: what the compiled filter must say.
    pub fn evaluate(&self, data: &SyscallData) -> Answer {
        match self.abi(data.arch) {
            None => Answer::KillProcess,
            Some(abi) => self.rule(abi, data.number).verdict.answer(&data.args),
        }
    }

    /// The numbers at which the verdict may change, ascending, with the verdict from there on; the first is
    /// 0. Adjacent equal verdicts are merged.
    pub(super) fn ranges(&self, abi: Abi) -> Vec<(u32, Verdict)> {
        let fixed = [NEWEST_REVIEWED + 1, Abi::X32_BIT, u32::MAX];
        let mut ranges: Vec<(u32, Verdict)> = (0..=NEWEST_REVIEWED)
            .chain(fixed)
            .map(|number| (number, self.rule(abi, number).verdict))
            .collect();
        ranges.dedup_by(|next, kept| next.1 == kept.1);
        ranges
    }
}
