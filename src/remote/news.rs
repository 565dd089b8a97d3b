//! What a daemon tells those who watch, as its client has it: a word for what happened, and named values.

use fulgurite_proto::v1;
use fulgurite_proto::v1::action_outcome::End;
use fulgurite_proto::v1::event::Event as Told;
use std::fmt;

/// A value of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewsValue {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// Yes or no.
    Flag(bool),
}

impl fmt::Display for NewsValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewsValue::Number(number) => write!(f, "{number}"),
            NewsValue::Flag(flag) => write!(f, "{flag}"),
            // A worker's last words may have any bytes, and lines.
            NewsValue::Text(text) if text.contains(|c: char| c.is_control() || c == ' ' || c == '"') => {
                write!(f, "{text:?}")
            }
            NewsValue::Text(text) => f.write_str(text),
        }
    }
}

impl From<u64> for NewsValue {
    fn from(number: u64) -> Self {
        NewsValue::Number(number)
    }
}

impl From<u32> for NewsValue {
    fn from(number: u32) -> Self {
        NewsValue::Number(number.into())
    }
}

impl From<bool> for NewsValue {
    fn from(flag: bool) -> Self {
        NewsValue::Flag(flag)
    }
}

impl From<&str> for NewsValue {
    fn from(text: &str) -> Self {
        NewsValue::Text(text.to_owned())
    }
}

impl From<String> for NewsValue {
    fn from(text: String) -> Self {
        NewsValue::Text(text)
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonNews {
    /// One more than before; a gap means that some were missed.
    pub sequence: u64,
    /// Microseconds since 1970.
    pub time_us: u64,
    /// What happened, in a word.
    pub what: &'static str,
    /// More of it, by name; texts and options that are empty are left out.
    pub values: Vec<(&'static str, NewsValue)>,
}

/// Named values, without those that say nothing.
#[derive(Default)]
struct Values(Vec<(&'static str, NewsValue)>);

impl Values {
    fn put(&mut self, name: &'static str, value: impl Into<NewsValue>) {
        match value.into() {
            NewsValue::Text(text) if text.is_empty() => {}
            value => self.0.push((name, value)),
        }
    }

    fn maybe(&mut self, name: &'static str, value: Option<impl Into<NewsValue>>) {
        value.into_iter().for_each(|value| self.put(name, value));
    }
}

/// `None`: an event that a newer daemon tells.
pub(super) fn decode(event: v1::Event) -> Option<DaemonNews> {
    let mut values = Values::default();
    values.put("action", event.action_id);
    values.put("digest", event.action_digest);
    values.put("mnemonic", event.mnemonic);
    let what = match event.event? {
        Told::Queued(_) => "queued",
        Told::Started(_) => "started",
        Told::Outcome(outcome) => {
            ended(outcome, &mut values);
            "ended"
        }
        Told::Race(race) => {
            raced(race, &mut values);
            "race"
        }
        Told::WorkerStarted(worker) => {
            one(worker, &mut values);
            "worker-started"
        }
        Told::Worker(worker) => {
            one(worker, &mut values);
            "worker"
        }
        Told::WorkerEnded(v1::WorkerEnded { worker, why, message }) => {
            one(worker.unwrap_or_default(), &mut values);
            values.put("why", why);
            values.put("message", message);
            "worker-ended"
        }
        Told::Pressure(v1::Pressure { resource, stalled_permille }) => {
            values.put("resource", resource);
            values.put("stalled_permille", stalled_permille);
            "pressure"
        }
        Told::Store(v1::StoreChanged { blobs_evicted, bytes_evicted, blobs_quarantined, errors }) => {
            values.put("blobs_evicted", blobs_evicted);
            values.put("bytes_evicted", bytes_evicted);
            values.put("blobs_quarantined", blobs_quarantined);
            values.put("errors", errors);
            "store"
        }
        Told::Cluster(v1::ClusterChanged { gone }) => {
            values.put("gone", gone);
            "cluster"
        }
        Told::Lagged(v1::Lagged { events }) => {
            values.put("events", events);
            "missed"
        }
    };
    Some(DaemonNews { sequence: event.sequence, time_us: event.time_us, what, values: values.0 })
}

fn ended(outcome: v1::ActionOutcome, values: &mut Values) {
    match outcome.end {
        Some(End::ExitCode(code)) => {
            values.put("end", "exited");
            values.put("exit_code", code.to_string());
        }
        Some(End::Signal(signal)) => values.put("end", format!("signal {signal}")),
        Some(End::OutOfMemory(_)) => values.put("end", "out_of_memory"),
        Some(End::TimedOut(_)) => values.put("end", "timed_out"),
        Some(End::Cancelled(_)) => values.put("end", "canceled"),
        Some(End::Failure(_)) | None => values.put("end", "failed"),
    }
    values.put("strategy", outcome.strategy);
    let usage = outcome.usage.unwrap_or_default();
    values.put("wall_us", usage.wall_us);
    values.maybe("cpu_user_us", usage.cpu_user_us);
    values.maybe("cpu_system_us", usage.cpu_system_us);
    values.maybe("memory_peak_bytes", usage.memory_peak_bytes);
    values.put("machine", outcome.worker);
    values.put("message", outcome.message);
}

fn raced(race: v1::RaceDecided, values: &mut Values) {
    values.put("outcome", race.outcome);
    let summary = race.summary.unwrap_or_default();
    values.put("remote_hit", summary.remote_hit);
    values.put("local_why", summary.local_why);
    values.maybe("local_started_us", summary.local_started_us);
    values.put("remote_why", summary.remote_why);
    values.maybe("remote_started_us", summary.remote_started_us);
    values.maybe("margin_us", summary.margin_us);
    values.put("wasted_wall_us", summary.wasted_wall_us);
    values.put("wasted_cpu_us", summary.wasted_cpu_us);
}

fn one(worker: v1::LiveWorker, values: &mut Values) {
    values.put("worker", worker.number);
    values.put("mnemonic", worker.mnemonic);
    values.put("key", worker.key);
    values.put("requests", worker.requests);
    values.put("memory_kib", worker.memory_kib);
    values.put("cpu_ms", worker.cpu_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_word_and_values_that_say_something() {
        let worker = v1::LiveWorker { number: 3, requests: 2, ..v1::LiveWorker::default() };
        let told =
            v1::WorkerEnded { worker: Some(worker), why: "hung".to_owned(), message: "a b\n".to_owned() };
        let event = v1::Event { sequence: 7, event: Some(Told::WorkerEnded(told)), ..v1::Event::default() };
        let news = decode(event).unwrap();
        assert_eq!((news.sequence, news.what), (7, "worker-ended"));
        let shown: Vec<String> = news.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected =
            ["worker=3", "requests=2", "memory_kib=0", "cpu_ms=0", "why=hung", "message=\"a b\\n\""];
        assert_eq!(shown, expected);
        assert_eq!(decode(v1::Event::default()), None);
    }
}
