//! Plans as bytes: what zygote and init interpret without allocating.
//!
//! ```text
//! u32 magic | u32 step count | step × 64 bytes | strings and programs
//! step: u16 op | u8 phase | u8 0 | u32 a_off, a_len | u32 b_off, b_len | u32 c_off, c_len | u32 m, n | u64 w, x, y
//! ```
//! Little-endian. A string's length leaves out the NUL that follows it. The decoder checks every offset, so that a
//! damaged plan is an error (`EBADMSG`), never a wild read.
use super::{BYTES_MAX, Op, Phase, Plan, STEPS_MAX};
use crate::sys::{Errno, Result};
use std::ffi::CStr;

const MAGIC: u32 = 0x4655_4c31;
const HEADER: usize = 8;
const RECORD: usize = 64;

/// Numbers of the operations on the wire.
#[allow(missing_docs)]
pub mod code {
    pub const TMPFS: u16 = 1;
    pub const DIRECTORY: u16 = 2;
    pub const FILE: u16 = 3;
    pub const SYMLINK: u16 = 4;
    pub const ATTACH: u16 = 5;
    pub const SEAL_VIEW: u16 = 6;
    pub const CLONE: u16 = 7;
    pub const MAP_IDS: u16 = 8;
    pub const SETTLE: u16 = 9;
    pub const LOOPBACK_UP: u16 = 10;
    pub const HOST_NAME: u16 = 11;
    pub const OPEN_PROC: u16 = 12;
    pub const ENTER_VIEW: u16 = 13;
    pub const ATTACH_PROC: u16 = 14;
    pub const MASK_FILE: u16 = 15;
    pub const MASK_DIRECTORY: u16 = 16;
    pub const READ_ONLY: u16 = 17;
    pub const DEVPTS: u16 = 18;
    pub const FORBID_USER_NAMESPACES: u16 = 19;
    pub const NOT_DUMPABLE: u16 = 20;
    pub const NAMESPACES: u16 = 21;
    pub const NEW_SESSION: u16 = 22;
    pub const RLIMIT: u16 = 23;
    pub const UMASK: u16 = 24;
    pub const DROP_BOUNDING: u16 = 26;
    pub const SET_IDS: u16 = 27;
    pub const DROP_CAPABILITIES: u16 = 28;
    pub const NO_NEW_PRIVILEGES: u16 = 29;
    pub const LANDLOCK_CREATE: u16 = 30;
    pub const SECCOMP: u16 = 31;
    pub const AWAIT: u16 = 32;
    pub const STDIO: u16 = 33;
    pub const CHANGE_DIRECTORY: u16 = 34;
    pub const CLOSE_DESCRIPTORS: u16 = 35;
    pub const EXEC: u16 = 36;
    pub const LANDLOCK_ALLOW: u16 = 37;
    pub const LANDLOCK_RESTRICT: u16 = 38;
}

/// The parts of one step before they are laid out.
#[derive(Default)]
struct Parts<'a> {
    code: u16,
    strings: [&'a [u8]; 3],
    small: [u32; 2],
    wide: [u64; 3],
}

impl<'a> Parts<'a> {
    fn of(code: u16) -> Self {
        Parts { code, ..Parts::default() }
    }
    fn strings(mut self, a: &'a [u8], b: &'a [u8], c: &'a [u8]) -> Self {
        self.strings = [a, b, c];
        self
    }
    fn small(mut self, m: u32, n: u32) -> Self {
        self.small = [m, n];
        self
    }
    fn wide(mut self, w: u64, x: u64, y: u64) -> Self {
        self.wide = [w, x, y];
        self
    }
}

