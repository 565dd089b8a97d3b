//! What can be set for races: Bazel's options under their names, and ours. Each may be set per mnemonic.
//!
//! ```text
//!   name            value                    [Mnemonic=]value: for that mnemonic; the last one counts
//! ```
//! Bazel's prefixes `dynamic_`, `experimental_` and `experimental_dynamic_` may stand before a name or not: options
//! lose and change them from version to version.
//!
//! `local_lockfree_output` is about `standalone` alone, as all others never write where anybody sees it: true puts it
//! into the default list; false lets it hold the outputs from its start, as Bazel's lock does, so that remote stops
//! then; unset, it holds nothing, and a remote win kills it, waits until it is quiet, and removes what it left.

use super::limits::{SIGNALS_MAX, STRATEGIES_MAX};
use super::step::{FailureRule, SignalSet};
use std::collections::BTreeMap;
use std::time::Duration;

/// How a local branch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalStrategy {
    /// In a persistent worker.
    Worker,
    /// In a sandbox, into a layer.
    Sandboxed,
    /// Straight in the destination.
    Standalone,
}

/// How a remote branch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemoteStrategy {
    /// By the remote execution API.
    Remote,
}

/// How long a local branch is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// By what was measured.
    Auto,
    /// By so long, once there was a cache hit.
    Fixed(Duration),
}

impl Delay {
    /// What Bazel waits if nothing is said.
    pub const BAZEL: Duration = Duration::from_millis(1000);
}

/// A value for all mnemonics, and others for some.
#[derive(Clone, Debug, PartialEq)]
pub struct PerMnemonic<T> {
    default: T,
    of: BTreeMap<String, T>,
}

impl<T> PerMnemonic<T> {
    /// One for all.
    pub fn new(default: T) -> Self {
        PerMnemonic { default, of: BTreeMap::new() }
    }

    /// The one that counts for a mnemonic.
    pub fn of(&self, mnemonic: &str) -> &T {
        self.of.get(mnemonic).unwrap_or(&self.default)
    }

    /// Sets it, for all that have none of their own or for one.
    pub fn set(&mut self, mnemonic: Option<&str>, value: T) {
        match mnemonic {
            None => self.default = value,
            Some(mnemonic) => {
                self.of.insert(mnemonic.to_owned(), value);
            }
        }
    }
}

/// All that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Knobs {
    /// Local strategies in order of preference; `None`: the default list.
    pub local_strategy: PerMnemonic<Option<Vec<LocalStrategy>>>,
    /// Remote strategies.
    pub remote_strategy: PerMnemonic<Vec<RemoteStrategy>>,
    /// Delay of local branches.
    pub local_execution_delay: PerMnemonic<Delay>,
    /// How far the number of local branches shrinks with the number that wait: 0, as many as there are jobs; 1, as many
    /// as there are processors; between, fewer the more wait.
    pub local_load_factor: PerMnemonic<f64>,
    /// A local branch that waits longer than this is admitted before newer ones; zero: never.
    pub slow_remote_time: PerMnemonic<Duration>,
    /// Signals of a local command that leave the decision to remote.
    pub ignore_local_signals: PerMnemonic<SignalSet>,
    /// Local commands may run in place without holding the outputs; `None`: they hold nothing, and are not in the
    /// default list.
    pub local_lockfree_output: PerMnemonic<Option<bool>>,
    /// Tools are built by the remote side alone.
    pub exclude_tools: PerMnemonic<bool>,
    /// Say what happens to each race.
    pub debug_spawn_scheduler: PerMnemonic<bool>,
    /// With `auto`: the least chance to win with which local starts; for remote half of it is enough.
    pub race_chance: PerMnemonic<f64>,
    /// With a load factor of 0: no more local branches at a time than there are places.
    pub low_pass: PerMnemonic<bool>,
    /// After a local win, a remote execution goes on and fills the remote cache.
    pub let_remote_finish: PerMnemonic<bool>,
    /// Whose failure fails the action.
    pub failure: PerMnemonic<FailureRule>,
    /// A failed action's outputs are published.
    pub publish_failures: PerMnemonic<bool>,
}

