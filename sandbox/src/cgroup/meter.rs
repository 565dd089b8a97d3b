//! What an action used, read from descriptors that stay open.
//!
//! Counters of a group only grow, and a group outlives an action: a run's usage is the difference to the
//! values at the last [`Meter::rebase`]. A peak is not a counter; it is reset where the kernel can (v1
//! always; v2 from Linux 6.12, where the reset holds for one open descriptor only), and else known only if
//! the run went above the old peak.
//!
//! Reading allocates nothing while all goes well: one `pread` into a stack buffer a file.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::node::{Cgroup, Leaf};
use super::{CgroupError, Controller, parse};

/// Larger than any file read here on a machine with some fifty disks; `io.stat` of more is cut, not refused.
const FILE_BYTES_MAX: usize = 8192;

/// What was used since the last rebase. `None` is not known here, never zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel, microseconds.
    pub cpu_system_us: Option<u64>,
    /// The highest memory use, bytes; not a difference: what lay in the page cache before counts.
    pub memory_peak_bytes: Option<u64>,
    /// Kills by the OOM killer: more than 0 says that it struck. Not a number of processes, as on v2,
    /// where all
    /// of the group goes, the first victim counts twice (seen on Linux 6.12).
    pub oom_kills: Option<u64>,
    /// Forks that the limit on processes refused.
    pub pids_denied: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_write_bytes: Option<u64>,
    /// Time in which some task stalled for memory, microseconds.
    pub memory_pressure_us: Option<u64>,
    /// Where the numbers come from.
    pub sources: Sources,
}

/// The control files behind a [`Usage`]; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sources {
    /// `cpu.stat` (v2, the action alone) or `cpuacct.usage_user` (v1, the init too).
    pub cpu: Option<&'static str>,
    /// `memory.peak` (v2) or `memory.max_usage_in_bytes` (v1, the init too).
    pub memory_peak: Option<&'static str>,
    /// `memory.events` (v2) or `memory.oom_control` (v1, the init too).
    pub oom_kills: Option<&'static str>,
    /// `pids.events`.
    pub pids_denied: Option<&'static str>,
    /// `io.stat` (v2).
    pub io: Option<&'static str>,
    /// `memory.pressure` (v2).
    pub memory_pressure: Option<&'static str>,
}

/// The open files of one slot, and the values at the last rebase.
#[derive(Debug, Default)]
pub(super) struct Meter {
    cpu: Option<Counter>,
    /// v1 has user and system time in two files; this is the second.
    cpu_system: Option<Counter>,
    peak: Option<Peak>,
    oom_kills: Option<Counter>,
    pids_denied: Option<Counter>,
    io: Option<Counter>,
    memory_pressure: Option<Counter>,
    base: Reading,
}

/// Raw values of one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    cpu_user_us: Option<u64>,
    cpu_system_us: Option<u64>,
    peak: Option<u64>,
    oom_kills: Option<u64>,
    pids_denied: Option<u64>,
    io: Option<(u64, u64)>,
    memory_pressure_us: Option<u64>,
}

#[derive(Debug)]
struct Counter {
    file: OwnedFd,
    path: PathBuf,
    name: &'static str,
}

#[derive(Debug)]
struct Peak {
    counter: Counter,
    resettable: bool,
}

impl Meter {
    /// Opens what the v2 action leaf has. CPU time and pressure are there without any controller.
    pub fn open_v2(&mut self, action: &Cgroup<Leaf>) -> Result<(), CgroupError> {
        // With CONFIG_CGROUP_CPUACCT off nothing is lost but the number.
        self.cpu = Counter::open(action, "cpu.stat")?;
        self.cpu_system = None;
        self.memory_pressure = Counter::open(action, "memory.pressure")?;
        self.io = Counter::open(action, "io.stat")?;
        if let Some(counter) = Counter::open(action, "memory.events")? {
            self.oom_kills = Some(counter);
            self.peak = Peak::open_v2(action)?;
        }
        if let Some(counter) = Counter::open(action, "pids.events")? {
            self.pids_denied = Some(counter);
        }
        Ok(())
    }

    /// Opens what a v1 directory has for the controllers that we use there.
    pub fn open_v1(&mut self, group: &Cgroup<Leaf>, controllers: &[Controller]) -> Result<(), CgroupError> {
        if controllers.contains(&Controller::Memory) {
            self.oom_kills = Counter::open(group, "memory.oom_control")?;
            let counter = Counter::open_with(group, "memory.max_usage_in_bytes", OFlags::RDWR)?;
            self.peak = counter.map(|counter| Peak { counter, resettable: true });
        }
        if controllers.contains(&Controller::Pids) {
            self.pids_denied = Counter::open(group, "pids.events")?;
        }
        if controllers.contains(&Controller::Cpuacct) && self.cpu.is_none() {
            self.cpu = Counter::open(group, "cpuacct.usage_user")?;
            self.cpu_system = Counter::open(group, "cpuacct.usage_sys")?;
        }
        Ok(())
    }

    /// Whether [`Meter::rebase`] starts a new peak.
    pub fn resets_peak(&self) -> bool {
        self.peak.as_ref().is_none_or(|peak| peak.resettable)
    }

