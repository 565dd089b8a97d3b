//! The client of a daemon's local API: one action over a Unix socket, with paths in place of digests.
//!
//! ```text
//!   run ─► connect ─► RunRequest ─► Printed … ─► Ended
//! ```
//! Invariants: dropping the call cancels the run; an answer that ends without an outcome is an error, never a success.
//! Limits: one connection for one action; a name of a socket has at most 107 bytes.

use super::daemon_outcome::{decode, refusal};
use super::news::{self, DaemonNews};
use crate::exec::executor::Placement;
use crate::worker::wire::Protocol;
use fulgurite_proto::v1;
use fulgurite_proto::v1::local_client::LocalClient;
use fulgurite_proto::v1::run_event::Event;
use fulgurite_sandbox::spec::Network;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub use super::daemon_outcome::{DaemonEnd, DaemonOutcome};

/// The largest event that a daemon sends: a piece of output, or an outcome with many outputs.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// An action for a daemon. Paths and texts are bytes, as the operating system has them.
#[derive(Clone, Debug, Default)]
pub struct DaemonRun {
    /// Absolute.
    pub exec_root: Vec<u8>,
    /// The command.
    pub arguments: Vec<Vec<u8>>,
    /// Its whole environment.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Source and target; empty: the whole exec root.
    pub inputs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Relative to the exec root.
    pub outputs: Vec<Vec<u8>>,
    /// Publish what there is although the command failed.
    pub outputs_on_failure: bool,
    /// Where it starts, relative to the exec root.
    pub working_directory: Vec<u8>,
    /// Platform properties.
    pub platform: Vec<(String, String)>,
    /// When it is killed.
    pub timeout: Option<Duration>,
    /// Limits: memory in bytes, thousandths of a core, processes.
    pub limits: (Option<u64>, Option<u32>, Option<u32>),
    /// What kind of action it is.
    pub mnemonic: String,
    /// Where it runs.
    pub placement: Placement,
    /// Neither served from the action cache nor kept there.
    pub do_not_cache: bool,
    /// Run it although there is a result.
    pub fresh: bool,
    /// What of the network it sees; `None`: what the daemon gives.
    pub network: Option<Network>,
    /// The persistent worker that is to run it.
    pub worker: Option<DaemonWorker>,
}

/// A persistent worker for a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonWorker {
    /// How it is spoken with.
    pub protocol: Protocol,
    /// Several requests at a time, each in a directory of its own; not Buck2's.
    pub multiplex: bool,
    /// Its own files, or directories of them, where the action sees them.
    pub tools: Vec<Vec<u8>>,
    /// A part of its key; empty: none.
    pub key: String,
    /// With Buck2's protocol: how many arguments start it; 0: those that name no file of arguments.
    pub startup_arguments: u32,
    /// It answers cancels.
    pub cancels: bool,
    /// What it sees; `None`: as the daemon is configured.
    pub view: Option<DaemonWorkerView>,
}

/// What a worker sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonWorkerView {
    /// Of each request its own inputs.
    Own,
    /// One directory, changed for each request.
    Shared,
}

/// What comes before the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonEvent {
    /// The command wrote this to standard output.
    Stdout(Vec<u8>),
    /// The command wrote this to standard error.
    Stderr(Vec<u8>),
}

/// What a daemon is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Actions that have a slot.
    pub running: u32,
    /// Actions that wait for one.
    pub queued: u32,
    /// Actions that may have one.
    pub slots: u32,
    /// Sandboxes that are ready, and those that are in use.
    pub sandboxes: (u32, u32),
    /// What was counted since its start, sorted by name.
    pub counters: Vec<(String, u64)>,
    /// What tasks of the machine wait for, in thousandths of the last 10 s.
    pub pressure: Vec<(String, u32)>,
    /// Its persistent workers.
    pub workers: Vec<LiveWorker>,
}

/// A persistent worker of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveWorker {
    /// Its number since the start.
    pub number: u64,
    /// Its kind.
    pub mnemonic: String,
    /// The beginning of its key.
    pub key: String,
    /// Requests that it was sent.
    pub requests: u64,
    /// Its memory.
    pub memory_kib: u64,
    /// Its processor time.
    pub cpu_ms: u64,
}

/// A persistent worker of a daemon, as `fulgurite workers` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedWorker {
    /// Its number since the daemon's start.
    pub number: u64,
    /// Its kind.
    pub mnemonic: String,
    /// The beginning of its key.
    pub key: String,
    /// What it is doing.
    pub phase: String,
    /// Requests that it was sent.
    pub served: u64,
    /// Memory, when it was looked at last.
    pub memory_bytes: u64,
    /// Processor time, when it was looked at last.
    pub cpu: Option<Duration>,
}

