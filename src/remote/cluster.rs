//! A cluster that speaks REAPI v2, with what keeps it from hurting us: deadlines, retries within a budget, a breaker.
//!
//! ```text
//!   call ─► breaker ─ refused: at once, no waiting
//!             └ go ─► channel, deadline ─► answer ─► breaker: the remote lives
//!                                        └ outage ─► breaker: one more failure ─► pause ─► again, within the budget
//! ```
//! A connection that is not answered in its time opens the breaker at once: a black hole costs one such time in all.
//!
//! Invariants: no call is without a deadline, but for streams, whose peers are asked for signs of life; a caller who
//! goes away in the middle of a trial leaves the trial to the next. Limits: one HTTP/2 connection.

use super::breaker::{Admission, Breaker};
use super::decode;
use super::endpoint::{ClusterOptions, endpoint, option};
use super::retry::Budget;
use super::status::{details, is_outage, is_unreachable, of_transport, told};
use super::transfer::Transfers;
use crate::action::{Digest, DigestFunction};
use bytes::Bytes;
use fulgurite_proto::reapi;
use prost::Message;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// The header that says which build a request is of.
const METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// Why a cluster could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// The options make no sense.
    #[error("{what}: {why}")]
    Options {
        /// Which.
        what: String,
        /// Why not.
        why: String,
    },
    /// It is taken to be gone, and was not asked.
    #[error("the remote is taken to be gone ({why}): nobody asks it for {} ms", retry_in.as_millis())]
    BreakerOpen {
        /// What it was that failed last.
        why: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// It refused, or could not be reached.
    #[error("{call} failed: {code:?}: {message}")]
    Status {
        /// What was called.
        call: &'static str,
        /// The code.
        code: Code,
        /// What it said.
        message: String,
    },
    /// Blobs that it should have are not there.
    #[error("{} blobs are not at the remote, {:?} among them", .0.len(), .0.first().map(Digest::to_string))]
    Missing(Vec<Digest>),
    /// The answer is no answer.
    #[error("{call}: the remote's answer is malformed: {why}")]
    Malformed {
        /// What was called.
        call: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It gave other bytes than those that were asked for.
    #[error("{wanted} was asked for and {got} came")]
    Corrupt {
        /// The digest.
        wanted: Digest,
        /// What came.
        got: String,
    },
    /// Our own store failed.
    #[error("cannot keep what the remote has: {0}")]
    Store(String),
}

impl ClusterError {
    /// Whether it is an outage: nobody answered.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            ClusterError::BreakerOpen { .. } => true,
            ClusterError::Status { code, .. } => is_outage(*code),
            _ => false,
        }
    }
}

/// What the cluster can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It executes actions.
    pub executes: bool,
    /// Most bytes of a batch.
    pub batch_bytes_max: usize,
    /// Blobs may travel as zstd frames.
    pub zstd: bool,
    /// We may fill its action cache.
    pub may_update: bool,
}

/// A cluster. Clones share its connection, its breaker, and what is on its way.
#[derive(Clone)]
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
    /// Encoded RequestMetadata.
    metadata: Bytes,
}

pub(super) struct Shared {
    pub(super) options: ClusterOptions,
    channel: Channel,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    health: Mutex<Health>,
    began: Instant,
    capabilities: tokio::sync::OnceCell<Capabilities>,
    pub(super) transfers: Transfers,
    /// The runtime of the connection: what nobody waits for runs there, whoever began it.
    pub(super) handle: Handle,
    /// How often it was taken to be gone.
    outages: watch::Sender<u64>,
}

struct Health {
    breaker: Breaker,
    budget: Budget,
    /// What failed last.
    why: String,
}

impl Health {
    fn open(&self, retry_in: Duration) -> ClusterError {
        ClusterError::BreakerOpen { why: self.why.clone(), retry_in }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("address", &self.shared.options.address).finish_non_exhaustive()
    }
}

/// How a call failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    code: Code,
    /// Nobody answered the connection within its time: one more try would cost as much again, and find the same.
    unreachable: bool,
}

/// A call that was admitted. Dropped without an answer, it leaves a trial to the next.
struct Admitted<'a> {
    cluster: &'a Cluster,
    is_trial: bool,
    is_over: bool,
}

impl Admitted<'_> {
    fn answered(&mut self, result: Result<(), Failed>) {
        self.is_over = true;
        let now = self.cluster.now();
        let mut health = self.cluster.health();
        match result {
            // The trial decides, and not who was admitted before the outage.
            Err(failed) if is_outage(failed.code) && !self.is_trial && health.breaker.is_trying() => {}
            Err(failed) if is_outage(failed.code) => self.cluster.outage(&mut health.breaker, failed),
            _ => {
                health.budget.refill();
                if health.breaker.succeeded(now) {
                    let remote = &self.cluster.shared.options.address;
                    tracing::info!(%remote, "the remote is there again");
                    crate::observe::cluster(false);
                }
            }
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.is_trial && !self.is_over {
            let now = self.cluster.now();
            self.cluster.health().breaker.abandoned(now);
        }
    }
}

