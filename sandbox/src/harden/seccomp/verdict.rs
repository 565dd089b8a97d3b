//! What the filter says to a syscall: an [`Answer`], at once or after looking at arguments.
//!
//! A [`Verdict::ByArgument`] is a list of clauses, tried in order. A clause is a conjunction of conditions
//! `(args[arg] as u32) & mask == value`; the first one that holds decides, else `otherwise` does. This is all
//! that the profile needs: "any of these bits" is written as "none of them: allow; otherwise: refuse".
//!
//! Invariant: `arg` is below six (a test checks the rules; the compiler refuses others).

use std::fmt;

/// The filter's answer to one syscall (seccomp(2), `SECCOMP_RET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// Let the kernel handle it.
    Allow,
    /// Fail with `EPERM`: exists, but not for an action.
    Eperm,
    /// Fail with `ENOSYS`: callers take their fallback as on an older kernel.
    Enosys,
    /// Fail with `EAFNOSUPPORT`: as if the socket family was not built in.
    Eafnosupport,
    /// Kill the whole process with SIGSYS.
    KillProcess,
}

/// `SECCOMP_RET_ALLOW`, linux/seccomp.h.
const RET_ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ERRNO`, linux/seccomp.h; the errno is in the low 16 bits.
const RET_ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_KILL_PROCESS`, linux/seccomp.h (Linux 4.14).
const RET_KILL_PROCESS: u32 = 0x8000_0000;

impl Answer {
    /// The value that a filter returns for it.
    pub const fn as_return_value(self) -> u32 {
        match self {
            Answer::Allow => RET_ALLOW,
            Answer::Eperm => RET_ERRNO | libc::EPERM as u32,
            Answer::Enosys => RET_ERRNO | libc::ENOSYS as u32,
            Answer::Eafnosupport => RET_ERRNO | libc::EAFNOSUPPORT as u32,
            Answer::KillProcess => RET_KILL_PROCESS,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Answer::Allow => "allow",
            Answer::Eperm => "EPERM",
            Answer::Enosys => "ENOSYS",
            Answer::Eafnosupport => "EAFNOSUPPORT",
            Answer::KillProcess => "KILL_PROCESS",
        })
    }
}

/// `(args[arg] as u32) & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Index of the argument, 0 to 5.
    pub arg: u8,
    /// Bits that are looked at; all other bits, and the high half of the register, are ignored.
    pub mask: u32,
    /// What these bits must be.
    pub value: u32,
}

impl Condition {
    /// The low 32 bits of the argument are `value`.
    pub(super) const fn equals(arg: u8, value: u32) -> Condition {
        Condition { arg, mask: u32::MAX, value }
    }

    /// None of the bits of `mask` is set.
    pub(super) const fn none_of(arg: u8, mask: u32) -> Condition {
        Condition { arg, mask, value: 0 }
    }

    /// Whether it holds for these arguments.
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        // The kernel takes these arguments as 32-bit (or narrower) integers: the high half must not matter.
        args.get(usize::from(self.arg)).is_some_and(|arg| (*arg as u32) & self.mask == self.value)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mask {
            u32::MAX => write!(f, "arg{} == {:#x}", self.arg, self.value),
            mask => write!(f, "arg{} & {:#x} == {:#x}", self.arg, mask, self.value),
        }
    }
}

/// All of these conditions together, and the answer when they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Conditions, all of which must hold.
    pub all: &'static [Condition],
    /// The answer then.
    pub answer: Answer,
}

/// How the answer to one syscall is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same for all arguments.
    Always(Answer),
    /// The first clause that holds, else `otherwise`.
    ByArgument {
        /// Tried in order.
        clauses: &'static [Clause],
        /// When none holds.
        otherwise: Answer,
    },
}

impl Verdict {
    /// The answer for these arguments.
    pub fn answer(&self, args: &[u64; 6]) -> Answer {
        match *self {
            Verdict::Always(answer) => answer,
            Verdict::ByArgument { clauses, otherwise } => clauses
                .iter()
                .find(|clause| clause.all.iter().all(|condition| condition.holds(args)))
                .map_or(otherwise, |clause| clause.answer),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Always(answer) => answer.fmt(f),
            Verdict::ByArgument { clauses, otherwise } => {
                for clause in *clauses {
                    write!(f, "{} if ", clause.answer)?;
                    for (position, condition) in clause.all.iter().enumerate() {
                        let joint = if position == 0 { "" } else { " && " };
                        write!(f, "{joint}{condition}")?;
                    }
                    f.write_str("; ")?;
                }
                write!(f, "else {otherwise}")
            }
        }
    }
}
