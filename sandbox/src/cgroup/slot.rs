//! The groups of one sandbox: made once, used by many actions one after the other.
//!
//! ```text
//!   slot ─► set_limits ─► (init clones the action into action_leaf_fd) ─► kill_action ─► wait_quiet ─► usage
//!               ▲                                                                                       │
//!               └─────────── rebase, or renew_action_leaf where resets_peak() is false ◄────────────────┘
//! ```
//!
//! Invariants: the limits that [`Slot::limits`] shows are the limits that the kernel showed; after a failed
//! write they count as unknown, and the next call writes all of them. Dropping a slot tries once to remove
//! its directories and never waits: [`Slot::destroy`] does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::Pid;

use super::kill::{GroupKill, Weight};
use super::meter::{self, Meter};
use super::node::{Branch, Cgroup, Leaf, Patience};
use super::setting::Setting;
use super::{Availability, CgroupError, CgroupHost, Controller, Limits, Missing, Usage, parse, v1, v2};

/// Name of the leaf of the sandbox's init.
const INIT: &str = "init";
/// Name of the leaf of the action.
const ACTION: &str = "action";
/// The longest sleep in one poll: should another reader of `cgroup.events` take the notice away, this is
/// what is lost.
const POLL_MAX: Duration = Duration::from_millis(100);

/// The groups of one sandbox.
#[derive(Debug)]
pub struct Slot {
    index: usize,
    v2: Option<V2Slot>,
    v1: Vec<V1Slot>,
    host: Arc<CgroupHost>,
    /// `None` after a failed change: then nobody knows.
    limits: Option<Limits>,
    owner: Option<(u32, u32)>,
    meter: Meter,
    kill: Option<Arc<GroupKill>>,
    is_removed: bool,
}

#[derive(Debug)]
struct V2Slot {
    branch: Cgroup<Branch>,
    init: Cgroup<Leaf>,
    action: Action,
    controllers: Vec<Controller>,
}

/// The action leaf and those of its files that are used for every action.
#[derive(Debug)]
struct Action {
    leaf: Cgroup<Leaf>,
    events: OwnedFd,
}

#[derive(Debug)]
struct V1Slot {
    leaf: Cgroup<Leaf>,
    controllers: Vec<Controller>,
}

impl Slot {
    pub(super) fn create(
        index: usize,
        host: &Arc<CgroupHost>,
        v2_top: Option<(&Cgroup<Branch>, &[Controller])>,
        v1_tops: &[(Cgroup<Branch>, Vec<Controller>)],
    ) -> Result<Self, CgroupError> {
        let name = format!("slot-{index}");
        let mut slot = Self {
            index,
            v2: None,
            v1: Vec::with_capacity(v1_tops.len()),
            host: Arc::clone(host),
            limits: Some(Limits::default()),
            owner: None,
            meter: Meter::default(),
            kill: None,
            is_removed: false,
        };
        // From here on an early return drops the slot, which removes what has been made.
        if let Some((top, controllers)) = v2_top {
            slot.v2 = Some(V2Slot::create(top, &name, controllers)?);
        }
        for (top, controllers) in v1_tops {
            let leaf = top.child(&name)?.into_leaf();
            slot.v1.push(V1Slot { leaf, controllers: controllers.clone() });
        }
        slot.open_meter()?;
        slot.open_kill()?;
        Ok(slot)
    }

    /// The number that the tree was asked for.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The limits in force; `None` if a change failed half-way.
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// Makes `limits` hold for the action: writes what differs and reads it back.
    ///
    /// # Errors
    /// [`CgroupError::InvalidLimit`] and [`CgroupError::LimitUnavailable`] before anything is written;
    /// afterwards what the kernel refused (v1 gives `EBUSY` for a memory limit below what is used and
    /// cannot be reclaimed).
    pub fn set_limits(&mut self, limits: &Limits) -> Result<(), CgroupError> {
        limits.validate()?;
        if self.limits.as_ref() == Some(limits) {
            return Ok(());
        }
        self.check_available(limits)?;
        let old = self.limits.take();
        if let Some(v2) = &self.v2 {
            v2.apply(&v2::settings(old.as_ref(), limits))?;
        }
        for group in &self.v1 {
            group.apply(&v1::settings(old.as_ref(), limits))?;
        }
        self.limits = Some(limits.clone());
        Ok(())
    }

