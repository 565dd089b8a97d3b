//! A server in this process, and what a client of it needs.

use crate::action::{ActionResult, Digest, DigestFunction, OutputFile, Timeline, encode};
use crate::cas::{Cas, CasOptions};
use crate::exec::executor::{Cancel, Execution, Executor, Job, Verdict, Watch};
use crate::sched::SchedulerLimits;
use crate::serve::*;
use fulgurite_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use fulgurite_proto::google::longrunning::operations_client::OperationsClient;
use fulgurite_proto::google::longrunning::{Operation, operation};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::action_cache_client::ActionCacheClient;
use fulgurite_proto::reapi::capabilities_client::CapabilitiesClient;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use prost::Message;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub(super) const SHA: DigestFunction = DigestFunction::Sha256;

type Script = Box<dyn Fn(&Job, &Cancel, &dyn Watch) -> Execution + Send + Sync>;

/// An executor that does what it is told.
pub(super) struct Fake {
    script: Script,
    slots: usize,
}

impl Fake {
    pub(super) fn new(
        slots: usize,
        script: impl Fn(&Job, &Cancel, &dyn Watch) -> Execution + Send + Sync + 'static,
    ) -> Arc<Fake> {
        Arc::new(Fake { script: Box::new(script), slots })
    }
}

impl Executor for Fake {
    fn execute(&self, job: &Job, cancel: &Cancel, watch: &dyn Watch) -> Execution {
        (self.script)(job, cancel, watch)
    }

    fn slots(&self) -> usize {
        self.slots
    }
}

/// Something that one thread waits for and another lets happen.
#[derive(Clone, Default)]
pub(super) struct Latch(Arc<(Mutex<usize>, Condvar)>);

impl Latch {
    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    /// Waits until it was opened so many times.
    pub(super) fn wait(&self, times: usize) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |opened| *opened < times).unwrap());
    }

    /// As [`Latch::wait`], without keeping the runtime's thread.
    pub(super) async fn opened(&self, times: usize) {
        let latch = self.clone();
        tokio::task::spawn_blocking(move || latch.wait(times)).await.unwrap();
    }
}

pub(super) fn exited(exit_code: i32) -> Execution {
    let result = ActionResult { exit_code, worker: "fake".to_owned(), ..ActionResult::default() };
    Execution { verdict: Verdict::Exited, result }
}

/// Prints `hello` and writes `out`, both through the store.
pub(super) fn hello(cas: &Cas) -> Execution {
    let mut execution = exited(0);
    execution.result.stdout = Some(cas.put_bytes(SHA, b"hello").unwrap());
    execution.result.files = vec![OutputFile {
        path: "out".to_owned(),
        digest: cas.put_bytes(SHA, b"output").unwrap(),
        executable: false,
        properties: crate::action::NodeProperties::default(),
    }];
    execution
}

pub(super) struct Scene {
    pub(super) cas: Cas,
    pub(super) dir: tempfile::TempDir,
    pub(super) channel: Channel,
    pub(super) metrics: Arc<ServeMetrics>,
    pub(super) results: Arc<ResultsInMemory>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

pub(super) fn open_cas(dir: &std::path::Path) -> Cas {
    Cas::open(&CasOptions { dir: dir.to_owned(), size_bytes_max: 1 << 30 }).unwrap()
}

/// Options with one instance of no name that executes, at a socket in `dir`.
pub(super) fn options(dir: &std::path::Path, cas: &Cas, results: &Arc<ResultsInMemory>) -> ServeOptions {
    ServeOptions {
        listen: vec![Listen::Unix { path: dir.join("socket"), mode: 0o600 }],
        access: Access::default(),
        instances: vec![InstanceOptions {
            name: String::new(),
            elsewhere: None,
            cas: cas.clone(),
            results: results.clone(),
            execution: true,
            writers: ActionCacheWriters::Executor,
            platform: PlatformOffer::of_this_machine(),
        }],
        limits: ServeLimits::default(),
        scheduler: SchedulerLimits::default(),
        drain_for: Duration::from_secs(60),
        metrics: Vec::new(),
        local: None,
    }
}

impl Scene {
    /// With an executor made of the store.
    pub(super) async fn with(executor: impl FnOnce(&Cas) -> Arc<Fake>) -> Scene {
        Scene::tuned(executor, |_| {}).await
    }

