//! `fulgurite run --remote`: one command, here and on a cluster, without a daemon that was started before.
//!
//! ```text
//!   a daemon within this process, with a store of its own ◄── its socket ◄── the same client as `run --daemon`
//! ```
//! Limits: the store stays for the next time and belongs to one process at a time; who runs many commands starts
//! `fulgurite serve --remote` and uses `run --daemon`.

use super::run_args::{DurabilityArg, RunArgs, state_dir};
use super::serve::serve_while;
use super::serve_args::ServeArgs;
use super::{daemon, run_in_place};
use crate::failure::Failure;

/// Runs the command.
///
/// # Errors
/// A failure of Fulgurite's own.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    let mut checked = args.clone();
    checked.race = super::serve_args::RaceArgs::default();
    // The daemon is told below.
    checked.durability = DurabilityArg::Process;
    daemon::refuse_what_needs_no_daemon(&checked, "from a daemon")?;
    let state = state_dir().join("run-remote");
    let socket = state.join("socket");
    let serve = ServeArgs {
        state_dir: Some(state),
        unix: vec![socket.clone()],
        remote: args.remote.clone(),
        race: args.race.clone(),
        profile: args.profile.clone(),
        log: Some(std::env::var("FULGURITE_LOG").unwrap_or_else(|_| "warn,fulgurite::race=info".to_owned())),
        set: match args.durability {
            DurabilityArg::Process => Vec::new(),
            DurabilityArg::Power => vec!["store.durability=power".to_owned()],
        },
        ..ServeArgs::default()
    };
    if run_in_place::is_wanted(args, &serve)? {
        return run_in_place::run(args, &serve);
    }
    // The trace is that of the daemon.
    let args = RunArgs { profile: None, ..args.clone() };
    serve_while(&serve, || daemon::run_at(&args, &socket))
}
