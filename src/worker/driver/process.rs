//! One worker process: its sandbox, its channel, its log, and the thread that looks after it.

use super::Inner;
use super::talk::Talk;
use crate::exec::Verdict;
use crate::stage::Layer;
use crate::uring::{Channel, SendError};
use crate::worker::ground::Mounted;
use crate::worker::job::Launch;
use crate::worker::junk::unparseable;
use crate::worker::limits::HANGUP_PATIENCE;
use crate::worker::log::WorkerLog;
use crate::worker::machine::{RequestId, WorkerId};
use crate::worker::shared::SharedRoot;
use crate::worker::wire::{Protocol, WorkRequest};
use crate::worker::{bazel_json, bazel_proto};
use fulgurite_sandbox::hosted::{Hosted, HostedError};
use fulgurite_sandbox::outcome::{End, Outcome};
use fulgurite_sandbox::sandbox::Killer;
use fulgurite_sandbox::sys::mount;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

/// What a worker's thread is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Take away the view of a request that was answered and that nobody waits for.
    Orphan { request: RequestId, wire_id: i32, slot: u32 },
    /// It has ended by itself.
    Ended,
    /// It does not speak, or speaks nonsense: why.
    Fail(String),
    /// It has closed its end of what it speaks by: which.
    HungUp(String),
    /// End it gently.
    Stop,
    /// End it.
    Kill,
}

/// Views of requests whose callers have gone.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    over: bool,
    held: HashMap<RequestId, Mounted>,
    /// Taken out of the worker before their callers had left them.
    out: HashSet<RequestId>,
}

/// By what it is spoken with.
#[derive(Debug)]
pub(super) enum Line {
    /// Its standard input and output.
    Bytes(Channel),
    /// Its socket.
    Calls(Talk),
}

/// The directory that all requests of a worker share. Whoever shows a request's inputs there, or takes its outputs, has
/// the process: so long the directory stays, also if the worker is gone meanwhile.
#[derive(Debug)]
pub(super) struct Shared {
    pub root: Mutex<SharedRoot>,
    pub _layer: SharedLayer,
}

/// Its layer, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct SharedLayer {
    layer: Option<Layer>,
    inner: Weak<Inner>,
}

impl SharedLayer {
    pub fn new(inner: &Arc<Inner>, layer: Layer) -> Self {
        SharedLayer { layer: Some(layer), inner: Arc::downgrade(inner) }
    }
}