    /// As [`Scene::with`], with other options.
    pub(super) async fn tuned(
        executor: impl FnOnce(&Cas) -> Arc<Fake>,
        tune: impl FnOnce(&mut ServeOptions),
    ) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let cas = open_cas(&dir.path().join("cas"));
        let results = Arc::new(ResultsInMemory::new(1000));
        let mut options = options(dir.path(), &cas, &results);
        tune(&mut options);
        let server = Server::bind(options, Some(executor(&cas))).await.unwrap();
        let channel = connect(dir.path());
        let metrics = server.metrics();
        let (stop, stopped) = oneshot::channel::<()>();
        let end = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(server.run(end, std::future::pending()));
        Scene { cas, dir, channel, metrics, results, stop: Some(stop), serving }
    }

    /// Whose actions print `hello`.
    pub(super) async fn new() -> Scene {
        Scene::with(|cas| {
            let cas = cas.clone();
            Fake::new(2, move |_, _, _| hello(&cas))
        })
        .await
    }

    /// As a cache, which clients may write.
    pub(super) async fn cache() -> Scene {
        let tune = |options: &mut ServeOptions| {
            options.instances[0].execution = false;
            options.instances[0].writers = ActionCacheWriters::Clients;
        };
        Scene::tuned(|_| Fake::new(1, |_, _, _| exited(0)), tune).await
    }

    pub(super) fn tell_to_end(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(super) async fn ended(self) {
        drop(self.channel);
        self.serving.await.unwrap().unwrap();
    }

    pub(super) async fn end(mut self) {
        self.tell_to_end();
        self.ended().await;
    }

    pub(super) fn storage(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    pub(super) fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    pub(super) fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    pub(super) fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone())
    }

    pub(super) fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    pub(super) fn capabilities(&self) -> CapabilitiesClient<Channel> {
        CapabilitiesClient::new(self.channel.clone())
    }

    pub(super) fn put(&self, bytes: &[u8]) -> Digest {
        self.cas.put_bytes(SHA, bytes).unwrap()
    }

    /// Stores an action whose command is `true` with one argument, which makes actions differ.
    pub(super) fn action(&self, argument: &str, change: impl FnOnce(&mut reapi::Action)) -> Digest {
        let command = reapi::Command {
            arguments: vec!["true".to_owned(), argument.to_owned()],
            output_paths: vec!["out".to_owned()],
            ..reapi::Command::default()
        };
        let mut action = reapi::Action {
            command_digest: Some(encode::digest(&self.put(&command.encode_to_vec()))),
            input_root_digest: Some(encode::digest(&self.put(b""))),
            ..reapi::Action::default()
        };
        change(&mut action);
        self.put(&action.encode_to_vec())
    }

    pub(super) async fn execute(
        &self,
        request: reapi::ExecuteRequest,
    ) -> Result<Streaming<Operation>, Status> {
        self.execution().execute(request).await.map(tonic::Response::into_inner)
    }

    /// Executes, and gives the response.
    pub(super) async fn run(&self, action: &Digest) -> reapi::ExecuteResponse {
        done(self.execute(request(action)).await.unwrap()).await
    }
}

pub(super) fn connect(dir: &std::path::Path) -> Channel {
    Endpoint::new(format!("unix://{}/socket", dir.display())).unwrap().connect_lazy()
}

pub(super) fn request(action: &Digest) -> reapi::ExecuteRequest {
    reapi::ExecuteRequest { action_digest: Some(encode::digest(action)), ..reapi::ExecuteRequest::default() }
}

