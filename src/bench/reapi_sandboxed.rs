//! What of an action is its sandbox: the tiny action of `bench reapi` in sandboxes of a pool, and nothing else.
//!
//! ```text
//!   lease ─► directory with the input ─► mount ─► run ─► lease back (resets itself) ─► directory removed
//! ```
//! There is no daemon, no wire, no store, no hash: no executor of the same sandboxes can be faster by its protocol. As
//! many threads as the daemon has slots by default, or as there are requests if these are fewer.
use super::command::{Streams, find_program};
use super::error::BenchError;
use super::reapi::Block;
use super::sandboxed::{limits, variables_inside};
use super::scratch::{LayerDirectory, Scratch};
use fulgurite_sandbox::layer;
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::Action;
use fulgurite_sandbox::spec::SandboxSpec;
use rustix::fd::AsFd;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No run takes this long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sandboxes that are ready.
pub struct Sandboxes {
    pool: Pool,
    spec: SandboxSpec,
    slots: usize,
    arguments: Vec<CString>,
    variables: Vec<CString>,
    place: PathBuf,
}

impl Sandboxes {
    /// Makes them for a shell with this script; the layers of actions lie in `scratch`.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn new(runtime: &Arc<Runtime>, scratch: &Scratch, script: &str) -> Result<Self, BenchError> {
        let slots = std::thread::available_parallelism().map_or(1, usize::from) + 1;
        let options = PoolOptions { sandboxes_max: 2 * slots, idle_max: 2 * slots };
        let pool = Pool::new(runtime.clone(), options).map_err(BenchError::file("start a thread"))?;
        let spec = SandboxSpec::default();
        pool.prepare(&spec, 2 * slots)?;
        let shell = find_program("sh", "install a shell")?;
        let words = [shell.as_os_str().as_bytes(), b"-c", script.as_bytes()];
        let arguments = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let place = scratch.directory("sandboxed")?;
        Ok(Sandboxes { pool, spec, slots, arguments, variables: variables_inside(), place })
    }

    /// So many actions, of which so many are wanted at a time.
    ///
    /// # Errors
    /// The first that failed.
    pub fn block(&self, actions: usize, concurrency: usize) -> Result<Block, BenchError> {
        let lanes = concurrency.min(self.slots).max(1);
        let each = actions.div_ceil(lanes);
        let begun = Instant::now();
        let results: Vec<Result<Vec<f64>, String>> = std::thread::scope(|scope| {
            let lane = |number: usize| move || self.lane(number, each);
            let threads: Vec<_> = (0..lanes).map(|number| scope.spawn(lane(number))).collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|lane| lane.unwrap_or_else(|_| Err("a thread panicked".to_owned()))).collect()
        });
        let mut block = Block { wall: begun.elapsed(), ..Block::default() };
        for result in results {
            block.latencies_us.extend(result.map_err(|why| BenchError::Floor { workload: "cat", why })?);
        }
        Ok(block)
    }

    fn lane(&self, number: usize, actions: usize) -> Result<Vec<f64>, String> {
        let streams =
            Streams::new(&self.place, &format!("lane-{number}")).map_err(|error| error.to_string())?;
        let path = self.place.join(format!("layer-{number}"));
        (0..actions).map(|_| self.one(&path, &streams)).collect()
    }

    fn one(&self, path: &Path, streams: &Streams) -> Result<f64, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let begun = Instant::now();
        let mut lease = self.pool.lease(&self.spec).map_err(|error| failed(&error))?;
        let (runtime, id) = (self.pool.runtime(), lease.action_id());
        let files = LayerDirectory::make(path.to_owned(), runtime, id).map_err(|error| failed(&error))?;
        let input = path.join("upper/in");
        fs::write(&input, b"0123456789").map_err(|error| failed(&error))?;
        if runtime.features().privileged {
            chown(&input, Some(id), Some(id)).map_err(|error| failed(&error))?;
        }
        let work = layer::plain(files.upper.as_fd()).map_err(|error| failed(&error))?;
        let (out, err) = streams.open().map_err(|error| failed(&error))?;
        let outcome = lease.run(&Action {
            arguments: &self.arguments,
            variables: &self.variables,
            directory: c"/work",
            stdin: streams.null().as_fd(),
            stdout: out.as_fd(),
            stderr: err.as_fd(),
            work: Some(work.as_fd()),
            limits: &limits(runtime),
            timeout: Some(TIMEOUT),
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: 0,
        });
        let latency_us = begun.elapsed().as_nanos() as f64 / 1000.0;
        drop((lease, work));
        if !outcome.end.is_success() || !files.holds("out") {
            return Err(format!("{}: {}", outcome.end, streams.last_words()));
        }
        files.remove().map_err(|error| failed(&error))?;
        Ok(latency_us)
    }
}