impl Drop for SharedLayer {
    fn drop(&mut self) {
        if let (Some(layer), Some(inner)) = (self.layer.take(), self.inner.upgrade()) {
            inner.ground.clean_layer(layer);
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Process {
    pub id: WorkerId,
    pub launch: Arc<Launch>,
    pub log: Arc<WorkerLog>,
    /// The id outside that owns what it writes.
    pub action_id: u32,
    /// Requests that were sent.
    pub served: AtomicU64,
    /// Microseconds of processor time when it was looked at last, and one; 0: nobody has.
    pub cpu_seen_us: AtomicU64,
    /// How it ended, once it has.
    pub end: OnceLock<End>,
    pub hosted: RwLock<Option<Hosted>>,
    pub killer: Killer,
    pub line: Line,
    pub orders: SyncSender<Order>,
    pub orphans: Mutex<Orphans>,
    /// What it sees between requests, detached: copies of it are attached.
    pub base: OwnedFd,
    /// In place of views: one directory for all requests.
    pub shared: Option<Shared>,
}

/// What a worker used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most memory at a time since the worker's start.
    pub peak_bytes: Option<u64>,
}

impl Used {
    /// What was used since then; the peak is that of all its life.
    pub(super) fn since(self, before: Used) -> Used {
        let (user, system) =
            (self.user.saturating_sub(before.user), self.system.saturating_sub(before.system));
        Used { user, system, peak_bytes: self.peak_bytes }
    }
}

/// How a worker's thread came to end it.
pub(super) enum How {
    Ended,
    Failed(String),
    HungUp(String),
    Stopped,
    Killed,
}

impl Process {
    pub fn order(&self, order: Order) {
        // Full: it has been told to end long before.
        let _ = self.orders.try_send(order);
    }

    /// Writes a request, or queues it.
    pub fn send(&self, request: &WorkRequest) -> Result<(), SendError> {
        match &self.line {
            Line::Bytes(channel) if self.launch.protocol == Protocol::Json => {
                channel.send(bazel_json::encode(request))
            }
            Line::Bytes(channel) => channel.send(bazel_proto::encode(request)),
            Line::Calls(talk) => talk.send(request),
        }
    }

    pub fn kill(&self) {
        self.killer.kill();
    }

    pub fn freeze(&self) {
        self.quickly(|hosted| hosted.freeze().map(drop));
    }

    pub fn thaw(&self) {
        self.quickly(|hosted| hosted.thaw().map(drop));
    }

    pub fn memory_bytes(&self) -> Option<u64> {
        self.hosted.try_read().ok()?.as_ref()?.memory_bytes()
    }

    /// Processor time and the peak of memory since its start, as far as its cgroup counts them.
    pub fn used(&self) -> Option<Used> {
        let used = self.hosted.try_read().ok()?.as_ref()?.used()?;
        let time = |us: Option<u64>| Duration::from_micros(us.unwrap_or(0));
        used.cpu_user_us?;
        let (user, system) = (time(used.cpu_user_us), time(used.cpu_system_us));
        Some(Used { user, system, peak_bytes: used.memory_peak_bytes })
    }

    /// Remembers its processor time, for lists.
    pub fn look_at_cpu(&self) {
        if let Some(used) = self.used() {
            let us = u64::try_from((used.user + used.system).as_micros()).unwrap_or(u64::MAX - 1);
            self.cpu_seen_us.store(us + 1, Ordering::Relaxed);
        }
    }

    /// What was seen of it last.
    pub fn cpu_seen(&self) -> Option<Duration> {
        self.cpu_seen_us.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }

    /// Whether a worker that has nothing to answer has written nothing. A whole answer is noticed when it comes; the
    /// beginning of one would be taken for the beginning of the next.
    pub fn is_silent(&self) -> Result<(), String> {
        // Calls have no such middle.
        if matches!(&self.line, Line::Bytes(channel) if channel.is_inside()) {
            return Err(unparseable("it wrote this when nobody had asked it for anything", &[]));
        }
        Ok(())
    }

    /// Without waiting for somebody who is about to end it.
    fn quickly(&self, what: impl FnOnce(&Hosted) -> Result<(), HostedError>) {
        if let Ok(hosted) = self.hosted.try_read()
            && let Some(hosted) = hosted.as_ref()
            && let Err(error) = what(hosted)
        {
            tracing::warn!(worker = %self.id, "a worker cannot be frozen or thawed: {error}");
        }
    }

    fn with<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(&Hosted) -> Result<T, HostedError>,
    ) -> Result<T, HostedError> {
        let hosted = self.hosted.read().unwrap_or_else(PoisonError::into_inner);
        hosted.as_ref().map_or(Err(HostedError::Ended { what }), ask)
    }

    /// The directory that all its requests share, if that is how it works.
    pub fn shared(&self) -> Option<MutexGuard<'_, SharedRoot>> {
        self.shared.as_ref().map(|shared| shared.root.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows it the view of a request.
    pub fn show(&self, view: BorrowedFd<'_>, slot: u32) -> Result<(), HostedError> {
        let is_multiplex = self.launch.multiplex;
        self.with("show a request's inputs", |hosted| {
            if is_multiplex { hosted.attach(slot, view) } else { hosted.swap(view) }
        })
    }

    /// Makes the view of an answered request unchangeable, if nobody can write to it.
    pub fn seal(&self, slot: u32) -> bool {
        if self.shared.is_some() {
            return false;
        }
        let is_multiplex = self.launch.multiplex;
        let sealed = self.with("seal a request's view", |hosted| {
            if is_multiplex { hosted.seal_slot(slot) } else { hosted.seal() }
        });
        // What cannot be sealed as a whole is taken file by file.
        sealed.unwrap_or(false)
    }

    /// Takes the view of a request away; the worker has its own one then.
    pub fn take_away(&self, slot: u32) -> Result<(), HostedError> {
        let what = "take away a request's view";
        if self.shared.is_some() {
            return Ok(());
        }
        if self.launch.multiplex {
            return self.with(what, |hosted| hosted.detach(slot));
        }
        let base =
            mount::clone_mount(self.base.as_fd(), c"").map_err(|errno| HostedError::Kept { what, errno })?;
        self.with(what, |hosted| hosted.swap(base.as_fd()))
    }

    /// Leaves the view of a request whose caller goes; it is taken apart when the worker cannot reach it any more.
    pub fn leave(&self, inner: &Inner, request: RequestId, mounted: Option<Mounted>) {
        let Some(mounted) = mounted else { return };
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        if orphans.over || orphans.out.remove(&request) {
            drop(orphans);
            return inner.ground.clean(mounted);
        }
        orphans.held.insert(request, mounted);
    }

    /// Does what it is told until it is to end.
    pub fn follow(&self, inner: &Arc<Inner>, orders: &Receiver<Order>) -> How {
        loop {
            match orders.recv() {
                Ok(Order::Orphan { request, wire_id, slot }) => {
                    if let Err(error) = self.take_away(slot) {
                        return How::Failed(error.to_string());
                    }
                    let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
                    let mounted = orphans.held.remove(&request);
                    if mounted.is_none() && self.shared.is_none() {
                        orphans.out.insert(request);
                    }
                    drop(orphans);
                    mounted.into_iter().for_each(|mounted| inner.ground.clean(mounted));
                    inner.released(self.id, wire_id);
                }
                Ok(Order::Ended) => return How::Ended,
                Ok(Order::Fail(why)) => return How::Failed(why),
                Ok(Order::HungUp(what)) => return How::HungUp(what),
                Ok(Order::Stop) => return How::Stopped,
                Ok(Order::Kill) | Err(_) => return How::Killed,
            }
        }
    }

    /// Ends it, waits until all of it is quiet, and says how it was.
    pub fn finish(&self, inner: &Inner, how: &How) -> String {
        if matches!(how, How::HungUp(_) | How::Failed(_)) {
            let _ = self.with("wait for its end", |hosted| {
                wait_readable(hosted.control(), HANGUP_PATIENCE);
                Ok(())
            });
        }
        match &self.line {
            Line::Bytes(channel) => channel.close(),
            Line::Calls(talk) => talk.close(),
        }
        let hosted = self.hosted.write().unwrap_or_else(PoisonError::into_inner).take();
        let grace = if matches!(how, How::Stopped) { inner.options.stop_grace } else { Duration::ZERO };
        let ended_itself = hosted.as_ref().is_some_and(|hosted| hosted.ended().is_some());
        let outcome = hosted.map(|hosted| {
            let (outcome, lease) = hosted.stop(grace);
            // Its sandbox resets itself from now on.
            drop(lease);
            outcome
        });
        let left = {
            let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            orphans.over = true;
            std::mem::take(&mut orphans.held)
        };
        left.into_values().for_each(|mounted| inner.ground.clean(mounted));
        if let Some(outcome) = &outcome {
            // The first and only.
            let _ = self.end.set(outcome.end.clone());
        }
        told(how, ended_itself, outcome.as_ref())
    }

    /// The verdict on a request that could not be prepared, or a worker's failure.
    pub fn fault(error: &HostedError) -> Result<Verdict, String> {
        match error {
            HostedError::Kept { .. } | HostedError::Cgroup(_) => Ok(Verdict::Unavailable(error.to_string())),
            HostedError::Ended { .. } | HostedError::Broken { .. } => Err(error.to_string()),
        }
    }

    /// Counts a request that was sent.
    pub fn count(&self) -> u64 {
        self.served.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What to say of a worker's end.
fn told(how: &How, ended_itself: bool, outcome: Option<&Outcome>) -> String {
    let end = outcome.map_or_else(|| "it is gone".to_owned(), |outcome| outcome.end.to_string());
    // The kernel's kill is the reason, whatever was seen of it first.
    let ran_out = matches!(outcome, Some(Outcome { end: End::OutOfMemory { .. }, .. }));
    match how {
        How::Failed(why) if !ran_out => why.clone(),
        How::HungUp(what) if !ended_itself && !ran_out => {
            format!("Worker process did not return a WorkResponse: {what}")
        }
        _ => format!("Worker process did not return a WorkResponse: it {end}"),
    }
}

fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) {
    use rustix::event::{PollFd, PollFlags, poll};
    let nanos = i64::from(patience.subsec_nanos());
    let timeout =
        rustix::time::Timespec { tv_sec: patience.as_secs().try_into().unwrap_or(0), tv_nsec: nanos };
    // Whether something came is asked afterwards.
    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
}
