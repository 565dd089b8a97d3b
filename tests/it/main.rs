//! The integration tests of the `fulgurite` program: it runs as a child process, as root and as an ordinary user.
//!
//! Each test has a [`scene::Scene`]: a directory of its own with an exec root and a state directory, an identity, and a
//! word that stands in the environment of every process it causes. After every run the [`census`] of processes,
//! cgroups, mounts, layers and sockets must be zero.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Runs each case as both identities: `case: name_as_root, name_as_user;`.
macro_rules! both {
    ($($case:ident: $root:ident, $user:ident;)*) => {$(
        #[test]
        fn $root() {
            crate::scene::play(crate::scene::Who::Root, $case);
        }

        #[test]
        fn $user() {
            crate::scene::play(crate::scene::Who::User, $case);
        }
    )*};
}

mod bad_hosts;
mod census;
mod config_verb;
#[cfg(feature = "test-fakes")]
mod deaths;
mod destinations;
mod endings;
#[cfg(feature = "test-fakes")]
mod hostile;
mod inputs;
mod interrupts;
mod kept;
mod limits;
mod outputs;
#[cfg(feature = "test-fakes")]
mod planted;
mod refusals;
mod scene;
mod streams;
mod surroundings;
mod terminal;

#[cfg(not(feature = "test-fakes"))]
#[test]
fn hostile() {
    scene::skip("", "built without --features test-fakes");
}
