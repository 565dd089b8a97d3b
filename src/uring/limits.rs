//! Bounds of the thread, each with its reason.
//!
//! Invariant: whatever peers do, memory of the thread and work for one of them stay within these.

use std::time::Duration;

/// Descriptors that may be registered at a time: channels, drains and waits together. Four times the workers that a
/// host of any size runs; commands on their way to the thread are never more, so their queue has the same bound.
pub(super) const REGISTERED_MAX: usize = 4096;

/// Places for results of the ring: each registration has at most a read, a write or a wait, and two cancels under way,
/// so results never wait in the kernel for a place.
pub(super) const RING_RESULTS: u32 = 4 * 4096;

/// Operations that are handed to the kernel by one call; more just need another call.
pub(super) const RING_ENTRIES: u32 = 256;

/// Messages that wait for a peer that does not read. Requests of a multiplex worker that are in flight are far fewer.
pub(super) const QUEUED_MESSAGES_MAX: usize = 1024;

/// Bytes that wait for a peer that does not read. One message alone may be larger: its sender holds it already.
pub(super) const QUEUED_BYTES_MAX: usize = 16 << 20;

/// Small messages that wait are written together up to about this: what a pipe holds.
pub(super) const BATCH_BYTES: usize = 64 << 10;

/// What a registration without traffic costs in memory: one page for the read that is always armed.
pub(super) const READ_BYTES_MIN: usize = 4 << 10;

/// What one read takes at most: all that a pipe holds.
pub(super) const READ_BYTES_MAX: usize = 64 << 10;

/// Reads of one descriptor in a row, without asking whether another one has something. Eight full pipes are copied in
/// less than 200 microseconds.
pub(super) const READS_IN_A_ROW: usize = 8;

/// What is still read after a write has failed, so that answers that were given before the peer died are not lost.
/// What a pipe can be made to hold without privileges.
pub(super) const LAST_WORDS_BYTES: usize = 1 << 20;

/// Longest message of a socket that keeps messages apart. What init and we say to each other is less than a page.
pub(super) const PACKET_BYTES_MAX: usize = 4 << 10;

/// Descriptors of one message: a view, streams, a pidfd. The kernel's limit is 253.
pub(super) const PACKET_DESCRIPTORS_MAX: usize = 16;

/// Messages that wait for a peer that does not read; each may hold descriptors.
pub(super) const PACKETS_QUEUED_MAX: usize = 64;

/// Time after which an operation that did not end when it was cancelled is cancelled again: a cancel misses what the
/// kernel is about to do at that moment.
pub(super) const CANCEL_AGAIN: Duration = Duration::from_millis(50);

/// Time for the ring to answer when it is tried at the start. A ring that takes longer is no use.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(2);
