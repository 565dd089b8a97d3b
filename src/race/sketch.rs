//! The last so many durations of something, and their distribution.
//!
//! A ring of logarithms: two bytes a value, from a microsecond to days, each within 0.1 percent. What is old falls out,
//! so that a changed network or machine is noticed after as many runs as the ring holds.
//!
//! ```text
//!   a value   1 bit: it was stopped, and would have taken longer   15 bits: log2(1 + µs) × 512
//! ```
//! A side that mostly loses has mostly been stopped, and what it won were its short ones: those alone would make it
//! look fast. The distribution is therefore that of Kaplan and Meier ("Nonparametric Estimation from Incomplete
//! Observations", 1958): what was stopped counts among those that had not ended until then. Beyond all that has ended
//! it takes twice as long as anybody was seen to take.
//!
//! Invariants: pure; a [`Quantiles`] rises; what is read back from bytes is any ring or an error, never a panic.

use std::cmp::Ordering;
use std::time::Duration;

/// Steps per doubling.
const STEPS: f64 = 512.0;

/// Of a value that was stopped.
const STOPPED: u16 = 1 << 15;

/// Quantiles at 5, 15, … 95 percent.
pub const GRID: usize = 10;

/// The last durations, newest overwriting oldest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    values: Vec<u16>,
    next: usize,
    capacity: usize,
}

impl Ring {
    /// For so many.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Ring { values: Vec::new(), next: 0, capacity: capacity.max(1) }
    }

    /// Adds one.
    pub fn push(&mut self, duration: Duration) {
        self.put(encode(duration));
    }

    /// Adds one that was stopped, and would have taken longer.
    pub fn push_stopped(&mut self, duration: Duration) {
        self.put(encode(duration) | STOPPED);
    }

    fn put(&mut self, value: u16) {
        if self.values.len() < self.capacity {
            self.values.push(value);
        } else if let Some(oldest) = self.values.get_mut(self.next) {
            *oldest = value;
        }
        self.next = (self.next + 1) % self.capacity;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Their distribution, if there are at least `least`.
    #[must_use]
    pub fn quantiles(&self, least: usize) -> Option<Quantiles> {
        if self.values.len() < least.max(1) {
            return None;
        }
        let mut sorted = self.values.clone();
        // Of equal ones those that were stopped come last: they had not ended by then.
        sorted.sort_unstable_by_key(|value| (value & !STOPPED, value & STOPPED));
        let longest = sorted.last().map_or(0.0, |value| decode(value & !STOPPED));
        let mut grid = [2.0 * longest; GRID];
        let (mut index, mut lasting) = (0, 1.0);
        for (at, value) in sorted.iter().enumerate().filter(|(_, value)| *value & STOPPED == 0) {
            let at_risk = (sorted.len() - at) as f64;
            lasting *= 1.0 - 1.0 / at_risk;
            // The first at which (index + ½) / GRID of all have ended; exact but for a rounding error.
            while let Some(quantile) = grid.get_mut(index)
                && (1.0 - lasting) * (2 * GRID) as f64 >= (2 * index + 1) as f64 - 1e-6
            {
                *quantile = decode(*value);
                index += 1;
            }
        }
        Some(Quantiles { grid })
    }

    /// For keeping.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let oldest = if self.values.len() < self.capacity { 0 } else { self.next };
        let (newer, older) = self.values.split_at(oldest.min(self.values.len()));
        older.iter().chain(newer).flat_map(|value| value.to_le_bytes()).collect()
    }

    /// What was kept, oldest first; of more than fit, the newest.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], capacity: usize) -> Self {
        let mut ring = Ring::new(capacity);
        let (pairs, _) = bytes.as_chunks::<2>();
        let newest = pairs.len().saturating_sub(ring.capacity);
        ring.values = pairs.iter().skip(newest).map(|pair| u16::from_le_bytes(*pair)).collect();
        ring.next = ring.values.len() % ring.capacity;
        ring
    }
}

/// A distribution as its quantiles, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    grid: [f64; GRID],
}

impl Quantiles {
    /// That of one value.
    #[must_use]
    pub fn exactly(duration: Duration) -> Self {
        Quantiles { grid: [duration.as_secs_f64(); GRID] }
    }

    /// The value below which about `part` (0 to 1) of all lie.
    #[must_use]
    pub fn at(&self, part: f64) -> Duration {
        let index = (part.clamp(0.0, 1.0) * GRID as f64).floor() as usize;
        seconds(self.grid.get(index.min(GRID - 1)).copied().unwrap_or(0.0))
    }

