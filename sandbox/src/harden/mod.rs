//! Hardening of an action's process: what is taken away from it, in which order, and what was really
//! enforced.
//!
//! Data and pure functions only; the syscalls are made by the sandbox's init, between clone and exec, from
//! what is prepared here. The order is fixed (each step needs what the later ones take away):
//!
//! ```text
//!   setsid -> rlimits -> umask -> stdio -> max_user_namespaces=0
//!     -> drop the bounding set -> setresgid, setresuid -> capset 0, clear ambient
//!     -> no_new_privs -> Landlock -> close_range(3, ~0) -> seccomp -> execve
//! ```
//!
//! - rlimits come while a step may still fail for other reasons, and only ever lower a limit;
//! - the bounding set needs CAP_SETPCAP, so it goes before the ids change and the sets are emptied;
//! - no_new_privs must precede Landlock and seccomp for a process without CAP_SYS_ADMIN (landlock(7),
//!   seccomp(2));
//! - seccomp is last, for it refuses what the steps before it do.
//!
//! Invariants: [`Level::Required`] and [`Level::BestEffort`] are different words, and nothing turns one into
//! the other; what could not be had by best effort stands in [`Enforcement::missing`].

pub mod capabilities;
mod enforcement;
pub mod landlock;
pub mod rlimits;
pub mod seccomp;
mod spec;

pub use enforcement::Enforcement;
pub use spec::{HardeningSpec, Level};
