//! Is a persistent worker worth its start? Of what was measured, and of how long the build has been so far. Pure.
//!
//! A worker that has to be started first (seconds of a core, for a JVM) loses each race of a short build, and its start
//! is a loser's work; in a long build it soon pays. Nobody knows how long a build will be: it is taken to last as long
//! again as it has so far, and [`ACTIONS_MIN`] actions at least.
//!
//! ```text
//!   each action takes  there          if the remote is alone       (latency ÷ actions at a time)
//!                      1 ÷ (1÷there + 1÷here)   if both work       (here: a warm worker's time ÷ slots)
//!   it pays if  what that saves × actions to come  >=  start
//! ```
//! Where one of the two is not known, the start is what makes it known. What the remote's actions took is at least its
//! pace ([`pace`]): it may just have started workers of its own, or have had too little to do.
use super::sketch::Quantiles;
use std::time::Duration;

/// Actions that a build is expected to have at least.
pub const ACTIONS_MIN: u64 = 32;
/// The part of the measured actions that are faster than what is taken for the remote's pace.
const PACE_QUANTILE: f64 = 0.05;

/// What an action costs there, each, by what such actions took there, divided by as many as there were at a time.
#[must_use]
pub fn pace(measured: &Quantiles) -> Duration {
    measured.at(PACE_QUANTILE)
}

/// What is known where a worker would have to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cold {
    /// From its start to its first answer.
    pub start: Duration,
    /// What an action costs here with a warm worker, each, if that is known.
    pub here: Option<Duration>,
    /// What an action costs there, each ([`pace`]), if that is known.
    pub there: Option<Duration>,
    /// Actions of this build so far.
    pub so_far: u64,
}

impl Cold {
    /// Whether the start is likely worth it.
    #[must_use]
    pub fn pays(&self) -> bool {
        let Some((here, there)) = self.here.zip(self.there) else { return true };
        let (here, there) = (here.as_secs_f64(), there.as_secs_f64());
        let saved = if there > 0.0 { there * there / (there + here) } else { 0.0 };
        saved * self.so_far.max(ACTIONS_MIN) as f64 >= self.start.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::sketch::Ring;

    const fn cold(here: u64, there: u64, so_far: u64) -> Cold {
        let ms = Duration::from_millis;
        Cold { start: ms(1200), here: Some(ms(here)), there: Some(ms(there)), so_far }
    }

    #[test]
    fn a_start_pays_where_the_remote_is_slow_or_the_build_is_long() {
        // A slow remote: at once. A fast one: not in a short build, and in a long one after all.
        assert!(cold(60, 190, 0).pays());
        assert!(!cold(60, 28, 0).pays() && !cold(60, 28, 100).pays());
        assert!(cold(60, 28, 140).pays());
        // Where this machine is loaded it takes longer still.
        assert!(!cold(135, 31, 140).pays() && cold(135, 31, 220).pays());
    }

    #[test]
    fn a_remote_that_has_just_started_its_workers_is_as_fast_as_it_was_in_the_end() {
        let mut measured = Ring::new(64);
        for ms in [350, 330, 300, 260, 210, 160, 120, 90, 60, 35, 30, 80] {
            measured.push(Duration::from_millis(ms));
        }
        let there = Some(pace(&measured.quantiles(1).unwrap()));
        assert!(!Cold { there, ..cold(60, 0, 0) }.pays(), "{there:?}");
        assert!(Cold { there: measured.quantiles(1).map(|slow| slow.at(0.5)), ..cold(60, 0, 0) }.pays());
    }

    #[test]
    fn what_is_not_known_is_tried() {
        assert!(
            Cold { here: None, ..cold(60, 28, 0) }.pays() && Cold { there: None, ..cold(60, 28, 0) }.pays()
        );
    }

    #[test]
    fn nothing_is_saved_where_the_remote_costs_nothing() {
        assert!(!cold(60, 0, u64::MAX).pays() && !cold(0, 0, u64::MAX).pays());
        assert!(Cold { start: Duration::ZERO, ..cold(60, 0, 0) }.pays());
    }
}
