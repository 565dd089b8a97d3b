//! S01, X01 to X09: the daemon is killed at each failpoint of put, execute, handoff and answer. After the next start
//! every blob is absent or whole, every entry that is served is complete, nothing is left, and the action runs.

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, Running, named};
use crate::daemon::{Home, PATIENCE, pids_with};
use fulgurite_proto::reapi;
use fulgurite_sandbox::testing::{groups_of, settles};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;

pub const ALONE: &[Alone] = &[
    ("deaths::s01_in_a_put", in_a_put),
    ("deaths::x01_x02_x03_before_the_command", before),
    ("deaths::x04_while_it_runs", while_running),
    ("deaths::x05_while_it_is_killed", while_killing),
    ("deaths::x06_x07_x08_in_the_handoff", in_handoff),
    ("deaths::x09_around_the_answer", around_the_answer),
    ("deaths::at_the_end", at_the_end),
];

const PUTS: &[&str] =
    &["cas.draft:7", "cas.write:5", "cas.log:4", "cas.log:9", "cas.link:4", "cas.linked:5", "cas.linked:9"];
const BEFORE: &[&str] =
    &["serve.queued", "serve.started", "exec.staged", "exec.leased", "exec.mounted", "exec.started"];
const HANDOFF: &[&str] = &[
    "exec.quiet",
    "cas.adopt.hashed",
    "cas.adopt.hashed:4",
    "exec.printed",
    "exec.handed-off",
    "exec.released",
];
const ANSWER: &[&str] = &["serve.executed", "serve.kept", "serve.answered"];
const END: &[&str] =
    &["cas.checkpoint.rotated", "cas.checkpoint.sync", "cas.checkpoint.commit", "cas.checkpoint.committed"];

/// What every daemon here is asked to run: inputs, outputs of every kind, both streams, a process that stays behind.
fn order() -> Order {
    let script =
        "/bin/sleep 1000 & cat in/a in/b > out; mkdir -p tree/deep; cp out tree/deep/copy; echo x > tree/x
                  ln -s out link; echo said; echo complained >&2";
    let order = Order::sh(script).outputs(&["link", "out", "tree"]);
    order.input("in/a", b"the first\n").input("in/b", b"the second\n")
}

fn check_result(client: &Client, result: &reapi::ActionResult) {
    client.check_complete(result);
    assert_eq!(client.output(result, "out"), b"the first\nthe second\n");
    assert_eq!(client.tree(result, "tree").len(), 2);
    assert_eq!(result.output_symlinks[0].target, "out");
    assert_eq!(
        (client.stdout(result), client.stderr(result)),
        ("said\n".to_owned(), "complained\n".to_owned())
    );
}

/// After a death: nothing runs, and a daemon that starts again makes everything good.
fn recover(home: &Home, dead: u32, order: &Order, place: &str) {
    assert_eq!(pids_with(order.word()), Vec::<u32>::new(), "{place}: the action outlives the daemon");
    home.check_blobs();
    let daemon = home.start(&[]);
    assert_eq!(groups_of(dead), Vec::<std::path::PathBuf>::new(), "{place}: cgroups of the dead");
    let client = daemon.client();
    let action = order.upload(&client);
    if let Some(cached) = client.cached(&action) {
        check_result(&client, &cached);
    }
    let fresh = client.try_execute(&action, true).unwrap().response();
    check_result(&client, &fresh.result.unwrap_or_else(|| panic!("{place}: {:?}", fresh.status)));
    let known = client.execute(&action).response();
    assert!(known.cached_result, "{place}");
    check_result(&client, &known.result.unwrap());
    drop(client);
    daemon.end(home);
    home.check_blobs();
}

/// A life that ends at a place, and the one after it.
fn dies_at(place: &str, life: impl FnOnce(&Client, &Order)) {
    let home = Home::new();
    let order = order();
    let daemon = home.start_with(&["--slots", "2"], &[("FULGURITE_FAILPOINT", place)]);
    let client = daemon.client();
    life(&client, &order);
    drop(client);
    let dead = daemon.pid();
    let status = daemon.ended();
    assert_eq!(status.signal(), Some(9), "{place} was not reached: {status:?}: {}", home.said());
    // Processes die with the daemon, if not at the same instant.
    settles(PATIENCE, || pids_with(order.word()).is_empty());
    recover(&home, dead, &order, place);
}

fn execute_in_vain(client: &Client, order: &Order) {
    let action = order.upload(client);
    let answered = client.try_execute(&action, false).and_then(Running::try_response);
    // Only what was answered before the death can have come.
    if let Ok(response) = answered {
        assert_eq!(response.status.unwrap_or_default().code, 0);
        assert!(response.result.is_some());
    }
}

fn in_a_put() {
    for place in PUTS {
        dies_at(place, |client, order| {
            let mut all = order.blobs();
            all.extend((0..8u8).map(|number| vec![number; 70_000]));
            client.try_upload(&all).expect_err(place);
        });
    }
}

fn before() {
    for place in BEFORE {
        dies_at(place, execute_in_vain);
    }
}

fn in_handoff() {
    for place in HANDOFF {
        dies_at(place, execute_in_vain);
    }
}

fn around_the_answer() {
    for place in ANSWER {
        dies_at(place, execute_in_vain);
    }
}

fn while_running() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let dead = daemon.pid();
    let client = daemon.client();
    let held = Order::held("/bin/sleep 1000 & setsid /bin/sleep 1000 & echo began", "true");
    let mut running = client.execute(&held.upload(&client));
    running.until_executing();
    let gate = held.until_held();
    daemon.kill();
    running.try_response().unwrap_err();
    drop(client);
    assert!(settles(PATIENCE, || pids_with(held.word()).is_empty()));
    drop(gate);
    recover(&home, dead, &order(), "running");
}

fn while_killing() {
    let home = Home::new();
    let daemon = home.start_with(&[], &[("FULGURITE_FAILPOINT", "exec.killing")]);
    let dead = daemon.pid();
    let client = daemon.client();
    let held = Order::held("trap '' TERM; /bin/sleep 1000 & echo began", "true");
    let mut running = client.execute(&held.upload(&client));
    running.until_executing();
    let gate = held.until_held();
    client.cancel(&running.name).unwrap_err();
    running.try_response().unwrap_err();
    drop(client);
    assert_eq!(daemon.ended().signal(), Some(9));
    assert!(settles(PATIENCE, || pids_with(held.word()).is_empty()));
    drop(gate);
    recover(&home, dead, &order(), "killing");
}

/// Checkpoints are written at the start, every few seconds, and at the end.
fn at_the_end() {
    for place in END {
        let home = Home::new();
        let order = order();
        let started = home.try_start(&[], &[("FULGURITE_FAILPOINT", &format!("{place}:2"))]);
        let status = started.map_or_else(
            |status| status,
            |daemon| {
                let client = daemon.client();
                if client.try_upload(&order.blobs()).is_ok() {
                    let running = client.try_execute(&named(order.blobs().last().unwrap()), false);
                    drop(running.and_then(Running::try_response));
                    drop(client);
                    daemon.signal(Signal::TERM);
                }
                daemon.ended()
            },
        );
        assert_eq!(status.signal(), Some(9), "{place} was not reached: {}", home.said());
        recover(&home, home.last_pid(), &order, place);
    }
}