impl Default for Knobs {
    /// Ours: delays are foreseen.
    fn default() -> Self {
        let delay = PerMnemonic::new(Delay::Auto);
        Knobs { local_execution_delay: delay, low_pass: PerMnemonic::new(true), ..Knobs::bazel() }
    }
}

impl Knobs {
    /// What Bazel does if nothing is said.
    #[must_use]
    pub fn bazel() -> Self {
        Knobs {
            local_strategy: PerMnemonic::new(None),
            remote_strategy: PerMnemonic::new(vec![RemoteStrategy::Remote]),
            local_execution_delay: PerMnemonic::new(Delay::Fixed(Delay::BAZEL)),
            local_load_factor: PerMnemonic::new(0.0),
            slow_remote_time: PerMnemonic::new(Duration::ZERO),
            ignore_local_signals: PerMnemonic::new(SignalSet::default()),
            local_lockfree_output: PerMnemonic::new(None),
            exclude_tools: PerMnemonic::new(true),
            debug_spawn_scheduler: PerMnemonic::new(false),
            race_chance: PerMnemonic::new(0.5),
            low_pass: PerMnemonic::new(false),
            let_remote_finish: PerMnemonic::new(false),
            failure: PerMnemonic::new(FailureRule::First),
            publish_failures: PerMnemonic::new(false),
        }
    }

    /// Local strategies for a mnemonic, the preferred one first.
    #[must_use]
    pub fn local_strategies(&self, mnemonic: &str) -> Vec<LocalStrategy> {
        if let Some(list) = self.local_strategy.of(mnemonic) {
            return list.clone();
        }
        let mut list = vec![LocalStrategy::Worker, LocalStrategy::Sandboxed];
        if *self.local_lockfree_output.of(mnemonic) == Some(true) {
            list.push(LocalStrategy::Standalone);
        }
        list
    }

    /// Remote strategies for a mnemonic.
    #[must_use]
    pub fn remote_strategies(&self, mnemonic: &str) -> &[RemoteStrategy] {
        self.remote_strategy.of(mnemonic)
    }

    /// Sets what is written as `[Mnemonic=]value`.
    ///
    /// # Errors
    /// No such name, or no such value.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), KnobError> {
        let (mnemonic, value) = match text.split_once('=') {
            Some((mnemonic, value)) => (Some(mnemonic), value),
            None => (None, text),
        };
        if mnemonic == Some("") {
            return Err(KnobError::NoMnemonic { name: name.to_owned(), text: text.to_owned() });
        }
        let wrong = |wanted| KnobError::Value { name: name.to_owned(), value: value.to_owned(), wanted };
        let yes = || flag(value).ok_or_else(|| wrong("true or false"));
        let part = || share(value).ok_or_else(|| wrong("a number from 0 to 1"));
        match plain(name) {
            "local_strategy" => self.local_strategy.set(mnemonic, Some(locals(value)?)),
            "remote_strategy" => self.remote_strategy.set(mnemonic, remotes(value)?),
            "local_execution_delay" => {
                let delay = delay(value).ok_or_else(|| wrong("`auto`, milliseconds, or a time as `1s`"))?;
                self.local_execution_delay.set(mnemonic, delay);
            }
            "local_load_factor" => self.local_load_factor.set(mnemonic, part()?),
            "slow_remote_time" => {
                let time = time(value).ok_or_else(|| wrong("seconds, or a time as `500ms`"))?;
                self.slow_remote_time.set(mnemonic, time);
            }
            "ignore_local_signals" => self.ignore_local_signals.set(mnemonic, signals(value)?),
            "local_lockfree_output" => self.local_lockfree_output.set(mnemonic, Some(yes()?)),
            "exclude_tools" => self.exclude_tools.set(mnemonic, yes()?),
            "debug_spawn_scheduler" => self.debug_spawn_scheduler.set(mnemonic, yes()?),
            "race_chance" => self.race_chance.set(mnemonic, part()?),
            "low_pass" => self.low_pass.set(mnemonic, yes()?),
            "let_remote_finish" => self.let_remote_finish.set(mnemonic, yes()?),
            "publish_failures" => self.publish_failures.set(mnemonic, yes()?),
            "failure" => {
                let rule = match value {
                    "first" => FailureRule::First,
                    "other" => FailureRule::Other,
                    _ => return Err(wrong("`first` or `other`")),
                };
                self.failure.set(mnemonic, rule);
            }
            _ => return Err(KnobError::Name { name: name.to_owned() }),
        }
        Ok(())
    }
}

