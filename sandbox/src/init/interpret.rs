//! The interpreter of plans: reads steps in place and performs them, one after the other.
//!
//! Used by the zygote for views, by init for creation and leases, and by the waiting process for itself. It
//! allocates nothing, and stops at the first step that fails.
use crate::plan::Phase;
use crate::plan::wire::{PlanBytes, StepBytes, code};
use crate::sys::mount::{self, attr};
use crate::sys::{Errno, Result, message, process};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Pid;
use std::ffi::CStr;

/// The step that failed, and why. Numbers of [`crate::plan::machinery`] stand for the machinery between the steps.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// Which step, from 1.
    pub step: u32,
    /// Why.
    pub errno: Errno,
}

/// The most private mounts of a lease.
pub const PRIVATE_MAX: usize = 4;

/// A private mount as it was when it was new. While it is the same, an action has left nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Private {
    /// Blocks and inodes in use.
    used: [u64; 2],
    /// Mode, owner, links and size of its root.
    root: [u64; 5],
    /// Access, modification and change of its root, in nanoseconds.
    times: [i128; 3],
}

impl Private {
    /// Looks at the mount at `at`. `None`: it cannot be vouched for.
    fn look(at: &CStr) -> Option<Private> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
        let root = rustix::fs::openat(mount::here(), at, flags, Mode::empty()).ok()?;
        let filesystem = rustix::fs::fstatfs(&root).ok()?;
        let stat = rustix::fs::fstat(&root).ok()?;
        let mut names = [0u8; 64];
        match rustix::fs::flistxattr(&root, &mut names[..]) {
            Ok(0) | Err(Errno::OPNOTSUPP) => {}
            Ok(_) | Err(_) => return None,
        }
        let time =
            |seconds: i64, nanoseconds: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Some(Private {
            used: [
                (filesystem.f_blocks as u64).wrapping_sub(filesystem.f_bfree as u64),
                (filesystem.f_files as u64).wrapping_sub(filesystem.f_ffree as u64),
            ],
            root: [
                u64::from(stat.st_mode),
                u64::from(stat.st_uid),
                u64::from(stat.st_gid),
                stat.st_nlink as u64,
                stat.st_size.unsigned_abs(),
            ],
            times: [
                time(stat.st_atime, stat.st_atime_nsec),
                time(stat.st_mtime, stat.st_mtime_nsec),
                time(stat.st_ctime, stat.st_ctime_nsec),
            ],
        })
    }
}

/// What steps work on.
pub struct Context<'a> {
    /// The steps.
    pub plan: PlanBytes<'a>,
    /// Trees for [`code::ATTACH`], taken as they are used.
    pub trees: message::Descriptors,
    /// Where this view is mounted in the zygote's mount namespace.
    pub view: &'a CStr,
    /// Fault injection: the step that shall fail with `EIO`; 0 for none.
    pub fail_at: u32,
    /// A proc that is mounted but not attached yet.
    pub proc: Option<OwnedFd>,
    /// A landlock ruleset that is being made.
    pub ruleset: Option<OwnedFd>,
    /// Writing here sets the number of the next process (CONFIG_CHECKPOINT_RESTORE); opened while proc is writable.
    pub last_pid: Option<OwnedFd>,
    /// Whether the zygote had prepared the network namespace, loopback included.
    pub network_inherited: bool,
    /// Whether the zygote had prepared the IPC namespace of the first action.
    pub ipc_inherited: bool,
    /// What `/tmp` and its like were when they were mounted.
    pub private: [Option<Private>; PRIVATE_MAX],
    /// Whether this sandbox has a network namespace of its own, and `lo` is up in it.
    pub own_network: Option<bool>,
}

impl<'a> Context<'a> {
    /// A context at the start.
    #[must_use]
    pub fn new(plan: PlanBytes<'a>, view: &'a CStr, fail_at: u32) -> Self {
        Context {
            plan,
            trees: message::no_descriptors(),
            view,
            fail_at,
            proc: None,
            ruleset: None,
            last_pid: None,
            network_inherited: false,
            ipc_inherited: false,
            private: [None; PRIVATE_MAX],
            own_network: None,
        }
    }

    /// Performs all steps of a phase that are not the zygote's or the waiting process's own.
    pub fn run(&mut self, phase: Phase) -> core::result::Result<(), Failed> {
        self.run_from(1, phase).map(drop)
    }

