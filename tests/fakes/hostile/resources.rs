//! R01 to R10: resources. Every bomb bounds itself in bytes, count and seconds.

mod disk;
mod flood;
mod memory;
mod objects;
mod processes;
mod reaper;

use crate::report::Case;
use crate::report::Mode::{Bomb, Doom, Inline};

/// The table of the class.
pub const CASES: &[Case] = &[
    Case {
        id: "R01",
        what: "fork bomb, each process forks again; at most 4096 processes and 5 s",
        expect: "EAGAIN within pids_limit",
        mode: Bomb,
        run: processes::forks,
    },
    Case {
        id: "R02",
        what: "threads without end; at most 8192 and 5 s",
        expect: "EAGAIN within pids_limit",
        mode: Bomb,
        run: processes::threads,
    },
    Case {
        id: "R03",
        what: "touch twice memory_limit of anonymous memory, after asking for immunity",
        expect: "killed",
        mode: Doom,
        run: memory::anonymous,
    },
    Case {
        id: "R04-memfd",
        what: "write twice memory_limit into memfds",
        expect: "killed or ENOSPC",
        mode: Doom,
        run: memory::memfd,
    },
    Case {
        id: "R04-tmpfs",
        what: "write twice memory_limit into each writable tmpfs",
        expect: "killed or ENOSPC",
        mode: Doom,
        run: memory::tmpfs,
    },
    Case {
        id: "R04-pipe",
        what: "fill pipes with twice memory_limit",
        expect: "killed or refused",
        mode: Doom,
        run: memory::pipes,
    },
    Case {
        id: "R04-sysv",
        what: "touch SysV segments of twice memory_limit, which outlive their process",
        expect: "killed or refused",
        mode: Doom,
        run: memory::segments,
    },
    Case {
        id: "R05",
        what: "write twice disk_limit into each writable directory, in files of any number",
        expect: "ENOSPC, EDQUOT, or killed",
        mode: Bomb,
        run: disk::bytes,
    },
    Case {
        id: "R06",
        what: "make twice inode_limit (or 200000) empty files in each writable directory, at most 30 s",
        expect: "ENOSPC or EDQUOT",
        mode: Bomb,
        run: disk::inodes,
    },
    Case {
        id: "R07",
        what: "ignore all signals, leave stopped children and daemons of own sessions, spin for 60 s",
        expect: "never gets to its verdict",
        mode: Inline,
        run: processes::stubborn,
    },
    Case {
        id: "R08",
        what: "leave orphans and zombies, send pid 1 every signal, leave orphans again",
        expect: "reaped; pid 1 lives",
        mode: Bomb,
        run: reaper::survive,
    },
    Case {
        id: "R09",
        what: "write flood_bytes (or 256 MiB) of NULs, escapes and no newline to stdout; verdict on stderr",
        expect: "capped outside",
        mode: Doom,
        run: flood::stdout,
    },
    Case {
        id: "R09-stderr",
        what: "the same to stderr; verdict on stdout",
        expect: "capped outside",
        mode: Doom,
        run: flood::stderr,
    },
    Case {
        id: "R10",
        what: "inotify, ptys, pipes, memfds, timers, SysV objects and message queues until refused",
        expect: "each refused within its bound",
        mode: Bomb,
        run: objects::exhaust,
    },
];
