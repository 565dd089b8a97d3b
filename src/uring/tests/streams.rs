//! Bytes become messages, however they are cut; many channels at once; drains and waits.

use super::over_both;
use super::peers::{PATIENCE, Talk, echo, frame, may_have_descriptors, pipes, read_frame, socket, start};
use crate::uring::{Choice, Event, IpcError, Sink};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

over_both!(
    pipes_echo,
    sockets_echo,
    frames_come_in_pieces_and_in_heaps,
    a_fault_after_messages,
    the_end_between_and_inside_frames,
    a_thousand_channels,
    drains_hand_on_all_bytes,
    waits_call_once,
    too_many_are_refused
);

/// From nothing to more than pipes and sockets hold.
const SIZES: [usize; 7] = [0, 1, 100, 4092, 65_536, 300_000, 5 << 20];

fn body(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + seed) % 251).unwrap()).collect()
}

fn exchange(talk: &Talk) {
    for (seed, size) in SIZES.into_iter().enumerate() {
        talk.channel.send(frame(&body(size, seed))).unwrap();
        assert!(talk.message() == body(size, seed), "{size}");
    }
    for seed in 0..100 {
        talk.channel.send(frame(&body(seed, seed))).unwrap();
    }
    for seed in 0..100 {
        assert_eq!(talk.message(), body(seed, seed));
    }
}

