//! The local API: actions with paths in place of digests, for callers on the same machine.
//!
//! ```text
//!   Run ─► inputs hashed into the store ─► action cache ─► engine, like any client's action ─► result
//!       ◄── outcome ◄── publish: renames, journaled ◄── outputs laid out beside the tree, from the store ◄──┘
//! ```
//! Invariants: only the daemon's own user may call it, and only by a Unix socket, for what it reads and writes is done
//! with the daemon's rights; outputs appear all at once or not at all, and only what the result names; closing the call
//! cancels the run; nothing is published for a caller who has left before the publishing began.
//! Inputs are pinned from their import until the outcome.
//! Limits: what is special to `fulgurite run` without a daemon (`rootfs`, `writable`,
//! standalone, keeping a sandbox) is refused by name; standard output and error come when the command has ended; a
//! mount that was made in the exec root after the daemon's start is not seen by it.

mod deliver;
mod outcome;
mod own;
mod ready;
mod request;
mod stream;
mod watch;
mod worker;
mod workers;

pub use own::{OwnAction, ReadyOutputs};

use super::context::Context;
use super::engine::{Engine, Task};
use super::instance::{Caller, Instance};
use super::limits::FILES_REMEMBERED_MAX;
use super::lookup::{self, Inline};
use super::reply::{Done, Facts, Progress};
use super::socket::Line;
use super::{complete, drive, execution};
use crate::action::{ActionSpec, Command, Digest, DigestFunction, encode};
use crate::cas::{Cas, Pin};
use crate::commit::Durability;
use crate::exec::executor::{Cancel, Job};
use crate::observe;
use crate::output::HandoffWay;
use crate::sched::{OperationId, Submission};
use crate::stage::Places;
use crate::stage::limits::TreeLimits;
use crate::stage::merkle::{DigestMemory, ImportFrom, import_pinned};
use bytes::Bytes;
use deliver::Delivery;
use fulgurite_proto::v1;
use fulgurite_proto::v1::local_server::Local;
use prost::Message;
use request::Asked;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::sync::Arc;
use stream::Events;
use tonic::{Code, Request, Response, Status};

/// What the local API needs beside what all services share.
#[derive(Debug)]
pub struct LocalOptions {
    /// The instance that its actions belong to.
    pub instance: String,
    /// Its store.
    pub cas: Cas,
    /// Where outputs may be laid out before they are published.
    pub places: Places,
    /// What published outputs survive.
    pub durability: Durability,
    /// How outputs come from the store into trees.
    pub handoff: HandoffWay,
}

/// The same, running.
#[derive(Debug)]
pub(super) struct LocalDoor {
    instance: Arc<Instance>,
    cas: Cas,
    places: Places,
    durability: Durability,
    handoff: HandoffWay,
    memory: DigestMemory,
}