    /// The v2 action leaf, for `CLONE_INTO_CGROUP`.
    pub fn action_leaf_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|v2| v2.action.leaf.fd())
    }

    /// The v2 leaf of the init, for `CLONE_INTO_CGROUP`.
    pub fn init_leaf_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|v2| v2.init.fd())
    }

    /// The v2 action leaf.
    pub fn action_leaf(&self) -> Option<&Cgroup<Leaf>> {
        self.v2.as_ref().map(|v2| &v2.action.leaf)
    }

    /// The v2 leaf of the init.
    pub fn init_leaf(&self) -> Option<&Cgroup<Leaf>> {
        self.v2.as_ref().map(|v2| &v2.init)
    }

    /// Whether the init must be moved by [`Slot::attach_v1`], in addition to its v2 leaf.
    pub fn needs_v1_attach(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Moves the sandbox's init into every v1 hierarchy used. What it starts afterwards is there too. Costs
    /// a grace period for each hierarchy unless `favordynmods` is on.
    ///
    /// # Errors
    /// As [`Cgroup::attach`].
    pub fn attach_v1(&self, pid: Pid) -> Result<(), CgroupError> {
        self.v1.iter().try_for_each(|group| group.leaf.attach(pid))
    }

    /// Lets `uid:gid` start processes in the action leaf from within the init leaf: gives it `cgroup.procs`
    /// of both and of their common parent, which is all that `CLONE_INTO_CGROUP` checks. Limits and
    /// directories stay ours.
    ///
    /// # Errors
    /// As `chown(2)`.
    pub fn delegate_to(&mut self, uid: u32, gid: u32) -> Result<(), CgroupError> {
        if let Some(v2) = &self.v2 {
            v2.branch.admit(uid, gid)?;
            v2.init.admit(uid, gid)?;
            v2.action.leaf.admit(uid, gid)?;
        }
        self.owner = Some((uid, gid));
        Ok(())
    }

    /// Sends SIGKILL to all of the action at once, fork-proof. `false`: not possible here, the init must do
    /// it.
    ///
    /// # Errors
    /// The failed write.
    pub fn kill_action(&self) -> Result<bool, CgroupError> {
        let (Some(V2Slot { action, .. }), Some(kill)) = (&self.v2, &self.kill) else { return Ok(false) };
        kill.kill().map_err(|errno| {
            CgroupError::io("write \"1\" to", &action.leaf.path().join("cgroup.kill"), errno)
        })?;
        Ok(true)
    }

    /// Kills all of the action from any thread, until the leaf is renewed. `None`: not possible here.
    pub fn group_kill(&self) -> Option<Arc<GroupKill>> {
        self.kill.clone()
    }

    /// Asks the kernel to freeze the action; it is frozen once `cgroup.events` says so. `false`: not
    /// possible here.
    ///
    /// # Errors
    /// The failed write.
    pub fn freeze(&self) -> Result<bool, CgroupError> {
        self.set_frozen("1")
    }

    /// Lets a frozen action go on. `false`: not possible here.
    ///
    /// # Errors
    /// The failed write.
    pub fn thaw(&self) -> Result<bool, CgroupError> {
        self.set_frozen("0")
    }

    /// Whether any live process is in the action leaf; `None` where the kernel does not say.
    pub fn populated(&self) -> Option<bool> {
        self.events().and_then(|events| events.populated)
    }

    /// Whether all of the action is frozen; `None` where the kernel does not say.
    pub fn frozen(&self) -> Option<bool> {
        self.events().and_then(|events| events.frozen)
    }

    /// Waits until no live process is in the action leaf, at most `timeout`. `false`: somebody still is, or
    /// nobody knows ([`Slot::populated`] is `None`).
    ///
    /// # Errors
    /// The failed `poll(2)`.
    pub fn wait_quiet(&self, timeout: Duration) -> Result<bool, CgroupError> {
        let Some(V2Slot { action, .. }) = &self.v2 else { return Ok(false) };
        let deadline = Instant::now() + timeout;
        loop {
            // The read comes first: poll reports changes since the last one.
            match self.populated() {
                Some(true) => {}
                Some(false) => return Ok(true),
                None => return Ok(false),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let nap = left.min(POLL_MAX);
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(nap.subsec_nanos()) };
            let mut files = [PollFd::new(&action.events, PollFlags::PRI)];
            match poll(&mut files, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(CgroupError::io("wait on", &action.leaf.path().join("cgroup.events"), errno));
                }
            }
        }
    }

    /// `cgroup.events` of the action leaf, for a poll on `POLLPRI` among other things.
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|v2| v2.action.events.as_fd())
    }

    /// What was used since the last [`Slot::rebase`].
    ///
    /// # Errors
    /// A file that could not be read, or said something else than a number.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        self.meter.usage()
    }

    /// CPU time and the peak of memory since the last [`Slot::rebase`], and nothing else.
    ///
    /// # Errors
    /// As [`Slot::usage`].
    pub fn glance(&self) -> Result<Usage, CgroupError> {
        self.meter.glance()
    }

    /// Memory in use now, in bytes, page cache included: of the action on v2, of the init too on v1. `None`: not
    /// counted here.
    pub fn memory_bytes(&self) -> Option<u64> {
        if let Some(v2) = self.v2.as_ref().filter(|v2| v2.action.leaf.has("memory.current")) {
            return parse::number(&v2.action.leaf.read("memory.current").ok()?);
        }
        let group = self.v1.iter().find(|group| group.controllers.contains(&Controller::Memory))?;
        parse::number(&group.leaf.read("memory.usage_in_bytes").ok()?)
    }

    /// Makes this moment the zero of [`Slot::usage`].
    ///
    /// # Errors
    /// As [`Slot::usage`].
    pub fn rebase(&mut self) -> Result<(), CgroupError> {
        self.meter.rebase()
    }

    /// Whether [`Slot::rebase`] starts a new memory peak. If not, [`Slot::renew_action_leaf`] does.
    pub fn resets_peak(&self) -> bool {
        self.meter.resets_peak()
    }

    /// Replaces the action leaf, which must be empty, by a new one with the same limits and owner.
    /// Descriptors from [`Slot::action_leaf_fd`] that others hold are dead then. Does nothing on v1.
    ///
    /// # Errors
    /// [`CgroupError::Quarantined`] if the old leaf is still busy, and the slot is as it was; other errors
    /// leave it unusable: destroy it.
    pub fn renew_action_leaf(&mut self) -> Result<(), CgroupError> {
        let Some(v2) = &mut self.v2 else { return Ok(()) };
        v2.action.leaf.remove(Patience::Bounded).map_err(|source| CgroupError::Quarantined {
            paths: vec![v2.action.leaf.path().to_path_buf()],
            source,
        })?;
        v2.action = Action::create(&v2.branch)?;
        let limits = self.limits.take();
        v2.apply(&v2::initial())?;
        if let Some(limits) = &limits {
            v2.apply(&v2::settings(Some(&Limits::default()), limits))?;
        }
        if let Some((uid, gid)) = self.owner {
            v2.action.leaf.admit(uid, gid)?;
        }
        self.limits = limits;
        let killed = self.kill.take();
        killed.map_or(Ok(()), |kill| kill.restore(self.limits.as_ref())).map_err(|errno| {
            let path = self.paths().pop().unwrap_or_default();
            CgroupError::io("give its weight back to", &path, errno)
        })?;
        self.open_kill()?;
        self.open_meter()
    }

    /// Removes the slot's directories; no process may be left in them. Waits up to a quarter of a second
    /// for each.
    ///
    /// # Errors
    /// [`CgroupError::Quarantined`] with the directories that remain.
    pub fn destroy(mut self) -> Result<(), CgroupError> {
        self.remove_dirs(Patience::Bounded)
    }

    /// The slot's directories, children before parents.
    pub fn paths(&self) -> Vec<PathBuf> {
        let v2 = self.v2.iter().flat_map(|v2| [v2.action.leaf.path(), v2.init.path(), v2.branch.path()]);
        v2.chain(self.v1.iter().map(|group| group.leaf.path())).map(Path::to_path_buf).collect()
    }

    fn events(&self) -> Option<parse::CgroupEvents> {
        let action = &self.v2.as_ref()?.action;
        let mut buffer = [0u8; 256];
        meter::read_small(&action.events, action.leaf.path(), &mut buffer).ok().map(parse::cgroup_events)
    }

    fn set_frozen(&self, value: &str) -> Result<bool, CgroupError> {
        match &self.v2 {
            Some(v2) if v2.action.leaf.has("cgroup.freeze") => {
                v2.action.leaf.write("cgroup.freeze", value)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Where the slot as a whole has its share of the processors: the branch on v2, else the slot on v1.
    fn open_kill(&mut self) -> Result<(), CgroupError> {
        let Some(v2) = &self.v2 else { return Ok(()) };
        let v1 = self.v1.iter().find(|group| group.controllers.contains(&Controller::Cpu));
        let kill = match v1 {
            Some(group) => GroupKill::open(&v2.action.leaf, Some((&group.leaf, Weight::V1)))?,
            None => GroupKill::open(&v2.action.leaf, Some((&v2.branch, Weight::V2)))?,
        };
        self.kill = kill.map(Arc::new);
        Ok(())
    }

    fn open_meter(&mut self) -> Result<(), CgroupError> {
        let mut meter = Meter::default();
        if let Some(v2) = &self.v2 {
            meter.open_v2(&v2.action.leaf)?;
        }
        for group in &self.v1 {
            meter.open_v1(&group.leaf, &group.controllers)?;
        }
        meter.rebase()?;
        self.meter = meter;
        Ok(())
    }

    fn check_available(&self, limits: &Limits) -> Result<(), CgroupError> {
        let wanted = [
            ("memory_bytes_max", Controller::Memory, limits.memory_bytes_max.is_some()),
            ("memory_bytes_high", Controller::Memory, limits.memory_bytes_high.is_some()),
            ("cpu_milli_max", Controller::Cpu, limits.cpu_milli_max.is_some()),
            ("cpu_weight", Controller::Cpu, limits.cpu_weight.is_some()),
            ("pids_max", Controller::Pids, limits.pids_max.is_some()),
        ];
        for (limit, controller, _) in wanted.into_iter().filter(|(_, _, is_wanted)| *is_wanted) {
            let Missing { why, hint } = match self.host.availability(controller) {
                Availability::No(missing) => missing.clone(),
                Availability::Yes if limit == "memory_bytes_high" && !self.has_v2(controller) => Missing {
                    why: "cgroup v1 has no memory.high".into(),
                    hint: Some("boot with cgroup v2 only".into()),
                },
                Availability::Yes => continue,
            };
            return Err(CgroupError::LimitUnavailable { limit, why, hint });
        }
        Ok(())
    }

    fn has_v2(&self, controller: Controller) -> bool {
        self.v2.as_ref().is_some_and(|v2| v2.controllers.contains(&controller))
    }

    fn remove_dirs(&mut self, patience: Patience) -> Result<(), CgroupError> {
        if std::mem::replace(&mut self.is_removed, true) {
            return Ok(());
        }
        let mut paths = Vec::new();
        let mut last = None;
        for path in self.paths() {
            if let Err(source) = super::node::remove_dir(&path, patience) {
                paths.push(path);
                last = Some(source);
            }
        }
        last.map_or(Ok(()), |source: io::Error| Err(CgroupError::Quarantined { paths, source }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.remove_dirs(Patience::Once);
    }
}

impl V2Slot {
    fn create(top: &Cgroup<Branch>, name: &str, controllers: &[Controller]) -> Result<Self, CgroupError> {
        let fresh = top.child(name)?;
        let undo = |dirs: &[&Path], error| {
            dirs.iter().for_each(|dir| _ = super::node::remove_dir(dir, Patience::Once));
            error
        };
        let branch = fresh.into_branch(controllers).map_err(|(error, fresh)| undo(&[fresh.path()], error))?;
        let init = branch.child(INIT).map_err(|error| undo(&[branch.path()], error))?.into_leaf();
        let action = Action::create(&branch).map_err(|error| undo(&[init.path(), branch.path()], error))?;
        let slot = Self { branch, init, action, controllers: controllers.to_vec() };
        let dirs = [slot.action.leaf.path(), slot.init.path(), slot.branch.path()];
        slot.apply(&v2::initial()).map_err(|error| undo(&dirs, error))?;
        Ok(slot)
    }

    fn apply(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        let ours = settings.iter().filter(|setting| self.controllers.contains(&setting.controller));
        ours.into_iter().try_for_each(|setting| setting.apply(&self.action.leaf))
    }
}

impl Action {
    fn create(branch: &Cgroup<Branch>) -> Result<Self, CgroupError> {
        let leaf = branch.child(ACTION)?.into_leaf();
        match leaf.open_file("cgroup.events", OFlags::RDONLY) {
            Ok(events) => Ok(Self { leaf, events }),
            Err(error) => {
                let _ = leaf.remove(Patience::Once);
                Err(error)
            }
        }
    }
}

impl V1Slot {
    fn apply(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        let ours = settings.iter().filter(|setting| self.controllers.contains(&setting.controller));
        ours.into_iter().try_for_each(|setting| setting.apply(&self.leaf))
    }
}
