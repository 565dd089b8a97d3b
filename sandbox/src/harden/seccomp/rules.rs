//! The reviewed rules: every syscall name of the three ABIs stands in exactly one group, with a verdict and a
//! reason.
//!
//! The rules are by name and hold for every ABI that has the name; `switches` replace some of them when the
//! profile asks for it. A test fails when a name is missing or stands twice.
//!
//! What was decided here, beyond the table of the threat model:
//! - *adjtimex, clock_adjtime*: reading is harmless, setting needs CAP_SYS_TIME; the filter cannot tell them
//!   apart (the mode is behind a pointer). Refused: no build tool reads the clock discipline.
//! - *Set-id bits* are refused in the chmod family only. `mkdir` ignores them (vfs_mkdir masks the mode);
//!   `open`, `creat` and `mknod` could make a set-id file, but so could `openat2`, whose mode no filter can
//!   see, and a check would take `openat`, the hottest syscall of a compiler, out of the kernel's cache of
//!   unconditional answers (Linux 5.11). What is left is closed by nosuid mounts, no_new_privs and by
//!   stripping modes at collection.
//! - *modify_ldt* is attack surface that only 16- and 32-bit code needs: allowed together with i386.
//! - *statmount, listmount* describe mounts with their sources, which the masked view hides: refused with the
//!   family.
//! - *uretprobe, uprobe*: the kernel passes them by any filter (Linux 6.14), and refuses them outside its
//!   trampolines.
//! - *personality*: ADDR_NO_RANDOMIZE is not in the list, so that a debugger only warns that it cannot set
//!   it.

use super::verdict::{Answer, Clause, Condition, Verdict};

/// Syscalls that share a verdict and a reason.
pub(super) struct Group {
    /// Names, separated by white space.
    pub names: &'static str,
    pub verdict: Verdict,
    pub reason: &'static str,
}

impl Group {
    /// Whether the group speaks about this syscall.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.split_whitespace().any(|candidate| candidate == name)
    }
}

const fn allow(reason: &'static str, names: &'static str) -> Group {
    Group { names, verdict: Verdict::Always(Answer::Allow), reason }
}

const fn refuse(reason: &'static str, names: &'static str) -> Group {
    Group { names, verdict: Verdict::Always(Answer::Eperm), reason }
}

const fn absent(reason: &'static str, names: &'static str) -> Group {
    Group { names, verdict: Verdict::Always(Answer::Enosys), reason }
}

const fn by_argument(
    reason: &'static str,
    names: &'static str,
    clauses: &'static [Clause],
    otherwise: Answer,
) -> Group {
    Group { names, verdict: Verdict::ByArgument { clauses, otherwise }, reason }
}

const fn clause(answer: Answer, all: &'static [Condition]) -> Clause {
    Clause { all, answer }
}

/// Every `CLONE_NEW*` of linux/sched.h. `CLONE_NEWTIME` (0x80) lies in the exit signal's byte and is no flag
/// of clone(2); no valid signal has that bit.
const CLONE_NEW_ANY: u32 = 0x7e02_0080;
/// `S_IFMT`, `S_IFCHR`, `S_IFBLK`, linux/stat.h.
const FILE_TYPE: u32 = libc::S_IFMT;
/// `S_ISUID | S_ISGID`, linux/stat.h.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
/// `TIOCSTI`: push a character into a terminal's input. asm-generic/ioctls.h, ioctl_tty(2).
const TIOCSTI: u32 = 0x5412;
/// `TIOCLINUX`: paste and more on the console. asm-generic/ioctls.h, ioctl_console(2).
const TIOCLINUX: u32 = 0x541c;
/// The pid of the sandbox's init in its pid namespace, pid_namespaces(7).
const INIT: u32 = 1;
/// `NETLINK_ROUTE`, linux/netlink.h: what getifaddrs(3) uses.
const NETLINK_ROUTE: u32 = 0;

