//! `fulgurite completions` and `fulgurite man`: generated from the command line's own definition.
use super::Cli;
use crate::failure::{Failure, put};
use clap::{Args, CommandFactory, ValueHint};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// What `completions` takes.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// What `man` takes.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Where to write the pages
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// Prints a completion script.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fulgurite", &mut script);
    put(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Writes `fulgurite.1` and a page for each verb.
///
/// # Errors
/// When a page cannot be written.
pub fn man(args: &ManArgs) -> Result<u8, Failure> {
    let mut command = Cli::command();
    command.build();
    page(&args.dir, "fulgurite", command.clone())?;
    for verb in command.get_subcommands() {
        let name = format!("fulgurite-{}", verb.get_name());
        // Pages are named after the whole command; clap wants names that live as long as the program.
        page(&args.dir, &name, verb.clone().name(String::leak(name.clone()) as &'static str))?;
    }
    Ok(0)
}

fn page(dir: &Path, name: &str, command: clap::Command) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    let failed = |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).map_err(failed)?;
    std::fs::write(&path, text).map_err(failed)
}
