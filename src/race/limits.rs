//! Bounds, each with its reason.

use std::time::Duration;

/// Measured durations that are kept of a mnemonic: enough for a 95th percentile, few enough to follow a change of
/// network within a build.
pub const MNEMONIC_SAMPLES: usize = 128;

/// The same of one action family, whose actions are alike.
pub const FAMILY_SAMPLES: usize = 32;

/// With fewer, nothing is foreseen: both sides race, and that measures both.
pub const SAMPLES_MIN: usize = 5;

/// Families that are remembered, at some 450 bytes each; the least recently used is forgotten.
pub const FAMILIES_MAX: usize = 65_536;

/// Mnemonics that are remembered: rules have some hundreds, a peer that invents names shall not fill the memory.
pub const MNEMONICS_MAX: usize = 1024;

/// Bytes of a mnemonic that count. Those of real rules have less than 60.
pub const MNEMONIC_BYTES_MAX: usize = 128;

/// Of so many plans, one races both sides though one is foreseen to win: else a side that became faster would never be
/// measured again.
pub const EXPLORE_EACH: u64 = 32;

/// Silence of the cache after which local starts, as long as nothing was measured.
pub const SILENCE: Duration = Duration::from_millis(250);

/// No foreseen delay is longer: a history of one odd day shall not stop a build.
pub const HOLD_MAX: Duration = Duration::from_secs(60);

/// How long a remote win waits for a local branch in place to be quiet. A process dies within milliseconds of the
/// kill; one in uninterruptible sleep may need its disk or network first.
pub const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// Local branches that wait for a place. Each is an action of a client, whose own number is bounded by the door; this
/// bound is for whoever has no door.
pub const GATE_WAITING_MAX: usize = 65_536;

/// Losers that may outlive their race at a time: each is a thread, and often a process group that is being killed.
pub const REAPER_MAX: usize = 256;

/// Messages from the branches of one race: each side sends at most an answer, that it executes, and an end, the caller
/// one cancellation, the gate two admissions or refusals.
pub const MAILBOX_MAX: usize = 8;

/// Signals that an option may list: there are 64.
pub const SIGNALS_MAX: usize = 64;

/// Strategies that an option may list: there are fewer names.
pub const STRATEGIES_MAX: usize = 16;

/// How long a remote execution that lost may go on to fill its cache: longer than most actions take, short enough that
/// a peer that never answers holds no thread for hours.
pub const FILL_MAX: Duration = Duration::from_secs(10 * 60);

/// Builds whose actions are counted at a time.
pub const BUILDS_MAX: usize = 64;
