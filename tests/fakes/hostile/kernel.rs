//! K01 to K08: kernel surface and privileges.

mod abi;
mod clocks;
mod crash;
mod identity;
mod sockets;
mod syscalls;
mod terminal;

pub use terminal::pty;

use crate::report::{Case, Mode::Probe};

/// The table of the class.
pub const CASES: &[Case] = &[
    Case {
        id: "K01",
        what: "read no_new_privs, seccomp mode, capability sets, groups and id maps; try to regain each",
        expect: "clean, and nothing can be regained",
        mode: Probe,
        run: identity::clean,
    },
    Case {
        id: "K02",
        what: "call dangerous system calls with arguments that cannot do harm",
        expect: "EPERM, ENOSYS or SIGSYS each",
        mode: Probe,
        run: syscalls::dangerous,
    },
    Case {
        id: "K03",
        what: "open sockets of 30 families, also with the high bits of the argument set",
        expect: "EAFNOSUPPORT but for UNIX, INET, INET6 and NETLINK ROUTE",
        mode: Probe,
        run: sockets::families,
    },
    Case {
        id: "K04",
        what: "enter the kernel by int 0x80 and by x32 numbers",
        expect: "SIGSYS, or no such entry",
        mode: Probe,
        run: abi::foreign,
    },
    Case {
        id: "K05",
        what: "TIOCSTI, TIOCLINUX and TIOCCONS on stdio and on an own pty, also with high bits; open /dev/tty",
        expect: "EPERM or ENOTTY; no controlling terminal",
        mode: Probe,
        run: terminal::inject,
    },
    Case {
        id: "K06",
        what: "set clocks, real-time and deadline scheduling, nice, ioprio, oom_score_adj; raise limits",
        expect: "refused",
        mode: Probe,
        run: clocks::raise,
    },
    Case {
        id: "K07",
        what: "compare the environment with the declared one",
        expect: "exact",
        mode: Probe,
        run: identity::environment,
    },
    Case {
        id: "K08",
        what: "crash in three ways with the core limit raised as far as it goes; look for core files",
        expect: "no dump, no file",
        mode: Probe,
        run: crash::core,
    },
];

/// The uid of the action.
pub fn own_uid() -> u32 {
    identity::effective_uid()
}
