//! Recorded builds: traces in Chrome's format, as Bazel (`--profile`) and we (`serve --profile`) write them.
//!
//! A trace is an object with its events, or a list of them that may break off: what a killed program left. Of our own
//! traces an action is what its side worked on it, without what waits for a slot or for the other side; and it began
//! when it was asked for.
use super::build::{Action, Build};
use crate::bench::BenchError;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Larger traces are of more actions than are simulated.
const TRACE_BYTES_MAX: u64 = 2 << 30;

/// Mnemonics in a trace: each has a number of 16 bits.
const KINDS_MAX: usize = 4096;

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    ph: String,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    mnemonic: String,
    /// Ours: how long the side that made the result worked on it.
    work_us: Option<f64>,
    /// Ours: how long it waited for a slot before.
    queue_us: Option<f64>,
}

/// An action of a trace.
struct Recorded {
    began: f64,
    ended: f64,
    took: f64,
    mnemonic: String,
}

impl Event {
    fn recorded(self) -> Option<Recorded> {
        let Event { cat, ph, ts, dur, args } = self;
        let Args { mnemonic, work_us, queue_us } = args;
        let (took, queue) = (work_us.unwrap_or(dur), queue_us.unwrap_or(0.0));
        let is_whole = ph == "X" && [ts, dur, took, queue].iter().all(|number| number.is_finite());
        let is_action = matches!(cat.as_str(), "action processing" | "action");
        (is_whole && is_action && dur >= 1.0 && took >= 1.0).then(|| Recorded {
            began: ts - queue.max(0.0),
            ended: ts + dur,
            took,
            mnemonic,
        })
    }
}

/// Collects actions, so that those before a break are there.
#[derive(Default)]
struct Collected {
    actions: Vec<Recorded>,
    is_trace: bool,
}

struct Events<'a>(&'a mut Collected);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<(), A::Error> {
        self.0.is_trace = true;
        while let Some(event) = events.next_element::<Event>()? {
            self.0.actions.extend(event.recorded());
            if self.0.actions.len() > super::ACTIONS_MAX {
                return Err(A::Error::custom(format!("it has more than {} actions", super::ACTIONS_MAX)));
            }
        }
        Ok(())
    }
}

