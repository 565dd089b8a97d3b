//! CPU time of everything that an operation makes run.
//!
//! ```text
//! this process   clock_gettime(CLOCK_PROCESS_CPUTIME_ID)      ns      all threads: the daemon's side
//! its children   getrusage(RUSAGE_CHILDREN)                   us      bare runs and peers, once reaped
//! zygotes        clock_getcpuclockid(3) of each               ns      clones, and the reaping of inits
//! sandboxes      the slot's cgroup: cpu.stat (v2)             us      init, waiting process, action, reset, exit
//!                or cpuacct.usage (v1)                        ns
//! ```
//! A reading is the sum; what an operation took is the difference of two. The cgroup is that of the whole slot, so that
//! resets and the end of a sandbox count, whoever has reaped what, and whether the action's leaf was renewed.
//!
//! Where there are no cgroups, a sandbox counts as its init's own clock plus what its actions used by rusage; the exit
//! of an init then counts nowhere. On a pure v1 host a slot's zygote is in the slot's cgroup and is not added again.
//!
//! Not counted anywhere: what the kernel does later in its own threads (the teardown of network namespaces, RCU). The
//! time that it takes to read these very numbers is left out.
use fulgurite_sandbox::cgroup::{CgroupHost, Controller};
use fulgurite_sandbox::outcome::Outcome;
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::Sandbox;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// CPU time in nanoseconds, by who used it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// This process.
    pub daemon_ns: u64,
    /// Children that were reaped: bare runs and peers.
    pub children_ns: u64,
    /// Zygotes.
    pub zygote_ns: u64,
    /// Sandboxes: init, action, reset.
    pub sandbox_ns: u64,
}

impl Reading {
    /// All of it.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.daemon_ns + self.children_ns + self.zygote_ns + self.sandbox_ns
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Reading) -> Reading {
        Reading {
            daemon_ns: self.daemon_ns.saturating_sub(earlier.daemon_ns),
            children_ns: self.children_ns.saturating_sub(earlier.children_ns),
            zygote_ns: self.zygote_ns.saturating_sub(earlier.zygote_ns),
            sandbox_ns: self.sandbox_ns.saturating_sub(earlier.sandbox_ns),
        }
    }

    /// What one of so many operations used.
    #[must_use]
    pub fn each(&self, operations: u64) -> Reading {
        let operations = operations.max(1);
        Reading {
            daemon_ns: self.daemon_ns / operations,
            children_ns: self.children_ns / operations,
            zygote_ns: self.zygote_ns / operations,
            sandbox_ns: self.sandbox_ns / operations,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Reading) -> Reading {
        Reading {
            daemon_ns: self.daemon_ns + other.daemon_ns,
            children_ns: self.children_ns + other.children_ns,
            zygote_ns: self.zygote_ns + other.zygote_ns,
            sandbox_ns: self.sandbox_ns + other.sandbox_ns,
        }
    }
}

/// Counts the CPU time of this process and of the sandboxes that it was told of. See the module's documentation.
#[derive(Debug)]
pub struct TreeCpu {
    accounting: Accounting,
    inner: Mutex<Inner>,
}

/// Where the CPU time of a slot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Accounting {
    /// `cpu.stat` below this directory.
    V2(PathBuf),
    /// `cpuacct.usage` below this directory.
    V1(PathBuf),
    /// No cgroups.
    None,
}

#[derive(Debug, Default)]
struct Inner {
    /// Files of slots, with what they said last: a slot that is gone keeps its time.
    slots: BTreeMap<PathBuf, u64>,
    zygotes: BTreeMap<i32, u64>,
    /// Only where there are no cgroups.
    inits: BTreeMap<i32, u64>,
    /// Only where there are no cgroups: actions, and inits that have ended.
    ended_ns: u64,
    /// What finding all this out has cost.
    own_cost_ns: u64,
    /// Where the sandboxes stood at the last end, if what they do between operations belongs to the next one.
    carried_ns: Option<u64>,
    carries: bool,
}

