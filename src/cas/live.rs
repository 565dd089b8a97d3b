//! What memory must hold of blobs: those that the index does not know as they are, and those that are pinned.
//!
//! ```text
//!            put                    checkpoint                 unpinned, unchanged
//!   (none) ───────► Recent ───────────────────────► Indexed ───────────────────► needless: the index has it
//!                     │ failed sync                   │ evicted, bad
//!                     ▼              unpinned         ▼          checkpoint
//!                    Lost ────────────────────────► Gone ──────────────────────► needless
//! ```
//! An entry whose row must be written is *dirty*, whatever its state. Invariants: an entry that differs from its row
//! stays here until a checkpoint has written it; one that is pinned stays here until it is not. Others stay as long as
//! there is room: see [`super::shard`].

use super::index::Row;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Put, and not synced yet.
    Recent,
    /// On the disk, and in the index.
    Indexed,
    /// Put, and the sync that was to bring it to the disk failed: its bytes may be others tomorrow.
    Lost,
    /// Not in the store any more.
    Gone,
}

/// What memory holds of one blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub size_bytes: u64,
    /// Last use.
    pub used: u32,
    pub pins: u32,
    /// Goes up by one with each change of what the row is to say.
    pub version: u32,
    /// The version with which it was put.
    pub born: u32,
    pub state: State,
    pub is_dirty: bool,
    pub is_suspect: bool,
    /// It was asked for since the last sweep.
    pub is_warm: bool,
}

impl Live {
    /// As the index has it.
    pub(super) fn of(row: &Row) -> Self {
        Live {
            size_bytes: row.size_bytes,
            used: row.used,
            pins: 0,
            version: 0,
            born: 0,
            state: State::Indexed,
            is_dirty: false,
            is_suspect: row.is_suspect,
            is_warm: false,
        }
    }

    /// One that is not there.
    pub(super) fn absent(size_bytes: u64) -> Self {
        Live { state: State::Gone, ..Live::of(&Row { size_bytes, used: 0, is_suspect: false }) }
    }

    pub(super) fn is_present(&self) -> bool {
        matches!(self.state, State::Recent | State::Indexed)
    }

    /// Whether the index alone would say the same.
    pub(super) fn is_needless(&self) -> bool {
        self.pins == 0 && !self.is_dirty && matches!(self.state, State::Indexed | State::Gone)
    }

    /// What the row is to say.
    pub(super) fn row(&self) -> Option<Row> {
        self.is_present().then_some(Row {
            size_bytes: self.size_bytes,
            used: self.used,
            is_suspect: self.is_suspect,
        })
    }

    /// Notes a change; true if the entry was clean before.
    pub(super) fn change(&mut self) -> bool {
        self.version = self.version.wrapping_add(1);
        !std::mem::replace(&mut self.is_dirty, true)
    }
}
