//! Two machines on one: daemons that have a half of the processors each, and one build through the racing one.
//!
//! ```text
//!   processors    [ first half: the racing daemon, and whatever loads it ] [ second half: the remote daemon ]
//!   build         client ─ Unix socket ─► racing daemon ─ TCP ─► link ─ Unix socket ─► remote daemon
//! ```
//! Each daemon runs as many actions at a time as it has processors. Affinity is inherited, so that zygotes, sandboxes
//! and actions stay where their daemon is. With one processor both share it, and their sum is no faster than one.
//!
//! A build begins with a racing daemon that has just started, on the state of the policy's builds before: what was
//! learned of the remote is kept, connections and circuit breakers are new. Its wall time is from the first call to the
//! last answer; starting, uploads of inputs to the racing daemon and stopping are not in it. CPU time is that of both
//! daemons with all actions, until both are idle again.
use super::limits::{PATIENCE, SETTLING};
use super::shape::{Link, Shape};
use super::units::{Build, Job};
use crate::bench::BenchError;
use crate::bench::prepared::FUNCTION;
use crate::bench::server::Server;
use crate::remote::Remote;
use crate::remote::daemon::{Daemon, DaemonStatus};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The processors of the two machines.
#[derive(Clone, Debug)]
pub struct Halves {
    /// Of the racing daemon.
    pub local: Vec<usize>,
    /// Of the remote one.
    pub remote: Vec<usize>,
}

impl Halves {
    /// Of the processors that this thread may use.
    #[must_use]
    pub fn of_this_machine() -> Halves {
        let set = sched_getaffinity(None).unwrap_or_default();
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        let (local, remote) = all.split_at(all.len() / 2);
        match local.is_empty() {
            true => Halves { local: all.clone(), remote: all },
            false => Halves { local: local.to_vec(), remote: remote.to_vec() },
        }
    }

    /// In words.
    #[must_use]
    pub fn described(&self) -> String {
        match self.local == self.remote {
            true => "both sides share one processor".to_owned(),
            false => format!("{} processors here, {} there", self.local.len(), self.remote.len()),
        }
    }
}

/// Does something on these processors alone; what it starts stays there.
fn pinned<T>(cpus: &[usize], what: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None);
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    // Where it is refused, both sides share all processors, which the result shows as more noise.
    let _ = sched_setaffinity(None, &set);
    let done = what();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    done
}

/// Threads that do nothing, as fast as they can.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    /// So many, on these processors.
    ///
    /// # Errors
    /// No thread.
    pub fn start(cpus: &[usize], threads: usize) -> Result<Load, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = Load { stop: stop.clone(), threads: Vec::new() };
        for _ in 0..threads {
            let stop = stop.clone();
            let busy = move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            let thread = pinned(cpus, || std::thread::Builder::new().name("load".to_owned()).spawn(busy));
            load.threads.push(thread.map_err(BenchError::file("start a thread"))?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A daemon that is reached by a Unix socket alone.
#[derive(Debug)]
pub struct Machine {
    server: Server,
    socket: PathBuf,
}

impl Machine {
    /// Starts one on these processors, with its state in `state`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(state: &Path, cpus: &[usize], more: &[OsString]) -> Result<Machine, BenchError> {
        let socket = state.with_extension("socket");
        let mut arguments: Vec<OsString> = vec!["--slots".into(), cpus.len().to_string().into()];
        arguments.extend(["--log", "error"].map(OsString::from));
        arguments.extend(more.iter().cloned());
        let listen = format!("unix:{}", socket.display());
        let server = pinned(cpus, || Server::start(state, &listen, &arguments))?;
        Ok(Machine { server, socket })
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its socket, as clients name it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// CPU time of it and all its actions so far, and of the actions alone.
    fn used_us(&self) -> Option<[u64; 2]> {
        Some([self.server.cpu_us()?, self.server.sandboxes_cpu_us()?])
    }

    /// What it has counted, once it is idle.
    async fn idle(&self) -> Result<DaemonStatus, BenchError> {
        let failed = |error: crate::remote::daemon::DaemonError| server_error(error.to_string());
        let mut daemon = Daemon::connect(&self.socket).await.map_err(failed)?;
        let begun = Instant::now();
        loop {
            // The status has no event for the end of a loser; the wait is outside of the wall time.
            tokio::time::sleep(SETTLING).await;
            let status = daemon.status().await.map_err(failed)?;
            if (status.running == 0 && status.queued == 0) || begun.elapsed() > PATIENCE {
                return Ok(status);
            }
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// It ended badly.
    pub fn stop(self) -> Result<(), BenchError> {
        self.server.stop()
    }
}

fn server_error(why: String) -> BenchError {
    BenchError::Server { why }
}

fn client() -> Result<tokio::runtime::Runtime, BenchError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::file("start the client"))
}

/// What one build gave.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// From the first call to the last answer.
    pub wall: Duration,
    /// CPU time of both daemons and all actions, where it is counted.
    pub cpu_us: Option<u64>,
    /// CPU time in sandboxes of both that is in no answer: that of losers, of the sandboxes' inits, and of workers
    /// between requests.
    pub losers_cpu_us: Option<u64>,
    /// What the racing daemon counted.
    pub counters: BTreeMap<String, u64>,
    /// Why it was not finished.
    pub error: Option<String>,
    /// Objects, in the order of the build's jobs: only where they were wanted.
    pub objects: Vec<Vec<u8>>,
}

/// How a build is done.
pub struct Way<'a> {
    /// The remote daemon.
    pub remote: &'a Machine,
    /// The network to it.
    pub shape: Shape,
    /// Whose processors the racing daemon has.
    pub halves: &'a Halves,
    /// Its state.
    pub state: &'a Path,
    /// More arguments of the racing daemon.
    pub arguments: Vec<OsString>,
    /// Actions that the client asks for at a time.
    pub jobs: usize,
    /// The network is cut when this many answers have come.
    pub cut_after: Option<usize>,
    /// The objects themselves are fetched as well, after the build.
    pub fetch: bool,
}

