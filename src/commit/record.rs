//! What a slot of the journal holds: what goes where.
//!
//! ```text
//!   slot       phase (8) │ length of body (8) │ blake3 of body (32) │ body │ amendment*
//!   body       tag, epoch, action, layer (path, inode), root (path, inode), outputs
//!   output     path, kind, from a temporary name?, inode that comes, what was there (inode, mtime) or nothing
//!   amendment  index (8), inode (8), blake3 of (tag, index, inode) (32): this output comes from its temporary name
//!              after all, as that inode
//!   phase      prepared ──► intent ──► done          one write of eight bytes each
//!              in place ──────────────► done          layer: /proc/<pid> of who runs it, and its start
//! ```
//! All numbers are little-endian. Amendments end where one does not verify; those of an earlier record in the same slot
//! don't, because no two records have a tag in common.
//!
//! Invariants: decoding never panics, allocates no more than the slot has bytes, and gives either a whole record or
//! says that there is none. A record is torn if its sum is wrong; then nothing was renamed for it, since the phase
//! `intent` is written after the record.
//!
//! Limits: inodes are compared without their device, whose number may change when the machine starts again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::limits::{ACTION_BYTES_MAX, AMENDMENTS_MAX, RECORD_BYTES_MAX};
use crate::action::ExecPath;
use crate::output::OutputKind;

/// How far a publication has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is visible; temporary names may be there.
    Prepared,
    /// Claimed: renames may have been done, and all are to be.
    Intent,
    /// A command runs straight in the tree.
    InPlace,
    /// Nothing is left to do.
    Done,
}

impl Phase {
    pub fn bytes(self) -> [u8; 8] {
        *match self {
            Self::Prepared => b"fulgprep",
            Self::Intent => b"fulgintt",
            Self::InPlace => b"fulginpl",
            Self::Done => b"fulgdone",
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        [Self::Prepared, Self::Intent, Self::InPlace, Self::Done]
            .into_iter()
            .find(|phase| phase.bytes() == bytes)
    }
}

/// A directory: where it is, and which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub path: PathBuf,
    pub inode: u64,
}

/// What is or was at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub inode: u64,
    /// Nanoseconds; of a record in place the newest change below it, and else 0
    /// of directories, whose times change with what is in them.
    pub mtime: i64,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: ExecPath,
    pub kind: OutputKind,
    /// It comes from its temporary name beside the destination, not from the layer.
    pub temporary: bool,
    /// The inode that comes.
    pub new: u64,
    /// What was there.
    pub old: Option<Identity>,
}

/// What one publication does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// No other record has it; part of temporary names.
    pub tag: u64,
    pub epoch: u64,
    pub action: Vec<u8>,
    /// The upper directory of the layer.
    pub layer: Anchor,
    pub root: Anchor,
    pub outputs: Vec<Entry>,
}

/// What a slot was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing to do.
    Nothing,
    /// Not a whole record.
    Torn(&'static str),
    /// A record, with its amendments applied.
    Whole(Phase, Record),
}

const HEADER: usize = 8 + 8 + 32;
const AMENDMENT: usize = 8 + 8 + 32;

/// The bytes of a slot with `record` in it.
pub(super) fn encode(record: &Record, phase: Phase) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(HEADER + 256 + record.outputs.len() * 96);
    out.resize(HEADER, 0);
    put(&mut out, record.tag);
    put(&mut out, record.epoch);
    let action = &record.action[..record.action.len().min(ACTION_BYTES_MAX)];
    put_bytes(&mut out, action);
    for anchor in [&record.layer, &record.root] {
        put_bytes(&mut out, anchor.path.as_os_str().as_bytes());
        put(&mut out, anchor.inode);
    }
    put(&mut out, record.outputs.len() as u64);
    for entry in &record.outputs {
        put_bytes(&mut out, entry.path.as_os_str().as_bytes());
        let kind = match entry.kind {
            OutputKind::File => 0u8,
            OutputKind::Directory => 1,
            OutputKind::Symlink => 2,
        };
        out.push(kind | u8::from(entry.temporary) << 2 | u8::from(entry.old.is_some()) << 3);
        put(&mut out, entry.new);
        if let Some(old) = entry.old {
            put(&mut out, old.inode);
            put(&mut out, old.mtime as u64);
        }
    }
    if out.len() > RECORD_BYTES_MAX {
        return Err("more paths than a record of the journal may hold");
    }
    let length = (out.len() - HEADER) as u64;
    let sum = *blake3::hash(&out[HEADER..]).as_bytes();
    out[..8].copy_from_slice(&phase.bytes());
    out[8..16].copy_from_slice(&length.to_le_bytes());
    out[16..HEADER].copy_from_slice(&sum);
    Ok(out)
}

/// The bytes that say that output `index` comes from its temporary name, as `inode`.
pub(super) fn amendment(tag: u64, index: u64, inode: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(AMENDMENT);
    put(&mut out, index);
    put(&mut out, inode);
    let sum = blake3::Hasher::new().update(&tag.to_le_bytes()).update(&out).finalize();
    out.extend_from_slice(sum.as_bytes());
    out
}

