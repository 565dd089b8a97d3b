//! `fulgurite top`: what a daemon is doing, drawn again every second on a terminal; once, where there is none.
//!
//! Limits: it asks as `status` does, and shows what happened between two answers as rates.

use super::daemon::{default_socket, interrupted, runtime, unreachable_daemon};
use crate::failure::{Failure, SIGNAL_BASE, put};
use crate::remote::daemon::{Daemon, DaemonStatus};
use clap::{Args, ValueHint};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often it is drawn.
const EVERY: Duration = Duration::from_secs(1);
/// The other screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not say.
const PLAIN: (usize, usize) = (24, 80);
/// Places of a bar.
const BAR: usize = 20;

/// Options of `fulgurite top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub daemon: Option<PathBuf>,
}

/// Runs `fulgurite top`.
///
/// # Errors
/// When no daemon answers, or the one that did has gone.
pub fn top(args: &TopArgs) -> Result<u8, Failure> {
    let socket = args.daemon.clone().unwrap_or_else(default_socket);
    let is_terminal = std::io::stdout().is_terminal();
    runtime()?.block_on(async {
        let mut daemon = Daemon::connect(&socket).await.map_err(unreachable_daemon)?;
        let status = daemon.status().await.map_err(unreachable_daemon)?;
        if !is_terminal {
            let lines = lines(&status, None);
            put(&lines.into_iter().map(|line| line + "\n").collect::<String>())?;
            return Ok(0);
        }
        put(ENTER)?;
        let ended = draw(&mut daemon, status).await;
        // Whatever happened, the terminal is as it was.
        put(LEAVE)?;
        ended
    })
}

async fn draw(daemon: &mut Daemon, mut status: DaemonStatus) -> Result<u8, Failure> {
    let mut before: Option<(DaemonStatus, Instant)> = None;
    let mut signal = std::pin::pin!(interrupted());
    loop {
        let now = Instant::now();
        let since = before.as_ref().map(|(status, at)| (status, now.duration_since(*at)));
        put(&frame(&lines(&status, since), size()))?;
        before = Some((status, now));
        tokio::select! {
            number = &mut signal => {
                let number = number
                    .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
                // Ctrl-C is how one leaves it.
                return Ok(if number == 2 { 0 } else { SIGNAL_BASE + number });
            }
            () = tokio::time::sleep(EVERY) => {}
        }
        status = daemon.status().await.map_err(unreachable_daemon)?;
    }
}

/// Rows and columns.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => PLAIN,
    }
}

/// Draws lines from the upper left corner, as many and as long as there is room for.
fn frame(lines: &[String], (rows, columns): (usize, usize)) -> String {
    let shown = lines.iter().take(rows.saturating_sub(1));
    let cut = |line: &String| line.chars().take(columns.saturating_sub(1)).collect::<String>();
    let drawn: Vec<String> = shown.map(|line| cut(line) + "\x1b[K").collect();
    format!("\x1b[H{}\x1b[J", drawn.join("\r\n"))
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), " ".repeat(BAR - full))
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn counter(status: &DaemonStatus, name: &str) -> u64 {
    status.counters.iter().find(|(other, _)| other == name).map_or(0, |(_, value)| *value)
}

