//! From the profile to classic BPF, as the kernel wants it (seccomp(2), linux/filter.h, linux/bpf_common.h).
//!
//! ```text
//!   ld [arch]
//!   jeq X86_64 ── no ──> (jeq I386 ── no ──> ret KILL_PROCESS)
//!     │ yes                │ yes
//!   ld [number]          ld [number]
//!   tree of x86_64       tree of i386
//!
//!   tree over ranges 0..n:   jge start[n/2] ─ yes ─> tree of the upper half
//!                              │ no
//!                            tree of the lower half
//!   leaf:                    ret ANSWER,  or a chain of clauses that load arguments, then ret
//! ```
//!
//! Every path through the tree is about log2(ranges) long. Answers that depend on the number alone use only
//! the instructions that the kernel can emulate at install time (`seccomp_is_const_allow`, Linux 5.11), so
//! that allowed calls without argument checks are answered from a bitmap and never run the program at all.
//!
//! Invariants: jumps go forward; a conditional jump reaches at most 255 instructions, and where a subtree is
//! longer an unconditional one, which has 32 bits, stands in between; each path ends in a `ret`.
//!
//! Limits: the program stays below [`INSTRUCTIONS_MAX`], the kernel's bound, or compiling fails.

use super::abi::Abi;
use super::profile::Profile;
use super::verdict::{Answer, Clause, Verdict};

/// `BPF_MAXINSNS` of linux/bpf_common.h: the kernel takes no longer program.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// One instruction: layout-identical to `struct sock_filter` of linux/filter.h (and `libc::sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison is true.
    pub jt: u8,
    /// Instructions to skip when it is false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A filter, ready to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<SockFilter>,
}

/// Why a profile has no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// No reviewed table of syscalls for this machine.
    #[error("cannot build a seccomp filter: no reviewed syscall table for this architecture")]
    UnsupportedArchitecture,
    /// The profile asks for i386 on a machine that is no x86_64.
    #[error("cannot build a seccomp filter: i386 is asked for, but the machine is {0:?}")]
    NoI386(Abi),
    /// The kernel would refuse it.
    #[error(
        "cannot build a seccomp filter: {0} instructions, the kernel takes fewer than {INSTRUCTIONS_MAX}"
    )]
    TooLong(usize),
    /// A rule's condition cannot be encoded: a fault in the rules.
    #[error("cannot build a seccomp filter: a rule has too many conditions or looks at argument {0}")]
    BadRule(u8),
}

// Operation codes, linux/bpf_common.h.
const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

// Offsets into `struct seccomp_data`, linux/seccomp.h.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

impl Program {
    /// Compiles the profile.
    pub fn compile(profile: &Profile) -> Result<Program, SeccompError> {
        if profile.allow_i386 && profile.native != Abi::X86_64 {
            return Err(SeccompError::NoI386(profile.native));
        }
        let mut instructions = vec![load(OFFSET_ARCH)];
        for abi in profile.abis() {
            let mut section = vec![load(OFFSET_NUMBER)];
            section.extend(tree(&profile.ranges(abi))?);
            // `ja` in between: a section may be longer than a conditional jump reaches.
            instructions.push(jump(JMP_JEQ_K, abi.audit_arch(), 1, 0));
            instructions.push(skip(section.len()));
            instructions.extend(section);
        }
        instructions.push(answer(Answer::KillProcess));
        if instructions.len() >= INSTRUCTIONS_MAX {
            return Err(SeccompError::TooLong(instructions.len()));
        }
        Ok(Program { instructions })
    }

    /// The instructions, in order.
    pub fn instructions(&self) -> &[SockFilter] {
        &self.instructions
    }
}

fn load(offset: u32) -> SockFilter {
    SockFilter { code: LD_W_ABS, jt: 0, jf: 0, k: offset }
}

fn answer(answer: Answer) -> SockFilter {
    SockFilter { code: RET_K, jt: 0, jf: 0, k: answer.as_return_value() }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

/// Skips `count` instructions. A program that does not fit 32 bits is refused as too long before anybody runs
/// it.
fn skip(count: usize) -> SockFilter {
    SockFilter { code: JMP_JA, jt: 0, jf: 0, k: u32::try_from(count).unwrap_or(u32::MAX) }
}

/// Binary search by the number, which is in the accumulator.
fn tree(ranges: &[(u32, Verdict)]) -> Result<Vec<SockFilter>, SeccompError> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (Some(_), Some((pivot, _))) = (lower.first(), upper.first()) else {
        return ranges.first().map_or(Ok(vec![answer(Answer::Enosys)]), |(_, verdict)| leaf(verdict));
    };
    let lower = tree(lower)?;
    let mut code = match u8::try_from(lower.len()) {
        Ok(reach) => vec![jump(JMP_JGE_K, *pivot, reach, 0)],
        Err(_) => vec![jump(JMP_JGE_K, *pivot, 0, 1), skip(lower.len())],
    };
    code.extend(lower);
    code.extend(tree(upper)?);
    Ok(code)
}