    /// What was used since the last rebase.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        Ok(self.since_base(&self.read()?))
    }

    /// The same of CPU time and memory alone, for whoever asks often: two small files.
    pub fn glance(&self) -> Result<Usage, CgroupError> {
        let mut reading = Reading::default();
        self.read_use(&mut reading)?;
        Ok(self.since_base(&reading))
    }

    fn since_base(&self, now: &Reading) -> Usage {
        let base = &self.base;
        let since =
            |now: Option<u64>, base: Option<u64>| now.map(|now| now.saturating_sub(base.unwrap_or(0)));
        let io_base = base.io.unwrap_or_default();
        Usage {
            cpu_user_us: since(now.cpu_user_us, base.cpu_user_us),
            cpu_system_us: since(now.cpu_system_us, base.cpu_system_us),
            memory_peak_bytes: now.peak.filter(|&peak| self.resets_peak() || Some(peak) > base.peak),
            oom_kills: since(now.oom_kills, base.oom_kills),
            pids_denied: since(now.pids_denied, base.pids_denied),
            io_read_bytes: now.io.map(|io| io.0.saturating_sub(io_base.0)),
            io_write_bytes: now.io.map(|io| io.1.saturating_sub(io_base.1)),
            memory_pressure_us: since(now.memory_pressure_us, base.memory_pressure_us),
            sources: self.sources(),
        }
    }

    /// Makes this moment the zero of what follows.
    pub fn rebase(&mut self) -> Result<(), CgroupError> {
        if let Some(peak) = self.peak.as_ref().filter(|peak| peak.resettable) {
            peak.reset()?;
        }
        self.base = self.read()?;
        Ok(())
    }

    fn read_use(&self, reading: &mut Reading) -> Result<(), CgroupError> {
        let mut buffer = [0u8; FILE_BYTES_MAX];
        match (&self.cpu, &self.cpu_system) {
            (Some(user), Some(system)) => {
                reading.cpu_user_us = Some(user.value(&mut buffer, parse::number)? / 1000);
                reading.cpu_system_us = Some(system.value(&mut buffer, parse::number)? / 1000);
            }
            (Some(stat), None) => {
                let stat = parse::cpu_stat(stat.text(&mut buffer)?);
                (reading.cpu_user_us, reading.cpu_system_us) = (stat.user_us, stat.system_us);
            }
            (None, _) => {}
        }
        if let Some(peak) = &self.peak {
            reading.peak = Some(peak.counter.value(&mut buffer, parse::number)?);
        }
        Ok(())
    }

    fn read(&self) -> Result<Reading, CgroupError> {
        let mut reading = Reading::default();
        self.read_use(&mut reading)?;
        let mut buffer = [0u8; FILE_BYTES_MAX];
        if let Some(counter) = &self.oom_kills {
            // Both versions name the key `oom_kill`; before Linux 4.13 there was none.
            reading.oom_kills = parse::flat(counter.text(&mut buffer)?, "oom_kill");
        }
        if let Some(counter) = &self.pids_denied {
            reading.pids_denied = Some(counter.value(&mut buffer, parse::pids_events)?);
        }
        if let Some(counter) = &self.io {
            reading.io = Some(parse::io_stat(counter.text(&mut buffer)?));
        }
        // With `psi=0` on the command line, opening or reading gives EOPNOTSUPP: no number, no error.
        reading.memory_pressure_us = self
            .memory_pressure
            .as_ref()
            .and_then(|counter| parse::pressure(counter.text(&mut buffer).ok()?).some)
            .map(|line| line.total_us);
        Ok(reading)
    }

    fn sources(&self) -> Sources {
        let name = |counter: &Option<Counter>| counter.as_ref().map(|counter| counter.name);
        Sources {
            cpu: name(&self.cpu),
            memory_peak: self.peak.as_ref().map(|peak| peak.counter.name),
            oom_kills: name(&self.oom_kills),
            pids_denied: name(&self.pids_denied),
            io: name(&self.io),
            memory_pressure: name(&self.memory_pressure),
        }
    }
}

impl Peak {
    /// From Linux 6.12 the file is writable; before, opening it so fails even for root on a read-only
    /// inode, or the first write does.
    fn open_v2(group: &Cgroup<Leaf>) -> Result<Option<Self>, CgroupError> {
        if let Ok(Some(counter)) = Counter::open_with(group, "memory.peak", OFlags::RDWR) {
            let peak = Self { counter, resettable: true };
            if peak.reset().is_ok() {
                return Ok(Some(peak));
            }
        }
        let counter = Counter::open(group, "memory.peak")?;
        Ok(counter.map(|counter| Self { counter, resettable: false }))
    }

    /// v1 takes any write; v2 takes any non-empty one, and only for this descriptor.
    fn reset(&self) -> Result<(), CgroupError> {
        rustix::io::pwrite(&self.counter.file, b"0\n", 0)
            .map_err(|errno| CgroupError::io("reset", &self.counter.path, errno))?;
        Ok(())
    }
}

impl Counter {
    fn open(group: &Cgroup<Leaf>, name: &'static str) -> Result<Option<Self>, CgroupError> {
        Self::open_with(group, name, OFlags::RDONLY)
    }

    fn open_with(
        group: &Cgroup<Leaf>,
        name: &'static str,
        flags: OFlags,
    ) -> Result<Option<Self>, CgroupError> {
        let file = group.open_existing(name, flags)?;
        Ok(file.map(|file| Self { file, path: group.path().join(name), name }))
    }

    fn text<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b str, CgroupError> {
        read_small(&self.file, &self.path, buffer)
    }

    fn value(&self, buffer: &mut [u8], parse: fn(&str) -> Option<u64>) -> Result<u64, CgroupError> {
        parse(self.text(buffer)?)
            .ok_or_else(|| CgroupError::Parse { path: self.path.clone(), field: "a number that we know" })
    }
}

/// Reads a control file anew through an open descriptor.
pub(super) fn read_small<'b>(
    file: &OwnedFd,
    path: &Path,
    buffer: &'b mut [u8],
) -> Result<&'b str, CgroupError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(CgroupError::io("read", path, errno)),
        }
    }
    std::str::from_utf8(&buffer[..filled])
        .map_err(|_| CgroupError::Parse { path: path.to_path_buf(), field: "UTF-8" })
}
