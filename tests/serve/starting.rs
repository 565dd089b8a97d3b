//! A daemon that cannot start says why in one line, with the exit code of our own failures.

use crate::Alone;
use crate::action::Order;
use crate::daemon::{Daemon, Home};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

pub const ALONE: &[Alone] = &[
    ("starting::s10_one_daemon_a_directory", one_a_directory),
    ("starting::mistakes_in_a_line", mistakes),
    ("starting::descriptors_are_the_daemons_and_not_the_actions", descriptors),
];

/// Starts one that must not come up; the line must have these parts.
pub fn check(home: &Home, arguments: &[&str], parts: &[&str]) {
    let ended = home.refused(arguments);
    assert_eq!(ended.status.code(), Some(125), "{arguments:?}: {}", ended.stderr);
    assert_eq!(ended.stdout, "", "{arguments:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "{arguments:?}: {part:?} is not in {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let own = ended.stderr.lines().filter(|line| line.starts_with("fulgurite: ")).count();
    assert_eq!(
        (own, ended.stderr.lines().filter(|line| line.contains("ERROR")).count()),
        (1, 0),
        "{}",
        ended.stderr
    );
    home.check_quiet();
}

fn one_a_directory() {
    let home = Home::new();
    let daemon: Daemon = home.start(&[]);
    let pid = daemon.pid().to_string();
    let other = home.path("other").display().to_string();
    let ended = home.refused(&["--unix", &other]);
    assert_eq!(ended.status.code(), Some(125), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(&pid), "it does not name the other daemon: {}", ended.stderr);
    // The same socket, another directory.
    let socket = home.path("socket").display().to_string();
    let elsewhere = home.path("elsewhere").display().to_string();
    let ended = home.refused(&["--set", &format!("state_dir={elsewhere}"), "--unix", &socket]);
    assert_eq!(ended.status.code(), Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("another daemon listens"), "{}", ended.stderr);
    // The first one is not bothered.
    let client = daemon.client();
    assert_eq!(client.stdout(&client.succeed(&Order::sh("echo fine"))), "fine\n");
    drop(client);
    daemon.end(&home);
}

fn descriptors() {
    let home = Home::new();
    let daemon: Daemon = home.start(&[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "the soft limit is not what it may be: {line}");
    let client = daemon.client();
    assert_eq!(client.stdout(&client.succeed(&Order::sh("ulimit -Sn"))), "1024\n");
    drop(client);
    daemon.end(&home);
}

fn mistakes() {
    let home = Home::new();
    let path = |name: &str| home.path(name).display().to_string();
    let socket = path("socket");
    let unix = ["--unix", socket.as_str()];
    let with = |more: &[&'static str]| [&unix[..], more].concat();
    check(&home, &["--unix-socket", "x"], &["--unix-socket", "--unix"]);
    check(&home, &with(&["--set", "execution.slot=3"]), &["execution.slot", "execution.slots"]);
    check(&home, &with(&["--slots", "many"]), &["execution.slots", "many"]);
    check(&home, &with(&["--store-size-bytes-max", "64 parsecs"]), &["store.size_bytes_max"]);
    let tokens = path("tokens");
    check(&home, &[&unix[..], &["--tokens-file", &tokens]].concat(), &["tokens", "No such file"]);
    std::fs::write(&tokens, "name = secret\n").unwrap();
    std::fs::set_permissions(&tokens, PermissionsExt::from_mode(0o644)).unwrap();
    check(&home, &[&unix[..], &["--tokens-file", &tokens]].concat(), &["tokens"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(&home, &["--listen", &address], &[&address, "in use"]);
    let plain = path("plain");
    std::fs::write(&plain, "no socket").unwrap();
    check(&home, &["--unix", &plain], &["plain", "no socket"]);
    let file = format!("state_dir={plain}");
    check(&home, &[&unix[..], &["--set", &file]].concat(), &["plain"]);
    let open = home.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let open = format!("state_dir={}", open.display());
    check(&home, &[&unix[..], &["--set", &open]].concat(), &["others may write", "chmod"]);
    // After all that it starts.
    let daemon = home.start(&[]);
    daemon.end(&home);
}
