//! Recorded builds: traces in Chrome's format, as Bazel (`--profile`) and we write them.
use super::build::{Action, Build};
use crate::bench::BenchError;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Larger traces are of more actions than are simulated.
const TRACE_BYTES_MAX: u64 = 2 << 30;

/// Mnemonics in a trace: each has a number of 16 bits.
const KINDS_MAX: usize = 4096;

#[derive(Deserialize)]
struct Trace {
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

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
    let trace: Trace = serde_json::from_reader(from).map_err(|error| format!("this is no trace: {error}"))?;
    let is_action = |event: &Event| {
        let is_whole = event.ph == "X" && event.dur >= 1.0 && event.ts.is_finite() && event.dur.is_finite();
        is_whole && matches!(event.cat.as_str(), "action processing" | "action")
    };
    let mut events: Vec<Event> = trace.events.into_iter().filter(is_action).collect();
    if events.is_empty() {
        return Err("there is no action in it (of category `action processing` or `action`)".to_owned());
    }
    if events.len() > super::ACTIONS_MAX {
        return Err(format!("there are {} actions in it, which is too many", events.len()));
    }
    events.sort_by(|one, other| one.ts.total_cmp(&other.ts));
    let (mut kinds, mut numbers) = (Vec::new(), HashMap::new());
    let mut actions = Vec::with_capacity(events.len());
    for event in &events {
        let kind = match numbers.get(&event.args.mnemonic) {
            Some(kind) => *kind,
            None if kinds.len() < KINDS_MAX => {
                let kind = kinds.len() as u16;
                kinds.push(event.args.mnemonic.clone());
                numbers.insert(event.args.mnemonic.clone(), kind);
                kind
            }
            None => 0,
        };
        actions.push(Action { kind, local_us: event.dur as u64, needs: 0 });
    }
    let pairs = guessed(&events);
    Ok(Build::linked(name, kinds, actions, pairs))
}

/// Each action needs whichever ended last before it began.
fn guessed(events: &[Event]) -> Vec<(usize, usize)> {
    let end = |index: usize| events[index].ts + events[index].dur;
    let mut by_end: Vec<usize> = (0..events.len()).collect();
    by_end.sort_by(|one, other| end(*one).total_cmp(&end(*other)));
    let mut ended = by_end.into_iter().peekable();
    let mut last = None;
    let mut pairs = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        while let Some(before) = ended.next_if(|before| end(*before) <= event.ts) {
            last = Some(before);
        }
        pairs.extend(last.map(|last| (last, index)));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let times: Vec<u64> = build.actions.iter().map(|action| action.local_us).collect();
        assert_eq!(times, [50, 20, 70]);
        assert_eq!((build.dependents(0), build.dependents(1)), (&[2_u32][..], &[][..]));
        for bad in ["", "[]", "{}", r#"{"traceEvents": []}"#, r#"{"traceEvents": [{"ph": 3}]}"#] {
            assert!(parse("t".to_owned(), bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
