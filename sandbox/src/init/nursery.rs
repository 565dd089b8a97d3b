//! The zygote's own loop: the only process that clones sandboxes.
//!
//! It is forked from the daemon before any thread exists, lets go of everything it inherited, and moves into a
//! mount namespace that holds nothing but an unmasked proc. There it builds views, each of which gets a mount namespace
//! of its own with the view as root. A sandbox's mount namespace starts as a copy of that: it is small, nothing of the
//! host is in it, and there is no other root to leave.
//!
//! State here: the daemon's uid and capabilities, one thread, no terminal, all signals blocked. It ends when the
//! daemon closes the socket; its children end with it (PR_SET_PDEATHSIG).
use super::interpret::{Context, Failed, proc_path};
use super::networks::{IpcAhead, Networks};
use super::{CGROUP, CONTROL, FIRST_FREE, place};
use crate::plan::wire::{PlanBytes, StepBytes, code};
use crate::plan::{Phase, machinery};
use crate::sys::{Errno, Result, message, mount, process};
use crate::zygote::wire::{FromZygote, ToZygote};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use std::ffi::{CStr, CString};

/// Users and groups of a sandbox outside.
#[derive(Clone, Copy)]
struct Ids {
    init: u32,
    action: u32,
}

impl Ids {
    /// The map from two ids inside to these.
    fn map(self, init: u32, action: u32) -> Result<CString> {
        let text = if self.init == self.action {
            format!("{action} {} 1\n", self.action)
        } else {
            format!("{init} {} 1\n{action} {} 1\n", self.init, self.action)
        };
        CString::new(text).map_err(|_| Errno::INVAL)
    }

    /// The maps for users and groups that a plan's step asks for.
    fn maps(self, step: &StepBytes<'_>) -> Result<[CString; 2]> {
        let group = |index| u32::try_from(step.wide(index)).map_err(|_| Errno::BADMSG);
        Ok([self.map(step.small(0), step.small(1))?, self.map(group(0)?, group(1)?)?])
    }
}

/// What the zygote keeps.
struct Nursery {
    socket: OwnedFd,
    signals: OwnedFd,
    /// The proc of the daemon's pid namespace, to write id maps.
    proc: OwnedFd,
    /// The mount namespace in which views are built.
    home: OwnedFd,
    networks: Networks,
    ipc: IpcAhead,
}

/// Forks the zygote. Returns the daemon's end of the socket and the zygote's pid.
///
/// `once`: one sandbox at most will be cloned. `EBUSY` when the process has more than one thread.
pub fn fork(once: bool) -> Result<(OwnedFd, Pid)> {
    let (ours, theirs) = message::pair()?;
    if thread_count() > 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: the check above found one thread, and it is this one.
    match unsafe { process::clone3(0, None) }? {
        process::Cloned::Child => {
            drop(ours);
            match super::take_number_three(theirs).and_then(|socket| process::close_from(4).map(|()| socket))
            {
                Ok(socket) => run(socket, once),
                Err(_) => process::exit_now(1),
            }
        }
        process::Cloned::Parent(pid, _) => Ok((ours, pid)),
    }
}

/// How many threads this process has.
#[must_use]
pub fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Becomes a zygote and serves `socket` until the other end closes. Never returns.
fn run(socket: OwnedFd, once: bool) -> ! {
    match settle(socket, once) {
        Ok(mut nursery) => {
            let _ = FromZygote::Done { pid: 0 }.send(nursery.socket.as_fd(), &[]);
            nursery.serve()
        }
        Err((socket, errno)) => {
            let _ = FromZygote::Failed { step: machinery::ZYGOTE, errno: errno.raw_os_error() }
                .send(socket.as_fd(), &[]);
            process::exit_now(1)
        }
    }
}

fn settle(socket: OwnedFd, once: bool) -> core::result::Result<Nursery, (OwnedFd, Errno)> {
    match leave_host() {
        Ok([signals, proc, home, network, ipc]) => Ok(Nursery {
            socket,
            signals,
            proc,
            home,
            networks: Networks::new(network, once),
            ipc: IpcAhead::new(ipc, once),
        }),
        Err(errno) => Err((socket, errno)),
    }
}

