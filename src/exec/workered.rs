//! Actions that ask for a persistent worker get one; all others, and those that no worker can serve, run by themselves.
//!
//! ```text
//!   platform ─ no worker asked for ──────────────────────────────► Sandboxed
//!       └ asked ─► staged ─► Workers ─► Done: outputs, output text as standard error, who made it
//!                              ├─ NoWorker, or a crash if policy says so ─► Sandboxed, with the reason in the result
//!                              └─ canceled, timed out, crashed: an end like any other
//! ```
//! Invariant: the command that runs by itself is the client's, unchanged.

use super::executor::{Cancel, Execution, Executor, Job, Verdict, Watch, WorkerStart};
use super::sandboxed::{Sandboxed, now};
use crate::action::{ActionResult, Digest, DigestFunction, PersistentWorker, Timeline};
use crate::worker::job::mnemonic;
use crate::worker::wanted::{Wanted, wanted};
use crate::worker::{WorkerDone, WorkerEnd, WorkerJob, Workers};
use std::sync::atomic::{AtomicBool, Ordering};

/// 128 + SIGKILL, as shells say it.
const KILLED: i32 = 137;
/// The exit code of an action whose worker crashed: no compiler's own.
pub const WORKER_CRASHED: i32 = 134;

/// What becomes of results and of requests whose worker crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkeredOptions {
    /// Run by itself what no worker survived.
    pub one_shot_after_crash: bool,
    /// Which results may be cached.
    pub cache: Cacheable,
    /// Whether workers keep one view for all requests.
    pub shares: bool,
}

/// Which results of workers may be cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cacheable {
    /// As those of others.
    #[default]
    All,
    /// Those of workers whose tools are known.
    Keyed,
    /// None.
    None,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Workered {
    sandboxed: Sandboxed,
    workers: Workers,
    options: WorkeredOptions,
}

/// Tells of the start once, though an action may begin twice.
struct Once<'a> {
    watch: &'a dyn Watch,
    told: AtomicBool,
}

impl Watch for Once<'_> {
    fn started(&self, timeline: &Timeline) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.watch.started(timeline);
        }
    }
}

/// How the worker's part ended.
enum Tried {
    Over(Verdict),
    OneShot(String),
}

impl Workered {
    /// Runs by `workers` what asks for that, and all else by `sandboxed`.
    #[must_use]
    pub fn new(sandboxed: Sandboxed, workers: Workers, options: WorkeredOptions) -> Self {
        Workered { sandboxed, workers, options }
    }

    fn try_worker(
        &self,
        (job, wanted): (&Job, Wanted),
        cancel: &Cancel,
        watch: &dyn Watch,
        result: &mut ActionResult,
    ) -> Tried {
        let (platform, timeout) = match self.sandboxed.terms(job) {
            Ok(terms) => terms,
            Err(verdict) => return Tried::Over(verdict),
        };
        result.timeline.input_fetch_start = Some(now());
        let staged = match self.sandboxed.stage(job, result) {
            Ok(staged) => staged,
            Err(verdict) => return Tried::Over(verdict),
        };
        result.timeline.input_fetch_completed = Some(now());
        let work = WorkerJob {
            job,
            staged,
            shares: wanted.shares.unwrap_or(self.options.shares),
            wanted,
            spec: self.sandboxed.spec(&job.tenant, platform.network),
            limits: platform.limits,
            timeout,
        };
        watch.started(&result.timeline);
        result.timeline.execution_start = Some(now());
        let end = self.workers.execute(&work, cancel);
        result.timeline.execution_completed = Some(now());
        self.conclude(job, end, result)
    }

    fn conclude(&self, job: &Job, end: WorkerEnd, result: &mut ActionResult) -> Tried {
        let mut ended = |verdict: Verdict, code: i32, text: &str| {
            result.exit_code = code;
            let said = self.say(job.function, text).map(|digest| result.stderr = digest);
            Tried::Over(said.err().unwrap_or(verdict))
        };
        match end {
            WorkerEnd::Done(done) => Tried::Over(self.done(job, *done, result)),
            WorkerEnd::NoWorker(why) => Tried::OneShot(why.to_string()),
            WorkerEnd::Canceled => ended(Verdict::Canceled, KILLED, ""),
            WorkerEnd::TimedOut(limit, log) => {
                let text = format!(
                    "Worker process did not return a WorkResponse in {} s\n\n{log}\n",
                    limit.as_secs()
                );
                ended(Verdict::TimedOut { limit }, KILLED, &text)
            }
            WorkerEnd::Crashed(why) | WorkerEnd::OutOfMemory { why, .. }
                if self.options.one_shot_after_crash =>
            {
                Tried::OneShot(why)
            }
            WorkerEnd::OutOfMemory { peak_bytes, limit_bytes, why } => {
                let peak_bytes = peak_bytes.unwrap_or(0);
                ended(Verdict::OutOfMemory { peak_bytes, limit_bytes }, KILLED, &format!("{why}\n"))
            }
            WorkerEnd::Crashed(why) => ended(Verdict::Exited, WORKER_CRASHED, &format!("{why}\n")),
            WorkerEnd::Failed(verdict) => Tried::Over(verdict),
        }
    }

