//! X14, X15: the end of a daemon that has work.

use crate::Alone;
use crate::action::Order;
use crate::client::{code, has_retry, named};
use crate::daemon::{Home, pids_with};
use rustix::process::Signal;
use tonic::Code;

pub const ALONE: &[Alone] = &[
    ("draining::x14_running_actions_finish", finish),
    ("draining::x14_a_second_signal_hurries", hurry),
    ("draining::x14_the_time_is_bounded", bounded),
    ("draining::x14_nobody_who_left_is_waited_for", left),
    ("draining::x15_signals_and_closed_streams", storm),
];

fn finish() {
    let home = Home::new();
    let daemon = home.start(&["--slots", "1"]);
    let client = daemon.client();
    let order = Order::held("echo before", "echo after");
    let mut running = client.execute(&order.upload(&client));
    running.until_executing();
    let held = order.until_held();
    let waiting_order = Order::sh("echo never");
    let waiting = client.execute(&waiting_order.upload(&client));
    assert!(client.is_serving());
    daemon.signal(Signal::TERM);
    // It is told as soon as the signal is there: no client has to wait for the running action.
    let response = waiting.response();
    let status = response.status.unwrap();
    assert_eq!(code(Some(&status)), Code::Unavailable, "{status:?}");
    assert!(has_retry(&status), "{status:?}");
    assert!(!client.is_serving());
    let late = client.refusal(&waiting_order.upload(&client));
    assert_eq!(code(Some(&late)), Code::Unavailable, "{late:?}");
    assert!(has_retry(&late), "{late:?}");
    held.release();
    let response = running.response();
    assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
    assert_eq!(response.result.unwrap().stdout_digest, Some(named(b"before\nafter\n")));
    drop(client);
    assert_eq!(daemon.ended().code(), Some(0), "{}", home.said());
    home.check_clean();
    // What it did is in the cache of the next.
    let daemon = home.start(&[]);
    assert!(daemon.client().execute(&order.upload(&daemon.client())).response().cached_result);
    daemon.end(&home);
}

fn hurry() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let client = daemon.client();
    let order = Order::held("echo so far", "true");
    let mut running = client.execute(&order.upload(&client));
    running.until_executing();
    let held = order.until_held();
    daemon.signal(Signal::TERM);
    while client.is_serving() {}
    daemon.signal(Signal::TERM);
    let response = running.response();
    assert_eq!(code(response.status.as_ref()), Code::Unavailable, "{response:?}");
    assert!(has_retry(&response.status.unwrap()));
    drop(client);
    assert_eq!(daemon.ended().code(), Some(0), "{}", home.said());
    assert_eq!(pids_with(order.word()), Vec::<u32>::new());
    drop(held);
    home.check_clean();
}

fn bounded() {
    let home = Home::new();
    let daemon = home.start(&["--set", "drain_timeout=1s"]);
    let client = daemon.client();
    let order = Order::sh("echo so far; exec /bin/sleep 1000");
    let mut running = client.execute(&order.upload(&client));
    running.until_executing();
    daemon.signal(Signal::TERM);
    assert_eq!(code(running.response().status.as_ref()), Code::Unavailable);
    drop(client);
    assert_eq!(daemon.ended().code(), Some(0), "{}", home.said());
    home.check_clean();
}

/// The client is gone when the signal comes: its action would wait for ever.
fn left() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let client = daemon.client();
    let order = Order::held("true", "true");
    let mut running = client.execute(&order.upload(&client));
    running.until_executing();
    let held = order.until_held();
    drop((running, client));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().code(), Some(0), "{}", home.said());
    assert_eq!(pids_with(order.word()), Vec::<u32>::new());
    drop(held);
    home.check_clean();
}

fn storm() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let client = daemon.client();
    daemon.signal(Signal::PIPE);
    assert_eq!(client.stdout(&client.succeed(&Order::sh("echo fine"))), "fine\n");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::TERM, Signal::TERM] {
        daemon.signal(signal);
    }
    drop(client);
    assert_eq!(daemon.ended().code(), Some(0), "{}", home.said());
    assert!(!home.said().contains("panicked"), "{}", home.said());
    home.check_clean();
}