/// Everything that a stream says, checked against what every stream must keep.
pub(super) async fn all(mut stream: Streaming<Operation>) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    while let Some(operation) = stream.message().await.unwrap() {
        assert!(!matches!(operation.result, Some(operation::Result::Error(_))), "Operation.error is set");
        let is_completed = stage(&operation) == reapi::execution_stage::Value::Completed;
        assert_eq!(operation.done, is_completed, "done if and only if COMPLETED");
        assert_eq!(operation.done, operation.result.is_some());
        assert!(operations.iter().all(|earlier| earlier.name == operation.name && !earlier.done));
        operations.push(operation);
    }
    assert!(operations.last().is_some_and(|last| last.done), "the stream ends before the operation");
    operations
}

pub(super) fn metadata(operation: &Operation) -> reapi::ExecuteOperationMetadata {
    let any = operation.metadata.as_ref().unwrap();
    assert_eq!(any.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata");
    reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap()
}

pub(super) fn stage(operation: &Operation) -> reapi::execution_stage::Value {
    metadata(operation).stage()
}

pub(super) fn response(operation: &Operation) -> reapi::ExecuteResponse {
    let Some(operation::Result::Response(any)) = &operation.result else { panic!("{operation:?}") };
    assert_eq!(any.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse");
    reapi::ExecuteResponse::decode(any.value.as_slice()).unwrap()
}

pub(super) async fn done(stream: Streaming<Operation>) -> reapi::ExecuteResponse {
    response(all(stream).await.last().unwrap())
}

/// The next message of a stream, which must not be its last.
pub(super) async fn next(stream: &mut Streaming<Operation>) -> Operation {
    stream.message().await.unwrap().expect("the stream goes on")
}

/// Reads on until the operation has reached a stage.
pub(super) async fn until(
    stream: &mut Streaming<Operation>,
    wanted: reapi::execution_stage::Value,
) -> Operation {
    loop {
        let operation = next(stream).await;
        if stage(&operation) == wanted {
            return operation;
        }
    }
}

/// The subjects of a status that is about missing blobs and nothing else, as Bazel wants to have it.
pub(super) fn missing_in(details: &[prost_types::Any]) -> Vec<String> {
    let mut subjects = Vec::new();
    for detail in details {
        assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = rpc::PreconditionFailure::decode(detail.value.as_slice()).unwrap();
        for violation in failure.violations {
            assert_eq!(violation.r#type, "MISSING");
            subjects.push(violation.subject);
        }
    }
    subjects
}

/// The details of a failed call.
pub(super) fn details(status: &Status) -> Vec<prost_types::Any> {
    rpc::Status::decode(status.details()).unwrap().details
}

pub(super) fn retry_info(details: &[prost_types::Any]) -> bool {
    details.iter().any(|detail| {
        detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
            && rpc::RetryInfo::decode(detail.value.as_slice()).unwrap().retry_delay.is_some()
    })
}

/// Tells that the command starts, as the executor would.
pub(super) fn announce(watch: &dyn Watch) {
    let timeline = Timeline {
        execution_start: Some(crate::action::Timestamp { seconds: 5, nanos: 0 }),
        ..Timeline::default()
    };
    watch.started(&timeline);
}

/// Holds every action until it is canceled or let go.
pub(super) fn holding(began: &Latch, canceled: &Latch, go: &Latch) -> impl FnOnce(&Cas) -> Arc<Fake> {
    let (began, canceled, go) = (began.clone(), canceled.clone(), go.clone());
    move |cas| {
        let cas = cas.clone();
        Fake::new(1, move |_, cancel, watch| {
            let (kill, over) = (canceled.clone(), go.clone());
            cancel.arm(move || {
                kill.open();
                over.open();
            });
            announce(watch);
            began.open();
            go.wait(1);
            cancel.disarm();
            let verdict = if cancel.is_canceled() { Verdict::Canceled } else { Verdict::Exited };
            Execution { verdict, ..hello(&cas) }
        })
    }
}