/// Why something could not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KnobError {
    /// There is no such name.
    #[error("there is no setting `{name}` for races")]
    Name {
        /// What was written.
        name: String,
    },
    /// A value begins with `=`.
    #[error("`{name}` was set to `{text}`, which names no mnemonic before the `=`")]
    NoMnemonic {
        /// Which setting.
        name: String,
        /// What was written.
        text: String,
    },
    /// There is no such value.
    #[error("`{name}` was set to `{value}`; it takes {wanted}")]
    Value {
        /// Which setting.
        name: String,
        /// What was written.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// Bazel's words.
    #[error("No such signal {0}")]
    Signal(String),
    /// Bazel calls it INVALID_CYCLIC_DYNAMIC_STRATEGY.
    #[error("the strategy `dynamic` cannot be one of its own branches")]
    Cyclic,
    /// There is no such strategy.
    #[error("there is no strategy `{name}`; there are {known}")]
    Strategy {
        /// What was written.
        name: String,
        /// What there is.
        known: &'static str,
    },
}

fn plain(name: &str) -> &str {
    let name = name.trim_start_matches("--");
    let name = name.strip_prefix("experimental_").unwrap_or(name);
    match name.strip_prefix("dynamic_") {
        // Bazel 4's name of the same.
        None if name == "debug_spawn_scheduler" => name,
        None => name,
        Some(rest) => rest,
    }
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn locals(value: &str) -> Result<Vec<LocalStrategy>, KnobError> {
    words(value)
        .take(STRATEGIES_MAX)
        .map(|name| match name {
            "worker" => Ok(LocalStrategy::Worker),
            "sandboxed" | "linux-sandbox" | "processwrapper-sandbox" => Ok(LocalStrategy::Sandboxed),
            "standalone" | "local" => Ok(LocalStrategy::Standalone),
            "dynamic" => Err(KnobError::Cyclic),
            name => {
                let known = "worker, sandboxed and standalone";
                Err(KnobError::Strategy { name: name.to_owned(), known })
            }
        })
        .collect()
}

fn remotes(value: &str) -> Result<Vec<RemoteStrategy>, KnobError> {
    words(value)
        .take(STRATEGIES_MAX)
        .map(|name| match name {
            "remote" => Ok(RemoteStrategy::Remote),
            "dynamic" => Err(KnobError::Cyclic),
            name => Err(KnobError::Strategy { name: name.to_owned(), known: "remote" }),
        })
        .collect()
}

fn signals(value: &str) -> Result<SignalSet, KnobError> {
    let mut set = SignalSet::default();
    for word in words(value).take(SIGNALS_MAX) {
        let number = word.parse().ok().filter(|number| set.insert(*number));
        number.ok_or_else(|| KnobError::Signal(word.to_owned()))?;
    }
    Ok(set)
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn share(value: &str) -> Option<f64> {
    value.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

fn delay(value: &str) -> Option<Delay> {
    if value == "auto" {
        return Some(Delay::Auto);
    }
    let millis = value.parse().ok().map(Duration::from_millis);
    millis.or_else(|| time(value)).map(Delay::Fixed)
}

/// Seconds, or a number with `ms`, `s` or `m`.
fn time(value: &str) -> Option<Duration> {
    if let Some(number) = value.strip_suffix("ms") {
        return number.parse().ok().map(Duration::from_millis);
    }
    if let Some(number) = value.strip_suffix('m') {
        return number.parse::<u64>().ok()?.checked_mul(60).map(Duration::from_secs);
    }
    value.strip_suffix('s').unwrap_or(value).parse().ok().map(Duration::from_secs)
}
