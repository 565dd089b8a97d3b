//! What the tests of workers share: views with a layer each, and a worker that is told what to do.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, PROBE, c, memory_file};
use fulgurite_sandbox::hosted::Hosted;
use fulgurite_sandbox::layer::{self, Layers};
use fulgurite_sandbox::outcome::{End, Outcome};
use fulgurite_sandbox::pool::{Lease, Pool, PoolOptions};
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::Action;
use fulgurite_sandbox::spec::SandboxSpec;
use fulgurite_sandbox::testing::settles;
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A pool for workers.
pub fn pool(fixture: &Fixture, sandboxes_max: usize) -> Result<Pool, Failed> {
    Ok(Pool::new(fixture.runtime().clone(), PoolOptions { sandboxes_max, idle_max: sandboxes_max })?)
}

/// The spec of their sandboxes.
pub fn spec(fixture: &Fixture) -> SandboxSpec {
    Hosted::spec(&fixture.spec())
}

/// Input trees by name, each with a layer.
pub struct Stage {
    all: TempDir,
    runtime: Arc<Runtime>,
    /// Views so far: each has a layer of its own, since none is mounted twice.
    count: AtomicUsize,
}

impl Stage {
    pub fn new(runtime: &Arc<Runtime>) -> Result<Self, Failed> {
        Ok(Stage { all: tempfile::tempdir()?, runtime: runtime.clone(), count: AtomicUsize::new(0) })
    }

    /// An overlay of this name, with a new layer: `name` holds it, `sub/deep` too, `_w` has places for views.
    pub fn view(&self, action_id: u32, name: &str) -> Result<OwnedFd, Failed> {
        let place = self.all.path().join(name);
        if !place.exists() {
            std::fs::create_dir_all(place.join("lower/sub"))?;
            for slot in 0..64 {
                std::fs::create_dir_all(place.join("lower").join(Hosted::slot_dir(slot)))?;
            }
            std::fs::write(place.join("lower/name"), name)?;
            std::fs::write(place.join("lower/sub/deep"), format!("deep {name}"))?;
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let layer = self.all.path().join(format!("layer-{number}"));
        std::fs::create_dir_all(layer.join("upper"))?;
        std::fs::create_dir(layer.join("work"))?;
        let current = place.join("layer");
        if let Ok(last) = std::fs::read_link(&current) {
            std::fs::remove_dir_all(last)?;
            std::fs::remove_file(&current)?;
        }
        std::os::unix::fs::symlink(&layer, &current)?;
        let open = |place: &Path, part: &str| {
            let path = place.join(part);
            let path = c(path.to_str().ok_or("a temporary directory with a plain name")?);
            Ok::<_, Failed>(layer::open_directory(rustix::fs::CWD, &path)?)
        };
        let (lower, upper, work, all) =
            (open(&place, "lower")?, open(&layer, "upper")?, open(&layer, "work")?, open(&place, "")?);
        let features = self.runtime.features();
        if features.privileged {
            std::os::unix::fs::fchown(&upper, Some(action_id), Some(action_id))?;
        }
        let mapped = self.runtime.map_owner(lower.as_fd(), action_id)?;
        let shown = mapped.as_ref().unwrap_or(&lower);
        let layers = Layers { lower: shown.as_fd(), upper: upper.as_fd(), work: work.as_fd() };
        if mapped.is_none() {
            return Ok(layer::overlay(&layers, features)?);
        }
        Ok(layer::overlay_on_detached(&layers, all.as_fd(), c"mapped", features)?)
    }

    /// Where a file of a layer is.
    pub fn in_layer(&self, name: &str, file: &str) -> PathBuf {
        self.all.path().join(name).join("layer/upper").join(file)
    }

    /// What is in a layer.
    pub fn layer(&self, name: &str, file: &str) -> std::io::Result<String> {
        std::fs::read_to_string(self.in_layer(name, file))
    }
}

/// A live worker and its streams.
pub struct Worker {
    pub hosted: Hosted,
    stdin: Option<PipeWriter>,
    stdout: BufReader<PipeReader>,
}

impl Worker {
    /// Leases a sandbox and starts the worker in it, with the view `base`, in this directory.
    pub fn start(pool: &Pool, spec: &SandboxSpec, stage: &Stage, directory: &str) -> Result<Worker, Failed> {
        let lease = pool.lease(spec)?;
        let view = stage.view(lease.action_id(), "base")?;
        let mut command = Command::new(&[PROBE, "probe", "work"]);
        command.directory = c(directory);
        Self::start_with(lease, &command, Some(view.as_fd()))
            .map_err(|outcome| Failed::from(format!("{outcome:?}")))
    }

