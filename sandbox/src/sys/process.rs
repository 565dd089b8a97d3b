//! Processes: clone, wait, kill, privileges, exec.
//!
//! Every function may run in a child between `clone3` and `execve`: no allocation, no lock, no panic.
use super::{Errno, Result, check, raw};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::process::Pid;
use std::ffi::CStr;
use std::os::fd::FromRawFd;

/// `CLONE_*` bits of clone3(2). Values from `linux/sched.h`.
pub mod clone_flag {
    /// New mount namespace.
    pub const NEW_NS: u64 = 0x0002_0000;
    /// New cgroup namespace.
    pub const NEW_CGROUP: u64 = 0x0200_0000;
    /// New UTS namespace.
    pub const NEW_UTS: u64 = 0x0400_0000;
    /// New IPC namespace.
    pub const NEW_IPC: u64 = 0x0800_0000;
    /// New user namespace.
    pub const NEW_USER: u64 = 0x1000_0000;
    /// New pid namespace.
    pub const NEW_PID: u64 = 0x2000_0000;
    /// New network namespace.
    pub const NEW_NET: u64 = 0x4000_0000;
    /// A descriptor of the child is returned.
    pub const PIDFD: u64 = 0x0000_1000;
    /// The child starts in the given cgroup (v2, Linux 5.7).
    pub const INTO_CGROUP: u64 = 0x2_0000_0000;
}

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a clone the caller is on.
pub enum Cloned {
    /// The parent, with the child's pid and, if asked for, a descriptor of it.
    Parent(Pid, Option<OwnedFd>),
    /// The child.
    Child,
}

/// Clones this process, as fork(2) does, with namespaces and cgroup as given (Linux 5.7).
///
/// # Safety
/// The caller must be single-threaded: the child starts with a copy of the memory as it is, so that a lock that
/// another thread holds would stay locked forever.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if flags & clone_flag::PIDFD != 0 {
        args.pidfd = (&raw mut pidfd) as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= clone_flag::INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the argument block is valid and passed with its size; without CLONE_VM the child runs on its own
    // copy of this stack. That no other thread exists is the caller's promise.
    let ret = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if ret == 0 {
        return Ok(Cloned::Child);
    }
    let pid = i32::try_from(ret).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
    // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor that nobody else owns.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Cloned::Parent(pid, pidfd))
}

/// How a child ended and what it used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reaped {
    /// Its pid.
    pub pid: i32,
    /// The raw wait status of wait4(2).
    pub status: i32,
    /// User CPU time in microseconds, of it and of the children that it had waited for.
    pub user_us: u64,
    /// System CPU time in microseconds, likewise.
    pub system_us: u64,
    /// The largest resident set of any of them, in bytes.
    pub max_rss_bytes: u64,
}

fn timeval_us(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000)
        .saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// Reaps any child that has ended; `None` if children are left but none has ended. `ECHILD`: there are none.
pub fn reap_any(block: bool) -> Result<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: `rusage` is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: both out-pointers refer to live locals of the right type.
        let pid = unsafe { libc::wait4(-1, &raw mut status, options, &raw mut usage) };
        match check(i64::from(pid)) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            Ok(0) => return Ok(None),
            Ok(_) => {
                return Ok(Some(Reaped {
                    pid,
                    status,
                    user_us: timeval_us(usage.ru_utime),
                    system_us: timeval_us(usage.ru_stime),
                    max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
                }));
            }
        }
    }
}

/// Sends SIGKILL to every process in this pid namespace but the caller. `ESRCH`: there is none.
///
/// Meant for pid 1 of a sandbox; refuses to run anywhere else, where it would reach the whole machine.
pub fn kill_all_others() -> Result<()> {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        return Err(Errno::PERM);
    }
    // SAFETY: kill(2) takes no pointers; the check above bounds what -1 means to this sandbox.
    check(i64::from(unsafe { libc::kill(-1, libc::SIGKILL) })).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct SchedulingAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Lets process `pid` run before what is of ordinary importance; what it clones is ordinary again. `EPERM`: not for an
