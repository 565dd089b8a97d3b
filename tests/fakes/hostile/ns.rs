//! N01 to N09, N11 to N13: namespaces and inter-process communication.

mod ipc;
mod keys;
mod mounting;
mod names;
mod nested;
mod network;
mod others;
mod residue;

use crate::report::{Case, Mode::Probe};

/// The table of the class.
pub const CASES: &[Case] = &[
    Case {
        id: "N01",
        what: "make a user namespace, and each other kind, by unshare, clone and clone3",
        expect: "EPERM, ENOSPC or ENOSYS",
        mode: Probe,
        run: nested::create,
    },
    Case {
        id: "N02",
        what: "remount writable, unmount masks, mount tmpfs and proc, use the new mount calls; again in new namespaces",
        expect: "refused",
        mode: Probe,
        run: mounting::change,
    },
    Case {
        id: "N03",
        what: "compare namespace inodes with the host's; setns to every namespace of every process",
        expect: "all differ; setns refused",
        mode: Probe,
        run: nested::compare,
    },
    Case {
        id: "N04",
        what: "connect to the sockets of the harness and of docker, containerd, dbus, nscd and others",
        expect: "none",
        mode: Probe,
        run: network::unix_sockets,
    },
    Case {
        id: "N05",
        what: "list interfaces and routes; connect to loopback ports of the host over IPv4 and IPv6",
        expect: "lo only, no connection",
        mode: Probe,
        run: network::addresses,
    },
    Case {
        id: "N06",
        what: "find SysV objects by key and by index, message queues, and content of /dev/shm",
        expect: "empty and private",
        mode: Probe,
        run: ipc::objects,
    },
    Case {
        id: "N07",
        what: "ptrace, /proc/PID/mem, process_vm_readv and pidfd_getfd on pid 1, others and the daemon",
        expect: "none",
        mode: Probe,
        run: others::attack,
    },
    Case {
        id: "N07-init",
        what: "signal 0, renice and prlimit on pid 1: works if it has the uid of the action",
        expect: "refused",
        mode: Probe,
        run: others::init,
    },
    Case {
        id: "N07-pidns",
        what: "look for processes of the host in /proc and by sweeping pids",
        expect: "only own processes and init",
        mode: Probe,
        run: others::pid_namespace,
    },
    Case {
        id: "N08",
        what: "look for a key of an earlier run, add one, request one, read keyrings",
        expect: "EPERM or ENOSYS",
        mode: Probe,
        run: keys::keyrings,
    },
    Case {
        id: "N09-look",
        what: "look for what N09-plant of another run left",
        expect: "nothing found",
        mode: Probe,
        run: residue::look,
    },
    Case {
        id: "N11",
        what: "read /proc/net and /proc/sys/net",
        expect: "content of an own, empty network namespace",
        mode: Probe,
        run: network::tables,
    },
    Case {
        id: "N12",
        what: "compare host and domain name, set them",
        expect: "fixed names; refused",
        mode: Probe,
        run: names::fixed,
    },
    Case {
        id: "N13",
        what: "nest 33 user and pid namespaces",
        expect: "refused at the first",
        mode: Probe,
        run: nested::nest,
    },
    Case {
        id: "N09-plant",
        what: "leave files, sockets, SysV objects, queues, a key and a process",
        expect: "planted; only N09-look judges",
        mode: Probe,
        run: residue::plant,
    },
];