/// Reads a slot.
pub(super) fn decode(slot: &[u8]) -> Found {
    if slot.len() < HEADER {
        return if slot.is_empty() { Found::Nothing } else { Found::Torn("its header is cut") };
    }
    let Some(phase) = Phase::of(&slot[..8]) else { return Found::Torn("its phase is unknown") };
    if phase == Phase::Done {
        return Found::Nothing;
    }
    let mut header = Reader { rest: &slot[8..HEADER] };
    let length = header.number().and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
    let Some(body) = HEADER.checked_add(length).and_then(|end| slot.get(HEADER..end)) else {
        return Found::Torn("it is cut");
    };
    if blake3::hash(body).as_bytes()[..] != *header.rest {
        return Found::Torn("its checksum is wrong");
    }
    let mut reader = Reader { rest: body };
    let Some(mut record) = reader.record().filter(|_| reader.rest.is_empty()) else {
        return Found::Torn("it was written by another version");
    };
    amend(&mut record, &slot[HEADER + length..]);
    Found::Whole(phase, record)
}

fn amend(record: &mut Record, rest: &[u8]) {
    for bytes in rest.chunks_exact(AMENDMENT).take(AMENDMENTS_MAX) {
        let mut reader = Reader { rest: bytes };
        let (Some(index), Some(inode)) = (reader.number(), reader.number()) else { return };
        if amendment(record.tag, index, inode) != bytes {
            return;
        }
        let entry = usize::try_from(index).ok().and_then(|index| record.outputs.get_mut(index));
        if let Some(entry) = entry {
            (entry.temporary, entry.new) = (true, inode);
        }
    }
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?;
        self.take(usize::try_from(count).ok()?)
    }

    fn anchor(&mut self) -> Option<Anchor> {
        let path = PathBuf::from(OsStr::from_bytes(self.bytes()?));
        Some(Anchor { path, inode: self.number()? })
    }

    fn entry(&mut self) -> Option<Entry> {
        let path = ExecPath::new(OsStr::from_bytes(self.bytes()?)).ok()?;
        let flags = *self.take(1)?.first()?;
        let kind = match flags & 3 {
            0 => OutputKind::File,
            1 => OutputKind::Directory,
            2 => OutputKind::Symlink,
            _ => return None,
        };
        let new = self.number()?;
        let old = match flags & 8 != 0 {
            true => Some(Identity { inode: self.number()?, mtime: self.number()? as i64 }),
            false => None,
        };
        Some(Entry { path, kind, temporary: flags & 4 != 0, new, old })
    }

    fn record(&mut self) -> Option<Record> {
        let (tag, epoch) = (self.number()?, self.number()?);
        let action = self.bytes()?.to_vec();
        let (layer, root) = (self.anchor()?, self.anchor()?);
        let count = self.number()?;
        let mut outputs = Vec::new();
        for _ in 0..count {
            outputs.push(self.entry()?);
        }
        Some(Record { tag, epoch, action, layer, root, outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Record {
        let entry = |path: &str, kind, old| Entry {
            path: ExecPath::new(path).unwrap(),
            kind,
            temporary: old,
            new: 77,
            old: old.then_some(Identity { inode: 5, mtime: -3 }),
        };
        Record {
            tag: 0xfeed,
            epoch: 12,
            action: b"//a:b".to_vec(),
            layer: Anchor { path: "/l/upper".into(), inode: 3 },
            root: Anchor { path: "/root".into(), inode: 4 },
            outputs: vec![
                entry("a/b", OutputKind::File, true),
                entry("c", OutputKind::Directory, false),
                entry("d", OutputKind::Symlink, true),
            ],
        }
    }

    #[test]
    fn a_record_comes_back() {
        let slot = encode(&sample(), Phase::Intent).unwrap();
        assert_eq!(decode(&slot), Found::Whole(Phase::Intent, sample()));
        assert_eq!(decode(&encode(&sample(), Phase::Done).unwrap()), Found::Nothing);
        assert_eq!(decode(&[]), Found::Nothing);
    }

    #[test]
    fn what_an_earlier_record_left_behind_it_does_not_count() {
        let mut slot = encode(&sample(), Phase::Intent).unwrap();
        slot.extend_from_slice(&amendment(0xfeed, 1, 99));
        slot.extend_from_slice(&amendment(0xbeef, 0, 98));
        let Found::Whole(_, record) = decode(&slot) else { panic!() };
        assert_eq!((record.outputs[1].temporary, record.outputs[1].new), (true, 99));
        assert_eq!(record.outputs[0], sample().outputs[0]);
    }

    #[test]
    fn every_torn_or_turned_record_is_recognized() {
        let slot = encode(&sample(), Phase::Intent).unwrap();
        for end in 1..slot.len() {
            assert!(matches!(decode(&slot[..end]), Found::Torn(_)), "cut at {end}");
        }
        for at in 0..slot.len() * 8 {
            let mut turned = slot.clone();
            turned[at / 8] ^= 1 << (at % 8);
            assert!(matches!(decode(&turned), Found::Torn(_)), "bit {at}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), sealed in any::<bool>()) {
            let mut slot = bytes;
            if sealed && slot.len() > HEADER {
                let (length, sum) = (slot.len() - HEADER, *blake3::hash(&slot[HEADER..]).as_bytes());
                slot[..8].copy_from_slice(&Phase::Intent.bytes());
                slot[8..16].copy_from_slice(&(length as u64).to_le_bytes());
                slot[16..HEADER].copy_from_slice(&sum);
            }
            let _ = decode(&slot);
        }
    }
}
