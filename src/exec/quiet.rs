//! Quiet: the proof that nothing of a command lives any more.
//!
//! Invariant: a [`Quiet`] comes from the outcome of a sandbox that saw its own end: its pid namespace is empty, and its
//! cgroup is. Nobody else can make one.
use fulgurite_sandbox::outcome::Outcome;

/// The proof that no process of one run can write any more.
#[derive(Debug)]
#[must_use = "it is the proof that something else waits for"]
pub struct Quiet {
    _made_here_only: (),
}

impl Quiet {
    /// The proof, if the outcome is one.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Self> {
        outcome.quiet.then_some(Self { _made_here_only: () })
    }

    /// For tests of those who need one.
    #[cfg(test)]
    pub(crate) fn assumed() -> Self {
        Self { _made_here_only: () }
    }
}