impl Cluster {
    /// Prepares a connection, which is made with the first call. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClusterError::Options`].
    pub fn new(options: ClusterOptions) -> Result<Cluster, ClusterError> {
        let nowhere = |error: tokio::runtime::TryCurrentError| error.to_string();
        let handle =
            Handle::try_current().map_err(|error| option("cannot connect to a remote")(nowhere(error)))?;
        let channel = endpoint(&options)?.connect_lazy();
        let mut headers = Vec::new();
        let token = options.token.iter().map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        for (name, value) in options.headers.iter().cloned().chain(token) {
            let bad = |why: String| option(format!("cannot send the header {name:?}"))(why);
            let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
            let value = MetadataValue::try_from(value.as_str());
            headers.push((
                key.map_err(|error| bad(error.to_string()))?,
                value.map_err(|error| bad(error.to_string()))?,
            ));
        }
        let health =
            Health { breaker: Breaker::new(options.breaker), budget: Budget::default(), why: String::new() };
        let shared = Shared {
            options,
            channel,
            headers,
            health: Mutex::new(health),
            began: Instant::now(),
            capabilities: tokio::sync::OnceCell::new(),
            transfers: Transfers::default(),
            handle,
            outages: watch::Sender::new(0),
        };
        Ok(Cluster { shared: Arc::new(shared), metadata: Bytes::new() })
    }

    /// The same, for calls on behalf of one action: what the server is fair between, and logs.
    #[must_use]
    pub fn for_action(&self, invocation: &str, mnemonic: &str, action: &Digest) -> Cluster {
        let metadata = reapi::RequestMetadata {
            tool_details: Some(reapi::ToolDetails {
                tool_name: "fulgurite".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            tool_invocation_id: invocation.to_owned(),
            action_mnemonic: mnemonic.to_owned(),
            action_id: action.hex(),
            ..reapi::RequestMetadata::default()
        };
        Cluster { shared: self.shared.clone(), metadata: metadata.encode_to_vec().into() }
    }

    fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.shared.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls are made at all just now.
    #[must_use]
    pub fn is_taken_to_be_gone(&self) -> bool {
        !self.health().breaker.is_closed()
    }

    /// Whether it is taken to be gone, and it is time to find out.
    #[must_use]
    pub fn is_trial_due(&self) -> bool {
        let now = self.now();
        self.health().breaker.is_trial_due(now)
    }

    pub(super) fn instance(&self) -> String {
        self.shared.options.instance.clone()
    }

    pub(super) fn function(&self) -> DigestFunction {
        self.shared.options.function
    }

    pub(super) fn wire_function(&self) -> i32 {
        let value = match self.shared.options.function {
            DigestFunction::Sha256 => reapi::digest_function::Value::Sha256,
            DigestFunction::Blake3 => reapi::digest_function::Value::Blake3,
        };
        value.into()
    }

    pub(super) fn channel(&self) -> Channel {
        self.shared.channel.clone()
    }

    /// A request with the headers that all have.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        for (name, value) in &self.shared.headers {
            headers.insert(name.clone(), value.clone());
        }
        if !self.metadata.is_empty() {
            headers.insert_bin(METADATA, MetadataValue::from_bytes(&self.metadata));
        }
        request
    }

    /// One more failure of the remote's.
    fn outage(&self, breaker: &mut Breaker, Failed { code, unreachable }: Failed) {
        let now = self.now();
        if if unreachable { breaker.vanished(now) } else { breaker.failed(now) } {
            let remote = &self.shared.options.address;
            tracing::warn!(%remote, ?code, "the remote is taken to be gone");
            crate::observe::cluster(true);
            if breaker.is_row() {
                self.shared.outages.send_modify(|outages| *outages += 1);
            }
        }
    }

