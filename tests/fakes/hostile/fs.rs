//! F01 to F13: the file system.

mod devices;
mod inputs;
mod knobs;
mod mounts;
mod processes;
mod secrets;
mod writing;

pub use mounts::{mount, mounts};

use crate::report::{Case, Mode::Probe};

/// The table of the class.
pub const CASES: &[Case] = &[
    Case {
        id: "F01",
        what: "read host secrets; look for the canary by path, through /proc, and in the content of every small file",
        expect: "not found",
        mode: Probe,
        run: secrets::read,
    },
    Case {
        id: "F02",
        what: "create, link, make directories and open for writing in every directory outside the writable set",
        expect: "EROFS or EACCES, or a private tmpfs or overlay",
        mode: Probe,
        run: writing::outside,
    },
    Case {
        id: "F03",
        what: "open everything below /proc/sys, /sys, /proc/irq, /proc/bus, /proc/fs and of pid 1 for writing",
        expect: "none opens",
        mode: Probe,
        run: knobs::open_all,
    },
    Case {
        id: "F04",
        what: "find a cgroup file system; mount cgroup v1 and v2, also in new namespaces; open release_agent",
        expect: "refused",
        mode: Probe,
        run: mounts::control_groups,
    },
    Case {
        id: "F05",
        what: "follow root, cwd and descriptors of every process and thread in /proc; look for an unreachable cwd",
        expect: "the same root everywhere",
        mode: Probe,
        run: processes::roots,
    },
    Case {
        id: "F06",
        what: "inspect the descriptors at the start and the kinds of stdio; reopen stdin for writing",
        expect: "nothing above 2; no directory, terminal or socket",
        mode: Probe,
        run: processes::descriptors,
    },
    Case {
        id: "F07",
        what: "open the executables of pid 1, the parent and all others for writing, also through O_PATH",
        expect: "EACCES, ENOENT or EROFS; ETXTBSY is a hole",
        mode: Probe,
        run: processes::executables,
    },
    Case {
        id: "F08",
        what: "enumerate device nodes in /dev and elsewhere",
        expect: "only null zero full random urandom tty ptmx pts",
        mode: Probe,
        run: devices::enumerate,
    },
    Case {
        id: "F09",
        what: "make character and block nodes in every writable directory and open them",
        expect: "EPERM, or EACCES by nodev",
        mode: Probe,
        run: devices::make,
    },
    Case {
        id: "F10",
        what: "read kcore, keys, kmsg, kallsyms, timers, slabs, firmware, debugfs, the kernel log",
        expect: "masked or empty",
        mode: Probe,
        run: knobs::read_kernel,
    },
    Case {
        id: "F11",
        what: "modify inputs: Dirty COW and Dirty Pipe patterns, write, mmap, truncate, chmod, link, rename-over",
        expect: "refused, or a private copy (the harness checks outside)",
        mode: Probe,
        run: inputs::modify,
    },
    Case {
        id: "F12",
        what: "read mountinfo for propagation, missing nosuid and nodev, and reachable layer directories",
        expect: "none",
        mode: Probe,
        run: mounts::table,
    },
    Case {
        id: "F13",
        what: "leave the root by nested chroot and fchdir, by `..` from everywhere, and by file handles",
        expect: "the same root",
        mode: Probe,
        run: mounts::escape,
    },
];
