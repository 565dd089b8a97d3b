//! Bounds of a pool of workers, each with its reason.

use std::time::Duration;

/// How many workers there may be, and how long they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Live workers in all: each is a sandbox with its seat, cgroup and mounts.
    pub workers_max: usize,
    /// Of one key that take one request at a time: a compiler for each core is the most that helps.
    pub per_key_max: usize,
    /// Of one key that take several.
    pub multiplex_per_key_max: usize,
    /// Of one mnemonic: compilers of one kind tend to be large.
    pub per_mnemonic_max: usize,
    /// Requests that one multiplex worker has at the same time.
    pub slots: u32,
    /// Workers that start at the same time: a start costs a core for seconds.
    pub starting_max: usize,
    /// Requests that wait for a worker: beyond that they are refused, and run another way.
    pub waiting_max: usize,
    /// How long one waits.
    pub wait_max: Duration,
    /// Memory of all workers together; `None`: as much as there is.
    pub memory_bytes_max: Option<u64>,
    /// A worker without work is frozen after this: it costs no processor time then.
    pub freeze_after: Duration,
    /// And stopped after this.
    pub idle_max: Duration,
    /// How long after its last action a build is over, and its workers are stopped; `None`: workers serve all builds.
    pub build_pause_max: Option<Duration>,
    /// How long a worker may take to answer a cancel.
    pub cancel_grace: Duration,
    /// How long one that knows no cancel may go on with work that nobody wants; zero: it is killed at once.
    pub finish_max: Duration,
    /// Whether a request is run once more, on a fresh worker, when the one that had it alone has crashed.
    pub retry_crashed: bool,
    /// The pause after the second crash in a row; doubled with each further one.
    pub backoff_first: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        PoolLimits {
            workers_max: 64,
            per_key_max: 4,
            multiplex_per_key_max: 1,
            per_mnemonic_max: 16,
            slots: 8,
            starting_max: 4,
            waiting_max: 10_000,
            wait_max: Duration::from_secs(5 * 60),
            memory_bytes_max: None,
            freeze_after: Duration::from_secs(5),
            idle_max: Duration::from_secs(15 * 60),
            build_pause_max: None,
            cancel_grace: Duration::from_secs(5),
            finish_max: Duration::from_secs(30),
            retry_crashed: true,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
        }
    }
}

/// Keys whose crashes are remembered: those longest ago are forgotten first.
pub(super) const CRASHES_MAX: usize = 1024;

/// Builds that are known at a time: with more, that which was idle longest is over.
pub(super) const BUILDS_MAX: usize = 1024;

/// Ids of a multiplex worker's requests end here, well below where 32 bits do; the worker is replaced.
pub(super) const WIRE_ID_MAX: i32 = 1 << 30;