/// What there is to see.
fn lines(status: &DaemonStatus, before: Option<(&DaemonStatus, Duration)>) -> Vec<String> {
    let rate = |name: &str| {
        let (earlier, time) = before?;
        let more = counter(status, name).saturating_sub(counter(earlier, name));
        Some(more as f64 / time.as_secs_f64().max(0.001))
    };
    let with_rate = |title: &str, name: &str| {
        let rate = rate(name).map_or_else(String::new, |rate| format!(" ({rate:.1}/s)"));
        format!("{title} {}{rate}", counter(status, name))
    };
    let (ready, leased) = status.sandboxes;
    let mut lines = vec![
        format!("fulgurite {}", status.version),
        String::new(),
        format!(
            "actions    {} {} of {} run, {} wait",
            bar(ratio(status.running.into(), status.slots.into())),
            status.running,
            status.slots,
            status.queued
        ),
        format!(
            "sandboxes  {} {leased} leased, {ready} ready",
            bar(ratio(leased.into(), (ready + leased).into()))
        ),
    ];
    for (resource, permille) in &status.pressure {
        let (bar, tenths) = (bar(ratio((*permille).into(), 1000)), permille % 10);
        lines.push(format!("waits for  {bar} {resource:<6} {}.{tenths} % of the time", permille / 10));
    }
    let done =
        [("runs", "runs"), ("failed", "runs_failed"), ("from the cache", "cache_hits"), ("merged", "merged")];
    lines.push(String::new());
    lines.push(format!("done       {}", done.map(|(title, name)| with_rate(title, name)).join(", ")));
    if status.counters.iter().any(|(name, _)| name == "races") {
        let won = [("local", "local_wins"), ("remote", "remote_wins"), ("by a hit", "remote_hits")];
        lines.push(format!("races      {}", with_rate("in all", "races")));
        lines.push(format!("  won      {}", won.map(|(title, name)| with_rate(title, name)).join(", ")));
        let (wasted, margin) = (counter(status, "wasted_cpu_us"), counter(status, "margin_us"));
        let mean_ms = ratio(margin, counter(status, "margins")) / 1000.0;
        let wasted_s = wasted as f64 / 1e6;
        lines.push(format!(
            "  losers   {wasted_s:.1} s of processor time; beaten by {mean_ms:.0} ms on average"
        ));
    }
    if !status.workers.is_empty() {
        lines.push(String::new());
        lines.push(format!(
            "{:>6} {:>9} {:>9} {:>9}  {:<12} {}",
            "worker", "requests", "MiB", "cpu s", "key", "kind"
        ));
        let mut workers: Vec<_> = status.workers.iter().collect();
        workers.sort_by_key(|worker| std::cmp::Reverse(worker.memory_kib));
        lines.extend(workers.into_iter().map(|worker| {
            let (mib, cpu) = (worker.memory_kib >> 10, worker.cpu_ms as f64 / 1000.0);
            let (number, requests) = (worker.number, worker.requests);
            format!("{number:>6} {requests:>9} {mib:>9} {cpu:>9.1}  {:<12} {}", worker.key, worker.mnemonic)
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::daemon::LiveWorker;

    fn status(runs: u64) -> DaemonStatus {
        let counters = [("local_wins", 2), ("margin_us", 4000), ("margins", 2), ("races", 3), ("runs", runs)];
        let worker = |number, memory_kib| LiveWorker {
            number,
            mnemonic: "Javac".to_owned(),
            key: "abc".to_owned(),
            requests: 7,
            memory_kib,
            cpu_ms: 1500,
        };
        DaemonStatus {
            version: "1".to_owned(),
            running: 1,
            queued: 5,
            slots: 2,
            sandboxes: (3, 1),
            counters: counters.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            pressure: vec![("cpu".to_owned(), 123)],
            workers: vec![worker(1, 1024), worker(2, 4096)],
        }
    }

    #[test]
    fn what_there_is_to_see() {
        let earlier = status(10);
        let lines = lines(&status(30), Some((&earlier, Duration::from_secs(2))));
        let has =
            |text: &str| assert!(lines.iter().any(|line| line.contains(text)), "no {text:?} in {lines:#?}");
        has("[##########          ] 1 of 2 run, 5 wait");
        has("1 leased, 3 ready");
        has("cpu    12.3 % of the time");
        has("runs 30 (10.0/s)");
        has("beaten by 2 ms on average");
        let workers: Vec<&String> = lines.iter().filter(|line| line.contains("Javac")).collect();
        assert!(workers[0].contains("     2         7         4       1.5  abc"), "{workers:?}");
    }

    #[test]
    fn a_frame_is_as_large_as_the_terminal() {
        let lines: Vec<String> = (0..9).map(|number| number.to_string().repeat(9)).collect();
        assert_eq!(frame(&lines, (3, 5)), "\x1b[H0000\x1b[K\r\n1111\x1b[K\x1b[J");
        assert_eq!(frame(&lines, (0, 0)), "\x1b[H\x1b[J");
        assert_eq!((bar(2.0).len(), bar(f64::NAN).len()), (BAR + 2, BAR + 2));
    }
}
