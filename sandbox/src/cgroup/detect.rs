//! What this host's cgroups give us: probed once, then a value.
//!
//! | layout | v2 tree | controllers | kill, freeze, events, pressure, CPU time |
//! |---|---|---|---|
//! | `V2` | yes | v2 | v2 |
//! | `Hybrid` | yes, mostly without controllers | v1 (those that v2 lacks) | v2 |
//! | `V1` | no | v1 | none; CPU time from cpuacct |
//! | `None` | no | none | none |
//!
//! A controller is in v2 or in one v1 hierarchy, never in both; each is looked up where it is. Probing
//! changes nothing, save that it may make and remove one empty v2 group where no other group shows which
//! files groups have.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Access, AtFlags, CWD};

use super::mounts::{self, CgroupMount, Membership};
use super::place::{self, Place};
use super::{Controller, ProcessIdentity};

/// Why something is not there, and what would change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The reason.
    pub why: String,
    /// A command or setting that would help, as an imperative.
    pub hint: Option<String>,
}

/// Whether the host gives a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It does.
    Yes,
    /// It does not.
    No(Missing),
}

impl Availability {
    /// Whether it is there.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    fn no(why: impl Into<String>) -> Self {
        Self::No(Missing { why: why.into(), hint: None })
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => out.write_str("yes"),
            Self::No(Missing { why, hint: None }) => write!(out, "no: {why}"),
            Self::No(Missing { why, hint: Some(hint) }) => write!(out, "no: {why} (hint: {hint})"),
        }
    }
}

/// Which cgroup versions are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 only.
    V2,
    /// Both: v1 controllers, and a v2 tree for everything else.
    Hybrid,
    /// Version 1 only.
    V1,
    /// Neither.
    None,
}

/// Who probes. A value, so that tests can be somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observer {
    /// Effective uid.
    pub uid: u32,
    /// Whether systemd manages the groups of this host.
    pub has_systemd: bool,
}

impl Observer {
    /// This process on this host.
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self { uid, has_systemd: Path::new("/run/systemd/system").is_dir() }
    }
}

/// A v1 hierarchy that we use, and our own directory in it, below which our tree will stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1Place {
    /// The directory.
    pub dir: PathBuf,
    /// The controllers of this hierarchy that we use.
    pub controllers: Vec<Controller>,
}

/// The cgroup features of this host.
#[derive(Debug, Clone)]
pub struct CgroupHost {
    /// Which versions are mounted.
    pub layout: Layout,
    /// Limits on memory, OOM events.
    pub memory: Availability,
    /// Limits on CPU.
    pub cpu: Availability,
    /// Limits on the number of processes.
    pub pids: Availability,
    /// Accounting of bytes read and written (v2 only).
    pub io: Availability,
    /// `cgroup.kill` (v2, Linux 5.14).
    pub kill: Availability,
    /// `cgroup.freeze` (v2, Linux 5.2).
    pub freeze: Availability,
    /// `cgroup.events` (v2): when a group became empty.
    pub events: Availability,
    /// The highest memory use (v1; v2 since Linux 5.19).
    pub memory_peak: Availability,
    /// Whether that can be reset (v1; v2 since Linux 6.12).
    pub memory_peak_reset: Availability,
    pub(super) v2: Option<Place>,
    pub(super) v1: Vec<V1Place>,
    remount: Option<String>,
}

impl CgroupHost {
    /// The same host without its v1 hierarchies: no limits there, but nobody has to be moved either.
    #[must_use]
    pub fn without_v1(mut self) -> Self {
        if self.v1.is_empty() {
            return self;
        }
        self.v1.clear();
        let left_out = || {
            let why = "the v1 controllers were left out, as no limit was asked for".to_owned();
            Availability::No(Missing { why, hint: None })
        };
        (self.memory, self.cpu, self.pids) = (left_out(), left_out(), left_out());
        (self.memory_peak, self.memory_peak_reset) = (left_out(), left_out());
        self
    }

    /// Probes this host as this process.
    pub fn probe() -> Self {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::probe_at(&mountinfo, &own, &Observer::current())
    }