    fn admit(&self) -> Result<Admitted<'_>, ClusterError> {
        let mut health = self.health();
        let is_trial = match health.breaker.admit(self.now()) {
            Admission::Go => false,
            Admission::Trial => true,
            Admission::Refused { retry_in } => return Err(health.open(retry_in)),
        };
        drop(health);
        Ok(Admitted { cluster: self, is_trial, is_over: false })
    }

    /// Makes a call, with a deadline and further tries.
    pub(super) async fn call<T, R>(&self, call: &'static str, make: impl Fn() -> R) -> Result<T, ClusterError>
    where
        R: Future<Output = Result<T, Status>>,
    {
        let within = self.shared.options.call_within;
        self.call_within(call, within, make).await
    }

    /// The same with a deadline of its own: that of a stream's beginning, or of a large transfer.
    pub(super) async fn call_within<T, R>(
        &self,
        call: &'static str,
        within: Duration,
        make: impl Fn() -> R,
    ) -> Result<T, ClusterError>
    where
        R: Future<Output = Result<T, Status>>,
    {
        let mut tries = 1;
        loop {
            let mut outages = self.shared.outages.subscribe();
            let mut admitted = self.admit()?;
            let answer = tokio::select! {
                biased;
                answer = tokio::time::timeout(within, make()) => answer,
                // An outage costs all who wait one timeout, not each of them their own in turn.
                _ = outages.changed(), if !admitted.is_trial => {
                    let health = self.health();
                    return Err(health.open(health.breaker.retry_in(self.now())));
                }
            };
            let (status, unreachable) = match answer {
                Ok(Ok(answer)) => {
                    admitted.answered(Ok(()));
                    return Ok(answer);
                }
                Ok(Err(status)) => {
                    let unreachable = is_unreachable(&status);
                    (of_transport(status), unreachable)
                }
                Err(_) => {
                    let why = format!("no answer within {} s", within.as_secs_f64());
                    (Status::deadline_exceeded(why), false)
                }
            };
            if is_outage(status.code()) {
                self.health().why = told(&status);
            }
            admitted.answered(Err(Failed { code: status.code(), unreachable }));
            drop(admitted);
            tries += 1;
            let pause = self.pause(tries, &status);
            let Some(pause) = pause else { return Err(self.failed(call, &status)) };
            tracing::debug!(call, code = ?status.code(), tries, "a call is made again");
            crate::observe::metrics().remote_retries.count();
            tokio::time::sleep(pause).await;
        }
    }

    pub(super) fn pause(&self, next: u32, status: &Status) -> Option<Duration> {
        let asked = details(status).and_then(|details| decode::retry_delay(&details));
        self.pause_as_asked(next, status.code(), asked)
    }

    /// The pause before another try of something that failed within a call that did not.
    pub(super) fn pause_as_asked(&self, next: u32, code: Code, asked: Option<Duration>) -> Option<Duration> {
        let mut health = self.health();
        self.shared.options.retry.pause(next, code, asked, random(), &mut health.budget)
    }

    /// A stream that broke without a word is a failure of the remote's, though its beginning was none.
    pub(super) fn stream_broke(&self, code: Code) {
        if is_outage(code) {
            let mut health = self.health();
            if !health.breaker.is_trying() {
                self.outage(&mut health.breaker, Failed { code, unreachable: false });
            }
        }
    }

    /// What a status says: of a failed precondition, the blobs that are missing if it names them.
    pub(super) fn failed(&self, call: &'static str, status: &Status) -> ClusterError {
        crate::observe::metrics().remote_failures.count();
        if status.code() == Code::FailedPrecondition {
            let missing = details(status).map(|details| decode::missing(self.function(), &details));
            if let Some(missing) = missing.filter(|missing| !missing.is_empty()) {
                return ClusterError::Missing(missing);
            }
        }
        // Of our own transport, the last cause is the one that says something.
        let mut message = status.message().to_owned();
        let mut cause = std::error::Error::source(status);
        while let Some(deeper) = cause {
            message = deeper.to_string();
            cause = deeper.source();
        }
        ClusterError::Status { call, code: status.code(), message }
    }

    /// What the cluster can do; asked once.
    ///
    /// # Errors
    /// [`ClusterError`], when it cannot be asked; the next caller asks again.
    pub async fn capabilities(&self) -> Result<Capabilities, ClusterError> {
        let asked = self.shared.capabilities.get_or_try_init(|| self.ask_capabilities()).await?;
        Ok(*asked)
    }

    async fn ask_capabilities(&self) -> Result<Capabilities, ClusterError> {
        use fulgurite_proto::reapi::capabilities_client::CapabilitiesClient;
        const CALL: &str = "GetCapabilities";
        let ask = || async {
            let request = reapi::GetCapabilitiesRequest { instance_name: self.instance() };
            CapabilitiesClient::new(self.channel()).get_capabilities(self.request(request)).await
        };
        let answer = self.call(CALL, ask).await?.into_inner();
        let cache = answer.cache_capabilities.unwrap_or_default();
        let functions = &cache.digest_functions;
        if !functions.is_empty() && !functions.contains(&self.wire_function()) {
            let name = self.function().name();
            return Err(option("cannot use the remote")(format!("it does not know digest function {name}")));
        }
        let batch = usize::try_from(cache.max_batch_total_size_bytes).unwrap_or(0);
        Ok(Capabilities {
            executes: answer.execution_capabilities.is_some_and(|execution| execution.exec_enabled),
            batch_bytes_max: if batch == 0 {
                super::limits::BATCH_BYTES_MAX
            } else {
                batch.min(super::limits::BATCH_BYTES_MAX)
            },
            zstd: cache.supported_compressors.contains(&(reapi::compressor::Value::Zstd as i32)),
            may_update: cache.action_cache_update_capabilities.is_some_and(|update| update.update_enabled),
        })
    }
}

/// Within 0 and 1.
fn random() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness all wait for as long as they may.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}
