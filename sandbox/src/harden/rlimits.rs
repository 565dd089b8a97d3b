//! Resource limits of an action's process (getrlimit(2)), as a table.
//!
//! Only ever lowered: raising a hard limit needs CAP_SYS_RESOURCE, which a daemon inside a container does not
//! have, and a limit that is lower already is as good as the one wanted. [`clamp`] says what to set.
//!
//! Not here, because a cgroup does it better: memory (AS, DATA, RSS), processes (NPROC counts per user on the
//! whole host and would let one sandbox starve another), CPU time. STACK stays, since compilers need the
//! host's.

use super::HardeningSpec;

/// No limit (`RLIM_INFINITY`).
pub const UNLIMITED: u64 = u64::MAX;

/// Resources that the table speaks about, with their numbers on x86 and Arm (asm-generic/resource.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Resource {
    /// `RLIMIT_FSIZE`: bytes of a file written.
    FileBytes = 1,
    /// `RLIMIT_CORE`: bytes of a core file.
    CoreBytes = 4,
    /// `RLIMIT_NOFILE`: one more than the highest descriptor.
    OpenFiles = 7,
    /// `RLIMIT_MEMLOCK`: bytes locked into memory.
    LockedBytes = 8,
    /// `RLIMIT_MSGQUEUE`: bytes in POSIX message queues (Linux 2.6.8).
    QueueBytes = 12,
    /// `RLIMIT_NICE`: 20 minus the lowest nice value that may be asked for (Linux 2.6.12).
    Nice = 13,
    /// `RLIMIT_RTPRIO`: highest real-time priority (Linux 2.6.12).
    RealtimePriority = 14,
}

impl Resource {
    /// The number that `prlimit64` takes.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Its name in getrlimit(2).
    pub const fn name(self) -> &'static str {
        match self {
            Resource::FileBytes => "RLIMIT_FSIZE",
            Resource::CoreBytes => "RLIMIT_CORE",
            Resource::OpenFiles => "RLIMIT_NOFILE",
            Resource::LockedBytes => "RLIMIT_MEMLOCK",
            Resource::QueueBytes => "RLIMIT_MSGQUEUE",
            Resource::Nice => "RLIMIT_NICE",
            Resource::RealtimePriority => "RLIMIT_RTPRIO",
        }
    }
}

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// What the process may raise the soft limit to.
    pub hard: u64,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Of what.
    pub resource: Resource,
    /// The limit that is wanted.
    pub wanted: Limit,
    /// Why.
    pub reason: &'static str,
}

/// A core limit of one byte. Zero would still start the program of a `core_pattern` pipe, for which the
/// kernel ignores the limit (core(5)); exactly one aborts such a dump (fs/coredump.c: "RLIMIT_CORE is set to
/// 1, aborting core"), and is less than a page, so that no file is made either.
pub const CORE_NONE: u64 = 1;

/// Soft limit of descriptors: what select(2) can handle, and the kernel's default.
const OPEN_FILES_SOFT: u64 = 1024;
/// Hard limit of descriptors: more than build tools need, who raise the soft limit
/// themselves, and far from what would fill the table of all open files of the host.
const OPEN_FILES_HARD: u64 = 1 << 16;
/// The kernel's default before Linux 5.16: enough for a key or two.
const LOCKED_BYTES: u64 = 64 << 10;

/// The table for a spec.
pub fn table(spec: &HardeningSpec) -> Vec<Rlimit> {
    let both = |limit| Limit { soft: limit, hard: limit };
    let line = |resource, wanted, reason| Rlimit { resource, wanted, reason };
    let open_files = match spec.open_files_max {
        Some(most) => Limit { soft: most.min(OPEN_FILES_SOFT), hard: most },
        None => Limit { soft: OPEN_FILES_SOFT, hard: OPEN_FILES_HARD },
    };
    let mut table = vec![
        line(
            Resource::CoreBytes,
            both(spec.core_bytes_max.max(CORE_NONE)),
            "no core files, and no helper of the host started by a crash",
        ),
        line(Resource::OpenFiles, open_files, "select works; a program may raise it up to the hard limit"),
        line(Resource::LockedBytes, both(LOCKED_BYTES), "locked pages cannot be reclaimed"),
        line(
            Resource::QueueBytes,
            both(0),
            "kernel memory outside the build's needs; mq_open then fails with EMFILE",
        ),
        line(Resource::Nice, both(0), "no priority above the one given"),
        line(Resource::RealtimePriority, both(0), "no real-time scheduling"),
    ];
    if let Some(most) = spec.file_bytes_max {
        table.push(line(Resource::FileBytes, both(most), "the spec's largest file"));
    }
    table
}

