//! Bounds of what the program tells of itself, each with its reason.

use std::time::Duration;

/// Events that a watcher may be behind. Each is a few hundred bytes, and they are kept once for all watchers; a build
/// of ten thousand actions a second fills them in a tenth of a second, so that only who does not read is told of a gap.
pub const EVENTS_MAX: usize = 4096;

/// Records that may wait for the disk of a trace. With more, they are left out and counted: a slow disk slows nobody.
pub const TRACE_QUEUE_MAX: usize = 8192;

/// A trace ends when it is this large: viewers refuse larger ones, and a daemon that is forgotten fills no disk.
pub const TRACE_BYTES_MAX: u64 = 1 << 30;

/// Rows of a trace that are known to be named. With more, names are written again.
pub const ROWS_MAX: usize = 4096;

/// Lanes of a row whose spans overlap: as many as a multiplex worker has requests. With more, spans overlap.
pub const LANES_MAX: usize = 64;

/// Bytes of a name or an argument in a trace: paths and mnemonics are shorter.
pub const TEXT_BYTES_MAX: usize = 256;

/// Workers of which it is remembered what they are: more than may live.
pub const WORKERS_MAX: usize = 4096;

/// Different values of a label whose values clients choose, such as mnemonics. What comes later is counted as `other`,
/// so that no client can fill the memory of this program, or of who scrapes it.
pub const LABEL_VALUES_MAX: usize = 64;

/// Bytes of such a value.
pub const LABEL_BYTES_MAX: usize = 64;

/// Workers that are told one by one when somebody asks for numbers.
pub const WORKERS_TOLD_MAX: usize = 256;

/// Sources of numbers: a daemon has a dozen.
pub const SOURCES_MAX: usize = 64;

/// How often is looked at what changes by itself, while somebody watches or a trace is written.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);