    /// Probes what two texts of `/proc` name: their paths may lead into a tree of plain files.
    pub fn probe_at(mountinfo: &str, self_cgroup: &str, observer: &Observer) -> Self {
        let mounts = mounts::mountinfo(mountinfo);
        let memberships = mounts::self_cgroup(self_cgroup);
        let v2_mount = mounts
            .iter()
            .filter(|mount| mount.v1_names.is_none())
            .min_by_key(|mount| mount.own_dir(&memberships).is_none());
        let v2 = match v2_mount.map(|mount| (mount, mount.own_dir(&memberships))) {
            None => Err(Missing { why: "no cgroup2 file system is mounted".into(), hint: None }),
            Some((mount, None)) => Err(Missing {
                why: format!("our cgroup is not visible below {}", mount.mount_point.display()),
                hint: None,
            }),
            Some((mount, Some(own))) => place::choose(&mount.mount_point, &own, observer),
        };
        let mut probe = Probe { mounts: &mounts, memberships: &memberships, v2_mount, v2, v1: vec![] };
        let [memory, cpu, pids] =
            [Controller::Memory, Controller::Cpu, Controller::Pids].map(|c| probe.controller(c));
        if probe.v2.is_err() {
            let _ = probe.v1_controller(Controller::Cpuacct);
        }
        let io = probe.controller(Controller::Io);
        let files = probe.v2.as_ref().map_err(Clone::clone).map(GroupFiles::look);
        let (memory_peak, memory_peak_reset) = probe.peak(&memory, files.as_ref().ok());
        let feature = |name: &str, has: fn(&GroupFiles) -> bool| match &files {
            Ok(files) if has(files) => Availability::Yes,
            Ok(_) => Availability::no(format!("this kernel's groups have no {name}")),
            Err(missing) => Availability::No(missing.clone()),
        };
        Self {
            layout: layout(&mounts),
            memory,
            cpu,
            pids,
            io,
            kill: feature("cgroup.kill", |files| files.kill),
            freeze: feature("cgroup.freeze", |files| files.freeze),
            events: feature("cgroup.events", |files| files.events),
            memory_peak,
            memory_peak_reset,
            remount: remount(&mounts),
            v2: probe.v2.ok(),
            v1: probe.v1,
        }
    }

    /// Moving a process into a v1 group waits for an RCU grace period (5 to 20 ms on an idle machine)
    /// unless the hierarchies favor dynamic modifications (Linux 6.0). The command that makes them do, if
    /// that applies here.
    pub fn dynmods_hint(&self) -> Option<String> {
        if self.v1.is_empty() { None } else { self.remount.clone() }
    }

    /// Where the v2 part of our tree will stand, and the controllers that it will have.
    pub fn v2_place(&self) -> Option<&Place> {
        self.v2.as_ref()
    }

    /// Where the v1 parts of our tree will stand.
    pub fn v1_places(&self) -> &[V1Place] {
        &self.v1
    }

    pub(super) fn availability(&self, controller: Controller) -> &Availability {
        match controller {
            Controller::Memory => &self.memory,
            Controller::Cpu | Controller::Cpuacct => &self.cpu,
            Controller::Pids => &self.pids,
            Controller::Io => &self.io,
        }
    }
}

/// The state of one probe.
struct Probe<'a> {
    mounts: &'a [CgroupMount],
    memberships: &'a [Membership],
    v2_mount: Option<&'a CgroupMount>,
    v2: Result<Place, Missing>,
    v1: Vec<V1Place>,
}

impl Probe<'_> {
    fn controller(&mut self, controller: Controller) -> Availability {
        let in_v2 = self.v2_mount.is_some_and(|mount| {
            place::listed(&mount.mount_point, "cgroup.controllers").contains(&controller)
        });
        if !in_v2 {
            return self.v1_controller(controller);
        }
        match &self.v2 {
            Err(missing) => Availability::No(missing.clone()),
            Ok(place) if place.controllers.contains(&controller) => Availability::Yes,
            Ok(place) => {
                let why =
                    format!("{} does not have the {} controller", place.dir.display(), controller.name());
                let hint = place.dir.parent().map(|parent| {
                    let control = parent.join("cgroup.subtree_control");
                    format!("as root: echo +{} > {}", controller.name(), control.display())
                });
                Availability::No(Missing { why, hint })
            }
        }
    }

    fn v1_controller(&mut self, controller: Controller) -> Availability {
        let Some(mount) = self.mounts.iter().find(|mount| has_v1(mount, controller.v1_name())) else {
            let hint =
                (controller == Controller::Memory).then(|| "boot with cgroup_enable=memory".to_string());
            return Availability::No(Missing {
                why: format!("no {} controller is mounted", controller.name()),
                hint,
            });
        };
        if controller == Controller::Io {
            return Availability::no("v1 accounts no buffered writes, so blkio is not used");
        }
        if has_v1(mount, "cpuset") {
            return Availability::no(format!(
                "{} has cpuset, whose groups start unusable",
                mount.mount_point.display()
            ));
        }
        let Some(dir) = mount.own_dir(self.memberships) else {
            return Availability::no(format!(
                "our cgroup is not visible below {}",
                mount.mount_point.display()
            ));
        };
        if rustix::fs::accessat(CWD, &dir, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
            let why = format!("{} is not writable", dir.display());
            return Availability::No(Missing {
                why,
                hint: Some("run as root, or boot with cgroup v2 only".into()),
            });
        }
        match self.v1.iter_mut().find(|place| place.dir == dir) {
            Some(place) if place.controllers.contains(&controller) => {}
            Some(place) => place.controllers.push(controller),
            None => self.v1.push(V1Place { dir, controllers: vec![controller] }),
        }
        Availability::Yes
    }

    fn peak(&self, memory: &Availability, files: Option<&GroupFiles>) -> (Availability, Availability) {
        if !memory.is_yes() {
            return (memory.clone(), memory.clone());
        }
        if self.v1.iter().any(|place| place.controllers.contains(&Controller::Memory)) {
            return (Availability::Yes, Availability::Yes);
        }
        let (peak, reset) = files.map_or((false, false), |files| (files.peak, files.peak_reset));
        let answer = |yes, why: &str| if yes { Availability::Yes } else { Availability::no(why) };
        (
            answer(peak, "memory.peak is there from Linux 5.19"),
            answer(reset, "memory.peak can be reset from Linux 6.12"),
        )
    }
}