    /// Performs steps of a phase from `first` on; stops at a step that the caller performs and returns its number,
    /// or the number behind the last.
    pub fn run_from(&mut self, first: u32, phase: Phase) -> core::result::Result<u32, Failed> {
        let mut number = first;
        while let Some(step) = self.plan.step(number) {
            if step.is_in(phase) {
                if matches!(step.code(), code::AWAIT | code::STDIO | code::CHANGE_DIRECTORY | code::EXEC) {
                    return Ok(number);
                }
                self.guard(number)
                    .and_then(|()| self.perform(&step))
                    .map_err(|errno| Failed { step: number, errno })?;
            }
            number += 1;
        }
        Ok(number)
    }

    /// Fails where fault injection says so.
    pub fn guard(&self, number: u32) -> Result<()> {
        if number == self.fail_at { Err(Errno::IO) } else { Ok(()) }
    }

    /// Performs one step.
    pub fn perform(&mut self, step: &StepBytes<'_>) -> Result<()> {
        match step.code() {
            code::TMPFS..=code::SEAL_VIEW => self.build(step),
            // The zygote performs these two around the clone.
            code::CLONE | code::MAP_IDS => Ok(()),
            code::SETTLE..=code::NOT_DUMPABLE => self.create(step),
            code::LANDLOCK_CREATE | code::LANDLOCK_ALLOW | code::LANDLOCK_RESTRICT => self.landlock(step),
            code::NAMESPACES => {
                let inherited = if self.ipc_inherited { process::clone_flag::NEW_IPC } else { 0 };
                unshare(step.wide(0) & !inherited)
            }
            code::NEW_SESSION..=code::CLOSE_DESCRIPTORS => harden(step),
            _ => Err(Errno::BADMSG),
        }
    }