impl TreeCpu {
    /// Counts this process; tell it of sandboxes by [`TreeCpu::note`].
    #[must_use]
    pub fn new(runtime: &Runtime) -> Self {
        let tree = TreeCpu { accounting: accounting(runtime.cgroup_host()), inner: Mutex::default() };
        if !matches!(tree.accounting, Accounting::V1(_)) {
            tree.lock().zygotes.insert(runtime.zygote_pid().cast_signed(), 0);
        }
        tree
    }

    /// Counts this process and all sandboxes of the runtime together, also those that this process does not see.
    #[must_use]
    pub fn all(runtime: &Runtime) -> Self {
        let tree = TreeCpu::new(runtime);
        let (place, file) = match &tree.accounting {
            Accounting::V2(place) => (place.clone(), "cpu.stat"),
            Accounting::V1(place) => (place.clone(), "cpuacct.usage"),
            Accounting::None => return tree,
        };
        // The runtime's own tree is named after this process.
        let prefix = format!("fulgurite-{}-", std::process::id());
        let mut entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        if let Some(own) = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            tree.lock().slots.insert(own.path().join(file), 0);
        }
        tree
    }

    /// As [`TreeCpu::new`], for sandboxes that nobody else uses: what they still do after the end of one operation (the
    /// process that waits to become the next action gets ready) counts for the next one.
    #[must_use]
    pub fn carrying(runtime: &Runtime) -> Self {
        let tree = TreeCpu::new(runtime);
        tree.lock().carries = true;
        tree
    }

    /// Counts this sandbox from now on. A slot that was not known is taken for new: all its time counts.
    pub fn note(&self, sandbox: &Sandbox) {
        let started = thread_clock();
        let init = sandbox.init_pid().cast_signed();
        let slot = self.slot_of(init);
        let zygote = parent_of(init);
        let mut inner = self.lock();
        match slot {
            Some(file) => {
                inner.slots.entry(file).or_insert(0);
            }
            None => {
                inner.inits.entry(init).or_insert(0);
            }
        }
        if let (Some(zygote), false) = (zygote, matches!(self.accounting, Accounting::V1(_))) {
            inner.zygotes.entry(zygote).or_insert(0);
        }
        inner.own_cost_ns += thread_clock().saturating_sub(started);
    }

    /// Counts what an action used, where the cgroup does not.
    pub fn add(&self, outcome: &Outcome) {
        let usage = &outcome.usage;
        let mut inner = self.lock();
        if inner.slots.is_empty() {
            inner.ended_ns += (usage.cpu_user_us + usage.cpu_system_us) * 1000;
        }
    }

    /// To be called before a sandbox is destroyed.
    pub fn retire(&self, sandbox: &Sandbox) {
        let started = thread_clock();
        let init = sandbox.init_pid().cast_signed();
        let mut inner = self.lock();
        if let Some(last) = inner.inits.remove(&init) {
            inner.ended_ns += process_clock(init).unwrap_or(last);
        }
        inner.own_cost_ns += thread_clock().saturating_sub(started);
    }

    /// A reading to count from: this process is read last.
    #[must_use]
    pub fn begin(&self) -> Reading {
        let mut reading = Reading::default();
        self.read_others(&mut reading);
        if let Some(carried) = self.lock().carried_ns {
            reading.sandbox_ns = carried;
        }
        reading.children_ns = children_clock();
        reading.daemon_ns = self.own_clock();
        reading
    }

    /// What was used since `begun`. This process is read first; then `settle` waits for others, at its own expense.
    #[must_use]
    pub fn end(&self, begun: &Reading, settle: impl FnOnce()) -> Reading {
        let mut reading = Reading { daemon_ns: self.own_clock(), ..Reading::default() };
        settle();
        reading.children_ns = children_clock();
        self.read_others(&mut reading);
        let mut inner = self.lock();
        inner.carried_ns = inner.carries.then_some(reading.sandbox_ns);
        drop(inner);
        reading.since(begun)
    }

    fn own_clock(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::ProcessCPUTime)).saturating_sub(self.lock().own_cost_ns)
    }

    fn read_others(&self, reading: &mut Reading) {
        let mut inner = self.lock();
        for (file, last) in &mut inner.slots {
            *last = read_slot(file).unwrap_or(*last);
        }
        let Inner { zygotes, inits, .. } = &mut *inner;
        for (pid, last) in zygotes.iter_mut().chain(inits) {
            *last = process_clock(*pid).unwrap_or(*last);
        }
        reading.zygote_ns = inner.zygotes.values().sum();
        reading.sandbox_ns =
            inner.slots.values().sum::<u64>() + inner.inits.values().sum::<u64>() + inner.ended_ns;
    }

    fn slot_of(&self, init: i32) -> Option<PathBuf> {
        let text = std::fs::read_to_string(format!("/proc/{init}/cgroup")).ok()?;
        let file = match &self.accounting {
            Accounting::V2(place) => place.join(slot_below(&text, "", true)?).join("cpu.stat"),
            Accounting::V1(place) => place.join(slot_below(&text, "cpuacct", false)?).join("cpuacct.usage"),
            Accounting::None => return None,
        };
        file.exists().then_some(file)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accounting(host: &CgroupHost) -> Accounting {
    if let Some(place) = host.v2_place() {
        return Accounting::V2(place.dir.clone());
    }
    let place = host.v1_places().iter().find(|place| place.controllers.contains(&Controller::Cpuacct));
    place.map_or(Accounting::None, |place| Accounting::V1(place.dir.clone()))
}

/// The slot's directory below our place, from a `/proc/PID/cgroup`: `fulgurite-…/slot-3`.
fn slot_below(text: &str, controller: &str, in_leaf: bool) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    let below = path.get(path.find("fulgurite-")?..)?;
    let below = Path::new(below);
    Some(if in_leaf { below.parent()?.to_path_buf() } else { below.to_path_buf() })
}

