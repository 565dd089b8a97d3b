//! A daemon of our own as a child, for benchmarks that come through its door.
//!
//! The child is in a cgroup v2 of its own, below that of this process, where there is one to be had: its `cpu.stat`
//! counts the daemon, its zygotes and every action. The child says on standard output where it listens.
use super::error::BenchError;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the v2 hierarchy is: alone, or beside the older ones.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// What the daemon prints before its address, once it listens.
const LISTENING: &str = "listening on ";

/// Before the pid in the names of these cgroups.
const PREFIX: &str = "fulgurite-bench-";

/// How many of these cgroups this process has made: each daemon has one of its own.
static METERS: AtomicU64 = AtomicU64::new(0);

/// A cgroup that counts CPU time.
#[derive(Debug)]
struct Meter {
    directory: PathBuf,
    home: PathBuf,
}

impl Meter {
    /// Makes the cgroup; `None` where that cannot be had.
    fn new() -> Option<Meter> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let mount = UNIFIED.iter().map(Path::new).find(|mount| mount.join("cgroup.procs").exists())?;
        let home = mount.join(path);
        let number = METERS.fetch_add(1, Ordering::Relaxed);
        sweep(&home);
        let directory = home.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        Some(Meter { directory, home })
    }

    /// Runs `start` while this process is in the cgroup, so that what it starts is born there.
    fn within<T>(&self, start: impl FnOnce() -> T) -> T {
        // If it can't be entered, nothing is counted, which shows as zero.
        let _ = fs::write(self.directory.join("cgroup.procs"), "0");
        let started = start();
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        started
    }

    fn cpu_us(&self) -> Option<u64> {
        used(&self.directory)
    }

    /// Of what the daemon's sandboxes are in, which is beside the daemon itself.
    fn sandboxes_cpu_us(&self) -> Option<u64> {
        let below = fs::read_dir(&self.directory).ok()?.flatten().map(|entry| entry.path());
        below
            .filter(|path| path.extension().is_some_and(|end| end == "sandboxes"))
            .map(|path| used(&path))
            .sum()
    }
}

/// CPU time of a cgroup and all below it since it was made, those that are gone included.
fn used(directory: &Path) -> Option<u64> {
    let text = fs::read_to_string(directory.join("cpu.stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Its own children have removed theirs; what is busy still goes with the next start.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Removes those of processes that were killed.
fn sweep(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// Removes a cgroup and those below it, of which nobody is left in any.
fn remove(directory: &Path) {
    let below = fs::read_dir(directory).into_iter().flatten().flatten();
    below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|entry| remove(&entry.path()));
    // One in which somebody is stays, and what is above it.
    let _ = fs::remove_dir(directory);
}

/// A running daemon.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
    meter: Option<Meter>,
}

impl Server {
    /// Starts one, with its state in `state`, and waits until it listens at `listen`.
    ///
    /// # Errors
    /// [`BenchError::File`], [`BenchError::Server`].
    pub fn start(state: &Path, listen: &str, more: &[OsString]) -> Result<Server, BenchError> {
        let meter = Meter::new();
        let program = std::env::current_exe().map_err(BenchError::file("find this program"))?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--state-dir").arg(state).arg("--listen").arg(listen).args(more);
        // Whatever ends the benchmark.
        command.arg("--end-with-parent");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started = match &meter {
            Some(meter) => meter.within(|| command.spawn()),
            None => command.spawn(),
        };
        let mut child = started.map_err(BenchError::file("start the daemon"))?;
        let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines()).into_iter().flatten();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix(LISTENING).map(str::to_owned));
        match address {
            Some(address) => Ok(Server { child, address, meter }),
            None => {
                let _ = child.kill();
                let why = match child.wait() {
                    Ok(status) => format!("it ended before it listened: {status}"),
                    Err(error) => error.to_string(),
                };
                Err(BenchError::Server { why })
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// CPU time of all of it so far, actions included; `None` where nobody counts it.
    #[must_use]
    pub fn cpu_us(&self) -> Option<u64> {
        self.meter.as_ref().and_then(Meter::cpu_us)
    }

    /// CPU time of its sandboxes so far: of all commands, whatever came of them, and of the sandboxes' inits.
    #[must_use]
    pub fn sandboxes_cpu_us(&self) -> Option<u64> {
        self.meter.as_ref().and_then(Meter::sandboxes_cpu_us)
    }

    /// The daemon's own memory in bytes: what it does not share with anybody.
    #[must_use]
    pub fn private_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).ok()?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some((kib("Private_Clean:")? + kib("Private_Dirty:")?) * 1024)
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// [`BenchError::Server`] if it ended badly.
    pub fn stop(mut self) -> Result<(), BenchError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself, which its status then tells.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let status = self.child.wait().map_err(BenchError::file("wait for the daemon"))?;
        if status.success() { Ok(()) } else { Err(BenchError::Server { why: status.to_string() }) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only where a benchmark failed midway; after `stop` there is nobody to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
