//! May a side run, and when does it start: of facts, knobs and what is known. No clock, no I/O.
//!
//! ```text
//!   facts (mnemonic, tags, for a tool)        ─┐
//!   abilities (strategies that can run it)     ├─► choose ──► Choice: Plan, local strategy, rules of the race
//!   knobs (Bazel's, per mnemonic, and ours)    │              or NoStrategy, in Bazel's words
//!   situation (breaker, forecast, local queue) ─┘
//! ```
//! | delay | cache hit | cache miss | no answer |
//! |---|---|---|---|
//! | fixed, Bazel's | local at once; after the first hit of the build, after the delay | the same | the same |
//! | `auto` | local if slower than nine of ten, and than local | at once, if it has a chance | once it likely wins |
//!
//! With `auto`, a side that is foreseen to lose is held back until its chance is `race_chance`: a half for local, and
//! for remote half of that is enough, since what it wastes is no processor that other actions here wait for, and who
//! is held back is late where it wins after all. Of any two sides one has a chance of half, and starts at once. A
//! persistent worker that would have to be started counts with its start, unless the build likely gets that back.
//!
//! How long the remote takes depends mostly on its queue, and it says when an action has left that. Local has little
//! chance from then on, if the remote is the faster machine: it is held back anew, also where it waits for its place,
//! which is for an action that the remote has not begun. See decision 0026.

use super::cold::Cold;
use super::forecast::Forecast;
use super::knobs::{Delay, Knobs, LocalStrategy};
use super::limits::{HOLD_MAX, QUIET_WITHIN, SILENCE};
use super::sketch::Quantiles;
use super::step::Rules;
use std::time::Duration;

/// The least chance to win with which local does not wait for the cache's answer.
const BLIND_CHANCE: f64 = 0.75;

/// When the branches of a race start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The local one.
    pub local: LocalStart,
    /// The remote one.
    pub remote: RemoteStart,
}

/// When the local branch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalStart {
    /// It cannot run.
    Never,
    /// When the remote one cannot do it.
    Fallback,
    /// At the beginning.
    AtOnce,
    /// So long after the beginning.
    After(Duration),
    /// When the remote cache has answered.
    OnAnswer {
        /// So long after a miss.
        miss: Duration,
        /// So long after a hit, if its outputs are not here by then.
        hit: Duration,
        /// So long after the beginning, if there is no answer by then.
        silence: Duration,
        /// Once the remote says that it executes the action: not before so long after that, if it has not started by
        /// then. `None`: that is no news.
        executing: Option<Duration>,
    },
}

/// When the remote branch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteStart {
    /// It cannot run.
    Never,
    /// When the local one cannot do it.
    Fallback,
    /// At the beginning, with the cache.
    AtOnce {
        /// How long after a miss it is executed.
        execute_after: Duration,
    },
}

/// What is known of an action before it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Its kind.
    pub mnemonic: &'a str,
    /// It builds a tool: what `exclude_tools` is about.
    pub for_tool: bool,
    /// Tags allow it here.
    pub local_allowed: bool,
    /// Tags allow it elsewhere.
    pub remote_allowed: bool,
    /// Tags allow a result of a remote cache.
    pub remote_cache_allowed: bool,
}

impl<'a> Facts<'a> {
    /// From an action's tags, as Bazel reads them.
    pub fn of_tags<'t>(mnemonic: &'a str, for_tool: bool, tags: impl IntoIterator<Item = &'t str>) -> Self {
        let mut facts = Facts {
            mnemonic,
            for_tool,
            local_allowed: true,
            remote_allowed: true,
            remote_cache_allowed: true,
        };
        for tag in tags {
            match tag {
                "local" | "no-remote" => {
                    facts.remote_allowed = false;
                    facts.remote_cache_allowed = false;
                }
                "no-remote-exec" => facts.remote_allowed = false,
                "no-cache" | "no-remote-cache" => facts.remote_cache_allowed = false,
                "no-local" => facts.local_allowed = false,
                _ => {}
            }
        }
        facts
    }
}

/// What could run this action, were it allowed to.
#[derive(Clone, Copy, Debug)]
pub struct Abilities<'a> {
    /// The local strategies that can.
    pub local: &'a [LocalStrategy],
    /// What the remote can.
    pub remote: RemoteAbility,
}

/// What a remote can do for an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAbility {
    /// There is none, or not for this action.
    Nothing,
    /// It may have a result.
    CacheOnly,
    /// It executes as well.
    Execute,
}

/// The remote's circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// All is well.
    #[default]
    Closed,
    /// One call may find out whether it is again.
    HalfOpen,
    /// It is not.
    Open,
}

