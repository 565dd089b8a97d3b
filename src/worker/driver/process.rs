//! One worker process: its sandbox, its channel, its log, and the thread that looks after it.

use super::Inner;
use crate::exec::Verdict;
use crate::uring::{Channel, Event as Heard, Framing, Listener, SendError};
use crate::worker::bazel_json::{self, JsonFraming};
use crate::worker::bazel_proto::{self, ProtoFraming};
use crate::worker::ground::Mounted;
use crate::worker::job::Launch;
use crate::worker::junk::unparseable;
use crate::worker::limits::{HANGUP_PATIENCE, ORDERS_MAX};
use crate::worker::log::WorkerLog;
use crate::worker::machine::{Event, RequestId, WorkerId};
use crate::worker::wire::{Protocol, WorkRequest, WorkResponse};
use fulgurite_sandbox::hosted::{Hosted, HostedError};
use fulgurite_sandbox::outcome::Outcome;
use fulgurite_sandbox::sandbox::{Action, Killer};
use fulgurite_sandbox::sys::mount;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
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
    /// It has closed its standard output.
    HungUp,
    /// End it gently.
    Stop,
    /// End it.
    Kill,
}

/// Views of requests whose callers have gone.
#[derive(Debug, Default)]
struct Orphans {
    over: bool,
    held: HashMap<RequestId, Mounted>,
    /// Taken out of the worker before their callers had left them.
    out: HashSet<RequestId>,
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
    hosted: RwLock<Option<Hosted>>,
    killer: Killer,
    channel: Channel,
    orders: SyncSender<Order>,
    orphans: Mutex<Orphans>,
    /// What it sees between requests, detached: copies of it are attached.
    base: OwnedFd,
}

/// Hears what a worker says; on the ipc thread.
struct Ear {
    id: WorkerId,
    inner: Weak<Inner>,
    orders: SyncSender<Order>,
    launch: Arc<Launch>,
}

impl Listener for Ear {
    fn event(&self, event: Heard) {
        let order = match event {
            Heard::Message(message) => match self.message(&message) {
                Ok(()) => return,
                Err(why) => Order::Fail(why),
            },
            Heard::Closed => Order::HungUp,
            Heard::Broken(error) => Order::Fail(unparseable(&error.why, &error.seen)),
            Heard::Failed { writing: true, error } => Order::Fail(format!(
                "Worker process quit or closed its stdin stream when we tried to send a WorkRequest: {error}"
            )),
            Heard::Failed { writing: false, .. } => Order::HungUp,
        };
        // Full: it has been told to end long before.
        let _ = self.orders.try_send(order);
    }
}

impl Ear {
    fn message(&self, message: &[u8]) -> Result<(), String> {
        let Some(inner) = self.inner.upgrade() else { return Ok(()) };
        let decoded = match self.launch.protocol {
            Protocol::Json => bazel_json::decode(message),
            _ => bazel_proto::decode(message),
        };
        match decoded {
            Ok(response) => inner.response(self.id, response),
            Err(error) => match error.request_id {
                // Where it is known whose answer this should be, the others go on.
                Some(request_id) if self.launch.multiplex => {
                    let output = error.to_string();
                    let response = WorkResponse { exit_code: 1, output, request_id, was_cancelled: false };
                    inner.response(self.id, response)
                }
                _ => Err(error.to_string()),
            },
        }
    }
}

/// The life of a worker, from the lease to the end: its thread.
pub(super) fn live(inner: &Arc<Inner>, id: WorkerId, launch: &Arc<Launch>) {
    let (orders, received) = sync_channel(ORDERS_MAX);
    let begun = begin(inner, id, launch, orders);
    let begun = match begun {
        Ok(begun) => begun,
        Err(why) => {
            tracing::warn!(worker = %id, mnemonic = launch.mnemonic, "a worker cannot be started: {why}");
            return inner.event(Event::StartFailed(id, why));
        }
    };
    let Begun { process, base, watch, drain } = begun;
    tracing::info!(worker = %id, key = %launch.key, mnemonic = launch.mnemonic, "a worker has started");
    inner.ready(process.clone());
    let how = process.follow(inner, &received);
    let why = process.finish(inner, &how);
    drop((watch, drain));
    inner.ground.clean(base);
    inner.event(Event::Gone(id, why));
}

/// A worker that has just begun, and what must be kept for it.
struct Begun {
    process: Arc<Process>,
    base: Mounted,
    watch: crate::uring::Readable,
    drain: crate::uring::Drain,
}

fn begin(
    inner: &Arc<Inner>,
    id: WorkerId,
    launch: &Arc<Launch>,
    orders: SyncSender<Order>,
) -> Result<Begun, String> {
    let ground = &inner.ground;
    let lease = ground.pool.lease(&launch.spec).map_err(|error| error.to_string())?;
    let action_id = lease.action_id();
    let slots = if launch.multiplex { inner.options.limits.slots } else { 0 };
    let slots: Vec<_> = (0..slots)
        .filter_map(|slot| crate::action::ExecPath::new(format!("{}/_", Hosted::slot_dir(slot))).ok())
        .collect();
    let base = ground.mount(&launch.staged, action_id, &slots).map_err(|verdict| format!("{verdict:?}"))?;
    let hosted = (|| {
        let first = mount::clone_mount(base.view.mount.as_fd(), c"")
            .map_err(|errno| format!("cannot copy the worker's own view: {errno}"))?;
        let [(stdin, to), (from, stdout), (complaints, stderr)] = pipes()?;
        let action = Action {
            arguments: &launch.arguments,
            variables: &launch.variables,
            directory: &launch.directory,
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            work: Some(first.as_fd()),
            limits: &launch.limits,
            timeout: None,
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: 0,
        };
        let hosted = lease.host(&action).map_err(|outcome| outcome.end.to_string())?;
        Ok::<_, String>((hosted, to, from, complaints))
    })();
    let (hosted, to, from, complaints) = match hosted {
        Ok(hosted) => hosted,
        Err(why) => {
            ground.clean(base);
            return Err(why);
        }
    };
    match connect(inner, id, launch, orders, (hosted, to, from, complaints), &base) {
        Ok((process, watch, drain)) => Ok(Begun { process, base, watch, drain }),
        Err(why) => {
            ground.clean(base);
            Err(why)
        }
    }
}