impl LocalDoor {
    /// `None` if there is no such instance, or it executes nothing.
    pub(super) fn new(options: LocalOptions, context_instance: Option<Arc<Instance>>) -> Option<LocalDoor> {
        let instance = context_instance.filter(|instance| instance.execution)?;
        let memory = DigestMemory::new(FILES_REMEMBERED_MAX);
        let LocalOptions { cas, places, durability, handoff, .. } = options;
        Some(LocalDoor { instance, cas, places, durability, handoff, memory })
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct LocalService {
    pub(super) context: Arc<Context>,
}

/// How blobs are named here.
const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// An action whose inputs are in the store.
#[derive(Debug)]
struct Prepared {
    root: OwnedFd,
    digest: Digest,
    action: ActionSpec,
    command: Command,
    input_files: u64,
    bytes_hashed: u64,
    /// Nothing of it goes while somebody may need it.
    _pin: Pin,
}

impl LocalService {
    fn door(&self) -> Result<&LocalDoor, Status> {
        let none = || Status::unimplemented("this daemon executes nothing for callers on its machine");
        self.context.local.as_ref().ok_or_else(none)
    }

    fn check_caller<T>(request: &Request<T>) -> Result<Line, Status> {
        let caller = request.extensions().get::<Caller>();
        let refused =
            || Status::permission_denied("the local API is for the daemon's own user, by its Unix socket");
        let caller = caller.filter(|caller| caller.is_daemons_own).ok_or_else(refused)?;
        Ok(caller.line.clone())
    }

    /// Hashes the inputs and stores the action.
    fn prepare(cas: &Cas, memory: &DigestMemory, asked: &Asked) -> Result<Prepared, Status> {
        let shown = asked.exec_root.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(asked.exec_root.as_path(), flags, Mode::empty())
            .map_err(|errno| Status::invalid_argument(format!("cannot open exec root {shown}: {errno}")))?;
        let limits = TreeLimits::default();
        let now = drive::now();
        let now_ns = i128::from(now.seconds) * 1_000_000_000 + i128::from(now.nanos);
        let (inputs, tools) = (asked.inputs.as_deref(), asked.tools.as_slice());
        let from = ImportFrom { exec_root: root.as_fd(), inputs, tools, limits, now_ns };
        let command = asked.command.clone();
        let mut action = ActionSpec {
            command_digest: Digest::empty(FUNCTION),
            input_root_digest: Digest::empty(FUNCTION),
            timeout: asked.timeout,
            do_not_cache: asked.do_not_cache,
            platform: asked.platform.clone(),
        };
        let mut digest = Digest::empty(FUNCTION);
        let imported = import_pinned(cas, FUNCTION, memory, &from, |imported| {
            action.command_digest = cas.put_bytes(FUNCTION, &encode::command(&command))?;
            action.input_root_digest = imported.root;
            digest = cas.put_bytes(FUNCTION, &encode::action(&action, b""))?;
            Ok(vec![action.command_digest, digest])
        });
        let (imported, pin) = imported.map_err(|error| request::of_merkle(&error))?;
        let (input_files, bytes_hashed) = (imported.files, imported.bytes_hashed);
        Ok(Prepared { root, digest, action, command, input_files, bytes_hashed, _pin: pin })
    }

    fn counters(&self) -> std::collections::BTreeMap<String, u64> {
        let of_executor = self.context.engine.as_ref().map(|engine| engine.executor().counters());
        let metrics = &self.context.metrics;
        let own = [
            ("runs", metrics.runs.value()),
            ("runs_failed", metrics.runs_failed.value()),
            ("cache_hits", metrics.cache_hits.value()),
            ("cache_misses", metrics.cache_misses.value()),
            ("merged", metrics.merged.value()),
        ];
        let all = own.into_iter().chain(of_executor.unwrap_or_default());
        let mut all: std::collections::BTreeMap<String, u64> =
            all.map(|(name, value)| (name.to_owned(), value)).collect();
        if all.contains_key("races") {
            all.extend(observe::metrics().race_counters());
        }
        all
    }

    async fn perform(self, line: Line, asked: Asked, events: Events) -> Result<v1::ActionOutcome, Status> {
        let asked = Arc::new(asked);
        let began = std::time::Instant::now();
        let prepared = {
            let (service, asked) = (self.clone(), asked.clone());
            self.context
                .disk
                .run(move || {
                    let door = service.door()?;
                    Self::prepare(&door.cas, &door.memory, &asked)
                })
                .await??
        };
        let (files, hashed) = (prepared.input_files, prepared.bytes_hashed);
        tracing::debug!(action = %prepared.digest, files, hashed, "inputs are in the store");
        let staged_us = micros(began);
        let began = std::time::Instant::now();
        let done = self.execute(line, &asked, &prepared, &events).await?;
        self.bring(&done).await?;
        let executed_us = micros(began);
        let began = std::time::Instant::now();
        let service = self.clone();
        let delivery = move || {
            let door = service.door()?;
            let delivery = Delivery {
                cas: &door.cas,
                places: &door.places,
                asked: &asked,
                command: &prepared.command,
                durability: door.durability,
                handoff: door.handoff,
            };
            delivery.deliver(&prepared.root, &done)
        };
        let (mut outcome, printed) = self.context.disk.run(delivery).await??;
        for (name, duration_us) in [("stage", staged_us), ("run", executed_us), ("publish", micros(began))] {
            outcome.phases.push(v1::Phase { name: name.to_owned(), duration_us });
        }
        events.print(&printed).await;
        Ok(outcome)
    }

    /// What the result names and is not here yet: somebody else may have asked for the same action, and not for bytes.
    async fn bring(&self, done: &Arc<Done>) -> Result<(), Status> {
        let Some(encoded) = done.result.clone() else { return Ok(()) };
        let blobs = self.door()?.instance.blobs.clone();
        let found = blobs.clone();
        let missing = move || complete::missing(&found, FUNCTION, &decode_result(&encoded)?);
        let missing = self.context.disk.run(missing).await??;
        blobs.bring(&missing).await;
        Ok(())
    }

    /// From the action to its result: out of the cache, or by the engine.
    async fn execute(
        &self,
        line: Line,
        asked: &Asked,
        prepared: &Prepared,
        events: &Events,
    ) -> Result<Arc<Done>, Status> {
        let door = self.door()?;
        let Prepared { digest, action, command, .. } = prepared;
        let instance = door.instance.clone();
        if !asked.fresh && !asked.do_not_cache {
            let hit = lookup::find_async(&instance, digest, &self.context.disk).await?;
            if let Some(hit) = hit.filter(|hit| hit.result.exit_code == 0) {
                self.context.metrics.cache_hits.count();
                observe::cached(&instance.name, digest, &asked.mnemonic);
                return Ok(Arc::new(Done { result: Some(hit.encoded), cached: true, ..Done::default() }));
            }
            self.context.metrics.cache_misses.count();
        }
        let engine =
            self.context.engine.as_ref().ok_or_else(|| Status::unavailable("nothing executes here"))?;
        let operation = execution::draw()?;
        let submission = Submission {
            operation,
            tenant: instance.name.clone(),
            invocation: asked.invocation.clone(),
            priority: 0,
            key: (!action.do_not_cache).then_some(*digest),
            fresh: asked.fresh,
        };
        let facts = Facts {
            name: format!("operations/{:032x}", operation.0),
            action: *digest,
            inline: Inline::default(),
            blobs: instance.blobs.clone(),
        };
        let job = || Job {
            tenant: instance.name.clone(),
            function: FUNCTION,
            action_digest: *digest,
            action: action.clone(),
            command: command.clone(),
            queued: drive::now(),
            mnemonic: asked.mnemonic.clone(),
            invocation: asked.invocation.clone(),
            placement: asked.placement,
            fresh: asked.fresh,
        };
        let task = || Task { instance: instance.clone(), job: job(), cancel: Cancel::default() };
        let mut watcher = engine.submit(line, submission, facts, task)?;
        // Nobody else knows its name: nobody can come back to it.
        let mut ending = CancelOnDrop(Some((engine.clone(), operation)));
        let mut told = false;
        loop {
            let progress = watcher.progress.borrow_and_update().clone();
            match progress {
                Progress::Done(done) => {
                    ending.0 = None;
                    return Ok(done);
                }
                Progress::Executing(_) if !told => {
                    told = true;
                    events.started(operation_name(operation)).await;
                }
                _ => {}
            }
            let changed = watcher.progress.changed().await;
            changed.map_err(|_| Status::internal("the engine forgot an operation"))?;
        }
    }
}

/// Cancels an operation whose caller has left.
struct CancelOnDrop(Option<(Engine, OperationId)>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some((engine, operation)) = self.0.take() {
            engine.cancel(operation);
        }
    }
}

fn operation_name(operation: OperationId) -> String {
    format!("{:032x}", operation.0)
}

fn micros(since: std::time::Instant) -> u64 {
    since.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
}

/// What went wrong, as the end of a run.
fn failure(status: &Status) -> v1::ActionOutcome {
    let kind = match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied | Code::NotFound => {
            v1::FailureKind::User
        }
        Code::Internal | Code::Unknown => v1::FailureKind::Bug,
        _ => v1::FailureKind::Host,
    };
    let (message, hint) = request::split_hint(status.message());
    let failure = v1::Failure { kind: kind as i32, message, hints: hint.into_iter().collect() };
    v1::ActionOutcome { end: Some(v1::action_outcome::End::Failure(failure)), ..v1::ActionOutcome::default() }
}

