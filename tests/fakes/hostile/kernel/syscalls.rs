//! K02: dangerous system calls, each with arguments that cannot do harm if it gets through.

use crate::facts::Facts;
use crate::report::Report;
use crate::sys::{self, Attempt, attempt};
use libc::{EPERM, c_long};

/// An address that is never mapped.
const BAD: u64 = 1;
/// A descriptor, pid or number that never exists.
const NONE: u64 = u32::MAX as u64;
/// Flags that no kernel knows.
const FLAGS: u64 = 0x4000_0000;

struct Call {
    name: &'static str,
    number: c_long,
    args: [u64; 6],
}

const fn c(name: &'static str, number: c_long, args: [u64; 6]) -> Call {
    Call { name, number, args }
}

/// Must be EPERM, ENOSYS or SIGSYS. Without a filter most give EFAULT, EBADF or EINVAL.
const REFUSED: &[Call] = &[
    c("mount", libc::SYS_mount, [BAD, BAD, BAD, 0, BAD, 0]),
    c("umount2", libc::SYS_umount2, [BAD, FLAGS, 0, 0, 0, 0]),
    c("pivot_root", libc::SYS_pivot_root, [BAD, BAD, 0, 0, 0, 0]),
    c("chroot", libc::SYS_chroot, [BAD, 0, 0, 0, 0, 0]),
    c("open_tree", libc::SYS_open_tree, [NONE, BAD, FLAGS, 0, 0, 0]),
    c("move_mount", libc::SYS_move_mount, [NONE, BAD, NONE, BAD, FLAGS, 0]),
    c("fsopen", libc::SYS_fsopen, [BAD, FLAGS, 0, 0, 0, 0]),
    c("fsconfig", libc::SYS_fsconfig, [NONE, NONE, 0, 0, 0, 0]),
    c("fsmount", libc::SYS_fsmount, [NONE, FLAGS, 0, 0, 0, 0]),
    c("fspick", libc::SYS_fspick, [NONE, BAD, FLAGS, 0, 0, 0]),
    c("mount_setattr", libc::SYS_mount_setattr, [NONE, BAD, FLAGS, BAD, 0, 0]),
    c("open_tree_attr", 467, [NONE, BAD, FLAGS, BAD, 0, 0]),
    c("statmount", 457, [BAD, BAD, 0, FLAGS, 0, 0]),
    c("listmount", 458, [BAD, BAD, 0, FLAGS, 0, 0]),
    c("unshare", libc::SYS_unshare, [0x7e02_0080, 0, 0, 0, 0, 0]),
    c("setns", libc::SYS_setns, [NONE, 0, 0, 0, 0, 0]),
    c("clone3", libc::SYS_clone3, [BAD, 0, 0, 0, 0, 0]),
    c("process_vm_readv", libc::SYS_process_vm_readv, [NONE, BAD, 0, BAD, 0, FLAGS]),
    c("process_vm_writev", libc::SYS_process_vm_writev, [NONE, BAD, 0, BAD, 0, FLAGS]),
    c("pidfd_getfd", libc::SYS_pidfd_getfd, [NONE, NONE, FLAGS, 0, 0, 0]),
    c("kcmp", libc::SYS_kcmp, [NONE, NONE, 99, 0, 0, 0]),
    c("keyctl", libc::SYS_keyctl, [NONE, 0, 0, 0, 0, 0]),
    c("add_key", libc::SYS_add_key, [BAD, BAD, 0, 0, 0, 0]),
    c("request_key", libc::SYS_request_key, [BAD, BAD, BAD, 0, 0, 0]),
    c("bpf", libc::SYS_bpf, [NONE, BAD, 8, 0, 0, 0]),
    c("perf_event_open", libc::SYS_perf_event_open, [BAD, 0, 0, NONE, FLAGS, 0]),
    c("userfaultfd", libc::SYS_userfaultfd, [FLAGS, 0, 0, 0, 0, 0]),
    c("fanotify_init", libc::SYS_fanotify_init, [FLAGS, 0, 0, 0, 0, 0]),
    c("fanotify_mark", libc::SYS_fanotify_mark, [NONE, FLAGS, 0, NONE, BAD, 0]),
    c("name_to_handle_at", libc::SYS_name_to_handle_at, [NONE, BAD, BAD, BAD, FLAGS, 0]),
    c("open_by_handle_at", libc::SYS_open_by_handle_at, [NONE, BAD, 0, 0, 0, 0]),
    c("kexec_load", libc::SYS_kexec_load, [0, 0, 0, FLAGS, 0, 0]),
    c("kexec_file_load", libc::SYS_kexec_file_load, [NONE, NONE, 0, BAD, FLAGS, 0]),
    c("init_module", libc::SYS_init_module, [BAD, 0, BAD, 0, 0, 0]),
    c("finit_module", libc::SYS_finit_module, [NONE, BAD, FLAGS, 0, 0, 0]),
    c("delete_module", libc::SYS_delete_module, [BAD, 0, 0, 0, 0, 0]),
    c("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0, 0]),
    c("swapon", libc::SYS_swapon, [BAD, FLAGS, 0, 0, 0, 0]),
    c("swapoff", libc::SYS_swapoff, [BAD, 0, 0, 0, 0, 0]),
    c("quotactl", libc::SYS_quotactl, [NONE, BAD, 0, BAD, 0, 0]),
    c("quotactl_fd", libc::SYS_quotactl_fd, [NONE, NONE, 0, BAD, 0, 0]),
    c("acct", libc::SYS_acct, [BAD, 0, 0, 0, 0, 0]),
    c("syslog", libc::SYS_syslog, [NONE, 0, 0, 0, 0, 0]),
    c("settimeofday", libc::SYS_settimeofday, [BAD, 0, 0, 0, 0, 0]),
    c("clock_settime", libc::SYS_clock_settime, [0, BAD, 0, 0, 0, 0]),
    c("clock_adjtime", libc::SYS_clock_adjtime, [0, BAD, 0, 0, 0, 0]),
    c("adjtimex", libc::SYS_adjtimex, [BAD, 0, 0, 0, 0, 0]),
    c("io_uring_setup", libc::SYS_io_uring_setup, [0, BAD, 0, 0, 0, 0]),
    c("io_uring_enter", libc::SYS_io_uring_enter, [NONE, 0, 0, FLAGS, 0, 0]),
    c("io_uring_register", libc::SYS_io_uring_register, [NONE, NONE, 0, 0, 0, 0]),
    c("personality(READ_IMPLIES_EXEC)", libc::SYS_personality, [0x40_0000, 0, 0, 0, 0, 0]),
    c("personality(ADDR_COMPAT_LAYOUT)", libc::SYS_personality, [0x20_0000, 0, 0, 0, 0, 0]),
    c("mknodat(char)", libc::SYS_mknodat, [NONE, BAD, 0o020_666, 0, 0, 0]),
    c("mknodat(block)", libc::SYS_mknodat, [NONE, BAD, 0o060_666, 0, 0, 0]),
    c("fchmod(set-uid)", libc::SYS_fchmod, [NONE, 0o4755, 0, 0, 0, 0]),
    c("fchmod(set-gid)", libc::SYS_fchmod, [NONE, 0o2755, 0, 0, 0, 0]),
    c("fchmodat(set-uid)", libc::SYS_fchmodat, [NONE, BAD, 0o4755, 0, 0, 0]),
    c("fchmodat2(set-uid)", 452, [NONE, BAD, 0o4755, 0, 0, 0]),
    // A number far above every reviewed one.
    c("syscall 1000", 1000, [0; 6]),
];

#[cfg(target_arch = "x86_64")]
const REFUSED_X86: &[Call] = &[
    c("iopl", libc::SYS_iopl, [99, 0, 0, 0, 0, 0]),
    c("ioperm", libc::SYS_ioperm, [u64::MAX, 1, 1, 0, 0, 0]),
    c("mknod(char)", libc::SYS_mknod, [BAD, 0o020_666, 0, 0, 0, 0]),
    c("mknod(block)", libc::SYS_mknod, [BAD, 0o060_666, 0, 0, 0, 0]),
    c("chmod(set-uid)", libc::SYS_chmod, [BAD, 0o4755, 0, 0, 0, 0]),
    c("chmod(set-gid)", libc::SYS_chmod, [BAD, 0o2755, 0, 0, 0, 0]),
    c("create_module", 174, [BAD, 0, 0, 0, 0, 0]),
    c("_sysctl", libc::SYS__sysctl, [BAD, 0, 0, 0, 0, 0]),
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_X86: &[Call] = &[];

/// These must be ENOSYS, or programs that probe for them take the wrong turn.
const ABSENT: [&str; 4] = ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"];

/// K02.
pub fn dangerous(_facts: &Facts, report: &mut Report) {
    for call in REFUSED.iter().chain(REFUSED_X86) {
        let result = attempt(|| sys::raw(call.number, call.args));
        report.refused(call.name, &result, &[EPERM, libc::ENOSYS]);
        if ABSENT.contains(&call.name) && matches!(result, Attempt::Errno(EPERM)) {
            report.note(format!("{} gives EPERM where callers expect ENOSYS", call.name));
        }
    }
    clone_flags(report);
}

/// clone(2) with every namespace flag, and again with rubbish above the 32 bits that the kernel looks at.
fn clone_flags(report: &mut Report) {
    let flags = [
        ("NEWUSER", libc::CLONE_NEWUSER),
        ("NEWNS", libc::CLONE_NEWNS),
        ("NEWPID", libc::CLONE_NEWPID),
        ("NEWNET", libc::CLONE_NEWNET),
        ("NEWIPC", libc::CLONE_NEWIPC),
        ("NEWUTS", libc::CLONE_NEWUTS),
        ("NEWCGROUP", libc::CLONE_NEWCGROUP),
    ];
    for (name, flag) in flags {
        for high in [0, 1u64 << 32] {
            // CLONE_SIGHAND without CLONE_VM is invalid, so that what gets through makes no process.
            let bits = (flag | libc::CLONE_SIGHAND) as u32;
            let result = attempt(|| sys::raw(libc::SYS_clone, [u64::from(bits) | high, 0, 0, 0, 0, 0]));
            report.refused(
                &format!("clone({name}, high {high:#x})"),
                &result,
                &[EPERM, libc::ENOSYS, libc::ENOSPC],
            );
        }
    }
}
