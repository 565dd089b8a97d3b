//! What is counted where it happens. All else that `/metrics` tells comes from sources.

use super::family::Family;
use super::limits::{LABEL_BYTES_MAX, LABEL_VALUES_MAX};
use super::numbers::{By, Counter, Gauge, Times};
use super::reading::Reading;
use super::words::{
    Outcome, Phase, RaceEnd, Resource, Side, StartWhy, StoreFault, Strategy, Way, WorkerGone,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Actions that ended.
    pub actions: By<Outcome, By<Strategy, Counter>>,
    /// From the request to the answer.
    pub action_times: By<Strategy, Times>,
    /// By phase.
    pub phase_times: By<Phase, Times>,
    /// Processor time, in microseconds.
    pub action_cpu: By<Strategy, Counter>,
    /// Races that returned.
    pub races: By<RaceEnd, Counter>,
    /// Those in which both branches started.
    pub races_both: Counter,
    /// Those that a result of the cluster's cache won.
    pub race_hits: Counter,
    /// Branches that were started.
    pub race_starts: By<Side, By<StartWhy, Counter>>,
    /// By how much the winner was faster.
    pub race_margins: By<Side, Times>,
    /// From the claim to the end of the loser.
    pub race_quiet: By<Side, Times>,
    /// Bytes to and from the cluster.
    pub remote_bytes: By<Way, Counter>,
    /// Calls that were made again.
    pub remote_retries: Counter,
    /// Calls that failed for good.
    pub remote_failures: Counter,
    /// How often the cluster was taken to be gone.
    pub remote_outages: Counter,
    /// Whether it is.
    pub remote_gone: Gauge,
    /// Operations of the store that failed.
    pub store_errors: By<StoreFault, Counter>,
    /// Thousandths of the last 10 s in which somebody waited.
    pub pressure: By<Resource, Gauge>,
    /// Events that watchers were too slow for.
    pub events_missed: Counter,
    /// Records that the trace's disk was too slow for.
    pub trace_missed: Counter,
    workers: Mutex<BTreeMap<String, OfMnemonic>>,
}

#[derive(Debug, Default)]
struct OfMnemonic {
    started: u64,
    ended: By<WorkerGone, Counter>,
}

impl Metrics {
    /// A worker has started.
    pub fn worker_started(&self, mnemonic: &str) {
        let mut workers = self.workers();
        entry(&mut workers, mnemonic).started += 1;
    }

    /// A worker is there no more.
    pub fn worker_ended(&self, mnemonic: &str, why: WorkerGone) {
        let mut workers = self.workers();
        entry(&mut workers, mnemonic).ended.of(why).count();
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<String, OfMnemonic>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers for `fulgurite status`, beside those of sources: why branches of races started when they did.
    #[must_use]
    pub fn race_counters(&self) -> Vec<(String, u64)> {
        let starts = self.race_starts.all().flat_map(|(side, whys)| {
            whys.all().map(move |(why, counter)| (format!("{side}_started_{why}"), counter.value()))
        });
        let margins = self.race_margins.all().map(|(_, times)| times.count()).sum();
        starts.chain([("margins".to_owned(), margins)]).collect()
    }

    pub(super) fn read(&self, into: &mut Reading) {
        for (outcome, by_strategy) in self.actions.all() {
            for (strategy, counter) in by_strategy.all() {
                let is_told = counter.value() > 0 || outcome == "succeeded";
                if is_told {
                    into.put(Family::Actions, &[outcome, strategy], counter.value());
                }
            }
        }
        self.read_races(into);
        let cached = Strategy::Cached.word();
        for (word, times) in self.action_times.all().filter(|(word, _)| *word != cached) {
            into.put_times(Family::ActionTime, &[word], times.read());
        }
        for (word, cpu) in self.action_cpu.all().filter(|(word, _)| *word != cached) {
            into.put(Family::ActionCpu, &[word], cpu.value());
        }
        self.phase_times.all().for_each(|(word, times)| {
            into.put_times(Family::PhaseTime, &[word], times.read());
        });
        let counters = [
            (Family::RemoteRetries, &self.remote_retries),
            (Family::RemoteFailures, &self.remote_failures),
            (Family::RemoteOutages, &self.remote_outages),
            (Family::EventsMissed, &self.events_missed),
            (Family::TraceMissed, &self.trace_missed),
        ];
        counters.into_iter().for_each(|(family, counter)| into.put(family, &[], counter.value()));
        into.put(Family::RemoteGone, &[], self.remote_gone.value());
        self.remote_bytes
            .all()
            .for_each(|(word, bytes)| into.put(Family::RemoteBytes, &[word], bytes.value()));
        self.store_errors
            .all()
            .for_each(|(word, count)| into.put(Family::StoreErrors, &[word], count.value()));
        self.pressure.all().for_each(|(word, share)| into.put(Family::Pressure, &[word], share.value()));
        for (mnemonic, of) in self.workers().iter() {
            into.put(Family::WorkerStarts, &[mnemonic], of.started);
            for (why, counter) in of.ended.all().filter(|(_, counter)| counter.value() > 0) {
                into.put(Family::WorkerEnds, &[mnemonic, why], counter.value());
            }
        }
    }

    fn read_races(&self, into: &mut Reading) {
        self.races.all().for_each(|(end, counter)| into.put(Family::Races, &[end], counter.value()));
        into.put(Family::RacesBoth, &[], self.races_both.value());
        into.put(Family::RaceHits, &[], self.race_hits.value());
        for (side, whys) in self.race_starts.all() {
            whys.all().for_each(|(why, counter)| into.put(Family::RaceStarts, &[side, why], counter.value()));
        }
        for (family, table) in
            [(Family::RaceMargin, &self.race_margins), (Family::RaceQuiet, &self.race_quiet)]
        {
            table.all().for_each(|(side, times)| into.put_times(family, &[side], times.read()));
        }
    }
}

/// What stands for a word that a client chose.
const OTHER: &str = "other";

fn entry<'a>(table: &'a mut BTreeMap<String, OfMnemonic>, mnemonic: &str) -> &'a mut OfMnemonic {
    let known = label(mnemonic);
    let is_new = !table.contains_key(&known);
    let name = if is_new && table.len() >= LABEL_VALUES_MAX { OTHER.to_owned() } else { known };
    table.entry(name).or_default()
}

/// A client's word as the value of a label.
#[must_use]
pub fn label(word: &str) -> String {
    let end = word.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LABEL_BYTES_MAX);
    let short = &word[..end.last().unwrap_or(0)];
    short.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