/// ordinary user.
pub fn put_first(pid: Pid) -> Result<()> {
    // SCHED_FLAG_RESET_ON_FORK, and the least nice value that there is.
    let attributes =
        SchedulingAttributes { size: 48, flags: 1, nice: -20, ..SchedulingAttributes::default() };
    let pid = pid.as_raw_nonzero().get().cast_unsigned();
    // SAFETY: sched_setattr(2) reads `size` bytes of the structure, which lives across the call.
    unsafe { raw::call(libc::SYS_sched_setattr, [u64::from(pid), &raw const attributes as u64, 0, 0, 0]) }
        .map(drop)
}

/// Clears every capability set of the calling thread: effective, permitted, inheritable; ambient follows.
pub fn drop_capability_sets() -> Result<()> {
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
}

/// Removes every capability from the bounding set, up to the last that the kernel knows.
pub fn drop_bounding_set() -> Result<()> {
    for capability in 0..64 {
        // SAFETY: PR_CAPBSET_DROP takes integers only.
        match check(i64::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })) {
            Ok(_) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes integers only.
    check(i64::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }))
        .map(drop)
}

/// Sets the supplementary groups to none. Fails with `EPERM` where setgroups is denied, which is as good.
pub fn clear_groups() -> Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Becomes `uid` and `gid` for good: real, effective and saved.
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: setresgid(2) and setresuid(2) take integers only; the process has one thread, so the kernel's
    // per-thread change is the whole change.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Installs a classic BPF filter (`struct sock_filter` records, 8 bytes each). Needs no_new_privs.
pub fn install_seccomp(program: &[u8]) -> Result<()> {
    let len = u16::try_from(program.len() / 8).map_err(|_| Errno::INVAL)?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr() as *mut libc::sock_filter };
    // SAFETY: the kernel copies `len` records of 8 bytes from `program`, which holds that many, and does not
    // write to it or keep the pointer. It reads unaligned memory by copy_from_user.
    let ret = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const prog, 0, 0) };
    check(i64::from(ret)).map(drop)
}

/// Closes every descriptor from `first` on (Linux 5.9).
pub fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: close_range(2) takes integers; the caller is about to exec or has just been cloned, and owns no
    // descriptor above `first` any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0) })
        .map(drop)
}

/// Marks every descriptor from `first` on close-on-exec (Linux 5.11).
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    let arguments = [first as u64, u64::from(u32::MAX), u64::from(CLOSE_RANGE_CLOEXEC), 0, 0];
    // SAFETY: close_range(2) takes integers and closes nothing with this flag.
    unsafe { raw::call(libc::SYS_close_range, arguments) }.map(drop)
}

/// Blocks every signal for this thread; what is pending waits.
pub fn block_signals() -> Result<()> {
    // SAFETY: the set is filled before it is read; a null old set is allowed.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&raw mut set);
        check(i64::from(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, core::ptr::null_mut())))
            .map(drop)
    }
}

/// Restores the default action of every signal, as a fresh program expects. Children inherit that.
pub fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition for every signal; those that cannot be changed answer EINVAL, which
        // changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Unblocks every signal for this thread.
pub fn unblock_signals() -> Result<()> {
    let none = 0u64;
    let arguments = [libc::SIG_SETMASK as u64, (&raw const none) as u64, 0, 8, 0];
    // SAFETY: the kernel reads a mask of 8 bytes, which is live; a null old mask is allowed.
    unsafe { raw::call(libc::SYS_rt_sigprocmask, arguments) }.map(drop)
}

/// A descriptor that becomes readable when a child ends. SIGCHLD must be blocked.
pub fn child_signal_fd() -> Result<OwnedFd> {
    // SAFETY: the set is filled before it is read; the new descriptor is owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        let fd =
            check(i64::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(|_| Errno::BADF)?))
    }
}