fn read_slot(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    if file.ends_with("cpuacct.usage") {
        return text.trim().parse().ok();
    }
    let micros: u64 = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())?;
    Some(micros * 1000)
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the fields begin after its last parenthesis.
    text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().nth(1)?.parse().ok()
}

pub(super) fn process_clock(pid: i32) -> Option<u64> {
    let now = clock_getcpuclockid(Pid::from_raw(pid)).ok()?.now().ok()?;
    let seconds = u64::try_from(now.tv_sec()).ok()?;
    Some(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).ok()?)
}

fn children_clock() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return 0 };
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| {
            let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
            (u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000 + micros) * 1000
        })
        .sum()
}

fn thread_clock() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "9:name=systemd:/\n2:cpu,cpuacct:/a/fulgurite-7-8-9.sandboxes/slot-2\n\
                          0::/b/fulgurite-7-8-9.sandboxes/slot-2/init\n";

    #[test]
    fn the_slot_is_found_in_either_version() {
        let slot = Some(PathBuf::from("fulgurite-7-8-9.sandboxes/slot-2"));
        assert_eq!(slot_below(HYBRID, "", true), slot);
        assert_eq!(slot_below(HYBRID, "cpuacct", false), slot);
        assert_eq!(slot_below(HYBRID, "memory", false), None);
        assert_eq!(slot_below("0::/user.slice\n", "", true), None);
    }

    #[test]
    fn slots_are_read_in_nanoseconds() {
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("cpuacct.usage"), dir.path().join("cpu.stat"));
        std::fs::write(&v1, "1234567\n").unwrap();
        std::fs::write(&v2, "usage_usec 42\nuser_usec 40\nsystem_usec 2\n").unwrap();
        assert_eq!((read_slot(&v1), read_slot(&v2)), (Some(1_234_567), Some(42_000)));
        assert_eq!(read_slot(&dir.path().join("none")), None);
    }

    #[test]
    fn clocks_of_processes_run() {
        let own = std::process::id().cast_signed();
        let before = process_clock(own).unwrap();
        let mut sum = 0u64;
        while process_clock(own).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(parent_of(own).is_some());
    }

    #[test]
    fn readings_subtract_and_add() {
        let early = Reading { daemon_ns: 1, children_ns: 2, zygote_ns: 3, sandbox_ns: 4 };
        let late = Reading { daemon_ns: 11, children_ns: 22, zygote_ns: 33, sandbox_ns: 44 };
        assert_eq!(late.since(&early).total_ns(), 100);
        assert_eq!(late.since(&early).plus(&early), late);
    }
}
