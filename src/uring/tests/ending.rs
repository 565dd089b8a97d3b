//! Closing, dropping, and what is left afterwards: nothing.

use super::over_both;
use super::peers::{Talk, frame, has_ring, pipes, socket, start};
use crate::uring::{Choice, SendError};
use std::io::{Read, Write};
use std::sync::Arc;

over_both!(
    closing_is_silent_and_can_be_repeated,
    dropped_while_in_flight,
    the_thread_outlives_handles_as_long_as_it_is_needed
);

fn closing_is_silent_and_can_be_repeated(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    talk.channel.close();
    talk.channel.close();
    assert_eq!(talk.channel.send(frame(b"x")), Err(SendError::Closed));
    // Whether this is still taken or not, nobody hears of it.
    let _ = worker.stdout.write_all(&frame(b"y"));
    assert_eq!(worker.stdin.read(&mut [0; 10]).unwrap(), 0);
    drop(ipc);
    thread.join().unwrap();
    assert!(worker.stdout.write_all(b"z").is_err());
    assert_eq!(Arc::strong_count(&talk.listener), 1);
    assert!(talk.rest().is_empty());
}

/// A read is armed and a write is stuck while the channel goes: the kernel must not write into memory that is used for
/// something else by then.
fn dropped_while_in_flight(choice: Choice) {
    let (ipc, thread) = start(choice);
    for round in 0..100 {
        let (reader, writer, mut worker) = pipes();
        let talk = Talk::open(&ipc, reader, writer);
        talk.channel.send(frame(&vec![5; 200_000])).unwrap();
        if round % 2 == 0 {
            worker.stdout.write_all(&frame(b"under way")).unwrap();
        }
        drop(talk);
        let canary = vec![0xa5_u8; 4096];
        let _ = worker.stdout.write_all(&[0x5a; 4096]);
        // All that was written before comes, and then the end: nobody else holds the pipe.
        let mut got = Vec::new();
        worker.stdin.read_to_end(&mut got).unwrap();
        assert!(got.len() <= 200_004);
        assert!(canary.iter().all(|byte| *byte == 0xa5));
    }
    let (reader, writer, mut theirs) = socket();
    let talk = Talk::open(&ipc, reader, writer);
    talk.channel.send(frame(&[5; 1 << 20])).unwrap();
    drop(talk);
    drop(ipc);
    thread.join().unwrap();
    let _ = std::io::copy(&mut theirs, &mut std::io::sink());
}

fn the_thread_outlives_handles_as_long_as_it_is_needed(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    drop(ipc);
    worker.stdout.write_all(&frame(b"still here")).unwrap();
    assert_eq!(talk.message(), b"still here");
    assert!(!thread.is_finished());
    drop(talk);
    thread.join().unwrap();
}

/// Says to the test that it runs in a process of its own.
const ALONE: &str = "FULGURITE_URING_ALONE";

fn counts() -> (usize, usize) {
    let count = |directory: &str| std::fs::read_dir(directory).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// Descriptors and threads are counted, which other tests of the same process would disturb.
#[test]
fn nothing_is_left() {
    if std::env::var_os(ALONE).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let status = again
            .args(["--exact", "uring::tests::ending::nothing_is_left", "--test-threads", "1"])
            .env(ALONE, "1")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    let choices =
        if has_ring("nothing_is_left") { vec![Choice::Uring, Choice::Epoll] } else { vec![Choice::Epoll] };
    // The first ring's thread may be ending yet.
    let (ipc, thread) = start(Choice::Epoll);
    drop(ipc);
    thread.join().unwrap();
    for choice in choices {
        closing_is_silent_and_can_be_repeated(choice);
        settle();
        let before = counts();
        for _ in 0..5 {
            closing_is_silent_and_can_be_repeated(choice);
            dropped_while_in_flight(choice);
        }
        settle();
        assert_eq!(counts(), before, "{choice:?}");
    }
}

/// A ring's descriptor is closed with its thread, but its end is asynchronous in no other respect that counts here; a
/// thread that was joined may still be listed for a moment.
fn settle() {
    while std::fs::read_dir("/proc/self/task").unwrap().count() > 2 {
        std::thread::yield_now();
    }
}
