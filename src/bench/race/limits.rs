//! Bounds, each with its reason.
use std::time::Duration;

/// Bytes that are passed on in one piece: small enough that a rate is smooth, some packets of Ethernet.
pub const PIECE_BYTES: usize = 16 * 1024;

/// Pieces that are on their way in one direction: 4 MiB, more than a second of the slowest link that is made here. Then
/// nothing more is read, and the sender feels it as it would feel a full window.
pub const PIECES_ON_THE_WAY: usize = 256;

/// The longest that a build may take for one answer. Compilers of zstd's files need a few seconds each.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long the same answers are waited for after a build, so that losers that were told to stop have stopped and are
/// counted. Abortion takes some milliseconds.
pub const SETTLING: Duration = Duration::from_millis(300);

/// Processes of a loser whose end is measured.
pub const LOSER_PROCESSES: usize = 50;

/// Units that one build may have: zstd has 40 C files, and a bench should end.
pub const UNITS_MAX: usize = 10_000;
