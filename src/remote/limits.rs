//! Bounds of the client.

/// Largest total of blobs in one batch: below gRPC's usual message limit of 4 MiB, with room for the digests.
pub const BATCH_BYTES_MAX: usize = 3 << 20;

/// Largest message taken from a peer: a batch and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Most blobs in one batch.
pub const BATCH_BLOBS_MAX: usize = 1000;
/// Most digests in one FindMissingBlobs: some 80 bytes each.
pub const FIND_MISSING_MAX: usize = 10_000;
/// Downloads of one result that go on at a time.
pub const BLOBS_AT_ONCE: usize = 16;
/// How long a blob that a cluster had is believed to be there: clusters keep what was asked for at least that long.
pub const KNOWN_FOR: std::time::Duration = std::time::Duration::from_secs(600);
/// Blobs that are believed to be there: some 80 bytes each.
pub const KNOWN_MAX: usize = 1 << 19;
/// Bytes of a piece of a stream.
pub const PIECE_BYTES: usize = 256 << 10;
/// A line slower than this is no line.
pub const TRANSFER_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Streams of one operation that break in a row before it is given up.
pub const STREAMS_MAX: u32 = 4;
/// Missing blobs that a cluster can name.
pub const MISSING_MAX: usize = 100_000;
/// Executions of one action whose blobs are missing again and again.
pub const EXECUTIONS_MAX: usize = 3;
/// Largest Tree, and largest Directory.
pub const TREE_BYTES_MAX: u64 = 64 << 20;
/// Most directories of one output.
pub const DIRECTORIES_MAX: usize = 1_000_000;
/// Most files of all outputs.
pub const OUTPUT_FILES_MAX: usize = 4_000_000;
/// Largest blob that is fetched: what our own server takes. A remote may name any number.
pub const BLOB_BYTES_MAX: u64 = 16 << 30;
/// Most bytes of all that one result names.
pub const RESULT_BYTES_MAX: u64 = 64 << 30;
/// Largest window that a zstd frame may ask us to keep: the format's own recommendation for decoders.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Uploads, of batches or streams, that go on at a time for all actions: each holds a batch in memory.
pub const UPLOADS_AT_ONCE: usize = 16;
/// Downloads that go on at a time for all actions: each holds a batch in memory.
pub const DOWNLOADS_AT_ONCE: usize = 32;
/// Directories within each other: a path of more segments than this is longer than any path may be.
pub const DEPTH_MAX: usize = 1024;
/// Longest target of a symlink.
pub const TARGET_BYTES_MAX: usize = 4095;
/// Blobs that are known to be at the cluster alone, at some 100 bytes each; with more, bytes are fetched at once.
pub const ELSEWHERE_MAX: usize = 1 << 20;
/// The most processor time that a cluster may say one command used: a year. More is nonsense, and would spoil sums.
pub const CPU_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);
/// How long the end of a daemon waits until the cluster knows what to cancel: a cluster that is there answers by then.
pub const GOODBYE_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);
