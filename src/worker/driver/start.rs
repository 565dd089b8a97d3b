//! A worker's beginning and end: from the lease of a sandbox to the last of its views.

use super::Inner;
use super::ear::Ear;
use super::process::{How, Line, Order, Process, Shared, SharedLayer};
use super::talk::{NotOpen, Opening, Talk};
use crate::action::ExecPath;
use crate::exec::Verdict;
use crate::observe;
use crate::stage::prepare_parents;
use crate::uring::Framing;
use crate::worker::bazel_json::JsonFraming;
use crate::worker::bazel_proto::ProtoFraming;
use crate::worker::buck2::Socket;
use crate::worker::ground::Mounted;
use crate::worker::job::{Launch, SOCKET_DIR, SOCKET_NAME};
use crate::worker::limits::ORDERS_MAX;
use crate::worker::log::WorkerLog;
use crate::worker::machine::{Event, WorkerId};
use crate::worker::shared::SharedRoot;
use crate::worker::wire::Protocol;
use fulgurite_sandbox::hosted::Hosted;
use fulgurite_sandbox::sandbox::Action;
use fulgurite_sandbox::sys::mount;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::OsStr;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// What lies below a worker's own view, as long as it lives.
enum Base {
    View(Box<Mounted>),
    /// One directory for all requests, which goes with the last of those who use it.
    Directory,
}

/// The life of a worker, from the lease to the end: its thread.
pub(super) fn live(inner: &Arc<Inner>, id: WorkerId, launch: &Arc<Launch>) {
    let (orders, received) = sync_channel(ORDERS_MAX);
    let begun = begin(inner, id, launch, orders);
    let begun = match begun {
        Ok(begun) => begun,
        Err(why) => {
            tracing::warn!(worker = %id, mnemonic = launch.mnemonic, "a worker cannot be started: {why}");
            observe::worker_ended(id.0, &launch.mnemonic, &why);
            return inner.event(Event::StartFailed(id, why));
        }
    };
    let Begun { process, base, watch, drains } = begun;
    tracing::info!(worker = %id, key = %launch.key, mnemonic = launch.mnemonic, "a worker has started");
    observe::worker_started(id.0, &launch.mnemonic, &launch.key.to_string());
    inner.ready(process.clone());
    let how = process.follow(inner, &received);
    let why = process.finish(inner, &how);
    if !matches!(how, How::Stopped | How::Killed) {
        tracing::info!(worker = %id, mnemonic = launch.mnemonic, "a worker has ended: {why}");
    }
    drop((watch, drains));
    base.clean(inner);
    observe::worker_ended(id.0, &launch.mnemonic, &why);
    inner.event(Event::Gone(id, why));
}

/// A worker that has just begun, and what must be kept for it.
struct Begun {
    process: Arc<Process>,
    base: Base,
    watch: crate::uring::Readable,
    drains: Vec<crate::uring::Drain>,
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
    let (base, view, shared) = own_view(inner, launch, action_id)?;
    let hosted = (|| {
        let first = mount::clone_mount(view.as_fd(), c"")
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
            base.clean(inner);
            return Err(why);
        }
    };
    match connect(inner, id, launch, orders, (hosted, to, from, complaints), (view, shared)) {
        Ok((process, watch, drains)) => Ok(Begun { process, base, watch, drains }),
        Err(why) => {
            base.clean(inner);
            Err(why)
        }
    }
}

impl Base {
    fn clean(self, inner: &Inner) {
        match self {
            Base::View(mounted) => inner.ground.clean(*mounted),
            Base::Directory => {}
        }
    }
}

type Own = (Base, OwnedFd, Option<Shared>);

/// What a worker sees when it starts: the inputs of the request that it was started for.
fn own_view(inner: &Arc<Inner>, launch: &Launch, action_id: u32) -> Result<Own, String> {
    let ground = &inner.ground;
    let told = |verdict: Verdict| format!("{verdict:?}");
    let places = places(launch, inner.options.limits.slots);
    if launch.shares {
        let (layer, owner) = ground.layer(action_id).map_err(told)?;
        let dir = layer.upper().try_clone_to_owned();
        let view = mount::clone_tree(layer.upper(), c"").and_then(|view| {
            mount::restrict(view.as_fd(), mount::attr::NO_SUID | mount::attr::NO_DEV).map(|()| view)
        });
        let layer = SharedLayer::new(inner, layer);
        let view = view.map_err(|errno| format!("cannot mount a worker's shared view: {errno}"))?;
        let mut root = SharedRoot::new(dir.map_err(|error| error.to_string())?, owner);
        root.show(&ground.cas, &launch.staged).map_err(told)?;
        prepare_parents(root.dir(), Some(root.dir()), &places, owner).map_err(|error| error.to_string())?;
        return Ok((Base::Directory, view, Some(Shared { root: Mutex::new(root), _layer: layer })));
    }
    let base = ground.mount(&launch.staged, action_id, &places).map_err(told)?;
    match base.view.mount.try_clone() {
        Ok(view) => Ok((Base::View(Box::new(base)), view, None)),
        Err(error) => {
            ground.clean(base);
            Err(error.to_string())
        }
    }
}

