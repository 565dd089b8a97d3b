//! What `bench simulate` takes.
use crate::bench::simulate::{CONDITIONS, Condition, Policy, SimulateBench};
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// What `bench simulate` takes.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Replay this trace (Chrome's format, as Bazel's --profile and ours write it) instead of a generated build
    #[arg(value_name = "TRACE", value_hint = ValueHint::FilePath)]
    pub trace: Option<PathBuf>,
    /// The same
    #[arg(long = "trace", value_name = "TRACE", value_hint = ValueHint::FilePath, conflicts_with = "trace")]
    pub replay: Option<PathBuf>,
    /// Actions of each host's generated build
    #[arg(long, value_name = "COUNT", default_value_t = 5000)]
    pub actions: usize,
    /// Hosts that build at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub hosts: usize,
    /// Actions that a host runs at a time
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = count)]
    pub local_slots: usize,
    /// Actions of a host that are on their way at a time
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = count)]
    pub jobs: usize,
    /// What all chance comes from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Remotes: fast-remote, slow-remote, all-hits, half-hits, small-remote; all by default
    #[arg(long = "condition", value_name = "LIST", value_delimiter = ',', value_parser = condition)]
    pub conditions: Vec<Condition>,
    /// Policies: local-only, remote-only, bazel, reclient, siso, fulgurite; all by default
    #[arg(long = "policy", value_name = "LIST", value_delimiter = ',', value_parser = policy)]
    pub policies: Vec<Policy>,
    /// Median time to the answer of the remote cache, in every condition
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds)]
    pub answer_ms: Option<f64>,
    /// Median time to fetch an action's outputs, in every condition
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds)]
    pub fetch_ms: Option<f64>,
    /// Time of a remote execution beyond its command's, in every condition
    #[arg(long, value_name = "MILLISECONDS", value_parser = milliseconds)]
    pub overhead_ms: Option<f64>,
    /// A command's time there, as a multiple of its time here, in every condition
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub slowness: Option<f64>,
    /// The deviation of the logarithms of these times, in every condition
    #[arg(long, value_name = "NUMBER", value_parser = spread)]
    pub spread: Option<f64>,
    /// The share of actions whose result the remote cache has (0 to 1), in every condition
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub hit_rate: Option<f64>,
    /// Remote executions at a time for each host (0: any number), in every condition
    #[arg(long, value_name = "COUNT")]
    pub remote_slots: Option<usize>,
}

impl SimulateArgs {
    /// What is wanted.
    #[must_use]
    pub fn wanted(&self) -> SimulateBench {
        let conditions =
            if self.conditions.is_empty() { CONDITIONS.to_vec() } else { self.conditions.clone() };
        let policies = if self.policies.is_empty() { Policy::ALL.to_vec() } else { self.policies.clone() };
        SimulateBench {
            trace: self.trace.clone().or_else(|| self.replay.clone()),
            actions: self.actions,
            hosts: self.hosts,
            local_slots: self.local_slots,
            jobs: self.jobs,
            seed: self.seed,
            conditions: conditions.into_iter().map(|condition| self.changed(condition)).collect(),
            policies,
        }
    }

    fn changed(&self, of: Condition) -> Condition {
        Condition {
            answer_ms: self.answer_ms.unwrap_or(of.answer_ms),
            fetch_ms: self.fetch_ms.unwrap_or(of.fetch_ms),
            overhead_ms: self.overhead_ms.unwrap_or(of.overhead_ms),
            slowness: self.slowness.unwrap_or(of.slowness),
            spread: self.spread.unwrap_or(of.spread),
            hit_rate: self.hit_rate.unwrap_or(of.hit_rate),
            slots_per_host: self.remote_slots.unwrap_or(of.slots_per_host),
            ..of
        }
    }
}

fn condition(name: &str) -> Result<Condition, String> {
    let found = CONDITIONS.into_iter().find(|condition| condition.name == name);
    found.ok_or_else(|| "there are fast-remote, slow-remote, all-hits, half-hits and small-remote".to_owned())
}

fn policy(name: &str) -> Result<Policy, String> {
    let found = Policy::ALL.into_iter().find(|policy| policy.name() == name);
    found.ok_or_else(|| "there are local-only, remote-only, bazel, reclient, siso and fulgurite".to_owned())
}

/// At least one.
fn count(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "it is no whole number".to_owned())?;
    (number > 0).then_some(number).ok_or_else(|| "at least 1 is needed".to_owned())
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let is_good = number >= least && number <= most;
    is_good.then_some(number).ok_or_else(|| format!("it must be from {least} to {most}"))
}

/// A day is more than any of these times is.
fn milliseconds(text: &str) -> Result<f64, String> {
    within(text, 0.0, 86_400_000.0)
}

fn factor(text: &str) -> Result<f64, String> {
    within(text, 0.001, 1000.0)
}

/// At 3 one in twenty takes four hundred times the median.
fn spread(text: &str) -> Result<f64, String> {
    within(text, 0.0, 3.0)
}

fn share(text: &str) -> Result<f64, String> {
    within(text, 0.0, 1.0)
}