    /// Starts this as a worker.
    pub fn start_with(
        lease: Lease,
        command: &Command,
        view: Option<BorrowedFd<'_>>,
    ) -> Result<Worker, Box<Outcome>> {
        let lost = |error: std::io::Error| Box::new(Outcome::lost(error.to_string()));
        let (stdin, ours) = std::io::pipe().map_err(lost)?;
        let (answers, stdout) = std::io::pipe().map_err(lost)?;
        let stderr = memory_file("stderr");
        let hosted = lease.host(&Action {
            arguments: &command.arguments,
            variables: &command.variables,
            directory: &command.directory,
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            work: view,
            limits: &command.limits,
            timeout: command.timeout,
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: command.fail_at,
        })?;
        Ok(Worker { hosted, stdin: Some(ours), stdout: BufReader::new(answers) })
    }

    /// Has it do something; its answer, which is empty if it has ended.
    pub fn ask(&mut self, line: &str) -> Result<String, Failed> {
        self.tell(line)?;
        self.hear()
    }

    /// The next line that it says; empty if it has ended.
    pub fn hear(&mut self) -> Result<String, Failed> {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    /// Says something without waiting for the answer.
    pub fn tell(&mut self, line: &str) -> Checked {
        let stdin = self.stdin.as_mut().ok_or("it was told to end")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Puts the view of this name at /work.
    pub fn see(&self, stage: &Stage, name: &str) -> Result<OwnedFd, Failed> {
        let view = stage.view(self.action_id(), name)?;
        self.hosted.swap(view.as_fd())?;
        Ok(view)
    }

    /// The owner of what it writes.
    pub fn action_id(&self) -> u32 {
        self.hosted.sandbox().map_or(0, fulgurite_sandbox::sandbox::Sandbox::action_id)
    }

    /// The pid of its sandbox's init.
    pub fn init(&self) -> u32 {
        self.hosted.sandbox().map_or(0, fulgurite_sandbox::sandbox::Sandbox::init_pid)
    }

    /// Mounts in its sandbox, once those are gone that it cannot reach any more: a change of views is answered before
    /// they are detached.
    pub fn mounts(&self) -> Result<usize, Failed> {
        let list = || std::fs::read_to_string(format!("/proc/{}/mountinfo", self.init()));
        let gone = || list().map_or(true, |list| !list.contains(" /work/store "));
        crate::fixture::check(settles(PATIENCE, gone), format!("views that stay: {:?}", list()))?;
        Ok(list()?.lines().count())
    }

    /// Closes its standard input and ends it.
    pub fn stop(mut self, grace: Duration) -> (Outcome, Lease) {
        self.stdin = None;
        self.hosted.stop(grace)
    }

    /// Ends a worker that is expected to end by itself, or by SIGTERM.
    pub fn end(self) -> Result<Lease, Failed> {
        let (outcome, lease) = self.stop(crate::fixture::PATIENCE);
        if !outcome.quiet || !matches!(outcome.end, End::Exited(0) | End::Signaled(15)) {
            return Err(format!("{outcome:?}").into());
        }
        Ok(lease)
    }
}
