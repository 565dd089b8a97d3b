//! The server: started from options, run until it is told to end.
//!
//! ```text
//!   bind ──► run ──► shutdown: not serving, nothing accepted, queued actions answered
//!                      └─► running actions end, or are killed after `drain_for` ──► connections close ──► done
//! ```

use super::action_cache::ActionCacheService;
use super::blobs::Disk;
use super::byte_stream::ByteStreamService;
use super::capabilities::CapabilitiesService;
use super::context::Context;
use super::engine::{Engine, StopOnDrop};
use super::execution::ExecutionService;
use super::gate::Gate;
use super::instance::Instances;
use super::limits::{self, ServeLimits};
use super::listen::{self, Door, ListenError, Listener};
use super::local::{LocalDoor, LocalService};
use super::metrics::ServeMetrics;
use super::operations::OperationsService;
use super::options::{Listen, ServeOptions, TlsOptions};
use super::scrape::{self, Scrape};
use super::storage::StorageService;
use crate::exec::executor::Executor;
use fulgurite_proto::google::bytestream::byte_stream_server::ByteStreamServer;
use fulgurite_proto::google::longrunning::operations_server::OperationsServer;
use fulgurite_proto::reapi::action_cache_server::ActionCacheServer;
use fulgurite_proto::reapi::capabilities_server::CapabilitiesServer;
use fulgurite_proto::reapi::content_addressable_storage_server::ContentAddressableStorageServer;
use fulgurite_proto::reapi::execution_server::ExecutionServer;
use fulgurite_proto::v1::local_server::LocalServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server as Transport, ServerTlsConfig};
use tonic_health::server::HealthReporter;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is nowhere to listen, or nothing to serve.
    #[error("{0}")]
    Options(&'static str),
    /// Its certificate or key is none.
    #[error("cannot use the certificate, the key or the client authorities: {0}")]
    Tls(tonic::transport::Error),
    /// The descriptors of the services cannot be read: a fault of the build.
    #[error("cannot describe the services: {0}")]
    Reflection(tonic_reflection::server::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread that runs actions: {0}")]
    Thread(std::io::Error),
}

/// A server that listens.
pub struct Server {
    listeners: Vec<(Listener, Option<TlsOptions>)>,
    uids: Arc<[u32]>,
    limits: ServeLimits,
    drain_for: Duration,
    context: Arc<Context>,
    gate: Gate,
    health: HealthReporter,
    threads: Option<StopOnDrop>,
    scrapes: Vec<Scrape>,
}

impl Server {
    /// Listens, so that clients may come from now on; they are served once it runs. `executor` is for the instances
    /// that execute. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        options: ServeOptions,
        executor: Option<Arc<dyn Executor>>,
    ) -> Result<Server, ServeError> {
        let ServeOptions { listen, access, instances, limits, scheduler, drain_for, metrics: told_at, local } =
            options;
        if listen.is_empty() {
            return Err(ServeError::Options("there is no address to listen at"));
        }
        if instances.is_empty() {
            return Err(ServeError::Options("there is no instance to serve"));
        }
        let mut listeners = Vec::new();
        for place in &listen {
            let tls = match place {
                Listen::Tcp { tls, .. } => tls.clone(),
                Listen::Unix { .. } => None,
            };
            listeners.push((Listener::bind(place)?, tls));
        }
        let scrapes = told_at.into_iter().map(Scrape::bind).collect::<Result<_, _>>()?;
        let metrics = Arc::new(ServeMetrics::default());
        let executes = instances.iter().any(|instance| instance.execution);
        let executor = executor.filter(|_| executes);
        let engine = match executor {
            Some(executor) => {
                Some(Engine::start(executor, scheduler, metrics.clone()).map_err(ServeError::Thread)?)
            }
            None => None,
        };
        let threads = engine.clone().map(StopOnDrop);
        let instances = Instances::new(instances, limits.partial_uploads);
        let local = local.and_then(|local| {
            let instance = instances.get(&local.instance);
            LocalDoor::new(local, instance)
        });
        let context = Arc::new(Context {
            instances,
            local,
            disk: Disk::new(limits.disk_operations),
            limits,
            metrics: metrics.clone(),
            engine,
            over: watch::Sender::new(false),
        });
        let (health, routes) = routes(&context).await?;
        let gate = Gate::new(routes, &access, &limits, metrics);
        let uids = access.uids.into();
        Ok(Server { listeners, uids, limits, drain_for, context, gate, health, threads, scrapes })
    }

    /// The TCP addresses that it listens at.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(listener, _)| listener.address()).collect()
    }

    /// Where its numbers are told.
    #[must_use]
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.scrapes.iter().filter_map(Scrape::address).collect()
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<ServeMetrics> {
        self.context.metrics.clone()
    }

    /// Serves until `shutdown` is over, then ends in order; once `hurry` is over, running actions are waited for no
    /// longer.
    ///
    /// # Errors
    /// [`ServeError::Tls`]; nothing that a peer does.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Server { listeners, uids, limits, drain_for, context, gate, health, threads, scrapes } = self;
        let source = super::numbers::source(&context);
        let (shutting, shut) = watch::channel(false);
        let (closing, closed) = watch::channel(false);
        let room = Arc::new(Semaphore::new(limits.connections));
        let patience = limits.first_call_within;
        let door = Door { uids, room, metrics: context.metrics.clone(), patience, shut };
        let mut tasks = JoinSet::new();
        for (listener, tls) in listeners {
            let (sender, receiver) = mpsc::channel(limits::ACCEPTED_MAX);
            let mut transport = transport(&limits);
            if let Some(tls) = tls {
                transport = transport.tls_config(tls_config(&tls)).map_err(ServeError::Tls)?;
            }
            tasks.spawn(listen::accept(listener, door.clone(), sender));
            let (gate, mut closed) = (gate.clone(), closed.clone());
            tasks.spawn(async move {
                let end = async move {
                    // An error is the end as well.
                    let _ = closed.wait_for(|closing| *closing).await;
                };
                let incoming = ReceiverStream::new(receiver);
                if let Err(error) = transport.serve_with_incoming_shutdown(gate, incoming, end).await {
                    tracing::error!(%error, "a listener has failed");
                }
            });
        }
        for scrape in scrapes {
            tasks.spawn(scrape.serve(closed.clone()));
        }
        tasks.spawn(scrape::sample(closed.clone()));
        serve_until(&context, shutdown).await;
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        shutting.send_replace(true);
        let is_quiet = drain(&context, drain_for, hurry).await;
        context.over.send_replace(true);
        // After the last answer was given: closing earlier would cut the streams of those who wait.
        closing.send_replace(true);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limits::CLOSE_WITHIN, all).await.is_err() {
            tasks.shutdown().await;
        }
        // A thread whose action cannot be killed is left to the end of the process.
        drop((threads, source));
        if is_quiet && let Some(engine) = context.engine.clone() {
            let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
        }
        Ok(())
    }
}