type Ends = (Hosted, OwnedFd, OwnedFd, OwnedFd);
type Connected = (Arc<Process>, crate::uring::Readable, crate::uring::Drain);

fn connect(
    inner: &Arc<Inner>,
    id: WorkerId,
    launch: &Arc<Launch>,
    orders: SyncSender<Order>,
    (hosted, to, from, complaints): Ends,
    base: &Mounted,
) -> Result<Connected, String> {
    let log = WorkerLog::create(&inner.options.log_dir, id.0, &launch.mnemonic)
        .map_err(|error| format!("cannot make its log: {error}"))?;
    let log = Arc::new(log);
    let drain = inner.ipc.drain(complaints, log.clone()).map_err(|error| error.to_string())?;
    let framing: Box<dyn Framing> = match launch.protocol {
        Protocol::Json => Box::new(JsonFraming::new()),
        _ => Box::new(ProtoFraming::new()),
    };
    let ear = Ear { id, inner: Arc::downgrade(inner), orders: orders.clone(), launch: launch.clone() };
    let channel = inner.ipc.open(from, to, framing, Arc::new(ear)).map_err(|error| error.to_string())?;
    let duplicate = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|error| error.to_string());
    let ended = orders.clone();
    let tell = Box::new(move || drop(ended.try_send(Order::Ended)));
    let watch = inner.ipc.readable(duplicate(hosted.control())?, tell).map_err(|error| error.to_string())?;
    let process = Process {
        id,
        launch: launch.clone(),
        log,
        action_id: hosted.sandbox().map_or(0, fulgurite_sandbox::sandbox::Sandbox::action_id),
        served: AtomicU64::new(0),
        killer: hosted.killer(),
        hosted: RwLock::new(Some(hosted)),
        channel,
        orders,
        orphans: Mutex::default(),
        base: duplicate(base.view.mount.as_fd())?,
    };
    Ok((Arc::new(process), watch, drain))
}

type Pipe = (OwnedFd, OwnedFd);

fn pipes() -> Result<[Pipe; 3], String> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| format!("cannot make a pipe: {errno}"));
    Ok([pipe()?, pipe()?, pipe()?])
}

/// How a worker's thread came to end it.
enum How {
    Ended,
    Failed(String),
    HungUp,
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
        self.channel.send(match self.launch.protocol {
            Protocol::Json => bazel_json::encode(request),
            _ => bazel_proto::encode(request),
        })
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

    /// Shows it the view of a request.
    pub fn show(&self, view: BorrowedFd<'_>, slot: u32) -> Result<(), HostedError> {
        let is_multiplex = self.launch.multiplex;
        self.with("show a request's inputs", |hosted| {
            if is_multiplex { hosted.attach(slot, view) } else { hosted.swap(view) }
        })
    }

    /// Makes the view of an answered request unchangeable, if nobody can write to it.
    pub fn seal(&self, slot: u32) -> bool {
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
        if self.launch.multiplex {
            return self.with(what, |hosted| hosted.detach(slot));
        }
        let base =
            mount::clone_mount(self.base.as_fd(), c"").map_err(|errno| HostedError::Kept { what, errno })?;
        self.with(what, |hosted| hosted.swap(base.as_fd()))
    }

    /// Leaves the view of a request whose caller goes; it is taken apart when the worker cannot reach it any more.
    pub fn leave(&self, inner: &Inner, request: RequestId, mounted: Mounted) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        if orphans.over || orphans.out.remove(&request) {
            drop(orphans);
            return inner.ground.clean(mounted);
        }
        orphans.held.insert(request, mounted);
    }

    /// Does what it is told until it is to end.
    fn follow(&self, inner: &Arc<Inner>, orders: &Receiver<Order>) -> How {
        loop {
            match orders.recv() {
                Ok(Order::Orphan { request, wire_id, slot }) => {
                    if let Err(error) = self.take_away(slot) {
                        return How::Failed(error.to_string());
                    }
                    let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
                    let mounted = orphans.held.remove(&request);
                    if mounted.is_none() {
                        orphans.out.insert(request);
                    }
                    drop(orphans);
                    mounted.into_iter().for_each(|mounted| inner.ground.clean(mounted));
                    inner.released(self.id, wire_id);
                }
                Ok(Order::Ended) => return How::Ended,
                Ok(Order::Fail(why)) => return How::Failed(why),
                Ok(Order::HungUp) => return How::HungUp,
                Ok(Order::Stop) => return How::Stopped,
                Ok(Order::Kill) | Err(_) => return How::Killed,
            }
        }
    }

    /// Ends it, waits until all of it is quiet, and says how it was.
    fn finish(&self, inner: &Inner, how: &How) -> String {
        if matches!(how, How::HungUp | How::Failed(_)) {
            let _ = self.with("wait for its end", |hosted| {
                wait_readable(hosted.control(), HANGUP_PATIENCE);
                Ok(())
            });
        }
        self.channel.close();
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
    match how {
        How::Failed(why) => why.clone(),
        How::HungUp if !ended_itself => {
            "Worker process did not return a WorkResponse: it closed its standard output".to_owned()
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