/// How things stand at this moment.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// Whether the remote answers.
    pub breaker: Breaker,
    /// The remote cache had a result for some action of this build already.
    pub any_hit: bool,
    /// What was measured of such actions.
    pub forecast: Forecast,
    /// How long a local branch will likely wait for its place.
    pub local_wait: Duration,
    /// This action shall measure both sides, whatever is foreseen.
    pub explore: bool,
    /// The local branch needs a persistent worker that is not there yet, if enough is known of such starts.
    pub cold: Option<Cold>,
}

/// How an action is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How the local branch runs, if it may.
    pub strategy: Option<LocalStrategy>,
    /// What holds for the race; its plan says when each side starts.
    pub rules: Rules,
}

/// Why nothing can run an action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} for action {mnemonic}", self.text())]
pub struct NoStrategy {
    /// The action's kind.
    pub mnemonic: String,
    /// Whether its tags allow it here.
    pub local_allowed: bool,
    /// Whether they allow it elsewhere.
    pub remote_allowed: bool,
}

impl NoStrategy {
    /// Bazel's words, which people search for.
    fn text(&self) -> &'static str {
        match (self.local_allowed, self.remote_allowed) {
            (false, false) => "Neither local nor remote execution allowed",
            (true, false) => "No usable dynamic_local_strategy found (and remote execution disabled)",
            (false, true) => "No usable dynamic_remote_strategy found (and local execution disabled)",
            (true, true) => "No usable dynamic_local_strategy or dynamic_remote_strategy found",
        }
    }
}

/// How an action is run.
///
/// # Errors
/// Nothing can run it.
pub fn choose(
    facts: &Facts<'_>,
    abilities: &Abilities<'_>,
    knobs: &Knobs,
    situation: &Situation,
) -> Result<Choice, NoStrategy> {
    let mnemonic = facts.mnemonic;
    let remote = usable_remote(facts, abilities, knobs);
    let lists_local = || knobs.local_strategies(mnemonic);
    let mut strategy = facts
        .local_allowed
        .then(lists_local)
        .and_then(|list| list.iter().copied().find(|strategy| abilities.local.contains(strategy)));
    // A cache that has nothing runs nothing, so that a tool needs the local side too.
    if facts.for_tool && *knobs.exclude_tools.of(mnemonic) && remote == RemoteAbility::Execute {
        strategy = None;
    }
    let plan = match (strategy, remote) {
        (None, RemoteAbility::Nothing | RemoteAbility::CacheOnly) => {
            let (local_allowed, remote_allowed) = (facts.local_allowed, facts.remote_allowed);
            return Err(NoStrategy { mnemonic: mnemonic.to_owned(), local_allowed, remote_allowed });
        }
        (None, RemoteAbility::Execute) => {
            Plan { local: LocalStart::Never, remote: RemoteStart::AtOnce { execute_after: Duration::ZERO } }
        }
        (Some(_), RemoteAbility::Nothing) => Plan { local: LocalStart::AtOnce, remote: RemoteStart::Never },
        (Some(_), remote) => race(mnemonic, remote, knobs, situation),
    };
    let rules = Rules {
        plan,
        in_place: strategy == Some(LocalStrategy::Standalone),
        local_holds: strategy == Some(LocalStrategy::Standalone)
            && *knobs.local_lockfree_output.of(mnemonic) == Some(false),
        failure: *knobs.failure.of(mnemonic),
        publish_failures: *knobs.publish_failures.of(mnemonic),
        let_remote_finish: *knobs.let_remote_finish.of(mnemonic),
        may_reap: true,
        ignored_signals: *knobs.ignore_local_signals.of(mnemonic),
        deadline: None,
        quiet_within: QUIET_WITHIN,
    };
    Ok(Choice { strategy, rules })
}

fn usable_remote(facts: &Facts<'_>, abilities: &Abilities<'_>, knobs: &Knobs) -> RemoteAbility {
    let listed = !knobs.remote_strategies(facts.mnemonic).is_empty();
    match abilities.remote {
        RemoteAbility::Execute if listed && facts.remote_allowed => RemoteAbility::Execute,
        RemoteAbility::Execute | RemoteAbility::CacheOnly if listed && facts.remote_cache_allowed => {
            RemoteAbility::CacheOnly
        }
        _ => RemoteAbility::Nothing,
    }
}