impl From<v1::WorkerState> for ListedWorker {
    fn from(state: v1::WorkerState) -> Self {
        let v1::WorkerState { number, mnemonic, key, phase, served, memory_bytes, .. } = state;
        let cpu = state.cpu_us.map(Duration::from_micros);
        ListedWorker { number, mnemonic, key, phase, served, memory_bytes, cpu }
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nobody listens.
    #[error("cannot reach a daemon at {}: {why}", socket.display())]
    Connect {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        why: String,
    },
    /// It was there, and gave no answer.
    #[error("the daemon at {} {what}", socket.display())]
    Lost {
        /// Where it is.
        socket: PathBuf,
        /// What happened.
        what: String,
    },
}

/// A connection.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    client: LocalClient<Channel>,
}

impl Daemon {
    /// Connects. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`DaemonError::Connect`].
    pub async fn connect(socket: &Path) -> Result<Daemon, DaemonError> {
        let path = socket.to_owned();
        // First by hand: the transport's own message hides why.
        let first = UnixStream::connect(&path)
            .await
            .map_err(|error| DaemonError::Connect { socket: path.clone(), why: error.to_string() })?;
        let mut first = Some(first);
        let connector = tower::service_fn(move |_| {
            let (first, path) = (first.take(), path.clone());
            async move {
                match first {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => UnixStream::connect(path).await.map(TokioIo::new),
                }
            }
        });
        // The name means nothing on a Unix socket, and HTTP/2 wants one.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let channel = channel
            .map_err(|error| DaemonError::Connect { socket: socket.to_owned(), why: error.to_string() })?;
        let client = LocalClient::new(channel).max_decoding_message_size(EVENT_BYTES_MAX);
        Ok(Daemon { socket: socket.to_owned(), client })
    }

    fn lost(&self, what: impl Into<String>) -> DaemonError {
        DaemonError::Lost { socket: self.socket.clone(), what: what.into() }
    }

    fn refused(&self, status: &Status) -> DaemonError {
        self.lost(match status.code() {
            Code::Unavailable | Code::Unknown => format!("has gone away: {}", status.message()),
            _ => format!("refused: {}", status.message()),
        })
    }

    /// Runs an action.
    ///
    /// # Errors
    /// [`DaemonError::Lost`]; what goes wrong with the run itself is an outcome.
    pub async fn run(
        &mut self,
        run: DaemonRun,
        mut on: impl FnMut(DaemonEvent),
    ) -> Result<DaemonOutcome, DaemonError> {
        let called = self.client.run(request(run)).await;
        let mut events = match called {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::InvalidArgument => return Ok(refusal(&status)),
            Err(status) => return Err(self.refused(&status)),
        };
        loop {
            match events.message().await {
                Ok(Some(v1::RunEvent { event })) => match event {
                    Some(Event::Stdout(bytes)) => on(DaemonEvent::Stdout(bytes)),
                    Some(Event::Stderr(bytes)) => on(DaemonEvent::Stderr(bytes)),
                    Some(Event::Outcome(outcome)) => return Ok(decode(outcome)),
                    Some(Event::Started(_)) | None => {}
                },
                Ok(None) => return Err(self.lost("ended the call without an outcome")),
                Err(status) => return Err(self.refused(&status)),
            }
        }
    }

    /// The persistent workers that live.
    ///
    /// # Errors
    /// [`DaemonError::Lost`].
    pub async fn workers(&mut self) -> Result<Vec<ListedWorker>, DaemonError> {
        let got = self.client.list_workers(v1::ListWorkersRequest {}).await;
        let workers = got.map_err(|status| self.refused(&status))?.into_inner().workers;
        Ok(workers.into_iter().map(ListedWorker::from).collect())
    }

    /// Stops all persistent workers; how many there were, and how many are still at work.
    ///
    /// # Errors
    /// [`DaemonError::Lost`].
    pub async fn stop_workers(&mut self) -> Result<(u32, u32), DaemonError> {
        let got = self.client.stop_workers(v1::StopWorkersRequest {}).await;
        let v1::StopWorkersResponse { workers, left } =
            got.map_err(|status| self.refused(&status))?.into_inner();
        Ok((workers, left))
    }

    /// What the daemon is doing.
    ///
    /// # Errors
    /// [`DaemonError::Lost`].
    pub async fn status(&mut self) -> Result<DaemonStatus, DaemonError> {
        let got = self.client.get_status(v1::GetStatusRequest {}).await;
        let status = got.map_err(|status| self.refused(&status))?.into_inner();
        Ok(decode_status(status))
    }

