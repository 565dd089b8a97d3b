//! Messages with descriptors, both ways, over both backends.

use super::over_both;
use super::peers::{PATIENCE, socket, start};
use crate::uring::limits::{PACKET_BYTES_MAX, PACKETS_QUEUED_MAX};
use crate::uring::{Choice, Ipc, Packet, PacketListener, Packets, SendError};
use fulgurite_sandbox::sys::message;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

over_both!(
    descriptors_go_both_ways,
    packets_wait_for_room_in_their_order,
    the_end_is_told_once,
    what_is_too_large_ends_the_line,
    other_sockets_are_refused
);

#[derive(Debug)]
enum Heard {
    Packet(Packet),
    Ended(io::Result<()>),
}

struct Tell(SyncSender<Heard>);

impl PacketListener for Tell {
    fn packet(&self, packet: Packet) {
        self.0.send(Heard::Packet(packet)).unwrap();
    }

    fn ended(&self, how: io::Result<()>) {
        self.0.send(Heard::Ended(how)).unwrap();
    }
}

/// Our handle, what is heard, and the peer's end.
fn open(ipc: &Ipc) -> (Packets, Receiver<Heard>, OwnedFd) {
    let (ours, theirs) = message::pair().unwrap();
    let (told, heard) = sync_channel(1000);
    (ipc.packets(ours, Arc::new(Tell(told))).unwrap(), heard, theirs)
}

fn packet(text: &str, descriptors: Vec<OwnedFd>) -> Packet {
    Packet { bytes: text.as_bytes().to_vec(), descriptors }
}

fn next(heard: &Receiver<Heard>) -> Packet {
    match heard.recv_timeout(PATIENCE) {
        Ok(Heard::Packet(packet)) => packet,
        other => panic!("{other:?} instead of a message"),
    }
}

/// Sends as the peer, whatever the size.
fn write(peer: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
    rustix::net::sendmsg(peer, &[io::IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

/// What the peer reads, blocking.
fn read(peer: &OwnedFd) -> (String, Vec<OwnedFd>) {
    let mut bytes = [0; PACKET_BYTES_MAX];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut vectors = [io::IoSliceMut::new(&mut bytes)];
    let came = rustix::net::recvmsg(peer, &mut vectors, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    (String::from_utf8(bytes[..came.bytes].to_vec()).unwrap(), descriptors)
}

fn descriptors_go_both_ways(choice: Choice) {
    let (ipc, _) = start(choice);
    let (packets, heard, peer) = open(&ipc);
    for round in 0..100 {
        let (mut reader, writer) = io::pipe().unwrap();
        packets.send(packet(&format!("to {round}"), vec![writer.into()])).unwrap();
        let (text, descriptors) = read(&peer);
        assert_eq!((text, descriptors.len()), (format!("to {round}"), 1));
        let [writer] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        write(&peer, format!("fro {round}").as_bytes(), &[writer.as_fd(), peer.as_fd()]);
        drop(writer);
        let came = next(&heard);
        assert_eq!(came.bytes, format!("fro {round}").as_bytes());
        let mut descriptors = came.descriptors.into_iter();
        let mut writer = File::from(descriptors.next().unwrap());
        assert_eq!(descriptors.count(), 1);
        writer.write_all(b"through").unwrap();
        drop(writer);
        // All of its other ends are closed: there is an end.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }
}

fn packets_wait_for_room_in_their_order(choice: Choice) {
    let (ipc, _) = start(choice);
    let (packets, _heard, peer) = open(&ipc);
    let mut sent = 0;
    let full = loop {
        let descriptor = peer.try_clone().unwrap();
        match packets.send(packet(&format!("{sent}"), vec![descriptor])) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SendError::Full);
    assert!(sent > PACKETS_QUEUED_MAX, "{sent}");
    for number in 0..sent {
        let (text, descriptors) = read(&peer);
        assert_eq!((text, descriptors.len()), (number.to_string(), 1));
    }
    packets.send(packet("last", Vec::new())).unwrap();
    assert_eq!(read(&peer).0, "last");
}

fn the_end_is_told_once(choice: Choice) {
    let (ipc, thread) = start(choice);
    let (packets, heard, peer) = open(&ipc);
    write(&peer, b"last words", &[]);
    drop(peer);
    assert_eq!(next(&heard).bytes, b"last words");
    assert!(matches!(heard.recv_timeout(PATIENCE), Ok(Heard::Ended(Ok(())))));
    assert_eq!(packets.send(packet("too late", Vec::new())), Err(SendError::Closed));
    // Ours: nothing is told, and the peer sees the end.
    let (own, heard_of_own, peer) = open(&ipc);
    drop(own);
    assert_eq!(read(&peer).0, "");
    assert!(heard_of_own.recv_timeout(PATIENCE).is_err());
    drop((ipc, packets));
    thread.join().unwrap();
    assert!(heard.recv().is_err(), "it is told twice");
}

fn what_is_too_large_ends_the_line(choice: Choice) {
    let (ipc, _) = start(choice);
    let (packets, heard, peer) = open(&ipc);
    let large = packet(&"x".repeat(PACKET_BYTES_MAX + 1), Vec::new());
    assert_eq!(packets.send(large), Err(SendError::Closed));
    let (reader, writer) = io::pipe().unwrap();
    write(&peer, &[b'x'; PACKET_BYTES_MAX + 1], &[writer.as_fd()]);
    drop(writer);
    match heard.recv_timeout(PATIENCE) {
        Ok(Heard::Ended(Err(why))) => assert_eq!(why.kind(), io::ErrorKind::InvalidData),
        other => panic!("{other:?}"),
    }
    // The descriptor that came with it is closed: its pipe ends.
    assert_eq!(io::read_to_string(reader).unwrap(), "");
}

fn other_sockets_are_refused(choice: Choice) {
    let (ipc, _) = start(choice);
    let (ours, ..) = socket();
    let (told, _heard) = sync_channel(1);
    let error = ipc.packets(ours, Arc::new(Tell(told))).unwrap_err();
    assert!(error.to_string().contains("keeps no messages apart"), "{error}");
}