/// Which control files the groups of a v2 tree have: the root has fewer, so another one is looked at.
#[derive(Debug, Default)]
struct GroupFiles {
    kill: bool,
    freeze: bool,
    events: bool,
    peak: bool,
    peak_reset: bool,
}

impl GroupFiles {
    fn look(place: &Place) -> Self {
        static PROBES: AtomicU32 = AtomicU32::new(0);
        if place.dir.join("cgroup.events").exists() {
            return Self::of(&place.dir);
        }
        // Groups of others come and go: one of our own is looked at first.
        let label = format!("probe-{}", PROBES.fetch_add(1, Ordering::Relaxed));
        let group = place.dir.join(super::tree_name(&ProcessIdentity::current(), &label));
        let is_made = rustix::fs::mkdir(&group, rustix::fs::Mode::from_raw_mode(0o755)).is_ok();
        let found = Self::of(&group);
        if is_made {
            let _ = rustix::fs::rmdir(&group);
        }
        if found.events {
            return found;
        }
        let entries = std::fs::read_dir(&place.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let group = entries.into_iter().find(|path| path.join("cgroup.events").exists());
        group.map(|group| Self::of(&group)).unwrap_or_default()
    }

    /// Where the group at hand has no memory controller (yet), the kernel's release answers for
    /// `memory.peak`.
    fn of(group: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let has = |name: &str| group.join(name).exists();
        let peak_mode =
            std::fs::metadata(group.join("memory.peak")).ok().map(|data| data.permissions().mode());
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let at_least = |version| !has("memory.current") && kernel_release(&release) >= Some(version);
        Self {
            kill: has("cgroup.kill"),
            freeze: has("cgroup.freeze"),
            events: has("cgroup.events"),
            peak: peak_mode.is_some() || at_least((5, 19)),
            peak_reset: peak_mode.is_some_and(|mode| mode & 0o200 != 0) || at_least((6, 12)),
        }
    }
}

fn kernel_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_v1(mount: &CgroupMount, name: &str) -> bool {
    mount.v1_names.as_ref().is_some_and(|names| names.iter().any(|found| found == name))
}

fn layout(mounts: &[CgroupMount]) -> Layout {
    let v2 = mounts.iter().any(|mount| mount.v1_names.is_none());
    let named = |name: &String| name.starts_with("name=");
    let v1 = mounts.iter().any(|mount| mount.v1_names.as_ref().is_some_and(|names| !names.iter().all(named)));
    match (v2, v1) {
        (true, false) => Layout::V2,
        (true, true) => Layout::Hybrid,
        (false, true) => Layout::V1,
        (false, false) => Layout::None,
    }
}

/// The lock that makes moves slow is one for all hierarchies, so that remounting any one is enough.
fn remount(mounts: &[CgroupMount]) -> Option<String> {
    if mounts.iter().any(|mount| mount.has_option("favordynmods")) {
        return None;
    }
    let mount = mounts.iter().min_by_key(|mount| mount.v1_names.is_some())?;
    Some(format!("as root: mount -o remount,favordynmods {}", mount.mount_point.display()))
}
