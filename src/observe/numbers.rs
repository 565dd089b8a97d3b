//! Numbers that cost whoever counts an atomic addition.

use super::words::Word;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So much time more, in microseconds.
    pub fn add_time(&self, more: Duration) {
        self.add(u64::try_from(more.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many until now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number as it is now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is so much now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of buckets, in microseconds: what a warm sandbox takes, up to the longest of actions.
pub(super) const BOUNDS_US: [u64; 16] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
    600_000_000,
];

/// How times are distributed. Three atomic additions for each.
#[derive(Debug, Default)]
pub struct Times {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Times {
    /// One more.
    pub fn note(&self, time: Duration) {
        self.note_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// One more, in microseconds.
    pub fn note_us(&self, micros: u64) {
        let index = BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many, by bucket; and their sum in microseconds.
    pub(super) fn read(&self) -> (Vec<u64>, u64) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        (buckets, self.sum_us.load(Ordering::Relaxed))
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.read().0.iter().sum()
    }
}

/// A number for each word.
#[derive(Debug)]
pub struct By<W, T>(Vec<T>, PhantomData<W>);

impl<W: Word, T: Default> Default for By<W, T> {
    fn default() -> Self {
        By(W::ALL.iter().map(|_| T::default()).collect(), PhantomData)
    }
}

impl<W: Word, T> By<W, T> {
    /// That of a word.
    #[must_use]
    pub fn of(&self, word: W) -> &T {
        // There are as many as there are words.
        &self.0[word.index()]
    }

    /// All, with their words.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &T)> {
        W::ALL.iter().copied().zip(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS_US, By, Counter, Times};
    use crate::observe::Side;

    #[test]
    fn a_time_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let times = Times::default();
        for micros in [0, 500, 501, 600_000_000, 600_000_001] {
            times.note_us(micros);
        }
        let (buckets, sum) = times.read();
        assert_eq!((buckets[0], buckets[1], buckets[15], buckets[16]), (2, 1, 1, 1));
        assert_eq!(sum, 1_200_001_002);
        assert_eq!(times.count(), 5);
        assert!(BOUNDS_US.is_sorted());
    }

    #[test]
    fn each_word_has_its_own() {
        let table: By<Side, Counter> = By::default();
        table.of(Side::Remote).add(3);
        let all: Vec<(&str, u64)> = table.all().map(|(word, counter)| (word, counter.value())).collect();
        assert_eq!(all, [("local", 0), ("remote", 3)]);
    }
}
