//! The thread that writes a trace.
//!
//! Spans of one row must not overlap but by nesting. Those of slots do not by themselves; those of workers and of what
//! else does several things at a time are spread over lanes: a span goes into the first that was free when it began.
//! Since spans come when they end, that is enough.

use super::{Group, Record, Row};
use crate::observe::limits::{LANES_MAX, ROWS_MAX, TEXT_BYTES_MAX, TRACE_BYTES_MAX};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{BufWriter, Write};
use std::sync::mpsc::Receiver;

/// Lanes of a row, and rows of a group: numbers of workers are larger than either.
const LANE: u64 = 100;

/// Writes records.
pub(super) struct Writer<W: Write> {
    out: BufWriter<W>,
    began_us: u64,
    bytes: u64,
    /// Ends of the last spans by lane, of rows that have been named.
    rows: HashMap<(Group, u64), Vec<u64>>,
    /// Groups that have been named.
    groups: HashSet<Group>,
    waited: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a trace.
    pub(super) fn new(out: W, began_us: u64) -> std::io::Result<Self> {
        let mut writer = Writer {
            out: BufWriter::new(out),
            began_us,
            bytes: 0,
            rows: HashMap::new(),
            groups: HashSet::new(),
            waited: 0,
        };
        writer.raw("[\n")?;
        let args =
            json!({ "program": "fulgurite", "version": env!("CARGO_PKG_VERSION"), "began_us": began_us });
        writer.raw(&json!({ "ph": "M", "pid": 0, "name": "trace_begin", "args": args }).to_string())?;
        writer.out.flush()?;
        Ok(writer)
    }

    /// Writes until nobody is left who tells, and then the end.
    pub(super) fn follow(&mut self, records: &Receiver<Record>) -> std::io::Result<()> {
        while let Ok(record) = records.recv() {
            self.write(&record)?;
            while let Ok(record) = records.try_recv() {
                self.write(&record)?;
            }
            // What is told is on the way to the disk as soon as nothing more comes: we may be killed.
            self.out.flush()?;
            if self.bytes > TRACE_BYTES_MAX {
                tracing::warn!("the trace has {} bytes, and ends here", self.bytes);
                break;
            }
        }
        self.raw("\n]\n")?;
        self.out.flush()
    }

    fn raw(&mut self, text: &str) -> std::io::Result<()> {
        self.bytes += text.len() as u64;
        self.out.write_all(text.as_bytes())
    }

    fn event(&mut self, event: &Value) -> std::io::Result<()> {
        self.raw(",\n")?;
        self.raw(&event.to_string())
    }

    fn at(&self, us: u64) -> u64 {
        us.saturating_sub(self.began_us)
    }

    /// The number of a row's lane, which gets its name the first time.
    fn lane(&mut self, row: &Row, span: Option<(u64, u64)>) -> std::io::Result<u64> {
        if self.rows.len() >= ROWS_MAX {
            self.rows.clear();
        }
        let key = (row.group, row.number);
        let is_nested = row.group == Group::Slots;
        let lanes = self.rows.entry(key).or_default();
        let known = lanes.len();
        let free = |last: &u64| span.is_none_or(|(from, _)| *last <= from);
        let found = if is_nested { known.checked_sub(1) } else { lanes.iter().position(free) };
        let lane = match found {
            Some(lane) => lane,
            None if known < LANES_MAX => {
                lanes.push(0);
                known
            }
            None => LANES_MAX - 1,
        };
        if let (Some((_, until)), Some(last)) = (span, lanes.get_mut(lane)) {
            *last = until.max(*last);
        }
        let is_new = lane >= known;
        let number = row.number.saturating_mul(LANE).saturating_add(lane as u64);
        if is_new {
            self.name(row, number, lane)?;
        }
        Ok(number)
    }

    fn name(&mut self, row: &Row, number: u64, lane: usize) -> std::io::Result<()> {
        self.name_group(row.group)?;
        let title = if lane == 0 { row.title.clone() } else { format!("{} ({})", row.title, lane + 1) };
        self.metadata(row.group, number, "thread_name", &json!({ "name": short(&title) }))?;
        self.metadata(row.group, number, "thread_sort_index", &json!({ "sort_index": number }))
    }

    fn name_group(&mut self, group: Group) -> std::io::Result<()> {
        if !self.groups.insert(group) {
            return Ok(());
        }
        self.metadata(group, 0, "process_name", &json!({ "name": group.title() }))?;
        self.metadata(group, 0, "process_sort_index", &json!({ "sort_index": group as u64 }))
    }

    fn metadata(&mut self, group: Group, number: u64, name: &str, args: &Value) -> std::io::Result<()> {
        let pid = group as u64;
        self.event(&json!({ "ph": "M", "pid": pid, "tid": number, "name": name, "args": args }))
    }