    /// Tells what happens from now on, until `on` says that it is enough or the daemon ends. `began` is called when
    /// nothing can be missed any more.
    ///
    /// # Errors
    /// [`DaemonError::Lost`].
    pub async fn watch(
        &mut self,
        began: impl FnOnce(),
        mut on: impl FnMut(DaemonNews) -> bool,
    ) -> Result<(), DaemonError> {
        let called = self.client.watch(v1::WatchRequest {}).await;
        let mut events = called.map_err(|status| self.refused(&status))?.into_inner();
        began();
        while let Some(event) = events.message().await.map_err(|status| self.refused(&status))? {
            if news::decode(event).is_some_and(|news| !on(news)) {
                break;
            }
        }
        Ok(())
    }
}

/// As the wire has it.
#[must_use]
pub fn request(run: DaemonRun) -> v1::RunRequest {
    let (memory_bytes_max, cpu_milli_max, pids_max) = run.limits;
    let timeout_ms = run.timeout.map(|timeout| timeout.as_millis().try_into().unwrap_or(u64::MAX));
    let variable = |(name, value)| v1::EnvironmentVariable { name, value };
    let property = |(name, value)| v1::Property { name, value };
    v1::RunRequest {
        exec_root: run.exec_root,
        arguments: run.arguments,
        environment: run.environment.into_iter().map(variable).collect(),
        inputs: run.inputs.into_iter().map(|(source, target)| v1::Input { source, target }).collect(),
        outputs: run.outputs,
        limits: Some(v1::Limits { memory_bytes_max, cpu_milli_max, pids_max, timeout_ms }),
        network: network(run.network) as i32,
        outputs_on_failure: run.outputs_on_failure,
        mnemonic: run.mnemonic,
        do_not_cache: run.do_not_cache,
        fresh: run.fresh,
        working_directory: run.working_directory,
        platform: run.platform.into_iter().map(property).collect(),
        exec_strategy: match run.placement {
            Placement::Configured => v1::ExecStrategy::Unspecified,
            Placement::Local => v1::ExecStrategy::Local,
            Placement::Remote => v1::ExecStrategy::Remote,
            Placement::RemoteLocalFallback => v1::ExecStrategy::RemoteLocalFallback,
            Placement::Racing => v1::ExecStrategy::Racing,
        } as i32,
        worker: run.worker.map(worker),
        ..v1::RunRequest::default()
    }
}

fn decode_status(status: v1::Status) -> DaemonStatus {
    let worker = |worker: v1::LiveWorker| LiveWorker {
        number: worker.number,
        mnemonic: worker.mnemonic,
        key: worker.key,
        requests: worker.requests,
        memory_kib: worker.memory_kib,
        cpu_ms: worker.cpu_ms,
    };
    let pressure = status.pressure.into_iter().map(|of| (of.resource, of.stalled_permille));
    let mut counters: Vec<(String, u64)> = status.counters.into_iter().collect();
    counters.sort();
    DaemonStatus {
        version: status.version,
        running: status.actions_running,
        queued: status.actions_queued,
        slots: status.slots,
        sandboxes: (status.sandboxes_ready, status.sandboxes_leased),
        counters,
        pressure: pressure.collect(),
        workers: status.workers.into_iter().map(worker).collect(),
    }
}

fn worker(worker: DaemonWorker) -> v1::Worker {
    v1::Worker {
        protocol: match (worker.protocol, worker.multiplex) {
            (Protocol::Proto, false) => v1::WorkerProtocol::Proto,
            (Protocol::Proto, true) => v1::WorkerProtocol::MultiplexProto,
            (Protocol::Json, false) => v1::WorkerProtocol::Json,
            (Protocol::Json, true) => v1::WorkerProtocol::MultiplexJson,
            (Protocol::Buck2, _) => v1::WorkerProtocol::Buck2,
        } as i32,
        tools: worker.tools,
        key: worker.key,
        startup_arguments: worker.startup_arguments,
        cancels: worker.cancels,
        view: match worker.view {
            None => v1::WorkerView::Unspecified,
            Some(DaemonWorkerView::Own) => v1::WorkerView::Own,
            Some(DaemonWorkerView::Shared) => v1::WorkerView::Shared,
        } as i32,
    }
}

fn network(wanted: Option<Network>) -> v1::Network {
    match wanted {
        None => v1::Network::Unspecified,
        Some(Network::None) => v1::Network::None,
        Some(Network::Loopback) => v1::Network::Loopback,
        Some(Network::Host) => v1::Network::Host,
    }
}