/// Leaves everything that is the host's. Gives the signals, the host's proc, and the mount, network and
/// IPC namespaces.
fn leave_host() -> Result<[OwnedFd; 5]> {
    process::block_signals()?;
    process::default_signals();
    rustix::process::setsid()?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for number in 0..3 {
        place(null.as_fd(), number)?;
    }
    let _ = rustix::thread::set_name(c"fulgurite-zygot");
    let proc = enter_tiny_root()?;
    let own = |path| rustix::fs::openat(&proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let (home, network, ipc) = (own(c"self/ns/mnt")?, own(c"self/ns/net")?, own(c"self/ns/ipc")?);
    Ok([process::child_signal_fd()?, proc, home, network, ipc])
}

/// Leaves the host's mounts for a tmpfs with `proc`. Returns the host's proc.
fn enter_tiny_root() -> Result<OwnedFd> {
    use crate::sys::mount::attr;
    // SAFETY: unshare(2) takes an integer; the zygote has one thread.
    crate::sys::check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    let here = mount::here();
    let old_root = mount::opath(here, c"/")?;
    mount::make_private_recursive(old_root.as_fd())?;
    let root = mount::tmpfs(c"4m", c"", c"0755", attr::NO_SUID | attr::NO_DEV)?;
    let proc_tree = mount::clone_tree(here, c"/proc")?;
    mount::attach(root.as_fd(), old_root.as_fd())?;
    rustix::process::fchdir(root.as_fd())?;
    rustix::fs::mkdirat(here, c"proc", Mode::from_raw_mode(0o555))?;
    mount::attach_at(proc_tree.as_fd(), here, c"proc")?;
    mount::pivot_to_current_directory()?;
    rustix::fs::open(c"/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Where a view is put together.
const VIEW: &CStr = c"/view";

/// In a child with namespaces of its own: makes the view the root, with a proc in it.
///
/// The kernel lets a user namespace mount a new proc only where a whole one can be seen already. This one belongs to a
/// pid namespace in which nobody lives; each sandbox mounts its own over it.
fn become_root() -> Result<()> {
    let proc = mount::proc()?;
    mount::attach_at(proc.as_fd(), mount::here(), c"proc")?;
    mount::pivot_to_current_directory()
}

/// Goes to another mount namespace; root and working directory are its root then.
fn enter_mounts(namespace: BorrowedFd<'_>) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace, Some(rustix::thread::LinkNameSpaceType::Mount))
}

fn read_plan(plan: &OwnedFd) -> Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(plan)?.st_size).map_err(|_| Errno::BADMSG)?;
    if size > crate::plan::BYTES_MAX {
        return Err(Errno::BADMSG);
    }
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        match rustix::io::retry_on_intr(|| rustix::io::pread(plan, &mut bytes[at..], at as u64))? {
            0 => return Err(Errno::BADMSG),
            count => at += count,
        }
    }
    Ok(bytes)
}

impl Nursery {
    fn serve(&mut self) -> ! {
        loop {
            let (asked, ended) = {
                let mut events = [
                    PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
                ];
                match poll(&mut events, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => process::exit_now(1),
                }
                (!events[0].revents().is_empty(), !events[1].revents().is_empty())
            };
            if ended {
                let mut buffer = [0u8; 256];
                let _ = rustix::io::read(&self.signals, &mut buffer[..]);
                while let Ok(Some(_)) = process::reap_any(false) {}
                if !asked {
                    self.networks.prepare();
                    self.ipc.prepare();
                }
            }
            if asked {
                self.answer();
            }
        }
    }

