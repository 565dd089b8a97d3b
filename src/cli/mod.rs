//! The command line: one file a verb. Here: which verbs there are, and how failures are told.
//!
//! Data goes to standard output, everything else to standard error, as one line:
//! `fulgurite: what, on what, why (hint: …)`.
pub mod assets;
pub mod bench;
pub mod config;
pub mod daemon;
mod daemon_stats;
pub mod doctor;
pub mod enter;
pub mod explain;
pub mod keep;
mod profile;
pub mod race_args;
mod reexec;
pub mod run;
pub mod run_args;
mod run_in_place;
mod run_remote;
pub mod run_worker;
pub mod serve;
pub mod serve_args;
mod serve_listen;
mod serve_observe;
mod serve_race;
mod serve_workers;
pub mod signals;
pub mod simulate_args;
pub mod stats;
pub mod status;
pub mod streams;
pub mod top;
pub mod workers;

use crate::failure::{Failure, OWN_FAILURE, tell};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const AFTER_HELP: &str = "Exit codes of `fulgurite run`: the command's own; 124 timeout, 125 Fulgurite's own failure, \
126 not executable, 127 not found, 128 plus the signal that ended the command.";

/// Runs build actions in sandboxes that are ready before the action arrives
#[derive(Debug, Parser)]
#[command(name = "fulgurite", version, about, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run one command in a sandbox
    Run(Box<run_args::RunArgs>),
    /// Print the plan of a run, step by step, without running it
    Explain(Box<run_args::RunArgs>),
    /// Say what this host can do, what is used instead, and what would change it
    Doctor(doctor::DoctorArgs),
    /// Print the configuration of the server, and where each value came from
    Config(Box<config::ConfigArgs>),
    /// Serve actions to Bazel and every other client of REAPI v2
    Serve(Box<serve_args::ServeArgs>),
    /// Run one command by a daemon, with the flags of reclient's rewrapper
    Rewrap(Box<daemon::RewrapArgs>),
    /// Say what a daemon is doing
    Status(status::StatusArgs),
    /// List the persistent workers of a daemon, or stop them
    Workers(workers::WorkersArgs),
    /// Show what a daemon is doing, live
    Top(top::TopArgs),
    /// Open a shell in a sandbox that `run --keep-on-failure` kept
    Enter(enter::EnterArgs),
    /// Measure, beside a floor and the peers that are installed
    Bench(bench::BenchArgs),
    /// Compile zstd's C files in sandboxes, link, run, compare with the bare compiler; then Java by workers
    Demo(bench::DemoArgs),
    /// Print a completion script for a shell
    Completions(assets::CompletionsArgs),
    /// Write the man pages into a directory
    Man(assets::ManArgs),
}

/// Runs the program; everything that goes wrong ends here.
#[must_use]
pub fn main() -> ExitCode {
    raise_descriptor_limit();
    let result = match Cli::try_parse_from(daemon::with_long_flags(std::env::args_os())) {
        Ok(cli) => dispatch(cli.verb),
        Err(error) => return usage(&error),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            tell(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// Lets this process have as many descriptors as it may: a soft limit of 1,024, which is there for programs that use
/// select(2), is little for a daemon with clients, sandboxes and workers, or for a tree of that many levels. Actions
/// get limits of their own.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Never refused below the hard limit; what needs more descriptors than there are says so itself.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn dispatch(verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Run(args) => run::run(&args),
        Verb::Explain(args) => explain::explain(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Config(args) => config::config(&args),
        Verb::Serve(args) => serve::serve(&args),
        Verb::Rewrap(args) => daemon::rewrap(&args),
        Verb::Status(args) => status::status(&args),
        Verb::Workers(args) => workers::workers(&args),
        Verb::Top(args) => top::top(&args),
        Verb::Enter(args) => enter::enter(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Demo(args) => bench::demo(&args),
        Verb::Completions(args) => assets::completions(&args),
        Verb::Man(args) => assets::man(&args),
    }
}

/// Help and version as clap prints them; a mistake as one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed pipe is not our concern.
            let _ = error.print();
            let asked = error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            ExitCode::from(if asked { 0 } else { OWN_FAILURE })
        }
        _ => {
            tell(one_line(&error.render().to_string()));
            ExitCode::from(OWN_FAILURE)
        }
    }
}

/// Clap's message in one line: what is wrong, and its tip as a hint.
fn one_line(text: &str) -> String {
    let mut paragraphs = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    // Of several tips, the first is the likeliest.
    let tip = paragraphs.find_map(|part| {
        part.strip_prefix("tip: ").map(|tips| tips.split(" tip: ").next().map(str::to_owned))
    });
    let tip = tip.flatten();
    format!("{what} (hint: {})", tip.unwrap_or_else(|| "see --help".to_owned()))
}

/// A word that nobody guesses, for names of files.
pub(crate) fn random_word() -> String {
    let mut bytes = [0u8; 6];
    // Without randomness the name is still unique by the pid beside it.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_one_line() {
        let check = |arguments: &[&str], expected: &str| {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(one_line(&error.render().to_string()), expected);
        };
        check(
            &["fulgurite", "run", "--memry", "1G", "--", "true"],
            "unexpected argument '--memry' found (hint: a similar argument exists: '--memory')",
        );
        check(
            &["fulgurite", "run", "--memory", "much", "--", "true"],
            "invalid value 'much' for '--memory <BYTES>': not a number (hint: see --help)",
        );
    }
}