/// Something in each directory that a worker's own view must have.
fn places(launch: &Launch, slots: u32) -> Vec<ExecPath> {
    let slots = if launch.multiplex { slots } else { 0 };
    let slots = (0..slots).map(|slot| format!("{}/_", Hosted::slot_dir(slot)));
    let socket = (launch.protocol == Protocol::Buck2).then(|| format!("{SOCKET_DIR}/{SOCKET_NAME}"));
    slots.chain(socket).filter_map(|path| ExecPath::new(path).ok()).collect()
}

type Ends = (Hosted, OwnedFd, OwnedFd, OwnedFd);
type Connected = (Arc<Process>, crate::uring::Readable, Vec<crate::uring::Drain>);

fn connect(
    inner: &Arc<Inner>,
    id: WorkerId,
    launch: &Arc<Launch>,
    orders: SyncSender<Order>,
    (hosted, to, from, complaints): Ends,
    (base, shared): (OwnedFd, Option<Shared>),
) -> Result<Connected, String> {
    let log = WorkerLog::create(&inner.options.log_dir, id.0, &launch.mnemonic)
        .map_err(|error| format!("cannot make its log: {error}"))?;
    let log = Arc::new(log);
    let drain = inner.ipc.drain(complaints, log.clone()).map_err(|error| error.to_string())?;
    let control = hosted.control().try_clone_to_owned().map_err(|error| error.to_string())?;
    let told = orders.clone();
    let (fell, ended) = oneshot::channel();
    let tell = Box::new(move || {
        // Nobody waits for that any more once it is connected.
        let _ = fell.send(());
        drop(told.try_send(Order::Ended));
    });
    let watch = inner.ipc.readable(control, tell).map_err(|error| error.to_string())?;
    let mut drains = vec![drain];
    let line = if launch.protocol == Protocol::Buck2 {
        drop(to);
        // What it says there is for people, like the rest.
        drains.push(inner.ipc.drain(from, log.clone()).map_err(|error| error.to_string())?);
        let socket = socket(base.as_fd())?;
        inner.event(Event::Executed(id));
        let (inner, orders, cancels) = (inner.clone(), orders.clone(), launch.cancels);
        match Talk::open(Opening { id, inner, orders, socket, ended, cancels }) {
            Ok(talk) => Line::Calls(talk),
            Err(why) => return Err(never_came(why, hosted, &log)),
        }
    } else {
        let framing: Box<dyn Framing> = match launch.protocol {
            Protocol::Json => Box::new(JsonFraming::new()),
            _ => Box::new(ProtoFraming::new()),
        };
        let ear = Ear { id, inner: Arc::downgrade(inner), orders: orders.clone(), launch: launch.clone() };
        let channel = inner.ipc.open(from, to, framing, Arc::new(ear)).map_err(|error| error.to_string())?;
        Line::Bytes(channel)
    };
    let process = Process {
        id,
        launch: launch.clone(),
        log,
        action_id: hosted.sandbox().map_or(0, fulgurite_sandbox::sandbox::Sandbox::action_id),
        served: AtomicU64::new(0),
        cpu_seen_us: AtomicU64::new(0),
        end: OnceLock::new(),
        killer: hosted.killer(),
        hosted: RwLock::new(Some(hosted)),
        line,
        orders,
        orphans: Mutex::default(),
        base,
        shared,
    };
    Ok((Arc::new(process), watch, drains))
}

/// Where a worker is to serve: in its own view, which stays as it is while others are shown to it. The directory is not
/// looked for where the worker may have put a link.
fn socket(base: BorrowedFd<'_>) -> Result<Socket, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let directory = rustix::fs::openat2(base, SOCKET_DIR, flags, Mode::empty(), beneath);
    let directory = directory.map_err(|errno| format!("cannot open the directory of its socket: {errno}"))?;
    Ok(Socket::new(directory, OsStr::new(SOCKET_NAME)))
}

/// What to say of a worker that cannot be spoken with, which is ended.
fn never_came(why: NotOpen, hosted: Hosted, log: &WorkerLog) -> String {
    let (outcome, lease) = hosted.stop(Duration::ZERO);
    // Its sandbox resets itself from now on.
    drop(lease);
    let why = match why {
        NotOpen::Ended => format!("Worker exited before connecting: it {}", outcome.end),
        NotOpen::Failed(why) => why,
    };
    format!("{why}\n\n{}", log.excerpt())
}

type Pipe = (OwnedFd, OwnedFd);

fn pipes() -> Result<[Pipe; 3], String> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| format!("cannot make a pipe: {errno}"));
    Ok([pipe()?, pipe()?, pipe()?])
}