    fn answer(&mut self) {
        let mut descriptors = message::no_descriptors();
        let request = match ToZygote::receive(self.socket.as_fd(), &mut descriptors) {
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => process::exit_now(0),
        };
        let machinery = |errno| Failed { step: machinery::ZYGOTE, errno };
        let spawned = matches!(request, ToZygote::Spawn { .. });
        let result = match request {
            ToZygote::View { fail_at } => self.view(fail_at, descriptors).map(|view| (0, Some(view))),
            ToZygote::Spawn { fail_at, in_cgroup, init_id, action_id } => {
                let ids = Ids { init: init_id, action: action_id };
                self.spawn(fail_at, in_cgroup, ids, descriptors).map(|(pid, fd)| (pid, Some(fd)))
            }
            ToZygote::Fork => self.fork(descriptors).map_err(machinery),
            ToZygote::UserNamespace { map, length } => self
                .user_namespace(map.get(..length).unwrap_or(&[]))
                .map(|fd| (0, Some(fd)))
                .map_err(machinery),
        };
        let answer = match &result {
            Ok((pid, _)) => FromZygote::Done { pid: *pid },
            Err(failed) => FromZygote::Failed { step: failed.step, errno: failed.errno.raw_os_error() },
        };
        let attached: Option<BorrowedFd<'_>> =
            result.as_ref().ok().and_then(|(_, fd)| fd.as_ref().map(AsFd::as_fd));
        if answer.send(self.socket.as_fd(), attached.as_slice()).is_err() {
            process::exit_now(0);
        }
        if spawned {
            self.ipc.leave();
        }
    }

    /// Builds a view and a mount namespace that holds nothing else. A view that fails half way is taken down again.
    fn view(
        &mut self,
        fail_at: u32,
        mut descriptors: message::Descriptors,
    ) -> core::result::Result<OwnedFd, Failed> {
        let machinery = |errno| Failed { step: machinery::ZYGOTE, errno };
        let plan = descriptors[0].take().ok_or(machinery(Errno::BADF))?;
        let bytes = read_plan(&plan).map_err(machinery)?;
        self.go_home().map_err(machinery)?;
        rustix::fs::mkdir(VIEW, Mode::from_raw_mode(0o755)).map_err(machinery)?;
        let mut context = Context::new(PlanBytes::new(&bytes).map_err(machinery)?, VIEW, fail_at);
        for (slot, tree) in context.trees.iter_mut().zip(descriptors.iter_mut().skip(1)) {
            *slot = tree.take();
        }
        let built = context.run(Phase::View).and_then(|()| self.seal_off().map_err(machinery));
        rustix::process::chdir(c"/").map_err(machinery)?;
        // Its own namespace has a copy now; a view that failed was never mounted, or is half done.
        let _ = mount::detach(VIEW);
        rustix::fs::rmdir(VIEW).map_err(machinery)?;
        built
    }

    /// Goes back to the mount namespace in which views are built.
    fn go_home(&self) -> Result<()> {
        enter_mounts(self.home.as_fd())
    }