    fn write(&mut self, record: &Record) -> std::io::Result<()> {
        match record {
            Record::Span { row, name, category, from_us, until_us, args } => {
                let tid = self.lane(row, Some((*from_us, *until_us)))?;
                let duration = until_us.saturating_sub(*from_us);
                let (pid, ts) = (row.group as u64, self.at(*from_us));
                let event = json!({
                    "ph": "X", "pid": pid, "tid": tid, "ts": ts, "dur": duration,
                    "cat": category, "name": short(name), "args": object(args),
                });
                self.event(&event)
            }
            Record::Waiting { name, from_us, until_us } => {
                self.name_group(Group::Queue)?;
                self.waited += 1;
                let id = format!("0x{:x}", self.waited);
                for (phase, at) in [("b", from_us), ("e", until_us)] {
                    let (pid, ts) = (Group::Queue as u64, self.at(*at));
                    let event = json!({
                        "ph": phase, "pid": pid, "tid": 0, "ts": ts, "cat": "queue", "id": id, "name": short(name),
                    });
                    self.event(&event)?;
                }
                Ok(())
            }
            Record::Moment { row, name, at_us, args } => {
                let tid = self.lane(row, None)?;
                let (pid, ts) = (row.group as u64, self.at(*at_us));
                let event = json!({
                    "ph": "i", "s": "t", "pid": pid, "tid": tid, "ts": ts,
                    "cat": "moment", "name": short(name), "args": object(args),
                });
                self.event(&event)
            }
            Record::Level { group, name, at_us, levels } => {
                self.name_group(*group)?;
                let args: serde_json::Map<String, Value> =
                    levels.iter().map(|(name, level)| ((*name).to_owned(), json!(level))).collect();
                let (pid, ts) = (*group as u64, self.at(*at_us));
                self.event(&json!({ "ph": "C", "pid": pid, "ts": ts, "name": short(name), "args": args }))
            }
        }
    }
}

/// Of an object, what is there, and no text that is too long.
fn object(args: &Value) -> Value {
    let Value::Object(args) = args else { return json!({}) };
    let some = args.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let value = match value {
            Value::String(text) => Value::String(short(text).to_owned()),
            other => other.clone(),
        };
        (name.clone(), value)
    });
    Value::Object(some.collect())
}

fn short(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::{Group, Record, Row, Writer};
    use serde_json::{Value, json};
    use std::sync::mpsc::sync_channel;

    fn written(records: Vec<Record>) -> Vec<Value> {
        let (sender, receiver) = sync_channel(records.len());
        records.into_iter().for_each(|record| sender.send(record).unwrap());
        drop(sender);
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, 1000).unwrap();
        writer.follow(&receiver).unwrap();
        drop(writer);
        serde_json::from_slice(&bytes).unwrap()
    }

    fn span(group: Group, number: u64, from_us: u64, until_us: u64) -> Record {
        let row = Row { group, number, title: format!("row {number}") };
        let args = json!({ "a": "x".repeat(9999), "none": null });
        Record::Span { row, name: "n".to_owned(), category: "phase", from_us, until_us, args }
    }

    fn spans(events: &[Value]) -> Vec<(u64, u64, u64)> {
        let spans = events.iter().filter(|event| event["ph"] == "X");
        let number = |value: &Value| value.as_u64().unwrap();
        spans.map(|event| (number(&event["tid"]), number(&event["ts"]), number(&event["dur"]))).collect()
    }

    #[test]
    fn a_finished_trace_is_json_and_rows_are_named_once() {
        let events = written(vec![
            span(Group::Slots, 3, 1500, 2000),
            span(Group::Slots, 3, 1600, 1700),
            span(Group::Slots, 3, 2100, 2200),
            Record::Waiting { name: "w".to_owned(), from_us: 900, until_us: 1500 },
            Record::Level {
                group: Group::Machine,
                name: "l".to_owned(),
                at_us: 1001,
                levels: vec![("a", 7)],
            },
        ]);
        assert_eq!(spans(&events), [(300, 500, 500), (300, 600, 100), (300, 1100, 100)]);
        let names: Vec<&Value> = events.iter().filter(|event| event["name"] == "thread_name").collect();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0]["args"]["name"], "row 3");
        let span = events.iter().find(|event| event["ph"] == "X").unwrap();
        assert_eq!(span["args"]["a"].as_str().unwrap().len(), 256);
        assert!(span["args"].get("none").is_none());
        // What was before the beginning is told as the beginning.
        let queue: Vec<u64> =
            events.iter().filter(|e| e["cat"] == "queue").map(|e| e["ts"].as_u64().unwrap()).collect();
        assert_eq!(queue, [0, 500]);
        assert_eq!(events.last().unwrap()["args"]["a"], 7);
    }

    #[test]
    fn what_overlaps_in_a_worker_has_lanes() {
        let events = written(vec![
            span(Group::Workers, 2, 1010, 1020),
            span(Group::Workers, 2, 1030, 1040),
            span(Group::Workers, 2, 1000, 1100),
            span(Group::Workers, 2, 1090, 1110),
        ]);
        let lanes: Vec<u64> = spans(&events).iter().map(|span| span.0).collect();
        assert_eq!(lanes, [200, 200, 201, 200]);
    }

    #[test]
    fn what_a_killed_program_leaves_are_whole_lines() {
        struct Torn(Vec<u8>);
        impl std::io::Write for &mut Torn {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut torn = Torn(Vec::new());
        let mut writer = Writer::new(&mut torn, 0).unwrap();
        writer.write(&span(Group::Slots, 0, 1, 2)).unwrap();
        std::io::Write::flush(&mut writer.out).unwrap();
        drop(writer);
        let text = String::from_utf8(torn.0).unwrap();
        let closed = format!("{text}]");
        assert!(serde_json::from_str::<Vec<Value>>(&closed).is_ok(), "{text}");
    }
}