/// The plan of an action that both sides can run.
fn race(mnemonic: &str, remote: RemoteAbility, knobs: &Knobs, situation: &Situation) -> Plan {
    let at_once = RemoteStart::AtOnce { execute_after: Duration::ZERO };
    match (situation.breaker, *knobs.local_execution_delay.of(mnemonic)) {
        // Nobody waits for a remote that is gone; if local cannot do it either, it is tried after all.
        (Breaker::Open, _) => Plan { local: LocalStart::AtOnce, remote: RemoteStart::Fallback },
        // One call shall find out, and nothing shall depend on it.
        (Breaker::HalfOpen, _) => Plan { local: LocalStart::AtOnce, remote: at_once },
        (Breaker::Closed, Delay::Fixed(delay)) if situation.any_hit && !delay.is_zero() => {
            Plan { local: LocalStart::After(delay), remote: at_once }
        }
        (Breaker::Closed, Delay::Fixed(_)) => Plan { local: LocalStart::AtOnce, remote: at_once },
        (Breaker::Closed, Delay::Auto) => foreseen(*knobs.race_chance.of(mnemonic), remote, situation),
    }
}

fn foreseen(chance: f64, ability: RemoteAbility, situation: &Situation) -> Plan {
    let Situation { local_wait, .. } = situation;
    let mut forecast = situation.forecast;
    // A worker is not started for the sake of one action, or of a measurement, before one has waited for as long as
    // that would take.
    let idle_start = situation.cold.filter(|cold| !cold.pays()).map(|cold| cold.start);
    if let Some(start) = idle_start {
        let warm = forecast.local.or(forecast.remote).unwrap_or(Quantiles::exactly(Duration::ZERO));
        forecast.local = Some(warm.plus(&Quantiles::exactly(start)));
    }
    let (explore, least) = (situation.explore && idle_start.is_none(), idle_start.unwrap_or_default());
    // Of ten downloads one is slow by this measure, and is over soon all the same: local has to have the time to be
    // faster than what is left, which is likely as long as what has passed.
    let usual = forecast.local.map_or(SILENCE, |local| local.at(0.5));
    let hit = forecast.fetch.map_or(Delay::BAZEL, |fetch| fetch.at(0.9).max(usual)).min(HOLD_MAX);
    let mut miss = Duration::ZERO;
    let mut execute_after = Duration::ZERO;
    let mut executing = None;
    if let (Some(local), Some(remote), false) = (&forecast.local, &forecast.remote, explore)
        && ability == RemoteAbility::Execute
    {
        miss = local.hold_against(remote, *local_wait, chance).max(least).min(HOLD_MAX);
        // Who waits for a place may wait longer than is likely: as long again. And nobody waits for a worker's start.
        let start = situation.cold.filter(Cold::pays).map_or(Duration::ZERO, |cold| cold.start);
        let local = local.plus(&Quantiles::exactly(2 * *local_wait + start));
        execute_after = remote.hold_against(&local, Duration::ZERO, chance / 2.0).min(HOLD_MAX);
        executing =
            once_it_executes(&forecast, *local_wait, chance).map(|hold| hold.max(least).min(HOLD_MAX));
        // A remote that is free says so soon, and that is worth waiting for, for a moment.
        if let (Some(_), Some(begin), Duration::ZERO) = (executing, forecast.begin, execute_after) {
            miss = miss.max((2 * begin.at(0.0)).min(usual / 4));
        }
    }
    let silence = match (&forecast.local, &forecast.answer) {
        (Some(local), Some(answer)) if !explore => {
            // What the remote needs from the beginning, if it goes as it mostly does.
            let hits = forecast.hit_rate >= 0.5 || ability == RemoteAbility::CacheOnly;
            let rest = if hits { forecast.fetch } else { forecast.remote };
            let rival = rest.map_or(*answer, |rest| answer.plus(&rest));
            // Local starts blindly only with better odds than it needs after an answer.
            local.hold_against(&rival, *local_wait, chance.max(BLIND_CHANCE)).min(2 * answer.at(0.95))
        }
        (_, Some(answer)) => 2 * answer.at(0.95),
        (_, None) => SILENCE,
    };
    // A late answer is mostly a busy machine's, and it is mostly a hit.
    let silence =
        if forecast.answer.is_some() && forecast.hit_rate >= 0.5 { silence.max(usual) } else { silence };
    Plan {
        local: LocalStart::OnAnswer { miss, hit, silence: silence.max(least).min(HOLD_MAX), executing },
        remote: RemoteStart::AtOnce { execute_after },
    }
}

/// How long to hold local back from when the remote executes the action; `None`: it may start as before.
fn once_it_executes(forecast: &Forecast, local_wait: Duration, chance: f64) -> Option<Duration> {
    let hold = forecast.local?.hold_against_alike(&forecast.run?, local_wait, chance);
    (!hold.is_zero()).then_some(hold)
}