    /// Makes the mount namespace in which the view is the root. Sandboxes start as copies of it, so that none of them
    /// has to leave another root: that would cost a grace period each.
    fn seal_off(&self) -> Result<OwnedFd> {
        let (gate_ours, gate_theirs) = message::pair()?;
        let flags = process::clone_flag::NEW_NS | process::clone_flag::NEW_PID | process::clone_flag::PIDFD;
        // SAFETY: the zygote has one thread for its whole life.
        match unsafe { process::clone3(flags, None) }? {
            process::Cloned::Child => {
                drop(gate_ours);
                let answer = match become_root() {
                    Ok(()) => 0,
                    Err(errno) => errno.raw_os_error(),
                };
                let _ = message::send(gate_theirs.as_fd(), &answer.to_le_bytes(), &[]);
                let mut buffer = [0; message::BYTES_MAX];
                let _ =
                    message::receive(gate_theirs.as_fd(), &mut buffer, &mut message::no_descriptors(), true);
                process::exit_now(0)
            }
            process::Cloned::Parent(pid, _) => {
                drop(gate_theirs);
                let mut buffer = [0; message::BYTES_MAX];
                let told =
                    message::receive(gate_ours.as_fd(), &mut buffer, &mut message::no_descriptors(), true);
                let namespace = match (told, i32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))
                {
                    (Ok(Some(_)), 0) => self.namespace_of(pid, "ns/mnt"),
                    (Ok(Some(_)), errno) => Err(Errno::from_raw_os_error(errno)),
                    (Ok(None), _) => Err(Errno::CHILD),
                    (Err(errno), _) => Err(errno),
                };
                dismiss(gate_ours, pid);
                namespace
            }
        }
    }

    fn spawn(
        &mut self,
        fail_at: u32,
        in_cgroup: bool,
        ids: Ids,
        mut descriptors: message::Descriptors,
    ) -> core::result::Result<(u32, OwnedFd), Failed> {
        let machinery = |errno| Failed { step: machinery::ZYGOTE, errno };
        let mut take = |index: usize| descriptors.get_mut(index).and_then(Option::take);
        let plan = take(0).ok_or(machinery(Errno::BADF))?;
        let view = take(1).ok_or(machinery(Errno::BADF))?;
        let control = take(2).ok_or(machinery(Errno::BADF))?;
        let cgroups = if in_cgroup { take(3).zip(take(4)) } else { None };
        let first_tree = if in_cgroup { 5 } else { 3 };
        let bytes = read_plan(&plan).map_err(machinery)?;
        let plan = PlanBytes::new(&bytes).map_err(machinery)?;
        let (clone_step, namespaces) =
            find(plan, code::CLONE).map(|(n, step)| (n, step.wide(0))).ok_or(machinery(Errno::BADMSG))?;
        let (map_step, map) = find(plan, code::MAP_IDS).ok_or(machinery(Errno::BADMSG))?;
        let mut context = Context::new(plan, VIEW, fail_at);
        for (slot, tree) in context.trees.iter_mut().zip(descriptors.iter_mut().skip(first_tree)) {
            *slot = tree.take();
        }
        context.guard(clone_step).map_err(|errno| Failed { step: clone_step, errno })?;
        let (gate_ours, gate_theirs) = message::pair().map_err(machinery)?;
        enter_mounts(view.as_fd()).map_err(machinery)?;
        let own_network = namespaces & process::clone_flag::NEW_NET != 0;
        let wanted = own_network.then(|| find(plan, code::LOOPBACK_UP).is_some());
        context.network_inherited = self.networks.hand_over(wanted).map_err(machinery)?;
        context.ipc_inherited = self.ipc.hand_over();
        let inherited = if context.network_inherited { process::clone_flag::NEW_NET } else { 0 };
        let flags = (namespaces & !inherited) | process::clone_flag::PIDFD;
        let cgroup = cgroups.as_ref().map(|(init, _)| init.as_fd());
        // SAFETY: the zygote has one thread for its whole life.
        match unsafe { process::clone3(flags, cgroup) }.map_err(|errno| Failed { step: clone_step, errno })? {
            process::Cloned::Child => {
                drop(gate_ours);
                let action_cgroup = cgroups.as_ref().map(|(_, action)| action.as_fd());
                hatch(context, control.as_fd(), action_cgroup, gate_theirs)
            }
            process::Cloned::Parent(pid, pidfd) => {
                let pidfd = pidfd.ok_or(machinery(Errno::BADF))?;
                let mapped = context
                    .guard(map_step)
                    .and_then(|()| ids.maps(&map))
                    .and_then(|[users, groups]| self.map_ids(pid, [&users, &groups]));
                if let Err(errno) = mapped.and_then(|()| message::send(gate_ours.as_fd(), b"go", &[])) {
                    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                    return Err(Failed { step: map_step, errno });
                }
                Ok((pid.as_raw_nonzero().get() as u32, pidfd))
            }
        }
    }

    /// Writes the maps of users and groups, each in the one write that the kernel takes (user_namespaces(7)).
    fn map_ids(&self, pid: Pid, [users, groups]: [&CStr; 2]) -> Result<()> {
        let mut buffer = [0u8; 48];
        for (file, map) in [("gid_map", groups), ("uid_map", users)] {
            let path = proc_path(&mut buffer, pid, file).ok_or(Errno::NAMETOOLONG)?;
            let file = rustix::fs::openat(&self.proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&file, map.to_bytes())?;
        }
        Ok(())
    }

    fn namespace_of(&self, pid: Pid, file: &str) -> Result<OwnedFd> {
        let mut buffer = [0u8; 48];
        let path = proc_path(&mut buffer, pid, file).ok_or(Errno::NAMETOOLONG)?;
        rustix::fs::openat(&self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Another zygote with the same views, for a cgroup of its own.
    fn fork(&mut self, mut descriptors: message::Descriptors) -> Result<(u32, Option<OwnedFd>)> {
        let socket = descriptors[0].take().ok_or(Errno::BADF)?;
        // SAFETY: the zygote has one thread for its whole life.
        match unsafe { process::clone3(process::clone_flag::PIDFD, None) }? {
            process::Cloned::Parent(pid, pidfd) => Ok((pid.as_raw_nonzero().get() as u32, pidfd)),
            process::Cloned::Child => {
                // The old socket closes here; the new one takes its place.
                self.socket = socket;
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let _ = FromZygote::Done { pid: 0 }.send(self.socket.as_fd(), &[]);
                self.networks.inherited();
                self.networks.prepare();
                self.ipc.leave();
                self.ipc.prepare();
                self.serve()
            }
        }
    }

    fn user_namespace(&self, map: &[u8]) -> Result<OwnedFd> {
        let map = CString::new(map).map_err(|_| Errno::INVAL)?;
        let (gate_ours, gate_theirs) = message::pair()?;
        let flags = process::clone_flag::NEW_USER | process::clone_flag::PIDFD;
        // SAFETY: the zygote has one thread for its whole life.
        match unsafe { process::clone3(flags, None) }? {
            process::Cloned::Child => {
                drop(gate_ours);
                let mut buffer = [0; message::BYTES_MAX];
                let _ =
                    message::receive(gate_theirs.as_fd(), &mut buffer, &mut message::no_descriptors(), true);
                process::exit_now(0)
            }
            process::Cloned::Parent(pid, _) => {
                drop(gate_theirs);
                let namespace =
                    self.map_ids(pid, [&map, &map]).and_then(|()| self.namespace_of(pid, "ns/user"));
                dismiss(gate_ours, pid);
                namespace
            }
        }
    }
}

/// Lets a child go that only held a namespace, and waits for its end, so that it cannot outlive this zygote.
fn dismiss(gate: OwnedFd, pid: Pid) {
    drop(gate);
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
}

fn find(plan: PlanBytes<'_>, wanted: u16) -> Option<(u32, StepBytes<'_>)> {
    (1..=plan.len() as u32)
        .find_map(|number| plan.step(number).filter(|step| step.code() == wanted).map(|step| (number, step)))
}

/// The child: waits for its id maps, lets go of the zygote's descriptors, and becomes init.
fn hatch(
    mut context: Context<'_>,
    control: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    gate: OwnedFd,
) -> ! {
    let mut buffer = [0; message::BYTES_MAX];
    match message::receive(gate.as_fd(), &mut buffer, &mut message::no_descriptors(), true) {
        Ok(Some(_)) => {}
        // The maps could not be written, or the zygote is gone.
        _ => process::exit_now(1),
    }
    let arranged = arrange(&mut context, control, cgroup);
    if arranged.and_then(process::close_from).is_err() {
        process::exit_now(1);
    }
    super::serve(context, cgroup.is_some())
}

/// Moves the descriptors that init keeps to the lowest numbers. Gives the first number that is free then.
fn arrange(
    context: &mut Context<'_>,
    control: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<i32> {
    // Copies far from the fixed numbers first, so that placing one does not overwrite the other. They are not closed
    // here: the caller closes everything beyond the fixed numbers at once.
    let far = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 512).map(IntoRawFd::into_raw_fd);
    let control = far(control)?;
    let cgroup = cgroup.map(far).transpose()?;
    for slot in &mut context.trees {
        if let Some(tree) = slot.take() {
            let copy = far(tree.as_fd())?;
            let _ = tree.into_raw_fd();
            // SAFETY: `far` has just made this descriptor, and nobody else owns it.
            *slot = Some(unsafe { OwnedFd::from_raw_fd(copy) });
        }
    }
    // SAFETY: both descriptors were made above and stay open until the caller closes everything.
    let borrow = |fd: i32| unsafe { BorrowedFd::borrow_raw(fd) };
    place(borrow(control), CONTROL)?;
    if let Some(cgroup) = cgroup {
        place(borrow(cgroup), CGROUP)?;
    }
    let mut next = FIRST_FREE;
    for slot in &mut context.trees {
        if let Some(tree) = slot.take() {
            place(tree.as_fd(), next)?;
            let _ = tree.into_raw_fd();
            // SAFETY: `place` has just made this descriptor; it stays below what the caller closes.
            *slot = Some(unsafe { OwnedFd::from_raw_fd(next) });
            next += 1;
        }
    }
    Ok(next)
}