/// What to set, given what is in force: never above the present hard limit, and soft never above hard.
///
/// The soft limit may rise, up to the hard one; that needs no privilege.
pub fn clamp(current: Limit, wanted: Limit) -> Limit {
    let hard = wanted.hard.min(current.hard);
    Limit { soft: wanted.soft.min(hard), hard }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_libc() {
        let check =
            |resource: Resource, number: libc::__rlimit_resource_t| assert_eq!(resource.number(), number);
        check(Resource::FileBytes, libc::RLIMIT_FSIZE);
        check(Resource::CoreBytes, libc::RLIMIT_CORE);
        check(Resource::OpenFiles, libc::RLIMIT_NOFILE);
        check(Resource::LockedBytes, libc::RLIMIT_MEMLOCK);
        check(Resource::QueueBytes, libc::RLIMIT_MSGQUEUE);
        check(Resource::Nice, libc::RLIMIT_NICE);
        check(Resource::RealtimePriority, libc::RLIMIT_RTPRIO);
        assert_eq!(UNLIMITED, libc::RLIM_INFINITY);
    }

    #[test]
    fn clamp_never_raises_a_hard_limit() {
        let limit = |soft, hard| Limit { soft, hard };
        let check = |current, wanted, expected| assert_eq!(clamp(current, wanted), expected);
        check(limit(0, UNLIMITED), limit(1024, 1 << 20), limit(1024, 1 << 20));
        check(limit(20_000, 20_000), limit(1024, 1 << 20), limit(1024, 20_000));
        check(limit(256, 512), limit(1024, 1 << 20), limit(512, 512));
        check(limit(0, 0), limit(1, 1), limit(0, 0));
        check(limit(UNLIMITED, UNLIMITED), limit(UNLIMITED, UNLIMITED), limit(UNLIMITED, UNLIMITED));
        check(limit(UNLIMITED, UNLIMITED), limit(9, 5), limit(5, 5));
        for current in [0, 1, 7, 1024, UNLIMITED] {
            for wanted in [0, 1, 7, 1024, UNLIMITED] {
                let set = clamp(limit(current / 2, current), limit(wanted, wanted));
                assert!(set.soft <= set.hard && set.hard <= current);
            }
        }
    }

    #[test]
    fn table_follows_the_spec() {
        let find = |spec: &HardeningSpec, resource| {
            table(spec).into_iter().find(|line| line.resource == resource).map(|line| line.wanted)
        };
        let plain = HardeningSpec::default();
        assert_eq!(find(&plain, Resource::CoreBytes), Some(Limit { soft: 1, hard: 1 }));
        assert_eq!(find(&plain, Resource::FileBytes), None);
        assert_eq!(find(&plain, Resource::OpenFiles), Some(Limit { soft: 1024, hard: 1 << 16 }));
        assert_eq!(find(&plain, Resource::QueueBytes), Some(Limit { soft: 0, hard: 0 }));
        let asked = HardeningSpec {
            core_bytes_max: 1 << 30,
            file_bytes_max: Some(1 << 20),
            open_files_max: Some(64),
            ..plain
        };
        assert_eq!(find(&asked, Resource::CoreBytes), Some(Limit { soft: 1 << 30, hard: 1 << 30 }));
        assert_eq!(find(&asked, Resource::FileBytes), Some(Limit { soft: 1 << 20, hard: 1 << 20 }));
        assert_eq!(find(&asked, Resource::OpenFiles), Some(Limit { soft: 64, hard: 64 }));
    }
}
