//! What a seed decides before the race begins.

use crate::random::Random;
use fulgurite::race::policy::{LocalStart, Plan, RemoteStart};
use fulgurite::race::step::{CacheAnswer, End, FailureRule, Rules, SignalSet};
use std::time::Duration;

/// A signal that the rules of every second race list.
pub const LISTED: i32 = 9;

/// What one branch does. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub takes: u64,
    pub end: End,
    /// How long it goes on after it was told to stop.
    pub deaf: u64,
    /// How it ends then: a branch may have succeeded in the meantime.
    pub end_if_stopped: End,
}

/// A race before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    pub rules: Rules,
    pub local: Part,
    pub remote: Part,
    pub answer: CacheAnswer,
    pub answer_after: u64,
    /// When the remote says that it executes, after it does; `None`: it never does.
    pub says_after: Option<u64>,
    /// How long the gate takes, or that it refuses.
    pub gate: Option<u64>,
    pub cancel_at: Option<u64>,
    pub crash_at: Option<u64>,
    pub reaper_has_room: bool,
    pub outputs: u64,
    /// Publishing fails before the first rename.
    pub publish_fails: bool,
    /// Answers to claims and abandonments come at once, as from a driver of one thread.
    pub answers_at_once: bool,
    /// How far apart the branches may be. Small ones make for close races.
    pub spread: u64,
}

impl Script {
    pub fn new(random: &mut Random) -> Self {
        let spread = random.one_of(&[1, 3, 20, 1000]);
        let rules = rules(random, spread);
        Script {
            rules,
            local: part(random, spread, true),
            remote: part(random, spread, false),
            answer: if random.percent(30) { CacheAnswer::Hit } else { CacheAnswer::Miss },
            answer_after: random.below(spread),
            says_after: random.percent(70).then(|| random.below(spread)),
            gate: (!random.percent(4)).then(|| random.below(spread)),
            cancel_at: random.percent(15).then(|| random.below(3 * spread + 2)),
            crash_at: random.percent(25).then(|| random.below(3 * spread + 10)),
            reaper_has_room: random.percent(80),
            outputs: 1 + random.below(5),
            publish_fails: random.percent(4),
            answers_at_once: random.percent(50),
            spread,
        }
    }
}

fn rules(random: &mut Random, spread: u64) -> Rules {
    let after = |random: &mut Random| Duration::from_millis(random.below(2 * spread));
    let now = RemoteStart::AtOnce { execute_after: Duration::ZERO };
    let local = match random.below(10) {
        0 => LocalStart::After(after(random)),
        1..=4 => LocalStart::OnAnswer {
            miss: after(random),
            hit: after(random),
            silence: after(random),
            executing: random.percent(50).then(|| after(random)),
        },
        5 => LocalStart::Fallback,
        6 => LocalStart::Never,
        _ => LocalStart::AtOnce,
    };
    let remote = match (local, random.below(10)) {
        (LocalStart::AtOnce, 0) => RemoteStart::Fallback,
        (LocalStart::AtOnce, 1) => RemoteStart::Never,
        (_, 2..=4) => RemoteStart::AtOnce { execute_after: after(random) },
        _ => now,
    };
    let mut ignored_signals = SignalSet::default();
    if random.percent(50) {
        ignored_signals.insert(LISTED);
    }
    Rules {
        plan: Plan { local, remote },
        in_place: random.percent(35),
        local_holds: false,
        failure: if random.percent(75) { FailureRule::First } else { FailureRule::Other },
        publish_failures: random.percent(20),
        let_remote_finish: random.percent(30),
        may_reap: random.percent(80),
        ignored_signals,
        deadline: random.percent(10).then(|| Duration::from_millis(random.below(3 * spread + 2))),
        quiet_within: Duration::from_millis(1 + 20 * spread),
    }
}

fn part(random: &mut Random, spread: u64, is_local: bool) -> Part {
    let end = match random.below(100) {
        0..60 => End::Ready,
        60..75 => End::Failed,
        75..80 if is_local => End::Signal(random.one_of(&[LISTED, 11])),
        80..90 => End::Infra,
        90..93 if !is_local => End::Miss,
        93..97 => End::Canceled,
        97..99 => End::Bug,
        _ => End::Ready,
    };
    let stopped =
        [End::Canceled, End::Canceled, End::Ready, End::Failed, End::Infra, End::Signal(LISTED), End::Bug];
    let mut end_if_stopped = random.one_of(&stopped);
    if !is_local && matches!(end_if_stopped, End::Signal(_)) {
        end_if_stopped = End::Canceled;
    }
    // Some are killed at once, some after a while, and a few sleep where no signal reaches them.
    let deaf = match random.below(20) {
        0 | 1 => 200 * spread,
        2..=8 => 0,
        _ => random.below(2 * spread),
    };
    Part { takes: random.below(spread), end, deaf, end_if_stopped }
}
