//! A reading: all numbers at one moment. What is counted where it happens is there; the rest is asked of sources.
//!
//! Invariant: no source blocks, and none outlives what it reads: dropping its [`Source`] takes it out.

use super::family::{Facts, Family, Kind, PREFIX};
use super::limits::SOURCES_MAX;
use super::numbers::BOUNDS_US;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Times { buckets: Vec<u64>, sum_us: u64 },
}

type Labels = Vec<(&'static str, String)>;

/// All numbers at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading(BTreeMap<Family, Vec<(Labels, Value)>>);

impl Reading {
    /// Adds a number; `labels` are the values of the family's, in order. Of equal labels the sum is told.
    pub fn put(&mut self, family: Family, labels: &[&str], value: u64) {
        let labels = named(family, labels);
        let samples = self.0.entry(family).or_default();
        match samples.iter_mut().find(|(of, _)| *of == labels) {
            Some((_, Value::Number(before))) => *before = before.saturating_add(value),
            _ => samples.push((labels, Value::Number(value))),
        }
    }

    pub(super) fn put_times(&mut self, family: Family, labels: &[&str], (buckets, sum_us): (Vec<u64>, u64)) {
        let labels = named(family, labels);
        self.0.entry(family).or_default().push((labels, Value::Times { buckets, sum_us }));
    }

    /// The number with these labels; `None` if nobody told it.
    #[must_use]
    pub fn get(&self, family: Family, labels: &[&str]) -> Option<u64> {
        let labels = named(family, labels);
        self.0.get(&family)?.iter().find_map(|(of, value)| match value {
            Value::Number(number) if *of == labels => Some(*number),
            _ => None,
        })
    }

    /// All numbers of a family, with the values of its labels.
    pub fn all(&self, family: Family) -> impl Iterator<Item = (Vec<&str>, u64)> {
        self.0.get(&family).into_iter().flatten().filter_map(|(labels, value)| match value {
            Value::Number(number) => {
                Some((labels.iter().map(|(_, value)| value.as_str()).collect(), *number))
            }
            Value::Times { .. } => None,
        })
    }

    /// As OpenMetrics text, which Prometheus reads.
    #[must_use]
    pub fn text(self) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

fn named(family: Family, labels: &[&str]) -> Labels {
    let names = family.facts().labels;
    debug_assert_eq!(names.len(), labels.len(), "{family:?}");
    names.iter().copied().zip(labels.iter().map(|label| (*label).to_owned())).collect()
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in &self.0 {
            let Facts { name, kind, about, .. } = family.facts();
            let told = match kind {
                Kind::Counter | Kind::SecondsCounter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, about, None, told)?;
            for (labels, value) in samples {
                // A family without labels has samples without braces.
                if labels.is_empty() {
                    encode(&mut metric, *kind, value)?;
                } else {
                    encode(&mut metric.encode_family(labels)?, *kind, value)?;
                }
            }
        }
        Ok(())
    }
}

type NoLabels = [(&'static str, String); 0];
type NoExemplar = Exemplar<NoLabels, f64>;

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Kind::SecondsCounter, Value::Number(number)) => {
            encoder.encode_counter(&seconds(*number), None::<&NoExemplar>)
        }
        (Kind::Counter, Value::Number(number)) => encoder.encode_counter(number, None::<&NoExemplar>),
        (_, Value::Number(number)) => encoder.encode_gauge(number),
        (_, Value::Times { buckets, sum_us }) => {
            let bounds = BOUNDS_US.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
            let counted: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
            let count = buckets.iter().sum();
            encoder.encode_histogram::<NoLabels>(seconds(*sum_us), count, &counted, None)
        }
    }
}

type Ask = Arc<dyn Fn(&mut Reading) + Send + Sync>;

/// Those who are asked when somebody wants numbers.
#[derive(Default)]
pub(super) struct Sources {
    known: Mutex<(u64, BTreeMap<u64, Ask>)>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("known", &self.lock().1.len()).finish()
    }
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Ask>)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&'static self, ask: Ask) -> Source {
        let mut known = self.lock();
        known.0 += 1;
        let id = known.0;
        if known.1.len() < SOURCES_MAX {
            known.1.insert(id, ask);
        }
        Source { of: self, id }
    }

    pub(super) fn read(&self, into: &mut Reading) {
        // A source may take a while, and may be the last that holds something whose end removes another.
        let asked: Vec<Ask> = self.lock().1.values().cloned().collect();
        asked.iter().for_each(|ask| ask(into));
    }
}

/// A source of numbers; it is asked until this is dropped.
#[derive(Debug)]
#[must_use = "it is asked only as long as this lives"]
pub struct Source {
    of: &'static Sources,
    id: u64,
}

impl Drop for Source {
    fn drop(&mut self) {
        let gone = self.of.lock().1.remove(&self.id);
        // Not while the table is locked: it may hold what it reads.
        drop(gone);
    }
}
