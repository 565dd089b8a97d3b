//! `fulgurite status`: what a daemon is doing, once or as it happens.

use super::daemon::{default_socket, runtime, unreachable_daemon};
use crate::failure::{Failure, put, tell};
use crate::remote::daemon::{Daemon, DaemonStatus};
use crate::remote::news::{DaemonNews, NewsValue};
use clap::{Args, ValueHint};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Options of `fulgurite status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub daemon: Option<PathBuf>,
    /// Print one JSON object; with --watch, one for each event
    #[arg(long)]
    pub json: bool,
    /// Print what happens from now on, a line for each event, until the daemon ends
    #[arg(long)]
    pub watch: bool,
}

/// Runs `fulgurite status`.
///
/// # Errors
/// When no daemon answers.
pub fn status(args: &StatusArgs) -> Result<u8, Failure> {
    let socket = args.daemon.clone().unwrap_or_else(default_socket);
    runtime()?.block_on(async {
        let mut daemon = Daemon::connect(&socket).await.map_err(unreachable_daemon)?;
        if args.watch {
            return watch(&mut daemon, args.json).await;
        }
        let status = daemon.status().await.map_err(unreachable_daemon)?;
        if args.json {
            return put(&format!("{:#}\n", object(&status, &socket.display().to_string())));
        }
        put(&text(&status, &socket.display().to_string()))
    })?;
    Ok(0)
}

async fn watch(daemon: &mut Daemon, json: bool) -> Result<(), Failure> {
    let mut written = Ok(());
    // Whoever waits for it knows that nothing is missed from here on.
    let began = || tell("watching");
    let ended = daemon
        .watch(began, |news| {
            let line = if json { format!("{}\n", event(&news)) } else { line(&news) };
            written = put(&line);
            written.is_ok()
        })
        .await;
    written.and(ended.map_err(unreachable_daemon))
}

fn text(status: &DaemonStatus, socket: &str) -> String {
    let mut lines = format!("daemon           {} at {socket}\n", status.version);
    let (ready, leased) = status.sandboxes;
    let now = [
        ("running", status.running),
        ("queued", status.queued),
        ("slots", status.slots),
        ("sandboxes ready", ready),
        ("sandboxes leased", leased),
    ];
    let now = now.into_iter().map(|(name, value)| (name.to_owned(), u64::from(value)));
    let pressure = status.pressure.iter();
    let pressure = pressure.map(|(name, value)| (format!("pressure {name}"), u64::from(*value)));
    let counters = status.counters.iter().map(|(name, value)| (name.replace('_', " "), *value));
    for (name, value) in now.chain(pressure).chain(counters) {
        // Writing into a string cannot fail.
        let _ = writeln!(lines, "{name:<16} {value}");
    }
    for worker in &status.workers {
        let _ = writeln!(
            lines,
            "worker {:<9} {} {}: {} requests, {} KiB, {} ms of processor time",
            worker.number, worker.mnemonic, worker.key, worker.requests, worker.memory_kib, worker.cpu_ms
        );
    }
    lines
}

fn object(status: &DaemonStatus, socket: &str) -> Value {
    let numbers = |all: &[(String, u64)]| -> Map<String, Value> {
        all.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
    };
    let workers: Vec<Value> = status
        .workers
        .iter()
        .map(|worker| {
            json!({
                "number": worker.number, "mnemonic": worker.mnemonic, "key": worker.key,
                "requests": worker.requests, "memory_kib": worker.memory_kib, "cpu_ms": worker.cpu_ms,
            })
        })
        .collect();
    let pressure: HashMap<&str, u32> =
        status.pressure.iter().map(|(name, of)| (name.as_str(), *of)).collect();
    json!({
        "version": status.version,
        "socket": socket,
        "actions": { "running": status.running, "queued": status.queued, "slots": status.slots },
        "sandboxes": { "ready": status.sandboxes.0, "leased": status.sandboxes.1 },
        "counters": numbers(&status.counters),
        "race": race(status),
        "pressure_stalled_permille": pressure,
        "workers": workers,
    })
}

/// The totals of races; nothing where there are none.
fn race(status: &DaemonStatus) -> Option<Value> {
    let of: HashMap<&str, u64> =
        status.counters.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let number = |name: &str| of.get(name).copied().unwrap_or(0);
    of.get("races")?;
    let started = |side: &str| -> Map<String, Value> {
        let prefix = format!("{side}_started_");
        let whys =
            status.counters.iter().filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?, value)));
        whys.map(|(why, value)| (why.to_owned(), json!(value))).collect()
    };
    Some(json!({
        "races": number("races"),
        "both_started": number("raced"),
        "won": { "local": number("local_wins"), "remote": number("remote_wins"), "by_hit": number("remote_hits") },
        "ended_otherwise": {
            "failed": number("races_failed"), "no_result": number("races_without_result"),
            "stopped": number("races_stopped"), "broken": number("races_broken"),
        },
        "margin_us": { "sum": number("margin_us"), "count": number("margins") },
        "wasted_us": { "wall": number("wasted_wall_us"), "cpu": number("wasted_cpu_us") },
        "losers_left_to_the_reaper": number("reaped"),
        "local_started": started("local"),
        "remote_started": started("remote"),
    }))
}

fn line(news: &DaemonNews) -> String {
    let mut line = format!("{} {:<14}", time(news.time_us), news.what);
    for (name, value) in &news.values {
        // Writing into a string cannot fail.
        let _ = write!(line, " {name}={value}");
    }
    line.push('\n');
    line
}

fn event(news: &DaemonNews) -> Value {
    let mut object = Map::new();
    object.insert("sequence".to_owned(), json!(news.sequence));
    object.insert("time_us".to_owned(), json!(news.time_us));
    object.insert("event".to_owned(), json!(news.what));
    for (name, value) in &news.values {
        let value = match value {
            NewsValue::Number(number) => json!(number),
            NewsValue::Text(text) => json!(text),
            NewsValue::Flag(flag) => json!(flag),
        };
        object.insert((*name).to_owned(), value);
    }
    Value::Object(object)
}

/// The time of day, UTC, as logs have it.
fn time(us: u64) -> String {
    let (millis, seconds) = (us / 1000 % 1000, us / 1_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_or_an_object() {
        let values = vec![("worker", NewsValue::Number(3)), ("message", NewsValue::Text("a b".to_owned()))];
        let news = DaemonNews { sequence: 9, time_us: 3_661_002_000, what: "worker-ended", values };
        assert_eq!(line(&news), "01:01:01.002 worker-ended   worker=3 message=\"a b\"\n");
        let expected = json!({
            "sequence": 9, "time_us": 3_661_002_000_u64, "event": "worker-ended", "worker": 3, "message": "a b",
        });
        assert_eq!(event(&news), expected);
    }

    #[test]
    fn totals_of_races_are_there_if_there_are_races() {
        let counters =
            [("local_started_miss", 2), ("local_wins", 1), ("margin_us", 30), ("margins", 2), ("races", 4)];
        let mut status = DaemonStatus {
            version: "v".to_owned(),
            running: 0,
            queued: 0,
            slots: 1,
            sandboxes: (1, 2),
            counters: counters.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            pressure: vec![("cpu".to_owned(), 5)],
            workers: Vec::new(),
        };
        let told = object(&status, "s");
        assert_eq!(told["race"]["won"]["local"], 1);
        assert_eq!(told["race"]["local_started"]["miss"], 2);
        assert_eq!(told["race"]["margin_us"], json!({ "sum": 30, "count": 2 }));
        assert!(text(&status, "s").contains("\nlocal started miss 2\n"));
        status.counters.pop();
        assert_eq!(object(&status, "s")["race"], Value::Null);
    }
}