fn parts(op: &Op) -> Parts<'_> {
    match op {
        Op::Tmpfs { at, size_bytes, inodes, mode, attributes } => Parts::of(code::TMPFS)
            .strings(at.to_bytes(), b"", b"")
            .small(*mode, 0)
            .wide(*size_bytes, *inodes, *attributes),
        Op::Directory { at, mode } => {
            Parts::of(code::DIRECTORY).strings(at.to_bytes(), b"", b"").small(*mode, 0)
        }
        Op::File { at, content, mode } => {
            Parts::of(code::FILE).strings(at.to_bytes(), content.to_bytes(), b"").small(*mode, 0)
        }
        Op::Symlink { at, target } => Parts::of(code::SYMLINK).strings(at.to_bytes(), target.to_bytes(), b""),
        Op::Attach { at, tree, .. } => {
            Parts::of(code::ATTACH).strings(at.to_bytes(), b"", b"").small(*tree, 0)
        }
        Op::SealView => Parts::of(code::SEAL_VIEW),
        Op::Clone { namespaces, in_cgroup } => {
            Parts::of(code::CLONE).small(u32::from(*in_cgroup), 0).wide(*namespaces, 0, 0)
        }
        Op::MapIds { init, action } => Parts::of(code::MAP_IDS).small(init[0], action[0]).wide(
            u64::from(init[1]),
            u64::from(action[1]),
            0,
        ),
        Op::Settle { uid, gid } => Parts::of(code::SETTLE).small(*uid, *gid),
        Op::LoopbackUp => Parts::of(code::LOOPBACK_UP),
        Op::HostName { name } => Parts::of(code::HOST_NAME).strings(name.to_bytes(), b"", b""),
        Op::OpenProc => Parts::of(code::OPEN_PROC),
        Op::EnterView => Parts::of(code::ENTER_VIEW),
        Op::AttachProc { at } => Parts::of(code::ATTACH_PROC).strings(at.to_bytes(), b"", b""),
        Op::MaskFile { at } => Parts::of(code::MASK_FILE).strings(at.to_bytes(), b"", b""),
        Op::MaskDirectory { at } => Parts::of(code::MASK_DIRECTORY).strings(at.to_bytes(), b"", b""),
        Op::ReadOnly { at } => Parts::of(code::READ_ONLY).strings(at.to_bytes(), b"", b""),
        Op::Devpts { at, max } => Parts::of(code::DEVPTS).strings(at.to_bytes(), max.to_bytes(), b""),
        Op::ForbidUserNamespaces => Parts::of(code::FORBID_USER_NAMESPACES),
        Op::NotDumpable => Parts::of(code::NOT_DUMPABLE),
        other => action_parts(other),
    }
}

fn action_parts(op: &Op) -> Parts<'_> {
    match op {
        Op::Namespaces { flags } => Parts::of(code::NAMESPACES).wide(*flags, 0, 0),
        Op::NewSession => Parts::of(code::NEW_SESSION),
        Op::Rlimit { resource, soft, hard, .. } => {
            Parts::of(code::RLIMIT).small(*resource, 0).wide(*soft, *hard, 0)
        }
        Op::Umask { mask } => Parts::of(code::UMASK).small(*mask, 0),
        Op::DropBounding => Parts::of(code::DROP_BOUNDING),
        Op::SetIds { uid, gid } => Parts::of(code::SET_IDS).small(*uid, *gid),
        Op::DropCapabilities => Parts::of(code::DROP_CAPABILITIES),
        Op::NoNewPrivileges => Parts::of(code::NO_NEW_PRIVILEGES),
        Op::LandlockCreate { handled_fs, handled_net, scoped, size } => {
            Parts::of(code::LANDLOCK_CREATE).small(*size, 0).wide(*handled_fs, *handled_net, *scoped)
        }
        Op::LandlockAllow { at, access } => {
            Parts::of(code::LANDLOCK_ALLOW).strings(at.to_bytes(), b"", b"").wide(*access, 0, 0)
        }
        Op::LandlockRestrict => Parts::of(code::LANDLOCK_RESTRICT),
        Op::Seccomp { program } => Parts::of(code::SECCOMP).strings(program, b"", b""),
        Op::Await => Parts::of(code::AWAIT),
        Op::Stdio => Parts::of(code::STDIO),
        Op::ChangeDirectory => Parts::of(code::CHANGE_DIRECTORY),
        Op::CloseDescriptors => Parts::of(code::CLOSE_DESCRIPTORS),
        _ => Parts::of(code::EXEC),
    }
}