    /// Steps that put the view together.
    fn build(&mut self, step: &StepBytes<'_>) -> Result<()> {
        let here = mount::here();
        let at = step.text(0).unwrap_or(c"");
        let mode = Mode::from_raw_mode(step.small(0));
        match step.code() {
            code::TMPFS => {
                let (mut size, mut inodes, mut octal) = ([0u8; 24], [0u8; 24], [0u8; 24]);
                let mounted = mount::tmpfs(
                    decimal(&mut size, step.wide(0), 10),
                    decimal(&mut inodes, step.wide(1), 10),
                    decimal(&mut octal, u64::from(step.small(0)), 8),
                    step.wide(2),
                )?;
                if at.is_empty() {
                    mount::attach_at(mounted.as_fd(), here, self.view)?;
                    return rustix::process::chdir(self.view);
                }
                mount::attach_at(mounted.as_fd(), here, at)
            }
            code::DIRECTORY => {
                rustix::fs::mkdirat(here, at, mode)?;
                rustix::fs::chmodat(here, at, mode, AtFlags::empty())
            }
            code::FILE => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(here, at, flags, mode)?;
                write_all(&file, step.bytes(1)?)
            }
            code::SYMLINK => rustix::fs::symlinkat(step.text(1)?, here, at),
            code::ATTACH => {
                let tree =
                    self.trees.get_mut(step.small(0) as usize).and_then(Option::take).ok_or(Errno::BADF)?;
                mount::attach_at(tree.as_fd(), here, at)
            }
            _ => {
                let root = mount::opath(here, c".")?;
                mount::restrict(root.as_fd(), attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV)
            }
        }
    }

    /// Steps that make a sandbox from the view.
    fn create(&mut self, step: &StepBytes<'_>) -> Result<()> {
        let here = mount::here();
        let at = step.text(0).unwrap_or(c"");
        match step.code() {
            code::SETTLE => {
                process::clear_groups()?;
                process::set_ids(step.small(0), step.small(1))?;
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            }
            code::LOOPBACK_UP => {
                self.own_network = Some(true);
                if self.network_inherited { Ok(()) } else { process::loopback_up() }
            }
            code::HOST_NAME => process::set_host_name(at),
            code::OPEN_PROC => {
                self.proc = Some(mount::proc()?);
                Ok(())
            }
            code::ENTER_VIEW => rustix::process::chdir(c"/"),
            code::ATTACH_PROC => {
                let proc = self.proc.take().ok_or(Errno::BADF)?;
                mount::attach_at(proc.as_fd(), here, at)?;
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                self.last_pid =
                    rustix::fs::openat(&proc, c"sys/kernel/ns_last_pid", flags, Mode::empty()).ok();
                Ok(())
            }
            code::MASK_FILE => if_exists(|| {
                let null = mount::clone_mount(here, c"dev/null")?;
                mount::attach_at(null.as_fd(), here, at)
            }),
            code::MASK_DIRECTORY => if_exists(|| {
                // The view's own directory for /tmp: empty, on a read-only tmpfs.
                let empty = mount::clone_mount(here, c"tmp")?;
                mount::attach_at(empty.as_fd(), here, at)
            }),
            code::READ_ONLY => if_exists(|| {
                let tree = mount::clone_mount(here, at)?;
                mount::restrict(tree.as_fd(), attr::READ_ONLY)?;
                mount::attach_at(tree.as_fd(), here, at)
            }),
            code::DEVPTS => mount::attach_at(mount::devpts(step.text(1)?)?.as_fd(), here, at),
            code::FORBID_USER_NAMESPACES => write_file(c"proc/sys/user/max_user_namespaces", b"0"),
            _ => rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable),
        }
    }

    /// The second wall, built when the action's directory is in place: a rule holds for the directory that is
    /// mounted when it is made, not for one that is mounted there later.
    fn landlock(&mut self, step: &StepBytes<'_>) -> Result<()> {
        match (step.code(), &self.ruleset) {
            (code::LANDLOCK_CREATE, _) => {
                let size = step.small(0) as usize;
                self.ruleset =
                    Some(process::landlock_create(step.wide(0), step.wide(1), step.wide(2), size)?);
                Ok(())
            }
            (code::LANDLOCK_ALLOW, Some(ruleset)) => if_exists(|| {
                let target = mount::opath(mount::here(), step.text(0)?)?;
                let is_directory =
                    rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode).is_dir();
                let of_a_file = crate::harden::landlock::fs::OF_A_FILE;
                let access = if is_directory { step.wide(0) } else { step.wide(0) & of_a_file };
                process::landlock_allow(ruleset.as_fd(), target.as_fd(), access)
            }),
            (code::LANDLOCK_RESTRICT, Some(ruleset)) => process::landlock_restrict(ruleset.as_fd()),
            _ => Err(Errno::BADF),
        }
    }

    /// Makes the private mounts like new: replaced where anything is different, left alone where nothing is.
    pub fn renew_lease(&mut self) -> core::result::Result<(), Failed> {
        for (number, index) in self.lease_steps() {
            let Some(step) = self.plan.step(number) else { continue };
            let at = |errno| Failed { step: number, errno };
            self.guard(number).map_err(at)?;
            let place = step.text(0).map_err(at)?;
            let before = self.private.get(index).copied().flatten();
            if before.is_some() && Private::look(place) == before {
                continue;
            }
            mount::detach(place).map_err(at)?;
            self.perform(&step).map_err(at)?;
            self.remember(index, place);
        }
        Ok(())
    }

    /// Notes what the private mounts are like now that they are new.
    pub fn remember_lease(&mut self) {
        for (number, index) in self.lease_steps() {
            if let Some(Ok(place)) = self.plan.step(number).map(|step| step.text(0)) {
                self.remember(index, place);
            }
        }
    }

    fn remember(&mut self, index: usize, place: &CStr) {
        if let Some(slot) = self.private.get_mut(index) {
            *slot = Private::look(place);
        }
    }

    /// The steps that mount something private, with their place in `private`.
    fn lease_steps(&self) -> impl Iterator<Item = (u32, usize)> + use<'a> {
        let plan = self.plan;
        let mounts = move |number: &u32| {
            plan.step(*number).is_some_and(|step| step.is_in(Phase::Lease) && step.code() == code::TMPFS)
        };
        (1..=plan.len() as u32).filter(mounts).zip(0..)
    }

    /// Starts pid numbers over, so that every action sees the same ones. Where the kernel cannot do it they go on.
    pub fn restart_pids(&self) {
        if let Some(file) = &self.last_pid {
            let _ = rustix::io::pwrite(file, b"1", 0);
        }
    }

    /// Leaves the IPC namespace that the first action had; the next one makes its own.
    pub fn leave_ipc(&mut self) -> Result<()> {
        if std::mem::take(&mut self.ipc_inherited) { unshare(process::clone_flag::NEW_IPC) } else { Ok(()) }
    }

    /// Replaces the network namespace if anything ever went over its loopback device.
    ///
    /// A connection leaves waiting ports and counters behind; without a packet there is nothing that could be left.
    pub fn renew_network(&self) -> Result<()> {
        if self.own_network != Some(true) || !loopback_was_used()? {
            return Ok(());
        }
        unshare(process::clone_flag::NEW_NET)?;
        process::loopback_up()
    }
}