#[tonic::async_trait]
impl Local for LocalService {
    type RunStream = stream::RunStream;

    async fn run(&self, request: Request<v1::RunRequest>) -> Result<Response<Self::RunStream>, Status> {
        let line = Self::check_caller(&request)?;
        self.door()?;
        let invocation = execution::part_of(request.metadata())?.invocation;
        let asked = Asked::decode(request.into_inner(), invocation)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let service = self.clone();
        Ok(Response::new(stream::serve(move |events| async move {
            match service.perform(line, asked, events).await {
                Ok(outcome) => outcome,
                Err(status) => failure(&status),
            }
        })))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::Status>, Status> {
        Self::check_caller(&request)?;
        // Sources of numbers look into the kernel's files.
        let reading = self.context.disk.run(|| {
            observe::look_at_pressure();
            observe::read()
        });
        let status = watch::status(&reading.await?, self.counters());
        let (running, queued) = self.context.engine.as_ref().map_or((0, 0), Engine::counts);
        Ok(Response::new(v1::Status { actions_running: running, actions_queued: queued, ..status }))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        Self::check_caller(&request)?;
        let engine = self.context.engine.as_ref();
        Ok(Response::new(workers::list(engine.and_then(|engine| engine.executor().workers()))))
    }

    async fn stop_workers(
        &self,
        request: Request<v1::StopWorkersRequest>,
    ) -> Result<Response<v1::StopWorkersResponse>, Status> {
        Self::check_caller(&request)?;
        let engine = self.context.engine.clone();
        let stop = move || workers::stop(engine.as_ref().and_then(|engine| engine.executor().workers()));
        Ok(Response::new(self.context.disk.run(stop).await?))
    }

    type WatchStream = watch::WatchStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Self::check_caller(&request)?;
        let tenant = self.door()?.instance.name.clone();
        let over = self.context.over.subscribe();
        // What happens from here on is told, though the caller has not read anything yet.
        Ok(Response::new(watch::serve(observe::events::watch(), tenant, over)))
    }
}

/// A result as it is kept, decoded.
pub(super) fn decode_result(encoded: &Bytes) -> Result<fulgurite_proto::reapi::ActionResult, Status> {
    fulgurite_proto::reapi::ActionResult::decode(encoded.clone())
        .map_err(|error| Status::internal(format!("a result is none: {error}")))
}