    /// Of the sum with something that is long when this is long.
    #[must_use]
    pub fn plus(&self, other: &Quantiles) -> Quantiles {
        let mut grid = self.grid;
        grid.iter_mut().zip(other.grid).for_each(|(sum, more)| *sum += more);
        Quantiles { grid }
    }

    /// The chance that this, started at `start`, ends before `rival`, which started at 0 and has not ended at `start`.
    /// Who ends at the same time has half a chance. `None` if the rival has never taken that long.
    #[must_use]
    pub fn chance_against(&self, rival: &Quantiles, start: Duration, wait: Duration) -> Option<f64> {
        let (start, begin) = (start.as_secs_f64(), (start + wait).as_secs_f64());
        let late = rival.grid.iter().filter(|&&end| end > start);
        let (mut pairs, mut wins) = (0_u32, 0.0);
        for end in late {
            pairs += GRID as u32;
            wins += self.grid.iter().map(|run| win(begin + run, *end)).sum::<f64>();
        }
        (pairs > 0).then(|| wins / f64::from(pairs))
    }

    /// The same, of two that do the same work: what is long for one is as long for the other.
    #[must_use]
    pub fn chance_against_alike(&self, rival: &Quantiles, start: Duration, wait: Duration) -> Option<f64> {
        let (start, begin) = (start.as_secs_f64(), (start + wait).as_secs_f64());
        let late = || self.grid.iter().zip(rival.grid).filter(|(_, end)| *end > start);
        let wins: f64 = late().map(|(run, end)| win(begin + run, end)).sum();
        let pairs = late().count();
        (pairs > 0).then(|| wins / pairs as f64)
    }

    /// How long to hold this back, so that it starts only with at least that chance to end before `rival`. Once the
    /// rival takes longer than ever it is time in any case.
    #[must_use]
    pub fn hold_against(&self, rival: &Quantiles, wait: Duration, chance: f64) -> Duration {
        hold(rival, chance, |start| self.chance_against(rival, start, wait))
    }

    /// The same, of two that do the same work.
    #[must_use]
    pub fn hold_against_alike(&self, rival: &Quantiles, wait: Duration, chance: f64) -> Duration {
        hold(rival, chance, |start| self.chance_against_alike(rival, start, wait))
    }
}

/// What ending at `end` is worth against a rival's end.
fn win(end: f64, rival: f64) -> f64 {
    match end.total_cmp(&rival) {
        Ordering::Less => 1.0,
        Ordering::Equal => 0.5,
        Ordering::Greater => 0.0,
    }
}

/// The first time of those at which the rival may have ended that has this chance.
fn hold(rival: &Quantiles, chance: f64, chance_at: impl Fn(Duration) -> Option<f64>) -> Duration {
    let mut starts = std::iter::once(0.0).chain(rival.grid).map(seconds);
    let enough = |start: &Duration| chance_at(*start).is_none_or(|found| found >= chance);
    starts.find(enough).unwrap_or_else(|| rival.at(1.0))
}

/// Never fails: a value that is no duration is none that was measured.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

fn encode(duration: Duration) -> u16 {
    let micros = duration.as_secs_f64() * 1e6;
    // Saturates at both ends: `as` from a float does.
    (((micros + 1.0).log2() * STEPS).round() as u16).min(!STOPPED)
}