/// Steps that the waiting process takes on itself.
fn harden(step: &StepBytes<'_>) -> Result<()> {
    match step.code() {
        code::NEW_SESSION => rustix::process::setsid().map(drop),
        code::RLIMIT => set_rlimit(step.small(0), step.wide(0), step.wide(1)),
        code::UMASK => {
            rustix::process::umask(Mode::from_raw_mode(step.small(0)));
            Ok(())
        }
        code::DROP_BOUNDING => process::drop_bounding_set(),
        code::SET_IDS => process::set_ids(step.small(0), step.small(1)),
        code::DROP_CAPABILITIES => process::drop_capability_sets(),
        code::NO_NEW_PRIVILEGES => rustix::thread::set_no_new_privs(true),
        code::SECCOMP => process::install_seccomp(step.bytes(0)?),
        code::CLOSE_DESCRIPTORS => process::close_on_exec_from(3),
        _ => Err(Errno::BADMSG),
    }
}

/// Sets a limit, never above the hard limit that is in force: this process may lack CAP_SYS_RESOURCE.
fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the out-pointer refers to a live local; a null new limit means read only.
    crate::sys::check(i64::from(unsafe { libc::prlimit64(0, resource, core::ptr::null(), &raw mut old) }))?;
    let hard = hard.min(old.rlim_max);
    let new = libc::rlimit64 { rlim_cur: soft.min(hard), rlim_max: hard };
    // SAFETY: the new limit is a live local; a null old limit is allowed.
    crate::sys::check(i64::from(unsafe {
        libc::prlimit64(0, resource, &raw const new, core::ptr::null_mut())
    }))
    .map(drop)
}

fn unshare(flags: u64) -> Result<()> {
    let flags = libc::c_int::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: unshare(2) takes an integer; this process has one thread and shares no memory, so the flags used
    // here (namespaces) change nothing that Rust relies on.
    crate::sys::check(i64::from(unsafe { libc::unshare(flags) })).map(drop)
}

fn if_exists(step: impl FnOnce() -> Result<()>) -> Result<()> {
    match step() {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn write_file(path: &CStr, bytes: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(mount::here(), path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write_all(&file, bytes)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = bytes.get(count..).unwrap_or(&[]);
    }
    Ok(())
}

/// A number in the given base as a C string, in a buffer of the caller; empty for 0 so that it means "default".
fn decimal(buffer: &mut [u8; 24], mut value: u64, base: u64) -> &CStr {
    if value == 0 {
        return c"";
    }
    let mut at = buffer.len() - 1;
    while value != 0 && at > 0 {
        at -= 1;
        buffer[at] = b'0' + (value % base) as u8;
        value /= base;
    }
    CStr::from_bytes_with_nul(&buffer[at..]).unwrap_or(c"")
}

fn loopback_was_used() -> Result<bool> {
    let file = rustix::fs::openat(
        mount::here(),
        c"proc/self/net/dev",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buffer = [0u8; 2048];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer[..]))?;
    Ok(device_was_used(buffer.get(..count).unwrap_or(&[])))
}

/// Whether any device but a silent one is listed; what cannot be read counts as used.
fn device_was_used(text: &[u8]) -> bool {
    let mut found = false;
    for line in text.split(|byte| *byte == b'\n').skip(2).filter(|line| !line.is_empty()) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return true };
        if line[colon + 1..].iter().any(|byte| !matches!(byte, b' ' | b'0')) {
            return true;
        }
        found = true;
    }
    !found
}

/// The pid as a decimal path below proc, for the zygote.
pub fn proc_path<'b>(buffer: &'b mut [u8; 48], pid: Pid, file: &str) -> Option<&'b CStr> {
    let mut digits = [0u8; 24];
    let pid = decimal(&mut digits, u64::try_from(pid.as_raw_nonzero().get()).ok()?, 10).to_bytes();
    let mut at = 0;
    for part in [pid, b"/", file.as_bytes(), b"\0"] {
        buffer.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    CStr::from_bytes_until_nul(buffer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_their_base() {
        let mut buffer = [0; 24];
        assert_eq!(decimal(&mut buffer, 1777, 10), c"1777");
        assert_eq!(decimal(&mut buffer, 0o1777, 8), c"1777");
        assert_eq!(decimal(&mut buffer, u64::MAX, 10), c"18446744073709551615");
        assert_eq!(decimal(&mut buffer, 0, 10), c"");
    }

    #[test]
    fn only_a_silent_loopback_counts_as_unused() {
        let head = "Inter-|   Receive  |  Transmit\n face |bytes packets\n";
        let silent = format!("{head}    lo:       0       0    0    0\n");
        let used = format!("{head}    lo:      84       1    0    0\n");
        assert!(!device_was_used(silent.as_bytes()));
        assert!(device_was_used(used.as_bytes()));
        assert!(device_was_used(head.as_bytes()), "no device at all cannot be vouched for");
        assert!(device_was_used(b""));
    }
}
