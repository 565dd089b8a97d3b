//! Peers that do not read, that flood, and that go away while something is written to them.

use super::over_both;
use super::peers::{Talk, echo, frame, pipes, read_frame, start};
use crate::uring::{Choice, Event, SendError};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

over_both!(
    who_does_not_read_stands_alone,
    what_was_queued_comes_in_order,
    a_flood_drowns_nobody_else,
    a_broken_pipe_is_told_after_the_last_words,
    a_broken_pipe_while_queued
);

fn who_does_not_read_stands_alone(choice: Choice) {
    let (ipc, _) = start(choice);
    let (reader, writer, deaf) = pipes();
    let stuck = Talk::open(&ipc, reader, writer);
    let full = (0..1_000_000).find_map(|_| stuck.channel.send(frame(&[7; 60_000])).err());
    assert_eq!(full, Some(SendError::Full));
    let (reader, writer, worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    let peer = echo(worker.stdin, worker.stdout);
    for _ in 0..50 {
        talk.channel.send(frame(b"others go on")).unwrap();
        assert_eq!(talk.message(), b"others go on");
    }
    drop(talk);
    peer.join().unwrap();
    stuck.channel.close();
    assert_eq!(stuck.channel.send(frame(b"x")), Err(SendError::Closed));
    drop(deaf);
}

fn what_was_queued_comes_in_order(choice: Choice) {
    let (ipc, _) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    let mut sent = 0_u32;
    let message = |number: u32| {
        let mut body = number.to_le_bytes().to_vec();
        body.resize(4 + (number as usize * 7919) % 30_000, u8::try_from(number % 256).unwrap());
        body
    };
    while talk.channel.send(frame(&message(sent))).is_ok() {
        sent += 1;
    }
    assert!(sent > 100, "{sent}");
    // While it reads, there is room again.
    let (mut expected, total) = (0, 2 * sent);
    while expected < total {
        assert!(read_frame(&mut worker.stdin) == message(expected), "{expected}");
        expected += 1;
        while sent < total && talk.channel.send(frame(&message(sent))).is_ok() {
            sent += 1;
        }
    }
}

fn a_flood_drowns_nobody_else(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let flooded = Talk::open(&ipc, reader, writer);
    let enough = Arc::new(AtomicBool::new(false));
    let until = enough.clone();
    let flood = std::thread::spawn(move || {
        let heap: Vec<u8> = (0..2000).flat_map(|_| frame(b"!")).collect();
        let mut rounds = 0_u64;
        while !until.load(Ordering::SeqCst) && worker.stdout.write_all(&heap).is_ok() {
            rounds += 1;
        }
        rounds
    });
    assert_eq!(flooded.message(), b"!");
    let (reader, writer, worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    let peer = echo(worker.stdin, worker.stdout);
    for _ in 0..100 {
        talk.channel.send(frame(b"?")).unwrap();
        assert_eq!(talk.message(), b"?");
    }
    enough.store(true, Ordering::SeqCst);
    drop(talk);
    peer.join().unwrap();
    assert!(flood.join().unwrap() > 0);
    drop((flooded, ipc));
    thread.join().unwrap();
}

fn a_broken_pipe_is_told_after_the_last_words(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    drop(worker.stdin);
    worker.stdout.write_all(&frame(b"my last words")).unwrap();
    // It keeps its output open: only the writing fails.
    assert_eq!(talk.channel.send(frame(b"too late")), Err(SendError::Closed));
    assert_eq!(talk.message(), b"my last words");
    let Event::Failed { writing: true, error } = talk.event() else { panic!("no failed writing") };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(talk.channel.send(frame(b"again")), Err(SendError::Closed));
    drop(ipc);
    thread.join().unwrap();
    assert!(talk.rest().is_empty());
}

fn a_broken_pipe_while_queued(choice: Choice) {
    let (ipc, _) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    talk.channel.send(frame(&[1; 1 << 20])).unwrap();
    worker.stdin.read_exact(&mut [0; 100]).unwrap();
    drop(worker.stdin);
    let Event::Failed { writing: true, error } = talk.event() else { panic!("no failed writing") };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}
