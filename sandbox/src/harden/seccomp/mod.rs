//! The seccomp profile of an action: rules as data, and the compiler that makes a kernel filter of them.
//!
//! ```text
//!   numbers   number -> name, per architecture       facts of the kernel
//!   rules     name -> verdict and reason              what was decided, and why
//!   profile   numbers x rules x switches              one Rule a number; evaluate() is the specification
//!   compile   profile -> classic BPF                  binary search over ranges of equal verdicts
//! ```
//!
//! Invariants:
//! - The architecture is checked before the number. A foreign one is killed, as is the x32 bit on x86_64.
//! - A number above the newest reviewed one, one that the kernel has not assigned, and a name without a rule
//!   answer ENOSYS: an unreviewed syscall is a syscall that does not exist, so that programs use their
//!   fallback.
//! - `compile(profile)` and `profile.evaluate()` agree on every input; a property test holds them together.
//!
//! Limits: a filter sees six register values and never memory. What hides behind a pointer (the mode in
//! `open_how`, the flags in `clone_args`, the name of an extended attribute) must be closed by answering for
//! the whole call, or elsewhere. Argument checks look at the low 32 bits, as the kernel does for each of the
//! arguments checked.
//!
//! Installing is done elsewhere, with `SECCOMP_FILTER_FLAG_TSYNC` and never with
//! `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (seccomp(2); the filter must be the last step before execve, after
//! no_new_privs).

mod abi;
mod compile;
mod numbers;
mod profile;
mod rules;
mod verdict;

pub use abi::Abi;
pub use compile::{INSTRUCTIONS_MAX, Program, SeccompError, SockFilter};
pub use numbers::NEWEST_REVIEWED;
pub use profile::{Profile, Rule, SyscallData};
pub use verdict::{Answer, Clause, Condition, Verdict};