/// Replaces the program. Returns only on failure.
///
/// # Safety
/// `argv` and `envp` must point to null-terminated arrays of pointers to NUL-terminated strings.
pub unsafe fn exec(program: &CStr, argv: *const *const u8, envp: *const *const u8) -> Errno {
    let arguments = [program.as_ptr() as u64, argv as u64, envp as u64, 0, 0];
    // SAFETY: the caller promises what execve(2) needs of the arrays; `program` is NUL-terminated by its type.
    match unsafe { raw::call(libc::SYS_execve, arguments) } {
        Ok(_) => Errno::IO,
        Err(errno) => errno,
    }
}

/// Ends the process at once, without running any destructor or exit handler.
pub fn exit_now(code: i32) -> ! {
    loop {
        // SAFETY: exit_group(2) takes an integer and does not return.
        let _ = unsafe { raw::call(libc::SYS_exit_group, [code as u64, 0, 0, 0, 0]) };
    }
}

/// Ends this thread alone.
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: exit(2) takes an integer and does not return.
        let _ = unsafe { raw::call(libc::SYS_exit, [0; 5]) };
    }
}

/// Brings up the loopback device of this network namespace. Source: netdevice(7), SIOCSIFFLAGS.
pub fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data for which all zeroes is valid; the name fits; the request reads and writes
    // only this block.
    unsafe {
        let mut request: libc::ifreq = core::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(i64::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request))).map(drop)
    }
}

/// Sets the host and domain name of this UTS namespace.
pub fn set_host_name(name: &CStr) -> Result<()> {
    rustix::system::sethostname(name.to_bytes())?;
    rustix::system::setdomainname(b"localdomain")
}

/// Landlock: the ABI of this kernel (Linux 5.13), or why there is none.
pub fn landlock_abi() -> Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with the version flag the kernel wants a null attribute of size zero.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            core::ptr::null::<u8>(),
            0,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    check(ret).map(|abi| u32::try_from(abi).unwrap_or(0))
}

/// Landlock: a new ruleset that handles the given accesses. `size` tells the kernel how many fields count.
pub fn landlock_create(handled_fs: u64, handled_net: u64, scoped: u64, size: usize) -> Result<OwnedFd> {
    let attr: [u64; 3] = [handled_fs, handled_net, scoped];
    let arguments = [attr.as_ptr() as u64, size.min(size_of_val(&attr)) as u64, 0, 0, 0];
    // SAFETY: the block of three words is live and the size does not exceed it.
    let fd = unsafe { raw::call(libc::SYS_landlock_create_ruleset, arguments) }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Landlock: allows `access` below the directory `parent`.
pub fn landlock_allow(ruleset: BorrowedFd<'_>, parent: BorrowedFd<'_>, access: u64) -> Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: parent.as_raw_fd() };
    let kind = u64::from(LANDLOCK_RULE_PATH_BENEATH);
    let arguments = [ruleset.as_raw_fd() as u64, kind, (&raw const rule) as u64, 0, 0];
    // SAFETY: the rule has the packed layout of `struct landlock_path_beneath_attr` and outlives the call.
    unsafe { raw::call(libc::SYS_landlock_add_rule, arguments) }.map(drop)
}

/// Landlock: puts the calling thread under the ruleset for good. Needs no_new_privs.
pub fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: landlock_restrict_self(2) takes integers only.
    unsafe { raw::call(libc::SYS_landlock_restrict_self, [ruleset.as_raw_fd() as u64, 0, 0, 0, 0]) }.map(drop)
}

/// Leaves the mount namespace, and with `user` the user namespace as well. For the start of a single-threaded `main`.
pub fn unshare_at_start(user: bool) -> Result<()> {
    let flags = libc::CLONE_NEWNS | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: unshare(2) takes an integer; namespaces do not touch memory or descriptors.
    check(i64::from(unsafe { libc::unshare(flags) })).map(drop)
}