fn leaf(verdict: &Verdict) -> Result<Vec<SockFilter>, SeccompError> {
    match *verdict {
        Verdict::Always(fixed) => Ok(vec![answer(fixed)]),
        Verdict::ByArgument { clauses, otherwise } => {
            let mut code = Vec::new();
            for clause in clauses {
                code.extend(chain(clause)?);
            }
            code.push(answer(otherwise));
            Ok(code)
        }
    }
}

/// One clause: falls through to its `ret` when all conditions hold, else goes to the instruction after that.
fn chain(clause: &Clause) -> Result<Vec<SockFilter>, SeccompError> {
    // Built from the end, so that each condition knows how far the end is.
    let mut reversed = vec![answer(clause.answer)];
    for condition in clause.all.iter().rev() {
        let bad_rule = SeccompError::BadRule(condition.arg);
        let to_end = u8::try_from(reversed.len()).map_err(|_| bad_rule)?;
        reversed.push(jump(JMP_JEQ_K, condition.value, 0, to_end));
        if condition.mask != u32::MAX {
            reversed.push(SockFilter { code: ALU_AND_K, jt: 0, jf: 0, k: condition.mask });
        }
        if condition.arg >= 6 {
            return Err(bad_rule);
        }
        // The low half comes first: both architectures are little-endian.
        reversed.push(load(OFFSET_ARGS + 8 * u32::from(condition.arg)));
    }
    reversed.reverse();
    Ok(reversed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Profile = Profile { native: Abi::X86_64, allow_i386: false, allow_ptrace: true };

    #[test]
    fn instruction_layout_is_libc_s() {
        assert_eq!(size_of::<SockFilter>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<SockFilter>(), align_of::<libc::sock_filter>());
        assert_eq!(std::mem::offset_of!(SockFilter, jt), std::mem::offset_of!(libc::sock_filter, jt));
        assert_eq!(std::mem::offset_of!(SockFilter, jf), std::mem::offset_of!(libc::sock_filter, jf));
        assert_eq!(std::mem::offset_of!(SockFilter, k), std::mem::offset_of!(libc::sock_filter, k));
    }

    #[test]
    fn i386_is_refused_where_there_is_none() {
        let profile = Profile { native: Abi::Aarch64, allow_i386: true, ..DEFAULT };
        assert_eq!(Program::compile(&profile), Err(SeccompError::NoI386(Abi::Aarch64)));
    }

    #[test]
    fn a_subtree_longer_than_a_conditional_jump_is_skipped_by_ja() {
        let alternating: Vec<(u32, Verdict)> = (0..1000)
            .map(|n| (n, Verdict::Always(if n % 2 == 0 { Answer::Allow } else { Answer::Eperm })))
            .collect();
        let code = tree(&alternating).unwrap();
        assert!(code.iter().any(|instruction| instruction.code == JMP_JA));
        assert_eq!(code.iter().filter(|instruction| instruction.code == RET_K).count(), 1000);
    }

    #[test]
    fn a_rule_that_looks_at_a_seventh_argument_is_refused() {
        const SEVENTH: &[Clause] =
            &[Clause { all: &[super::super::Condition::equals(6, 0)], answer: Answer::Allow }];
        let verdict = Verdict::ByArgument { clauses: SEVENTH, otherwise: Answer::Eperm };
        assert_eq!(leaf(&verdict), Err(SeccompError::BadRule(6)));
    }

    #[test]
    fn programs_are_short() {
        let length = |profile: &Profile| Program::compile(profile).unwrap().instructions().len();
        assert!(length(&DEFAULT) < 350, "{}", length(&DEFAULT));
        assert!(length(&Profile { allow_i386: true, ..DEFAULT }) < 750);
        assert!(length(&Profile { native: Abi::Aarch64, ..DEFAULT }) < 350);
    }
}