/// A whole trace, of either form.
struct Whole<'a>(&'a mut Collected);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events, or an object with `traceEvents`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, events: A) -> Result<(), A::Error> {
        Events(self.0).visit_seq(events)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "traceEvents" {
                map.next_value_seed(Events(&mut *self.0))?;
            } else {
                map.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads a trace.
///
/// # Errors
/// It cannot be read, is no trace, or has no actions.
pub fn read(path: &Path) -> Result<Build, BenchError> {
    let unreadable = BenchError::file(format!("read the trace {}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    parse(name, BufReader::new(file).take(TRACE_BYTES_MAX))
        .map_err(|why| BenchError::Simulation { why: format!("{}: {why}", path.display()) })
}

fn parse(name: String, from: impl Read) -> Result<Build, String> {
    let mut collected = Collected::default();
    let mut reader = serde_json::Deserializer::from_reader(from);
    let parsed = Whole(&mut collected).deserialize(&mut reader).and_then(|()| reader.end());
    match parsed {
        Ok(()) => {}
        // Whoever wrote it was killed.
        Err(error) if error.is_eof() && !collected.actions.is_empty() => {}
        Err(error) => return Err(format!("this is no trace: {error}")),
    }
    let Collected { actions: mut recorded, is_trace } = collected;
    if !is_trace {
        return Err("this is no trace: there is no list of events in it".to_owned());
    }
    if recorded.is_empty() {
        return Err("there is no action in it (of category `action processing` or `action`)".to_owned());
    }
    recorded.sort_by(|one, other| one.began.total_cmp(&other.began));
    let (mut kinds, mut numbers) = (Vec::new(), HashMap::new());
    let mut actions = Vec::with_capacity(recorded.len());
    for event in &recorded {
        let kind = match numbers.get(&event.mnemonic) {
            Some(kind) => *kind,
            None if kinds.len() < KINDS_MAX => {
                let kind = kinds.len() as u16;
                kinds.push(event.mnemonic.clone());
                numbers.insert(event.mnemonic.clone(), kind);
                kind
            }
            None => 0,
        };
        actions.push(Action { kind, local_us: event.took as u64, needs: 0 });
    }
    let pairs = guessed(&recorded);
    Ok(Build::linked(name, kinds, actions, pairs))
}

/// Each action needs whichever ended last before it began.
fn guessed(recorded: &[Recorded]) -> Vec<(usize, usize)> {
    let mut by_end: Vec<usize> = (0..recorded.len()).collect();
    by_end.sort_by(|one, other| recorded[*one].ended.total_cmp(&recorded[*other].ended));
    let mut ended = by_end.into_iter().peekable();
    let mut last = None;
    let mut pairs = Vec::with_capacity(recorded.len());
    for (index, event) in recorded.iter().enumerate() {
        while let Some(before) = ended.next_if(|before| recorded[*before].ended <= event.began) {
            last = Some(before);
        }
        pairs.extend(last.map(|last| (last, index)));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(build: &Build) -> Vec<u64> {
        build.actions.iter().map(|action| action.local_us).collect()
    }

    #[test]
    fn a_profile_of_bazel_is_a_build() {
        let text = r#"{"otherData": {"build_id": "x"}, "traceEvents": [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "Main"}},
            {"cat": "action processing", "name": "Compiling a.c", "ph": "X", "ts": 100, "dur": 50, "pid": 1, "tid": 8,
             "out": "a.o", "args": {"target": "//:a", "mnemonic": "CppCompile"}},
            {"cat": "action processing", "name": "Compiling b.c", "ph": "X", "ts": 110, "dur": 20, "pid": 1, "tid": 9,
             "args": {"mnemonic": "CppCompile"}},
            {"cat": "remote output download", "name": "x", "ph": "X", "ts": 1, "dur": 5, "pid": 1, "tid": 9},
            {"cat": "action processing", "name": "Linking", "ph": "X", "ts": 151, "dur": 70, "pid": 1, "tid": 9,
             "args": {"mnemonic": "CppLink"}}]}"#;
        let build = parse("t".to_owned(), text.as_bytes()).unwrap();
        assert_eq!(build.kinds, ["CppCompile", "CppLink"]);
        assert_eq!(times(&build), [50, 20, 70]);
        assert_eq!((build.dependents(0), build.dependents(1)), (&[2_u32][..], &[][..]));
        for bad in ["", "[]", "{}", r#"{"traceEvents": []}"#, r#"{"traceEvents": [{"ph": 3}]}"#, "7", "[7]"] {
            assert!(parse("t".to_owned(), bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_trace_of_ours_is_a_build_though_we_were_killed() {
        let action = |ts: u32, dur: u32, kind: &str, work: u32, queue: u32| {
            let args = format!(r#"{{"mnemonic":"{kind}","work_us":{work},"queue_us":{queue}}}"#);
            format!(r#",{{"ph":"X","ts":{ts},"dur":{dur},"cat":"action","name":"a","args":{args}}}"#)
        };
        let lines = [
            "[".to_owned(),
            r#"{"ph":"M","pid":0,"name":"trace_begin","args":{"began_us":1}}"#.to_owned(),
            action(100, 90, "Cc", 40, 0),
            r#",{"ph":"X","ts":110,"dur":20,"cat":"phase","name":"run","args":{}}"#.to_owned(),
            action(300, 50, "Cc", 50, 150),
            action(350, 50, "Ld", 49, 0),
            "]".to_owned(),
        ];
        let text = lines.join("\n");
        let build = parse("t".to_owned(), text.as_bytes()).unwrap();
        assert_eq!((times(&build), build.kinds.len()), (vec![40, 50, 49], 2));
        // The second waited for a slot, not for the first; the third was asked for when the second had ended.
        assert_eq!((build.dependents(0), build.dependents(1)), (&[][..], &[2_u32][..]));
        let torn = |length: usize| parse("t".to_owned(), &text.as_bytes()[..length]);
        let last = text.find("Ld").unwrap();
        for length in last..text.len() {
            let is_whole = length + "\n]".len() >= text.len();
            assert_eq!(times(&torn(length).unwrap()).len(), if is_whole { 3 } else { 2 }, "{length}");
        }
        assert!(torn(100).is_err());
    }
}