fn decode(value: u16) -> f64 {
    ((f64::from(value) / STEPS).exp2() - 1.0) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ring(millis: impl IntoIterator<Item = u64>) -> Ring {
        let mut ring = Ring::new(32);
        millis.into_iter().for_each(|value| ring.push(ms(value)));
        ring
    }

    #[test]
    fn a_code_is_within_a_thousandth() {
        for micros in [0, 1, 17, 999, 12_345, 1_000_000, 3_600_000_000, 86_400_000_000_u64] {
            let back = decode(encode(Duration::from_micros(micros))) * 1e6;
            assert!((back - micros as f64).abs() <= 0.001 * micros as f64 + 0.001, "{micros}: {back}");
        }
        assert_eq!(encode(Duration::MAX), !STOPPED);
    }

    #[test]
    fn the_newest_count() {
        let mut full = ring(1..=32);
        for _ in 0..32 {
            full.push(ms(500));
        }
        let quantiles = full.quantiles(5).unwrap();
        assert!(quantiles.at(0.0) > ms(499) && quantiles.at(1.0) < ms(501));
        assert_eq!(ring(1..=4).quantiles(5), None);
    }

    #[test]
    fn what_was_stopped_had_not_ended() {
        let mut ring = ring((1..=10).map(|value| value * 10));
        let exact = ring.quantiles(1).unwrap();
        // Stopped before anybody ends: it says nothing.
        (0..10).for_each(|_| ring.push_stopped(ms(5)));
        assert_eq!(ring.quantiles(1), Some(exact));
        // Stopped after all others had ended: half of all take longer than anybody was seen to take.
        (0..10).for_each(|_| ring.push_stopped(ms(200)));
        let longer = ring.quantiles(1).unwrap();
        let near = |at: f64, millis: u64| {
            let found = longer.at(at);
            assert!(found > ms(millis - 1) && found < ms(millis + 1), "{at}: {found:?}");
        };
        for (at, millis) in [(0.05, 10), (0.15, 30), (0.45, 90), (0.55, 400), (1.0, 400)] {
            near(at, millis);
        }
        // By the estimator's own example: of 4 that were at risk one had ended, then one of 2.
        let mut few = Ring::new(8);
        few.push(ms(10));
        few.push_stopped(ms(15));
        few.push(ms(20));
        few.push_stopped(ms(20));
        let few = few.quantiles(1).unwrap();
        assert!(few.at(0.2) < ms(11) && few.at(0.3) > ms(19) && few.at(0.5) < ms(21) && few.at(0.6) > ms(39));
    }

    #[test]
    fn quantiles_rise() {
        let quantiles = ring((1..=20).rev()).quantiles(1).unwrap();
        let found: Vec<u64> =
            (0..10).map(|at| quantiles.at(f64::from(at) / 10.0).as_micros() as u64).collect();
        assert!(found.is_sorted(), "{found:?}");
        assert!((9_900..=11_100).contains(&found[5]), "{found:?}");
    }

    #[test]
    fn a_ring_survives_its_bytes() {
        for count in [0, 1, 31, 32, 33, 80] {
            let mut ring = ring(1..=count);
            (0..count % 7).for_each(|value| ring.push_stopped(ms(value)));
            let bytes = ring.to_bytes();
            let back = Ring::from_bytes(&bytes, 32);
            assert_eq!((back.quantiles(1), back.to_bytes()), (ring.quantiles(1), bytes));
        }
        let odd = Ring::from_bytes(&[1, 2, 3], 32);
        assert_eq!(odd.len(), 1);
    }

    #[test]
    fn the_surely_slower_waits_until_the_other_is_late() {
        let (fast, slow) = (Quantiles::exactly(ms(100)), Quantiles::exactly(ms(1000)));
        assert_eq!(fast.hold_against(&slow, ms(0), 0.25), ms(0));
        assert_eq!(slow.hold_against(&fast, ms(0), 0.25), ms(100));
        // Who has to wait for a place is not so fast any more.
        assert_eq!(fast.hold_against(&slow, ms(950), 0.25), ms(1000));
    }

    #[test]
    fn where_the_work_is_the_same_the_slower_never_has_a_chance() {
        let fast = ring((1..=20).map(|value| value * 10)).quantiles(1).unwrap();
        let slow = ring((1..=20).map(|value| value * 15)).quantiles(1).unwrap();
        assert_eq!(slow.hold_against(&fast, ms(0), 0.25), ms(0), "of any two it is the faster one in three");
        assert_eq!(slow.hold_against_alike(&fast, ms(0), 0.25), fast.at(1.0));
        assert_eq!(fast.hold_against_alike(&slow, ms(0), 0.25), ms(0));
        // Of the shorter half none is won any more.
        assert_eq!(fast.hold_against_alike(&slow, ms(60), 0.25), ms(0));
        assert!(fast.hold_against_alike(&slow, ms(90), 0.25) > ms(0));
    }

    #[test]
    fn of_two_sides_one_starts_at_once() {
        for shift in 0..40 {
            let one = ring((1..=20).map(|value| value * 10)).quantiles(1).unwrap();
            let other = ring((1..=20).map(|value| value * 7 + shift * 5)).quantiles(1).unwrap();
            for (one, other) in [(&one, &other), (&one, &one)] {
                let holds = [one.hold_against(other, ms(0), 0.5), other.hold_against(one, ms(0), 0.5)];
                assert!(holds.contains(&Duration::ZERO), "{shift}: {holds:?}");
            }
        }
    }
}