/// Lays a plan out as bytes. `E2BIG`: more steps or bytes than a plan may have.
pub fn encode(plan: &Plan) -> Result<Vec<u8>> {
    if plan.steps.len() > STEPS_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut records = Vec::with_capacity(HEADER + plan.steps.len() * RECORD);
    records.extend_from_slice(&MAGIC.to_le_bytes());
    records.extend_from_slice(&(plan.steps.len() as u32).to_le_bytes());
    let strings_start = HEADER + plan.steps.len() * RECORD;
    let mut strings: Vec<u8> = Vec::new();
    for step in &plan.steps {
        let parts = parts(&step.op);
        records.extend_from_slice(&parts.code.to_le_bytes());
        records.extend_from_slice(&[step.phase as u8, 0]);
        for string in parts.strings {
            // Programs are read as 8-byte records, so every string starts aligned.
            strings.resize(strings.len().next_multiple_of(8), 0);
            let offset = u32::try_from(strings_start + strings.len()).map_err(|_| Errno::TOOBIG)?;
            let length = u32::try_from(string.len()).map_err(|_| Errno::TOOBIG)?;
            records.extend_from_slice(&offset.to_le_bytes());
            records.extend_from_slice(&length.to_le_bytes());
            strings.extend_from_slice(string);
            strings.push(0);
        }
        for value in parts.small {
            records.extend_from_slice(&value.to_le_bytes());
        }
        for value in parts.wide {
            records.extend_from_slice(&value.to_le_bytes());
        }
        records.resize(records.len().next_multiple_of(8), 0);
    }
    records.extend_from_slice(&strings);
    if records.len() > BYTES_MAX { Err(Errno::TOOBIG) } else { Ok(records) }
}

/// An encoded plan, read in place.
#[derive(Clone, Copy)]
pub struct PlanBytes<'a>(&'a [u8]);

/// One step, read in place.
#[derive(Clone, Copy)]
pub struct StepBytes<'a> {
    plan: &'a [u8],
    record: &'a [u8],
}

impl<'a> PlanBytes<'a> {
    /// Checks the frame; the steps are checked as they are read.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let plan = PlanBytes(bytes);
        let count = plan.len();
        let whole = bytes.len() >= HEADER + count * RECORD && count <= STEPS_MAX;
        if whole && word(bytes, 0) == Some(MAGIC) { Ok(plan) } else { Err(Errno::BADMSG) }
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        word(self.0, 4).unwrap_or(0) as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Step `number`, from 1.
    #[must_use]
    pub fn step(&self, number: u32) -> Option<StepBytes<'a>> {
        let index = (number as usize).checked_sub(1)?;
        let start = HEADER + index * RECORD;
        let record = (index < self.len()).then(|| self.0.get(start..start + RECORD)).flatten()?;
        Some(StepBytes { plan: self.0, record })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|slice| slice.try_into().ok()).map(u32::from_le_bytes)
}

fn wide_word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|slice| slice.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl<'a> StepBytes<'a> {
    /// The operation's number; see [`code`].
    #[must_use]
    pub fn code(&self) -> u16 {
        word(self.record, 0).map_or(0, |value| (value & 0xffff) as u16)
    }

    /// Whether the step belongs to `phase`.
    #[must_use]
    pub fn is_in(&self, phase: Phase) -> bool {
        self.record.get(2) == Some(&(phase as u8))
    }

    /// The bytes of string `index` (0 to 2), without the NUL.
    pub fn bytes(&self, index: usize) -> Result<&'a [u8]> {
        let at = 4 + index * 8;
        let start = word(self.record, at).ok_or(Errno::BADMSG)? as usize;
        let length = word(self.record, at + 4).ok_or(Errno::BADMSG)? as usize;
        let end = start.checked_add(length).ok_or(Errno::BADMSG)?;
        self.plan.get(start..end).ok_or(Errno::BADMSG)
    }

    /// String `index` as the kernel wants it.
    pub fn text(&self, index: usize) -> Result<&'a CStr> {
        let at = 4 + index * 8;
        let start = word(self.record, at).ok_or(Errno::BADMSG)? as usize;
        let length = word(self.record, at + 4).ok_or(Errno::BADMSG)? as usize;
        let end = start.checked_add(length).and_then(|end| end.checked_add(1)).ok_or(Errno::BADMSG)?;
        let bytes = self.plan.get(start..end).ok_or(Errno::BADMSG)?;
        CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::BADMSG)
    }

    /// Small number `index` (0 or 1).
    #[must_use]
    pub fn small(&self, index: usize) -> u32 {
        word(self.record, 28 + index * 4).unwrap_or(0)
    }

    /// Wide number `index` (0 to 2).
    #[must_use]
    pub fn wide(&self, index: usize) -> u64 {
        wide_word(self.record, 36 + index * 8)
    }
}