/// The rules that do not depend on a switch.
pub(super) const GROUPS: &[Group] = &[
    // ---- answered as if the kernel did not have it
    // --------------------------------------------------------------
    absent("its flags are behind a pointer; libc falls back to clone, whose flags are checked", "clone3"),
    absent(
        "io_uring: runs operations that no filter sees",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    absent(
        "i386 multiplexer: families are behind a pointer; socket and its kin have numbers of their own",
        "socketcall",
    ),
    absent(
        "never implemented, removed, or replaced long ago",
        "uselib _sysctl nfsservctl getpmsg putpmsg afs_syscall tuxcall security vserver epoll_ctl_old \
         epoll_wait_old lookup_dcookie sysfs ustat break stty gtty ftime prof lock mpx ulimit profil idle \
         bdflush oldolduname olduname",
    ),
    // ---- refused: mounts, namespaces, other processes, kernel services, the machine
    // ------------------------------
    refuse(
        "mounts: the view is what the sandbox made of it",
        "mount umount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick \
         mount_setattr open_tree_attr statmount listmount",
    ),
    refuse("namespaces: a new one brings back capabilities and kernel surface", "unshare setns"),
    refuse("other processes' memory and descriptors", "process_vm_readv process_vm_writev pidfd_getfd kcmp"),
    refuse("kernel keyrings are not namespaced", "add_key request_key keyctl"),
    refuse("kernel services with a history of holes", "bpf perf_event_open userfaultfd"),
    refuse(
        "watches or opens files outside the view",
        "fanotify_init fanotify_mark name_to_handle_at open_by_handle_at",
    ),
    refuse(
        "loads or asks about kernel code",
        "init_module finit_module delete_module create_module query_module get_kernel_syms",
    ),
    refuse("the machine", "kexec_load kexec_file_load reboot swapon swapoff acct syslog vhangup iopl ioperm"),
    refuse("quotas of the host's file systems", "quotactl quotactl_fd"),
    refuse("the names of the host", "sethostname setdomainname"),
    refuse(
        "the clock",
        "settimeofday stime clock_settime clock_settime64 adjtimex clock_adjtime clock_adjtime64",
    ),
    refuse("security attributes of the process", "lsm_set_self_attr"),
    refuse("real-mode emulation, i386 only", "vm86 vm86old"),
    // ---- decided by argument
    // -------------------------------------------------------------------------------------
    by_argument(
        "limits and scheduling, but not of init, which has the action's id where there is only one",
        "prlimit64 sched_setaffinity sched_setscheduler sched_setparam sched_setattr",
        &[clause(Answer::Eperm, &[Condition::equals(0, INIT)])],
        Answer::Allow,
    ),
    by_argument(
        "signals, but not to init, which has the action's id where there is only one",
        "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open",
        &[clause(Answer::Eperm, &[Condition::equals(0, INIT)])],
        Answer::Allow,
    ),
    by_argument(
        "priorities, but not of init, which has the action's id where there is only one",
        "setpriority ioprio_set",
        &[clause(Answer::Eperm, &[Condition::equals(1, INIT)])],
        Answer::Allow,
    ),
    by_argument(
        "threads and processes, but no new namespace",
        "clone",
        &[clause(Answer::Allow, &[Condition::none_of(0, CLONE_NEW_ANY)])],
        Answer::Eperm,
    ),
    by_argument(
        "sockets: only families that builds use; AF_ALG, vsock, packet and the like are attack surface",
        "socket socketpair",
        &[
            clause(Answer::Allow, &[Condition::equals(0, libc::AF_UNIX as u32)]),
            clause(Answer::Allow, &[Condition::equals(0, libc::AF_INET as u32)]),
            clause(Answer::Allow, &[Condition::equals(0, libc::AF_INET6 as u32)]),
            clause(
                Answer::Allow,
                &[Condition::equals(0, libc::AF_NETLINK as u32), Condition::equals(2, NETLINK_ROUTE)],
            ),
        ],
        Answer::Eafnosupport,
    ),
    by_argument(
        "devices, but no input pushed into a terminal",
        "ioctl",
        &[
            clause(Answer::Eperm, &[Condition::equals(1, TIOCSTI)]),
            clause(Answer::Eperm, &[Condition::equals(1, TIOCLINUX)]),
        ],
        Answer::Allow,
    ),
    by_argument(
        "reading it, Linux, 32-bit Linux and uname-2.6; others change how memory is laid out",
        "personality",
        &[
            clause(Answer::Allow, &[Condition::equals(0, 0)]),
            clause(Answer::Allow, &[Condition::equals(0, 0xffff_ffff)]),
            clause(Answer::Allow, &[Condition::equals(0, 0x8)]),
            clause(Answer::Allow, &[Condition::equals(0, 0x2_0000)]),
            clause(Answer::Allow, &[Condition::equals(0, 0x2_0008)]),
        ],
        Answer::Eperm,
    ),
    by_argument(
        "files, FIFOs and sockets, but no device nodes (nor overlay whiteouts, which are 0:0 devices)",
        "mknod",
        &[
            clause(Answer::Eperm, &[Condition { arg: 1, mask: FILE_TYPE, value: libc::S_IFCHR }]),
            clause(Answer::Eperm, &[Condition { arg: 1, mask: FILE_TYPE, value: libc::S_IFBLK }]),
        ],
        Answer::Allow,
    ),
    by_argument(
        "files, FIFOs and sockets, but no device nodes (nor overlay whiteouts, which are 0:0 devices)",
        "mknodat",
        &[
            clause(Answer::Eperm, &[Condition { arg: 2, mask: FILE_TYPE, value: libc::S_IFCHR }]),
            clause(Answer::Eperm, &[Condition { arg: 2, mask: FILE_TYPE, value: libc::S_IFBLK }]),
        ],
        Answer::Allow,
    ),
    by_argument(
        "modes, but no set-user-id or set-group-id bit",
        "chmod fchmod",
        &[clause(Answer::Allow, &[Condition::none_of(1, SET_ID)])],
        Answer::Eperm,
    ),
    by_argument(
        "modes, but no set-user-id or set-group-id bit",
        "fchmodat fchmodat2",
        &[clause(Answer::Allow, &[Condition::none_of(2, SET_ID)])],
        Answer::Eperm,
    ),
    // ---- allowed
    // -------------------------------------------------------------------------------------------------
    allow(
        "reading and writing",
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek sendfile \
         sendfile64 splice tee vmsplice copy_file_range readahead fadvise64 fadvise64_64 cachestat fsync \
         fdatasync sync syncfs sync_file_range ftruncate ftruncate64 truncate truncate64 fallocate",
    ),
    allow(
        "opening and naming files; paths are limited by the view",
        "open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock access faccessat \
         faccessat2 chdir fchdir getcwd mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink \
         symlinkat unlink unlinkat readlink readlinkat getdents getdents64 readdir umask",
    ),
    allow(
        "attributes of files",
        "stat fstat lstat newfstatat statx stat64 fstat64 lstat64 fstatat64 oldstat oldfstat oldlstat \
         statfs fstatfs statfs64 fstatfs64 chown fchown lchown fchownat chown32 fchown32 lchown32 utime \
         utimes futimesat utimensat utimensat_time64",
    ),
    allow(
        "extended attributes; security.* is stripped at collection, for its name is behind a pointer",
        "setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr \
         llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat file_getattr \
         file_setattr",
    ),
    allow(
        "memory of the process itself",
        "mmap mmap2 munmap mprotect mremap brk madvise mincore msync mlock mlock2 munlock mlockall \
         munlockall remap_file_pages memfd_create memfd_secret pkey_mprotect pkey_alloc pkey_free mseal \
         map_shadow_stack membarrier",
    ),
    allow(
        "placement of memory; other processes only where ptrace would be let through",
        "mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages process_madvise \
         process_mrelease",
    ),
    allow(
        "processes and threads; limited by the pid namespace and the cgroup",
        "fork vfork execve execveat exit exit_group wait4 waitpid waitid pidfd_send_signal set_tid_address \
         set_robust_list get_robust_list rseq restart_syscall arch_prctl prctl set_thread_area get_thread_area",
    ),
    allow(
        "who am I; changes are refused by the kernel without capabilities",
        "getpid getppid gettid getpgid getpgrp getsid setpgid setsid getuid geteuid getgid getegid \
         getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid setgroups \
         setfsuid setfsgid getuid32 geteuid32 getgid32 getegid32 getresuid32 getresgid32 getgroups32 \
         setuid32 setgid32 setreuid32 setregid32 setresuid32 setresgid32 setgroups32 setfsuid32 setfsgid32 \
         capget capset",
    ),
    allow(
        "signals",
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigtimedwait_time64 \
         rt_sigsuspend sigaltstack signal sigaction sgetmask ssetmask \
         sigsuspend sigpending sigreturn sigprocmask signalfd signalfd4 pause",
    ),
    allow(
        "waiting",
        "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 \
         epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 futex futex_time64 futex_waitv \
         futex_wake futex_wait futex_requeue",
    ),
    allow(
        "time: reading, sleeping, timers of one's own",
        "time gettimeofday times clock_gettime clock_gettime64 clock_getres clock_getres_time64 \
         clock_nanosleep clock_nanosleep_time64 nanosleep alarm getitimer setitimer timer_create \
         timer_settime timer_settime64 timer_gettime timer_gettime64 timer_getoverrun timer_delete \
         timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64",
    ),
    allow(
        "scheduling and limits; raising needs capabilities or a limit that is zero",
        "sched_yield sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min \
         sched_rr_get_interval sched_rr_get_interval_time64 sched_getaffinity sched_getattr getpriority nice \
         ioprio_get getrlimit ugetrlimit setrlimit getrusage getcpu",
    ),
    allow(
        "pipes and sockets that are already open; reach is limited by the network namespace",
        "pipe pipe2 connect accept accept4 bind listen shutdown getsockname getpeername setsockopt \
         getsockopt sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg recvmmsg_time64",
    ),
    allow(
        "System V and POSIX IPC; limited by the IPC namespace",
        "ipc shmget shmat shmctl shmdt semget semop semctl semtimedop semtimedop_time64 msgget msgsnd \
         msgrcv msgctl mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive \
         mq_timedreceive_time64 mq_notify mq_getsetattr",
    ),
    allow(
        "asynchronous file I/O of POSIX aio libraries",
        "io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents io_pgetevents_time64",
    ),
    allow("watching files of the view", "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch"),
    allow("facts about the system", "uname sysinfo getrandom"),
    allow(
        "walls that a process builds around itself",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr \
         lsm_list_modules",
    ),
    allow("the kernel itself refuses it outside its own trampoline", "uretprobe uprobe"),
    allow("debuggers, tracers and sanitizers; reaches only the pid namespace", "ptrace"),
    allow("16- and 32-bit segments, for i386 programs", "modify_ldt"),
];

/// In place of the rule above, when the profile does not allow ptrace.
pub(super) const WITHOUT_PTRACE: Group = refuse("other processes: the spec does not allow ptrace", "ptrace");

/// In place of the rule above, when the profile does not allow i386.
pub(super) const WITHOUT_I386: Group =
    refuse("only 16- and 32-bit code needs it, and i386 is not allowed", "modify_ldt");

#[cfg(test)]
mod tests {
    use super::{GROUPS, WITHOUT_I386, WITHOUT_PTRACE};
    use crate::harden::seccomp::{Abi, Verdict};
    use std::collections::BTreeSet;

    #[test]
    fn every_name_has_exactly_one_rule() {
        let known: BTreeSet<&str> = [Abi::X86_64, Abi::I386, Abi::Aarch64]
            .into_iter()
            .flat_map(|abi| abi.assigned().map(|(_, name)| name))
            .collect();
        let mut ruled = BTreeSet::new();
        for name in GROUPS.iter().flat_map(|group| group.names.split_whitespace()) {
            assert!(ruled.insert(name), "{name} stands in two groups");
        }
        let missing: Vec<_> = known.difference(&ruled).collect();
        let unknown: Vec<_> = ruled.difference(&known).collect();
        assert!(missing.is_empty(), "no rule for {missing:?}");
        assert!(unknown.is_empty(), "no such syscall: {unknown:?}");
        assert!(known.contains(WITHOUT_I386.names) && known.contains(WITHOUT_PTRACE.names));
    }

    #[test]
    fn conditions_are_satisfiable() {
        for group in GROUPS {
            if let Verdict::ByArgument { clauses, .. } = group.verdict {
                for condition in clauses.iter().flat_map(|clause| clause.all) {
                    assert!(condition.arg < 6, "{}", group.names);
                    assert_eq!(condition.value & !condition.mask, 0, "{}", group.names);
                }
            }
        }
    }
}
