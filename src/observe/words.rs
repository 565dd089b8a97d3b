//! The values of labels: small sets of words that stand in metrics, in traces and in events alike.

macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* })*) => { $(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// As it is written.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl Word for $name {
            const ALL: &'static [&'static str] = &[$($word,)*];

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    )* };
}

/// One of a few words.
pub trait Word: Copy + 'static {
    /// All of them.
    const ALL: &'static [&'static str];

    /// Where it stands in `ALL`.
    fn index(self) -> usize;
}

words! {
    /// How an action ended.
    Outcome {
        /// The command exited with 0.
        Succeeded = "succeeded",
        /// The command exited with another code, or by a signal.
        Failed = "failed",
        /// At the end of its time.
        TimedOut = "timed_out",
        /// Nobody wanted it any more.
        Canceled = "canceled",
        /// For its use of memory.
        OutOfMemory = "out_of_memory",
        /// Blobs that it needs are not there.
        Missing = "missing",
        /// It cannot run as it is.
        Invalid = "invalid",
        /// What it asks for cannot be had here.
        Unmet = "unmet",
        /// It may succeed another time.
        Unavailable = "unavailable",
        /// A fault of ours.
        Internal = "internal",
    }
    /// Who made the result of an action.
    Strategy {
        /// A sandbox of its own.
        Sandboxed = "sandboxed",
        /// A persistent worker.
        Worker = "worker",
        /// The cluster.
        Remote = "remote",
        /// It was in the action cache.
        Cached = "cached",
    }
    /// A part of an action's time.
    Phase {
        /// From the request to its turn.
        Queue = "queue",
        /// Inputs, lease, layer.
        Stage = "stage",
        /// The command.
        Run = "run",
        /// Outputs into the store.
        Collect = "collect",
        /// The sandbox becomes like new; nobody waits for it.
        Reset = "reset",
    }
    /// A branch of a race.
    Side {
        /// This machine.
        Local = "local",
        /// The cluster.
        Remote = "remote",
    }
    /// How a race ended.
    RaceEnd {
        /// The local branch published.
        Local = "local",
        /// The remote branch published.
        Remote = "remote",
        /// The action failed.
        Failed = "failed",
        /// Neither branch came to a result.
        NoResult = "no_result",
        /// It was canceled, or out of time.
        Stopped = "stopped",
        /// Publishing failed.
        Broken = "broken",
    }
    /// Why a branch was started when it was.
    StartWhy {
        /// The plan said so.
        AtOnce = "at_once",
        /// Its delay was over.
        DelayOver = "delay_over",
        /// The remote cache has no result.
        Miss = "miss",
        /// Fetching takes longer than was foreseen.
        SlowDownload = "slow_download",
        /// The remote cache does not answer.
        Silence = "silence",
        /// The other side could not do it.
        OtherCannot = "other_cannot",
    }
    /// Why a worker is there no more.
    WorkerGone {
        /// Nobody wanted it for long enough.
        Idle = "idle",
        /// Its files are not those of the action any more.
        ToolsChanged = "tools_changed",
        /// Workers used too much memory.
        MemoryPressure = "memory_pressure",
        /// Another kind of worker needed its place.
        MakeRoom = "make_room",
        /// The build that it was started for was over.
        BuildOver = "build_over",
        /// All were stopped.
        Cleared = "cleared",
        /// It broke the protocol.
        Broken = "broken",
        /// It did not answer in time.
        Hung = "hung",
        /// It has had as many requests as there are ids.
        WornOut = "worn_out",
        /// It ended by itself.
        Crashed = "crashed",
        /// It never started.
        StartFailed = "start_failed",
    }
    /// What the machine can be short of.
    Resource {
        /// Processors.
        Cpu = "cpu",
        /// Memory.
        Memory = "memory",
        /// Disks.
        Io = "io",
    }
    /// What went wrong with the store.
    StoreFault {
        /// There is no room.
        Full = "full",
        /// A system call failed.
        Io = "io",
    }
    /// The way of bytes between us and a cluster.
    Way {
        /// To it.
        Up = "up",
        /// From it.
        Down = "down",
    }
}