    fn done(&self, job: &Job, done: WorkerDone, result: &mut ActionResult) -> Verdict {
        let WorkerDone { response, outputs, quality, used, timed_out, .. } = done;
        result.exit_code = response.exit_code;
        if let Some(used) = used {
            (result.usage.user, result.usage.system) = (used.user, used.system);
            result.usage.peak_bytes = used.peak_bytes.unwrap_or(0);
        }
        let is_known = quality != crate::worker::key::KeyQuality::Weak;
        result.usage.is_uncacheable = match self.options.cache {
            Cacheable::All => false,
            Cacheable::Keyed => !is_known,
            Cacheable::None => true,
        };
        result.usage.persistent = Some(PersistentWorker {
            number: done.worker.0,
            key: done.key.to_string(),
            key_quality: quality.to_string(),
            request: done.served,
            sealed: done.sealed,
        });
        match self.say(job.function, &response.output) {
            Ok(digest) => result.stderr = digest,
            Err(verdict) => return verdict,
        }
        if let Some(limit) = timed_out {
            return Verdict::TimedOut { limit };
        }
        match outputs {
            Ok(handed) => {
                result.files = handed.files;
                result.directories = handed.directories;
                result.symlinks = handed.symlinks;
                result.usage.handoff = handed.handoff;
                Verdict::Exited
            }
            Err(error) => error.into(),
        }
    }

    /// A text in the store.
    fn say(&self, function: DigestFunction, text: &str) -> Result<Option<Digest>, Verdict> {
        if text.is_empty() {
            return Ok(None);
        }
        Ok(self.sandboxed.cas().put_bytes(function, text.as_bytes()).map(Some)?)
    }
}

impl Executor for Workered {
    fn execute(&self, job: &Job, cancel: &Cancel, watch: &dyn Watch) -> Execution {
        let _stay = self.workers.enter(&job.invocation);
        let wanted = match wanted(job.platform()) {
            Ok(None) => return self.sandboxed.execute(job, cancel, watch),
            Ok(Some(wanted)) => Ok(wanted),
            Err(why) => Err(why),
        };
        let watch = Once { watch, told: AtomicBool::new(false) };
        let why = match wanted {
            Ok(_) if cancel.is_canceled() => String::new(),
            Ok(wanted) => {
                let mut result = self.sandboxed.begun(job);
                match self.try_worker((job, wanted), cancel, &watch, &mut result) {
                    Tried::Over(verdict) => {
                        result.timeline.worker_completed = Some(now());
                        return Execution { verdict, result };
                    }
                    Tried::OneShot(why) => why,
                }
            }
            Err(why) => why,
        };
        if !why.is_empty() {
            tracing::info!(action = %job.action_digest, "an action runs without the worker that it asks for: {why}");
        }
        let mut execution = self.sandboxed.execute(job, cancel, &watch);
        execution.result.usage.one_shot_because = Some(why).filter(|why| !why.is_empty());
        execution
    }

    fn slots(&self) -> usize {
        self.sandboxed.slots()
    }

    fn workers(&self) -> Option<&Workers> {
        Some(&self.workers)
    }

    fn cold_worker(&self, job: &Job) -> Option<String> {
        let wanted = wanted(job.platform()).ok()??;
        let kind = mnemonic(job, &wanted);
        (!self.workers.is_warm(&kind)).then_some(kind)
    }

    fn worker_starts(&self) -> Vec<WorkerStart> {
        self.workers.take_starts()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counts = self.workers.counts();
        let mut counters = self.sandboxed.counters();
        counters.extend([
            ("workers_live", self.workers.live() as u64),
            ("workers_memory_bytes", self.workers.memory_bytes()),
            ("workers_started", counts.started),
            ("workers_stopped", counts.stopped),
            ("workers_hung", counts.hung),
            ("workers_broken", counts.broken),
            ("workers_died", counts.died),
            ("worker_requests_answered", counts.answered),
            ("worker_requests_retried", counts.retried),
            ("worker_requests_crashed", counts.crashed),
            ("worker_requests_timed_out", counts.timed_out),
            ("worker_requests_canceled", counts.canceled),
            ("worker_requests_refused", counts.refused),
        ]);
        counters
    }
}

impl Drop for Workered {
    fn drop(&mut self) {
        self.workers.stop();
    }
}
