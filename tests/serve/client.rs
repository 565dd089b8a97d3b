//! A client of REAPI: uploads actions, has them run, reads what came of them.
//!
//! Calls block, each no longer than [`PATIENCE`].

use crate::action::Order;
use crate::daemon::PATIENCE;
use fulgurite::action::{Digest, DigestFunction, encode};
use fulgurite_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use fulgurite_proto::google::bytestream::{ReadRequest, WriteRequest};
use fulgurite_proto::google::longrunning::operations_client::OperationsClient;
use fulgurite_proto::google::longrunning::{
    CancelOperationRequest, GetOperationRequest, Operation, operation,
};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi::action_cache_client::ActionCacheClient;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use fulgurite_proto::reapi::{self, execution_stage::Value as Stage};
use prost::Message;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// Messages of at most this size are taken.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Of blobs that go in one call.
const BATCH_BYTES_MAX: usize = 3 << 20;

/// A connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    runtime: Arc<Runtime>,
    channel: Channel,
    /// What actions are said to be a part of.
    metadata: reapi::RequestMetadata,
    instance: String,
}

/// An operation that is under way.
pub struct Running {
    client: Client,
    pub name: String,
    stream: Streaming<Operation>,
    /// The last message that came.
    last: Operation,
}

/// The name of bytes.
pub fn named(bytes: &[u8]) -> reapi::Digest {
    encode::digest(&Digest::of(DigestFunction::Sha256, bytes))
}

impl Client {
    pub fn new(socket: &Path) -> Client {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::new(format!("unix://{}", socket.display())).unwrap();
        let channel = {
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        };
        let metadata = reapi::RequestMetadata::default();
        Client { runtime: Arc::new(runtime), channel, metadata, instance: String::new() }
    }

    /// The same, whose actions are of this build and this kind.
    pub fn of_build(&self, invocation: &str, mnemonic: &str) -> Client {
        let mut client = self.clone();
        client.metadata.tool_invocation_id = invocation.to_owned();
        client.metadata.action_mnemonic = mnemonic.to_owned();
        client
    }

    /// The same, whose actions are of this instance.
    pub fn of_instance(&self, instance: &str) -> Client {
        Client { instance: instance.to_owned(), ..self.clone() }
    }

