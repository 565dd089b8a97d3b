//! Races, simulated: the real transitions and the real claim, in a world of virtual time whose every choice comes from
//! a seed.
//!
//! ```text
//!   seed ──► script: rules, how long what takes, who fails, who is deaf, cancels, crashes
//!   world: events in order of time ──► step ──► effects ──► more events;  a model of the destination, journal and gate
//!   checks: after each step and at the end (G1 to G6)
//! ```
//! `FULGURITE_SIM_RACES` says how many (20,000 by default), `FULGURITE_SIM_SEED` with which seed to begin. A failure
//! names the seed of its race; `FULGURITE_SIM_RACES=1 FULGURITE_SIM_SEED=…` runs it alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod check;
mod random;
mod script;
mod world;

use std::collections::BTreeMap;
use world::World;

const RACES: u64 = 20_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_race_breaks_a_guarantee() {
    let races = number("FULGURITE_SIM_RACES", RACES);
    let begin = number("FULGURITE_SIM_SEED", 1);
    println!("{races} races from seed {begin}");
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in begin..begin.wrapping_add(races) {
        let mut world = World::new(seed);
        for what in world.run() {
            *seen.entry(what).or_default() += 1;
        }
    }
    for (what, count) in &seen {
        println!("{count:>9}  {what}");
    }
    if races >= RACES {
        // A simulation that meets nothing proves nothing.
        for what in [
            "Won(Local)",
            "Won(Remote)",
            "Failed(Local)",
            "Failed(Remote)",
            "NoResult",
            "Canceled",
            "Deadline",
            "Broken(Local)",
            "Broken(Remote)",
            "Bug(Local)",
            "Bug(Remote)",
            "crash: old",
            "crash: new",
            "crash: torn, rolled forward",
            "lost the claim",
            "cancelled too late",
            "handed to the reaper",
            "left to fill the cache",
            "refused by the gate",
            "in place: waited for quiet",
            "in place: never quiet",
            "ended after the return",
        ] {
            assert!(seen.get(what).is_some_and(|count| *count > 5), "`{what}` hardly happened: {seen:?}");
        }
    }
}

#[test]
fn a_seed_is_a_race() {
    for seed in 0..50 {
        assert_eq!(World::new(seed).run(), World::new(seed).run());
    }
}