/// Does what time brings, until `shutdown` is over.
async fn serve_until(context: &Context, shutdown: impl Future<Output = ()>) {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut tick = tokio::time::interval(limits::TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            _ = tick.tick() => {
                if let Some(engine) = &context.engine {
                    engine.tick();
                }
                for instance in context.instances.all() {
                    instance.uploads.tick();
                }
            }
        }
    }
}

/// Lets running actions end; after `drain_for` they are killed. Whether all have ended.
async fn drain(context: &Context, drain_for: Duration, hurry: impl Future<Output = ()>) -> bool {
    let Some(engine) = &context.engine else { return true };
    engine.drain();
    let mut active = engine.active();
    let mut idle = async || {
        let _ = active.wait_for(|active| *active == 0).await;
    };
    let had_work = *engine.active().borrow() > 0;
    let mut hurry = std::pin::pin!(hurry);
    // What nobody waits for any more is canceled, as ever.
    let ticks = async {
        loop {
            tokio::time::sleep(limits::TICK).await;
            engine.tick();
        }
    };
    tokio::select! {
        () = ticks => {}
        () = idle() => {
            if had_work {
                // Clients have the last answers, and want the outputs that these name.
                tokio::select! {
                    () = tokio::time::sleep(limits::DOWNLOADS_WITHIN) => {}
                    () = &mut hurry => {}
                }
            }
            return true;
        }
        () = tokio::time::sleep(drain_for) => {}
        () = &mut hurry => {}
    }
    engine.kill_all();
    tokio::time::timeout(limits::KILLED_WITHIN, idle()).await.is_ok()
}

/// Every limit by hand: the defaults differ by version.
fn transport(limits: &ServeLimits) -> Transport {
    Transport::builder()
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .max_frame_size(limits::FRAME_BYTES)
        .http2_max_header_list_size(limits::HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(limits::LOCAL_RESETS_MAX))
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_WITHIN))
        .accept_http1(false)
}

fn tls_config(options: &TlsOptions) -> ServerTlsConfig {
    let identity = Identity::from_pem(&options.certificate_pem, &options.key_pem);
    let config = ServerTlsConfig::new().identity(identity).timeout(limits::TLS_HANDSHAKE_WITHIN);
    match &options.client_authorities_pem {
        Some(authorities) => config.client_ca_root(Certificate::from_pem(authorities)),
        None => config,
    }
}

/// All services, each with the same bounds on messages. None takes compressed messages: blobs are compressed already,
/// and the rest is small.
async fn routes(context: &Arc<Context>) -> Result<(HealthReporter, Routes), ServeError> {
    macro_rules! bounded {
        ($server:ident, $service:ident) => {
            $server::new($service { context: context.clone() })
                .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(limits::RESULT_BYTES_MAX)
        };
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(fulgurite_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(ServeError::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(ServeError::Reflection)?)
        .add_service(bounded!(CapabilitiesServer, CapabilitiesService))
        .add_service(bounded!(ContentAddressableStorageServer, StorageService))
        .add_service(bounded!(ByteStreamServer, ByteStreamService))
        .add_service(bounded!(ActionCacheServer, ActionCacheService))
        .add_service(bounded!(ExecutionServer, ExecutionService))
        .add_service(bounded!(OperationsServer, OperationsService))
        .add_service(bounded!(LocalServer, LocalService));
    Ok((health, routes.routes()))
}
