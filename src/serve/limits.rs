//! Bounds on what a peer may ask of the server, each with its reason.
//!
//! Invariant: nothing in `serve` grows with a peer's input beyond one of these. All limits of tonic and h2 are set from
//! here: their defaults differ by version.

use std::time::Duration;

/// Bounds that an operator may want to change.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Connections of all listeners together; each costs a descriptor and some 100 KiB. What comes beyond is closed.
    pub connections: usize,
    /// Calls at the same time on one connection: Bazel opens at most 100.
    pub streams_per_connection: u32,
    /// Unary calls and uploads at the same time, over all connections: each may hold a message.
    pub calls: usize,
    /// Largest blob that clients may upload.
    pub blob_bytes_max: u64,
    /// Uploads of one instance that have begun and not ended: each holds a descriptor.
    pub partial_uploads: usize,
    /// Disk operations at the same time: more threads than this only wait for each other.
    pub disk_operations: usize,
    /// Longest time that an action may ask for.
    pub timeout_max: Duration,
    /// A stream of an operation says something this often: clients give up after 60 s of silence.
    pub heartbeat: Duration,
    /// The next message of an upload must come within this time.
    pub next_message_within: Duration,
    /// A connection that has asked nothing within this time, or could not say who it is, is closed.
    pub first_call_within: Duration,
    /// A unary call must have sent its message and been answered within this time.
    pub call_within: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        ServeLimits {
            connections: 1024,
            streams_per_connection: 256,
            calls: 1024,
            blob_bytes_max: 16 << 30,
            partial_uploads: 1024,
            disk_operations: 16,
            timeout_max: Duration::from_secs(24 * 60 * 60),
            heartbeat: Duration::from_secs(20),
            next_message_within: Duration::from_secs(60),
            first_call_within: Duration::from_secs(30),
            call_within: Duration::from_secs(120),
        }
    }
}

/// Blobs of one batch together, as advertised: with the digests around them it stays below gRPC's usual 4 MiB.
pub const BATCH_BYTES_MAX: u64 = 4_000_000;

/// Blobs of one batch: a status of some 100 bytes answers each.
pub const BATCH_BLOBS_MAX: usize = 10_000;

/// Digests of one FindMissingBlobs: each is looked up on disk.
pub const FIND_DIGESTS_MAX: usize = 100_000;

/// Largest message that a client may send: a FindMissingBlobs with as many digests as it may have.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Contents put into one result because a client asked for them: the rest of the message needs room as well.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;

/// Largest encoded Action: two digests, a salt and platform properties.
pub const ACTION_BYTES_MAX: u64 = 1 << 20;

/// Largest encoded Command: the kernel takes 2 MiB of arguments and environment, the rest is output paths.
pub const COMMAND_BYTES_MAX: u64 = 32 << 20;

/// Largest encoded Directory: a directory of a hundred thousand files.
pub const DIRECTORY_BYTES_MAX: u64 = 16 << 20;

/// Most directories of all outputs that are laid out for one caller of the local API.
pub const DIRECTORIES_LAID_MAX: usize = 1_000_000;

/// Most bytes of standard output, and as many of standard error, that the local API passes on.
pub const PRINTED_BYTES_MAX: u64 = 256 << 20;

/// Files whose digests the local API remembers: some 200 bytes each.
pub const FILES_REMEMBERED_MAX: usize = 1 << 19;

/// Largest encoded Tree that is looked through before a result is served.
pub const TREE_BYTES_MAX: u64 = 64 << 20;

/// Largest encoded ActionResult: with as many outputs as an action may declare.
pub const RESULT_BYTES_MAX: usize = 64 << 20;

/// Distinct directories that one walk through a tree visits.
pub const WALK_DIRECTORIES_MAX: usize = 1 << 20;

/// Bytes of directories that one walk reads.
pub const WALK_BYTES_MAX: u64 = 1 << 30;

/// Directories in one answer of GetTree, unless the client asks for fewer.
pub const PAGE_DIRECTORIES_MAX: usize = 1000;

/// Bytes of directories in one answer of GetTree: a single larger one goes alone.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes of one answer of ByteStream.Read: large enough to be cheap, small enough to share a connection.
pub const READ_BYTES: usize = 256 << 10;

/// Blobs up to this size are read at once, on the thread of the call: shorter than handing them to another.
pub const INLINE_READ_BYTES: u64 = 64 << 10;

/// As [`INLINE_READ_BYTES`], of bytes that are hashed and written.
pub const INLINE_WRITE_BYTES: usize = 64 << 10;

/// Bytes of an upload after which we look whether somebody else has finished it.
pub const RECHECK_BYTES: u64 = 8 << 20;

/// Largest window that a zstd frame may ask us to keep: the format's own recommendation for decoders.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Compression level of what we send: the disk is local, and the network rarely slower than level 3 compresses.
pub const ZSTD_LEVEL: i32 = 1;

/// Longest resource name: an instance name, a hash, and what metadata a client likes to add.
pub const NAME_BYTES_MAX: usize = 4096;

/// Longest name of an upload, which is a UUID as a rule.
pub const UPLOAD_NAME_BYTES_MAX: usize = 128;

/// Longest identifier of a build that counts for fairness.
pub const INVOCATION_BYTES_MAX: usize = 128;

/// Violations that fit into the headers of an answer: some clients take no more than 8 KiB.
pub const VIOLATIONS_IN_HEADERS_MAX: usize = 32;

/// Violations that are named at all: a client that lacks more uploads everything anyway.
pub const VIOLATIONS_MAX: usize = 20_000;

/// Operations in one answer of ListOperations.
pub const LISTED_MAX: usize = 1000;

/// TLS handshakes that take longer are given up.
pub const TLS_HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// An upload that broke off may be resumed during this time.
pub const RESUMABLE_FOR: Duration = Duration::from_secs(10 * 60);

/// How often what time brings is looked for.
pub const TICK: Duration = Duration::from_secs(5);

/// HTTP/2 pings when a connection is silent, and how long their answer may take.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_INTERVAL`].
pub const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);

/// Flow control: what a peer may send before we have read it, of one stream and of one connection.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// HTTP/2 frames: a larger one would keep the other streams waiting.
pub const FRAME_BYTES: u32 = 64 << 10;

/// Headers of one call together.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Streams that a peer may reset before we have looked at them ("rapid reset").
pub const PENDING_RESETS_MAX: usize = 20;

/// Streams that we reset for a peer's faults before we close its connection ("MadeYouReset").
pub const LOCAL_RESETS_MAX: usize = 256;

/// Accepted connections that wait for the server to take them.
pub const ACCEPTED_MAX: usize = 16;

/// How long killed actions may take to be gone, when the server ends: what the kernel holds may take for ever.
pub const KILLED_WITHIN: Duration = Duration::from_secs(30);

/// How long connections stay open after the last action ended, when the server ends: its client downloads the outputs.
pub const DOWNLOADS_WITHIN: Duration = Duration::from_secs(5);

/// How long streams may go on after that.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// When a client that was turned away for lack of room shall come back.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Those who ask for metrics at a time: one scraper, and a person or two.
pub const SCRAPERS_MAX: usize = 8;

/// How long asking for metrics may take in all: scrapers give up after 10 s themselves.
pub const SCRAPE_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of the headers of who asks for metrics; 8 KiB are the least that the library takes.
pub const SCRAPE_HEADER_BYTES_MAX: usize = 16 << 10;