    /// Another connection to the same place would look the same to us; this one is another runtime's.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let bounded = async { tokio::time::timeout(PATIENCE, future).await };
        self.runtime.block_on(bounded).expect("a call does not end")
    }

    fn storage(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Stores blobs in one batch.
    pub fn try_upload(&self, blobs: &[Vec<u8>]) -> Result<(), Status> {
        let requests = blobs.iter().map(|bytes| reapi::batch_update_blobs_request::Request {
            digest: Some(named(bytes)),
            data: bytes.clone().into(),
            compressor: 0,
        });
        let request = reapi::BatchUpdateBlobsRequest {
            requests: requests.collect(),
            ..reapi::BatchUpdateBlobsRequest::default()
        };
        let answer = self.wait(self.storage().batch_update_blobs(request))?.into_inner();
        let bad = answer.responses.into_iter().filter_map(|one| one.status).find(|status| status.code != 0);
        bad.map_or(Ok(()), |status| Err(Status::new(Code::from_i32(status.code), status.message)))
    }

    /// Stores blobs, each once, in as many batches as it takes.
    pub fn upload(&self, blobs: &[Vec<u8>]) {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for bytes in BTreeSet::from_iter(blobs) {
            if batch_bytes + bytes.len() > BATCH_BYTES_MAX && !batch.is_empty() {
                self.try_upload(&std::mem::take(&mut batch)).unwrap();
                batch_bytes = 0;
            }
            batch_bytes += bytes.len();
            batch.push(bytes.clone());
        }
        self.try_upload(&batch).unwrap();
    }

    /// Stores a blob that is too large for a batch.
    pub fn put_large(&self, bytes: &[u8]) {
        let digest = named(bytes);
        let resource_name = format!("uploads/0/blobs/{}/{}", digest.hash, digest.size_bytes);
        let mut offset = 0;
        let mut requests: Vec<WriteRequest> = Vec::new();
        for piece in bytes.chunks(1 << 20) {
            requests.push(WriteRequest {
                resource_name: resource_name.clone(),
                write_offset: offset,
                data: piece.to_vec().into(),
                finish_write: false,
            });
            offset += i64::try_from(piece.len()).unwrap();
        }
        requests.last_mut().unwrap().finish_write = true;
        let write = async {
            ByteStreamClient::new(self.channel.clone()).write(tokio_stream::iter(requests)).await.map(drop)
        };
        self.wait(write).unwrap();
    }

    pub fn put(&self, bytes: &[u8]) -> reapi::Digest {
        self.upload(&[bytes.to_vec()]);
        named(bytes)
    }

    /// Which of these are not there.
    pub fn missing(&self, digests: &[reapi::Digest]) -> Vec<reapi::Digest> {
        let request = reapi::FindMissingBlobsRequest {
            blob_digests: digests.to_vec(),
            ..reapi::FindMissingBlobsRequest::default()
        };
        self.wait(self.storage().find_missing_blobs(request)).unwrap().into_inner().missing_blob_digests
    }

    /// The bytes of a blob, which must be those of its name.
    pub fn read(&self, digest: &reapi::Digest) -> Vec<u8> {
        let bytes = self.try_read(digest).unwrap();
        assert_eq!(&named(&bytes), digest, "other bytes than asked for");
        bytes
    }

    /// Whatever a read gives.
    pub fn try_read(&self, digest: &reapi::Digest) -> Result<Vec<u8>, Status> {
        let request = ReadRequest {
            resource_name: format!("blobs/{}/{}", digest.hash, digest.size_bytes),
            ..ReadRequest::default()
        };
        let mut bytes = Vec::new();
        self.wait(async {
            let mut client = ByteStreamClient::new(self.channel.clone());
            let mut stream = client.read(request).await?.into_inner();
            while let Some(part) = stream.message().await? {
                bytes.extend_from_slice(&part.data);
            }
            Ok(bytes)
        })
    }

    /// What is in the action cache; the answer must be complete.
    pub fn cached(&self, action: &reapi::Digest) -> Option<reapi::ActionResult> {
        let request = reapi::GetActionResultRequest {
            action_digest: Some(action.clone()),
            ..reapi::GetActionResultRequest::default()
        };
        let mut client = ActionCacheClient::new(self.channel.clone());
        match self.wait(client.get_action_result(request)) {
            Ok(answer) => Some(answer.into_inner()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("{status:?}"),
        }
    }

    /// Tries to write into the action cache.
    pub fn update(&self, action: &reapi::Digest, result: reapi::ActionResult) -> Result<(), Status> {
        let request = reapi::UpdateActionResultRequest {
            action_digest: Some(action.clone()),
            action_result: Some(result),
            ..reapi::UpdateActionResultRequest::default()
        };
        let mut client = ActionCacheClient::new(self.channel.clone());
        self.wait(client.update_action_result(request)).map(|_| ())
    }

    /// Has an action run; the operation is under way when this returns.
    pub fn try_execute(&self, action: &reapi::Digest, skip_cache_lookup: bool) -> Result<Running, Status> {
        let mut request = tonic::Request::new(reapi::ExecuteRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.clone()),
            skip_cache_lookup,
            ..reapi::ExecuteRequest::default()
        });
        let metadata = MetadataValue::from_bytes(&self.metadata.encode_to_vec());
        request.metadata_mut().insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", metadata);
        self.wait(async {
            let mut client =
                ExecutionClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let stream = client.execute(request).await?.into_inner();
            self.follow(stream).await
        })
    }

    async fn follow(&self, mut stream: Streaming<Operation>) -> Result<Running, Status> {
        let first = stream.message().await?.expect("a stream begins with the operation");
        Ok(Running { client: self.clone(), name: first.name.clone(), stream, last: first })
    }

    /// Watches an operation of this name.
    pub fn watch(&self, name: &str) -> Result<Running, Status> {
        let request = reapi::WaitExecutionRequest { name: name.to_owned() };
        self.wait(async {
            let mut client = ExecutionClient::new(self.channel.clone());
            let stream = client.wait_execution(request).await?.into_inner();
            self.follow(stream).await
        })
    }

    pub fn cancel(&self, name: &str) -> Result<(), Status> {
        let request = CancelOperationRequest { name: name.to_owned() };
        self.wait(OperationsClient::new(self.channel.clone()).cancel_operation(request)).map(|_| ())
    }

    pub fn operation(&self, name: &str) -> Result<Operation, Status> {
        let request = GetOperationRequest { name: name.to_owned() };
        let answer = self.wait(OperationsClient::new(self.channel.clone()).get_operation(request));
        answer.map(tonic::Response::into_inner)
    }

    /// What the health service says.
    pub fn is_serving(&self) -> bool {
        use tonic_health::pb::health_check_response::ServingStatus;
        let mut client = tonic_health::pb::health_client::HealthClient::new(self.channel.clone());
        let answer = self.wait(client.check(tonic_health::pb::HealthCheckRequest::default())).unwrap();
        answer.into_inner().status() == ServingStatus::Serving
    }

    pub fn execute(&self, action: &reapi::Digest) -> Running {
        self.try_execute(action, false).unwrap()
    }

    /// Uploads an action, has it run, and gives the response.
    pub fn run(&self, order: &Order) -> reapi::ExecuteResponse {
        self.execute(&order.upload(self)).response()
    }

    /// As [`Client::run`], of an action that succeeds.
    pub fn succeed(&self, order: &Order) -> reapi::ActionResult {
        let response = self.run(order);
        let result = response.result.clone().unwrap_or_default();
        let is_success = response.status.clone().unwrap_or_default().code == 0 && result.exit_code == 0;
        assert!(is_success, "{response:?}: {}", self.stderr(&result));
        result
    }

    /// An Execute that is refused, in the call or in the response.
    pub fn refusal(&self, action: &reapi::Digest) -> rpc::Status {
        match self.try_execute(action, false) {
            Ok(running) => running.response().status.expect("a status"),
            Err(status) if status.details().is_empty() => rpc::Status {
                code: status.code() as i32,
                message: status.message().to_owned(),
                details: Vec::new(),
            },
            Err(status) => rpc::Status::decode(status.details()).unwrap(),
        }
    }

    pub fn stdout(&self, result: &reapi::ActionResult) -> String {
        self.text(result.stdout_digest.as_ref())
    }

    pub fn stderr(&self, result: &reapi::ActionResult) -> String {
        self.text(result.stderr_digest.as_ref())
    }

    fn text(&self, digest: Option<&reapi::Digest>) -> String {
        digest.map_or_else(String::new, |digest| String::from_utf8_lossy(&self.read(digest)).into_owned())
    }

    /// An output file's content.
    pub fn output(&self, result: &reapi::ActionResult, path: &str) -> Vec<u8> {
        let file = result.output_files.iter().find(|file| file.path == path);
        self.read(file.unwrap_or_else(|| panic!("no {path} in {result:?}")).digest.as_ref().unwrap())
    }

    /// The Tree of an output directory, root first.
    pub fn tree(&self, result: &reapi::ActionResult, path: &str) -> Vec<reapi::Directory> {
        let found = result.output_directories.iter().find(|directory| directory.path == path);
        let found = found.unwrap_or_else(|| panic!("no {path} in {result:?}"));
        let tree = reapi::Tree::decode(&*self.read(found.tree_digest.as_ref().unwrap())).unwrap();
        tree.root.into_iter().chain(tree.children).collect()
    }

    /// Checks that all that a result names is there, and is what its name says.
    pub fn check_complete(&self, result: &reapi::ActionResult) {
        let files = result.output_files.iter().filter_map(|file| file.digest.clone());
        let streams = [&result.stdout_digest, &result.stderr_digest].into_iter().filter_map(Clone::clone);
        for digest in files.chain(streams) {
            self.read(&digest);
        }
        for directory in &result.output_directories {
            for part in self.tree(result, &directory.path) {
                part.files.iter().for_each(|file| drop(self.read(file.digest.as_ref().unwrap())));
            }
        }
    }
}

