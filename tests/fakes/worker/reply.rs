//! How a reply goes out, with the faults that change it.

use super::fault::{Fault, Faults, Moment};
use super::{Reply, Worker, deed};
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// What a library prints where it should not.
const JUNK: &[u8] = b"WARNING: a library says something on standard output\nWARNING: and again\n";
const HEX_JUNK: &[u8] = b"\xff\xfe\x00\x01\xc3\x28\xfa\x80\x80 no text at all \xff\n";
const UNKNOWN_ID: i32 = 7_000_001;
const RANGE: i32 = 500;
const MIB: usize = 1 << 20;
const FLOOD_MIB: usize = 4096;
const ENDLESS_STRING_MIB: usize = 1024;

/// Sends the reply, rightly or as the fault wants it. May not return.
pub fn send(worker: &Worker, faults: &Faults, reply: Reply) -> io::Result<()> {
    let Some(fault) = faults.at(Moment::Reply).find(|fault| fault.name() != "keep-arguments") else {
        return worker.put(&worker.wire.encode(&reply));
    };
    if instead(worker, fault, &reply)? {
        deed::hang();
    }
    around(worker, fault, reply)
}

/// Those after which the request never gets its reply. Says whether it was one of them.
fn instead(worker: &Worker, fault: &Fault, reply: &Reply) -> io::Result<bool> {
    let wire = worker.wire;
    let success = |id: i32| wire.encode(&Reply { id, ..Reply::default() });
    match fault.name() {
        "mute" => {}
        "junk" => worker.put(JUNK)?,
        "hex-junk" => worker.put(HEX_JUNK)?,
        "flood-stdout" => flood(worker, 0, FLOOD_MIB)?,
        "huge-length" => {
            worker.put(wire.huge())?;
            if wire != super::wire::Wire::Proto {
                flood(worker, b'a', ENDLESS_STRING_MIB)?;
            }
        }
        "endless-varint" => worker.put(&wire.endless())?,
        "truncated" => {
            worker.put(&wire.truncated())?;
            std::process::exit(0);
        }
        "half" => {
            let whole = wire.encode(reply);
            worker.put(&whole[..whole.len() / 2])?;
        }
        "unknown-id" => worker.put(&success(UNKNOWN_ID))?,
        "zero-id" => worker.put(&success(0))?,
        "id-range" => {
            let ids = (reply.id - RANGE..=reply.id + RANGE).filter(|id| *id != reply.id);
            worker.put(&ids.flat_map(success).collect::<Vec<u8>>())?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Those with a reply of some kind.
fn around(worker: &Worker, fault: &Fault, reply: Reply) -> io::Result<()> {
    let wire = worker.wire;
    match fault.name() {
        "bad-utf8" => worker.put(&wire.bad_utf8(&reply)),
        "bad-field" => worker.put(&wire.bad_field(&reply)),
        "false-cancel" => worker.put(&wire.encode(&Reply { was_cancelled: true, ..reply })),
        "big-output" => {
            let bytes = usize::try_from(fault.number(64 << 20)).unwrap_or(0);
            worker.put(&wire.encode(&Reply { output: "x".repeat(bytes), ..reply }))
        }
        "dribble" => wire.encode(&reply).iter().try_for_each(|byte| {
            thread::sleep(Duration::from_millis(1));
            worker.put(&[*byte])
        }),
        "double-reply" => {
            worker.put(&wire.encode(&reply))?;
            let second = Reply { exit_code: 1, output: "the second reply\n".to_owned(), ..reply };
            worker.put(&wire.encode(&second))
        }
        "junk-after" => {
            worker.put(&wire.encode(&reply))?;
            worker.put(JUNK)
        }
        "exit-after" => {
            worker.put(&wire.encode(&reply))?;
            std::process::exit(0);
        }
        _ => worker.put(&wire.encode(&reply)),
    }
}

fn flood(worker: &Worker, byte: u8, mebibytes: usize) -> io::Result<()> {
    let block = vec![byte; MIB];
    (0..mebibytes).try_for_each(|_| worker.put(&block))
}

impl Worker {
    /// Writes to standard output, one caller at a time.
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}