impl Way<'_> {
    /// Builds. What goes wrong with the build itself is in what it gave.
    ///
    /// # Errors
    /// A daemon that can't be started or stopped, or is lost.
    pub fn build(&self, build: &Build) -> Result<Built, BenchError> {
        let tokio = client()?;
        let mut link = Link::to(self.remote.socket(), self.shape)?;
        let mut arguments = vec!["--remote".into(), format!("grpc://{}", link.address()).into()];
        arguments.extend(self.arguments.iter().cloned());
        let racing = Machine::start(self.state, &self.halves.local, &arguments)?;
        let built = tokio.block_on(async {
            let client = Remote::connect(&racing.address(), "", FUNCTION).await?;
            client.upload(build.blobs.clone()).await?;
            let used = racing.used_us().zip(self.remote.used_us());
            let begun = Instant::now();
            let done = self.answers(&client, build, &mut link).await;
            let wall = begun.elapsed();
            let counters = racing.idle().await?.counters.into_iter().collect();
            self.remote.idle().await?;
            let now = racing.used_us().zip(self.remote.used_us());
            let spent = |what: usize| {
                let ((here, there), (here_before, there_before)) = now.zip(used)?;
                Some((here[what] + there[what]).saturating_sub(here_before[what] + there_before[what]))
            };
            let answered = u64::try_from(done.as_ref().map_or(0, Duration::as_micros)).unwrap_or(u64::MAX);
            let (cpu_us, losers_cpu_us) = (spent(0), spent(1).map(|all| all.saturating_sub(answered)));
            let mut built =
                Built { wall, cpu_us, losers_cpu_us, counters, error: done.err(), ..Built::default() };
            if self.fetch && built.error.is_none() {
                for job in &build.jobs {
                    built.objects.push(client.download(&job.object).await?.to_vec());
                }
            }
            Ok::<_, BenchError>(built)
        })?;
        // First its connections are closed, which the daemon would wait for.
        drop(tokio);
        racing.stop()?;
        Ok(built)
    }

    /// Asks for everything, some actions at a time. Gives the CPU time that the answers tell of.
    async fn answers(&self, client: &Remote, build: &Build, link: &mut Link) -> Result<Duration, String> {
        let mut running = JoinSet::new();
        let (mut done, mut used) = (0, Duration::ZERO);
        let mut jobs = build.jobs.iter();
        loop {
            while running.len() < self.jobs
                && let Some(job) = jobs.next()
            {
                running.spawn(answer(client.clone(), job.clone()));
            }
            let Some(ended) = running.join_next().await else { return Ok(used) };
            used += ended.map_err(|error| error.to_string())??;
            done += 1;
            if self.cut_after == Some(done) {
                link.cut();
            }
        }
    }
}

/// One action: its object must be the right one, byte by byte. Gives what its command used, if it ran now.
async fn answer(client: Remote, job: Job) -> Result<Duration, String> {
    let executed = tokio::time::timeout(PATIENCE, client.execute(&job.action, false)).await;
    let executed = executed.map_err(|_| "an answer did not come".to_owned())?;
    let executed = executed.map_err(|error| error.to_string())?;
    if executed.code != 0 || executed.exit_code != 0 {
        let (code, exit) = (executed.code, executed.exit_code);
        return Err(format!("code {code}, exit {exit}: {}", executed.message));
    }
    match executed.files.as_slice() {
        [(_, found)] if *found == job.object => {
            Ok(if executed.cached { Duration::ZERO } else { executed.cpu })
        }
        [(name, found)] => Err(format!("{name} is {found}, and {} in the plain build", job.object)),
        files => Err(format!("{} outputs instead of one", files.len())),
    }
}

/// Lets the remote have all results of a build already.
///
/// # Errors
/// An action that fails.
pub fn fill(remote: &Machine, build: &Build, jobs: usize) -> Result<(), BenchError> {
    client()?.block_on(async {
        let client = Remote::connect(&remote.address(), "", FUNCTION).await?;
        client.upload(build.blobs.clone()).await?;
        let mut running: JoinSet<Result<Duration, String>> = JoinSet::new();
        for job in &build.jobs {
            if running.len() >= jobs.max(1)
                && let Some(ended) = running.join_next().await
            {
                ended.map_err(|error| server_error(error.to_string()))?.map_err(server_error)?;
            }
            running.spawn(answer(client.clone(), job.clone()));
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|error| server_error(error.to_string()))?.map_err(server_error)?;
        }
        remote.idle().await.map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_processors_and_share_none_if_there_are_two() {
        let Halves { local, remote } = Halves::of_this_machine();
        assert!(!local.is_empty() && !remote.is_empty());
        let is_shared = local.iter().any(|cpu| remote.contains(cpu));
        assert_eq!(is_shared, local.len() + remote.len() == 2 && local == remote);
    }

    #[test]
    fn pinning_ends() {
        let set = |set: CpuSet| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect::<Vec<_>>();
        let before = set(sched_getaffinity(None).unwrap());
        let one = [before[0]];
        assert_eq!(pinned(&one, || set(sched_getaffinity(None).unwrap())), one);
        assert_eq!(set(sched_getaffinity(None).unwrap()), before);
    }
}
