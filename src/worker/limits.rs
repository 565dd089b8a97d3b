//! Bounds on what a worker may send and on what is made of an action's arguments, each with its reason.
//!
//! Invariant: no wire holds more of what a worker wrote than [`MESSAGE_KEPT_BYTES_MAX`] and a read buffer, whatever
//! the worker claims.

use std::time::Duration;

/// Largest response that is read at all. What claims more is refused before a byte of it is kept: no compiler prints
/// that much, and text that is taken for a length easily claims it.
pub const MESSAGE_BYTES_MAX: u64 = 256 << 20;

/// Bytes of output text that are kept of one response; the rest is read and dropped, and the text says so. As standard
/// error of a failed build it is more than anybody reads; a one-shot run's is not longer either in a client's view.
pub const OUTPUT_KEPT_BYTES_MAX: usize = 4 << 20;

/// Bytes of one JSON response that are kept besides a long text: names, numbers, fields that nobody knows.
pub const JSON_REST_BYTES_MAX: usize = 1 << 20;

/// Bytes of one response that are ever held.
pub const MESSAGE_KEPT_BYTES_MAX: usize = OUTPUT_KEPT_BYTES_MAX + JSON_REST_BYTES_MAX;

/// Longest varint: 64 bits in groups of seven.
pub const VARINT_BYTES_MAX: u32 = 10;

/// Deepest nesting of a JSON response; the protocol has one level, and unknown fields are rarely deeper than a few.
/// One bit of a `u64` each.
pub const JSON_DEPTH_MAX: u32 = 64;

/// First bytes of an unreadable response that are shown, as Bazel shows them.
pub const JUNK_BYTES_MAX: usize = 1024;

/// Largest request that is sent. Readers of protocol buffers refuse more than 64 MiB unless told otherwise; 100,000
/// inputs are some 15 MiB. What is larger runs without a worker: a list of inputs is never cut.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Flag files within flag files: real ones have two levels.
pub const EXPANSION_DEPTH_MAX: usize = 32;

/// Bytes of all flag files that one expansion reads, each as often as it is named: what makes the largest request.
pub const EXPANSION_BYTES_MAX: usize = REQUEST_BYTES_MAX;

/// Flag files that one expansion reads, so that empty ones that are named a million times cost nothing either.
pub const EXPANSION_FILES_MAX: usize = 10_000;

/// Arguments that come of it: each costs an allocation, also an empty line.
pub const EXPANSION_ARGUMENTS_MAX: usize = 1 << 20;

/// Characters of a name that an error shows.
pub const SHOWN_CHARACTERS_MAX: usize = 256;

/// Largest answer of a gRPC worker. gRPC libraries take a message as a whole or not at all, so that it can't be cut
/// while it is read; the text in it is cut to [`OUTPUT_KEPT_BYTES_MAX`] afterwards.
pub const BUCK2_ANSWER_BYTES_MAX: usize = 16 << 20;

/// Commands of one stream that are not answered, those that nobody waits for any more included: as many as the largest
/// concurrency that rules declare, and then some.
pub const BUCK2_IN_FLIGHT_MAX: usize = 1024;

/// Headers of one answer; a status message is among them.
pub const BUCK2_HEADER_BYTES_MAX: u32 = 32 << 10;

/// Characters of a worker's status message that are shown.
pub const BUCK2_MESSAGE_CHARACTERS_MAX: usize = 4096;

/// Longest wait for a worker to serve its socket, as Buck2 has it.
pub const BUCK2_CONNECT_WITHIN: Duration = Duration::from_secs(60);

/// What a worker has beyond an action's time to say that it gave up, before it is killed: whoever keeps time by himself
/// stays warm.
pub const BUCK2_TIMEOUT_GRACE: Duration = Duration::from_secs(1);

/// Commands and cancels that wait for the thread that talks to a worker: there is one of each at most, and one of each
/// that it has not looked at.
pub const BUCK2_SAID_MAX: usize = 4;

/// Pause after the first failed connection; doubled up to [`BUCK2_RETRY_PAUSE_MAX`], as Buck2 does.
pub const BUCK2_RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause between two connections.
pub const BUCK2_RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Bytes of a worker's log on disk: it lives for hours, and may complain about every file.
pub const LOG_BYTES_MAX: u64 = 1 << 20;

/// Last bytes of the log that a message shows, as Bazel does.
pub const LOG_EXCERPT_BYTES: usize = 8192;

/// Orders that wait for a worker's own thread: one for each request that nobody waits for, and those to end.
pub const ORDERS_MAX: usize = 256;

/// How long a worker that has closed its standard output may take to end by itself, so that it is known how. A core
/// dump, or a machine with too much to do, takes some time; nobody waits for it who could go on.
pub const HANGUP_PATIENCE: Duration = Duration::from_secs(1);

/// How often workers are looked at: what they use, as Bazel does, and whether idle ones write what nobody asked for.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