impl Running {
    pub fn stage(&self) -> Stage {
        let any = self.last.metadata.as_ref().unwrap();
        reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap().stage()
    }

    /// Waits until its command runs.
    pub fn until_executing(&mut self) {
        assert!(self.is_executing(), "it ended before it ran: {:?}", self.last);
    }

    /// Waits until its command runs; `false` if all that was heard of it is its end.
    pub fn is_executing(&mut self) -> bool {
        while self.stage() != Stage::Executing {
            if self.last.done || !self.step().unwrap() {
                return false;
            }
        }
        true
    }

    /// Waits for the next message; false at the end of the stream.
    fn step(&mut self) -> Result<bool, Status> {
        let client = self.client.clone();
        let next = client.wait(self.stream.message())?;
        let is_more = next.is_some();
        self.last = next.unwrap_or_else(|| self.last.clone());
        Ok(is_more)
    }

    /// Follows it to its end.
    pub fn try_response(mut self) -> Result<reapi::ExecuteResponse, Status> {
        while !self.last.done {
            if !self.step()? {
                return Err(Status::data_loss("the stream ends before the operation"));
            }
        }
        let Some(operation::Result::Response(any)) = &self.last.result else { panic!("{:?}", self.last) };
        Ok(reapi::ExecuteResponse::decode(any.value.as_slice()).unwrap())
    }

    /// As [`Running::response`], and that nothing comes after it.
    pub fn only_response(mut self) -> reapi::ExecuteResponse {
        while !self.last.done {
            assert!(self.step().unwrap(), "the stream ends before the operation");
        }
        assert!(!self.step().unwrap(), "a second answer: {:?}", self.last);
        self.try_response().unwrap()
    }

    pub fn response(self) -> reapi::ExecuteResponse {
        self.try_response().unwrap()
    }
}

/// The code of a status.
pub fn code(status: Option<&rpc::Status>) -> Code {
    Code::from_i32(status.map_or(0, |status| status.code))
}

/// The subjects of violations of the kind MISSING, sorted; there must be no others.
pub fn missing_in(status: &rpc::Status) -> Vec<String> {
    let mut subjects = Vec::new();
    for detail in &status.details {
        assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = rpc::PreconditionFailure::decode(detail.value.as_slice()).unwrap();
        for violation in failure.violations {
            assert_eq!(violation.r#type, "MISSING");
            subjects.push(violation.subject);
        }
    }
    subjects.sort();
    subjects
}

/// How a violation names a blob.
pub fn subject(digest: &reapi::Digest) -> String {
    format!("blobs/{}/{}", digest.hash, digest.size_bytes)
}

/// Whether a status says when to come again.
pub fn has_retry(status: &rpc::Status) -> bool {
    status.details.iter().any(|detail| detail.type_url == "type.googleapis.com/google.rpc.RetryInfo")
}
