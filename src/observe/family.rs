//! Every number that is told: its name, its labels, what it says. `docs/metrics.md` and `/metrics` come from here.
//!
//! Invariant: the values of a label come from a small set, or are bounded by `limits`.

use std::fmt::Write;

/// What stands before every name.
pub const PREFIX: &str = "fulgurite";

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// The same, kept in microseconds and told in seconds.
    SecondsCounter,
    /// It comes and goes.
    Gauge,
    /// Times, by bucket, told in seconds.
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter | Kind::SecondsCounter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What is known of a family.
#[derive(Debug)]
pub struct Facts {
    /// Without prefix and suffix.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub about: &'static str,
}

macro_rules! families {
    ($($variant:ident = $kind:ident $name:literal [$($label:literal),*] $about:literal;)*) => {
        /// A number, with its labels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each says in its facts what it is")]
        pub enum Family { $($variant,)* }

        impl Family {
            /// All of them.
            pub const ALL: &'static [Family] = &[$(Family::$variant,)*];

            /// What is known of it.
            #[must_use]
            pub fn facts(self) -> &'static Facts {
                match self {
                    $(Family::$variant => &Facts {
                        name: $name,
                        kind: Kind::$kind,
                        labels: &[$($label),*],
                        about: $about,
                    },)*
                }
            }
        }
    };
}

families! {
    Actions = Counter "actions" ["outcome", "strategy"] "Actions that ended";
    ActionTime = Histogram "action_seconds" ["strategy"] "Time from the request to the answer, but for cached results";
    PhaseTime = Histogram "action_phase_seconds" ["phase"] "Parts of the time of actions that ran on this machine";
    ActionCpu = SecondsCounter "action_cpu_seconds" ["strategy"] "Processor time of actions whose results count";
    Slots = Gauge "slots" [] "Actions that may run at a time";
    Running = Gauge "actions_running" [] "Actions that have a slot";
    Queued = Gauge "actions_queued" [] "Actions that wait for a slot";
    Merged = Counter "actions_merged" [] "Requests that joined a run on its way";
    Refused = Counter "actions_refused" [] "Requests that were turned away, since too much waits";
    Races = Counter "races" ["outcome"] "Races that returned";
    RacesBoth = Counter "races_both_started" [] "Races in which both branches started";
    RaceHits = Counter "race_remote_hits" [] "Races that the remote branch won by a result of the cluster's cache";
    RaceStarts = Counter "race_branch_starts" ["side", "why"] "Branches that were started, and why at that time";
    RaceMargin = Histogram "race_margin_seconds" ["winner"]
        "By how much the winner was faster, if both came to a result";
    RaceQuiet = Histogram "race_quiet_seconds" ["loser"]
        "From the claim to the end of a loser that its race waited for";
    RaceReaped = Counter "race_losers_reaped" [] "Losers that their race did not wait for";
    RaceWastedWall = SecondsCounter "race_wasted_seconds" [] "Time of branches whose results nobody has";
    RaceWastedCpu = SecondsCounter "race_wasted_cpu_seconds" [] "Processor time of branches whose results nobody has";
    RemoteBytes = Counter "remote_bytes" ["direction"] "Bytes of blobs, uncompressed, to and from the cluster";
    RemoteRetries = Counter "remote_retries" [] "Calls of the cluster that were made again";
    RemoteFailures = Counter "remote_failures" [] "Calls of the cluster that failed for good";
    RemoteOutages = Counter "remote_outages" [] "Times that the cluster was taken to be gone";
    RemoteGone = Gauge "remote_breaker_open" [] "1 while the cluster is taken to be gone";
    StoreBlobs = Gauge "store_blobs" [] "Blobs in the store";
    StoreBytes = Gauge "store_bytes" [] "Bytes of those, in whole blocks";
    StoreBytesMax = Gauge "store_bytes_max" [] "Bytes beyond which the least recently used blobs go";
    StorePinned = Gauge "store_pins" [] "Pins that keep blobs from eviction";
    StoreAdded = Counter "store_blobs_added" ["how"]
        "Blobs that came into the store; outputs that were there already are `known`";
    StoreCopied = Counter "store_bytes_copied" [] "Bytes of outputs that could not be renamed into the store";
    StoreEvicted = Counter "store_blobs_evicted" [] "Blobs that went for lack of room";
    StoreBytesEvicted = Counter "store_bytes_evicted" [] "Bytes of those";
    StoreQuarantined = Counter "store_blobs_quarantined" [] "Blobs that were found bad and taken out";
    StoreErrors = Counter "store_errors" ["kind"] "Operations of the store that failed";
    CacheLookups = Counter "action_cache_lookups" ["found"]
        "Lookups in the action cache, by whether a whole result was found";
    CacheEvicted = Counter "action_cache_evicted" [] "Results that went for lack of room";
    CacheDropped = Counter "action_cache_dropped" [] "Changes of the action cache that did not reach the disk";
    Sandboxes = Gauge "sandboxes" ["pool", "state"] "Live sandboxes";
    SandboxesMade = Counter "sandboxes_made" ["pool"] "Sandboxes that were made";
    SandboxesDestroyed = Counter "sandboxes_destroyed" ["pool"] "Sandboxes that were taken apart";
    Workers = Gauge "workers" ["mnemonic"] "Persistent workers that live";
    WorkerStarts = Counter "worker_starts" ["mnemonic"] "Persistent workers that started";
    WorkerEnds = Counter "worker_ends" ["mnemonic", "why"] "Persistent workers that are there no more";
    WorkerRequests = Gauge "worker_requests" ["worker", "key", "mnemonic"] "Requests that a living worker was sent";
    WorkerMemory = Gauge "worker_memory_kib" ["worker", "key", "mnemonic"]
        "Memory of a living worker, in KiB, as it was seen last";
    WorkerCpu = Gauge "worker_cpu_ms" ["worker", "key", "mnemonic"]
        "Processor time of a living worker and of what it started, in milliseconds";
    WorkersWaiting = Gauge "worker_requests_waiting" [] "Requests that wait for a worker";
    Io = Gauge "io_backend" ["backend"] "1 for what workers are talked to by";
    Pressure = Gauge "pressure_stalled_permille" ["resource"]
        "Share of the last 10 s in which some task of the machine waited for it, in thousandths";
    Connections = Counter "connections" ["admitted"] "Connections of clients";
    Calls = Counter "calls" ["admitted"] "Calls of clients";
    ClientBytes = Counter "client_bytes" ["direction"] "Bytes of blobs from and to clients";
    EventsMissed = Counter "events_missed" [] "Events that watchers were too slow for";
    TraceMissed = Counter "trace_records_missed" [] "Records that the disk of the trace was too slow for";
}

impl Family {
    /// Its full name, as it stands in samples, but for the suffixes of buckets.
    #[must_use]
    pub fn told(self) -> String {
        let Facts { name, kind, .. } = self.facts();
        match kind {
            Kind::Counter | Kind::SecondsCounter => format!("{PREFIX}_{name}_total"),
            _ => format!("{PREFIX}_{name}"),
        }
    }
}

/// The table of all families, as Markdown.
#[must_use]
pub fn documentation() -> String {
    let mut text = String::from("| name | kind | labels | what it says |\n|---|---|---|---|\n");
    for family in Family::ALL {
        let Facts { kind, labels, about, .. } = family.facts();
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{}` | {} | {} | {about} |", family.told(), kind.word(), labels.join(", "));
    }
    text
}
