//! What `bench race` takes.
use crate::bench::race::{Condition, RaceBench};
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// What `bench race` takes.
#[derive(Args, Debug)]
pub struct RaceArgs {
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    /// Directory of zstd's sources, as scripts/zstd-sources prints it; without it, C files are generated
    #[arg(value_name = "SOURCES", value_hint = ValueHint::DirPath)]
    pub sources: Option<PathBuf>,
    /// Build generated Java files instead, by persistent workers on both sides
    #[arg(long, conflicts_with = "sources")]
    pub java: bool,
    /// Files of a build; of zstd's, the smallest ones
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    pub units: usize,
    /// Builds of each policy in each condition
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub rounds: usize,
    /// Actions at a time; two for each processor by default
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    pub jobs: usize,
    /// What builds meet: fast-remote, slow-remote, all-hits, remote-dies, loaded-here, none; all by
    /// default
    #[arg(long = "condition", value_name = "LIST", value_delimiter = ',', value_parser = condition)]
    pub conditions: Vec<Wanted>,
    /// Losers whose end is measured; 0: none
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub aborts: usize,
}

impl RaceArgs {
    /// What is wanted.
    pub(super) fn wanted(&self) -> RaceBench {
        RaceBench {
            sources: self.sources.clone(),
            java: self.java,
            units: self.units,
            rounds: self.rounds.max(1),
            jobs: self.jobs,
            conditions: match self.conditions.is_empty() {
                true => Condition::ALL.to_vec(),
                false => self.conditions.iter().filter_map(|wanted| wanted.0).collect(),
            },
            aborts: self.aborts,
            progress: !self.json,
        }
    }
}

/// A condition, or none.
#[derive(Clone, Copy, Debug)]
pub struct Wanted(Option<Condition>);

fn condition(name: &str) -> Result<Wanted, String> {
    if name == "none" {
        return Ok(Wanted(None));
    }
    let found = Condition::ALL.into_iter().find(|condition| condition.name() == name);
    let known = || format!("there are {}, and none", Condition::ALL.map(Condition::name).join(", "));
    found.map(|found| Wanted(Some(found))).ok_or_else(known)
}