fn pipes_echo(choice: Choice) {
    let (ipc, _) = start(choice);
    let (reader, writer, worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    let peer = echo(worker.stdin, worker.stdout);
    exchange(&talk);
    drop(talk);
    peer.join().unwrap();
}

fn sockets_echo(choice: Choice) {
    let (ipc, _) = start(choice);
    let (reader, writer, theirs) = socket();
    let talk = Talk::open(&ipc, reader, writer);
    let peer = echo(theirs.try_clone().unwrap(), theirs);
    exchange(&talk);
    drop(talk);
    peer.join().unwrap();
}

fn frames_come_in_pieces_and_in_heaps(choice: Choice) {
    let (ipc, _) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    for byte in frame(b"in pieces") {
        worker.stdout.write_all(&[byte]).unwrap();
    }
    assert_eq!(talk.message(), b"in pieces");
    let heap: Vec<u8> = (0..5000).flat_map(|at| frame(&body(at % 40, at))).collect();
    worker.stdout.write_all(&heap).unwrap();
    for at in 0..5000 {
        assert_eq!(talk.message(), body(at % 40, at));
    }
}

fn a_fault_after_messages(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (reader, writer, mut worker) = pipes();
    let talk = Talk::open(&ipc, reader, writer);
    let mut bytes = frame(b"good");
    bytes.extend_from_slice(&[0xff; 100]);
    worker.stdout.write_all(&bytes).unwrap();
    assert_eq!(talk.message(), b"good");
    assert!(matches!(talk.event(), Event::Broken(why) if why.why == "too long"));
    // It is closed on its own: the worker's input ends, and nothing more is sent.
    assert!(std::io::copy(&mut worker.stdin, &mut std::io::sink()).is_ok());
    assert!(talk.channel.send(frame(b"more")).is_err());
    drop(ipc);
    thread.join().unwrap();
    assert!(talk.rest().is_empty());
}

fn the_end_between_and_inside_frames(choice: Choice) {
    let (ipc, _) = start(choice);
    for (last, is_whole) in [(frame(b"all"), true), (frame(b"all")[..5].to_vec(), false)] {
        let (reader, writer, mut worker) = pipes();
        let talk = Talk::open(&ipc, reader, writer);
        worker.stdout.write_all(&last).unwrap();
        drop(worker);
        if is_whole {
            assert_eq!(talk.message(), b"all");
            assert!(matches!(talk.event(), Event::Closed));
        } else {
            assert!(matches!(talk.event(), Event::Broken(why) if why.why == "ended inside a frame"));
        }
    }
}

fn a_thousand_channels(choice: Choice) {
    if !may_have_descriptors(8000) {
        println!("SKIP a_thousand_channels: it needs 8000 descriptors");
        return;
    }
    let (ipc, thread) = start(choice);
    let (mut talks, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let (reader, writer, theirs) = socket();
        talks.push(Talk::open_for(16, &ipc, reader, writer));
        peers.push(theirs);
    }
    for round in 0..3 {
        for (number, talk) in talks.iter().enumerate() {
            talk.channel.send(frame(&body(100 + number, round))).unwrap();
        }
        // The last one answers first.
        for peer in peers.iter_mut().rev() {
            let got = read_frame(peer);
            peer.write_all(&frame(&got)).unwrap();
        }
        for (number, talk) in talks.iter().enumerate() {
            assert_eq!(talk.message(), body(100 + number, round));
        }
    }
    drop((talks, ipc));
    thread.join().unwrap();
    for mut peer in peers {
        assert_eq!(std::io::copy(&mut peer, &mut std::io::sink()).unwrap(), 0);
    }
}

enum Drained {
    Bytes(Vec<u8>),
    End(bool),
}

struct Pail(SyncSender<Drained>);

impl Sink for Pail {
    fn bytes(&self, bytes: &[u8]) {
        let _ = self.0.try_send(Drained::Bytes(bytes.to_vec()));
    }

    fn ended(&self, how: std::io::Result<()>) {
        let _ = self.0.try_send(Drained::End(how.is_ok()));
    }
}

fn drains_hand_on_all_bytes(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (sender, drained) = sync_channel(10_000);
    let handle = ipc.drain(reader.into(), Arc::new(Pail(sender))).unwrap();
    let said = body(1 << 20, 3);
    writer.write_all(&said).unwrap();
    drop(writer);
    let mut got = Vec::new();
    loop {
        match drained.recv_timeout(PATIENCE).unwrap() {
            Drained::Bytes(bytes) => got.extend(bytes),
            Drained::End(well) => break assert!(well),
        }
    }
    assert!(got == said);
    drop((handle, ipc));
    thread.join().unwrap();
}

fn waits_call_once(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (sender, called) = sync_channel(10);
    let wait = |descriptor: OwnedFd, name: &'static str| {
        let sender = sender.clone();
        ipc.readable(descriptor, Box::new(move || sender.try_send(name).unwrap())).unwrap()
    };
    let (bytes, mut writer) = std::io::pipe().unwrap();
    let (end, other) = std::io::pipe().unwrap();
    let (dropped, mut silent) = std::io::pipe().unwrap();
    // The caller goes on with its own descriptor of the same file.
    let kept = bytes.try_clone().unwrap();
    let handles = [wait(bytes.into(), "bytes"), wait(end.into(), "end")];
    drop(wait(dropped.try_clone().unwrap().into(), "dropped"));
    writer.write_all(b"x").unwrap();
    assert_eq!(called.recv_timeout(PATIENCE).unwrap(), "bytes");
    drop(other);
    assert_eq!(called.recv_timeout(PATIENCE).unwrap(), "end");
    silent.write_all(b"x").unwrap();
    drop(ipc);
    thread.join().unwrap();
    assert!(called.try_recv().is_err());
    drop((handles, kept, dropped));
}

fn too_many_are_refused(choice: Choice) {
    let (ipc, _thread) = crate::uring::Ipc::start_with(choice, 2).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let again = || OwnedFd::from(reader.try_clone().unwrap());
    let (sender, called) = sync_channel(2);
    let first = ipc.readable(again(), Box::new(move || sender.try_send(()).unwrap())).unwrap();
    let second = ipc.readable(again(), Box::new(|| ())).unwrap();
    assert!(matches!(ipc.readable(again(), Box::new(|| ())), Err(IpcError::TooMany)));
    writer.write_all(b"x").unwrap();
    called.recv_timeout(PATIENCE).unwrap();
    drop((first, second));
}
