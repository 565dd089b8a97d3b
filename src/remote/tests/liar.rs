//! A remote that tells the truth, but for what a test has it say instead.
//!
//! ```text
//!   Lies: calls that fail, or never answer ─► before anything else
//!         bytes given for a blob ─ blobs that are only said to be there ─ frames ─ endings of streams
//!         scripts: what each Execute and each WaitExecution says, one after the other
//! ```

pub use super::lies::{Lies, Script, State, Step};
use crate::action::{Digest, DigestFunction, encode};
use bytes::Bytes;
use fulgurite_proto::google::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use fulgurite_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use fulgurite_proto::google::longrunning::operations_server::{Operations, OperationsServer};
use fulgurite_proto::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::action_cache_server::{ActionCache, ActionCacheServer};
use fulgurite_proto::reapi::capabilities_server::{Capabilities, CapabilitiesServer};
use fulgurite_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use fulgurite_proto::reapi::execution_server::{Execution, ExecutionServer};
use std::collections::VecDeque;
use std::io::Read;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct Liar {
    state: Arc<Mutex<State>>,
    /// Notified when anything was called or stored.
    pub changed: Arc<tokio::sync::Notify>,
}

/// A liar that listens, in a runtime of its own: its connections end with it.
pub struct Listening {
    pub liar: Liar,
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Listening {
    pub fn start() -> Listening {
        let liar = Liar { state: Arc::default(), changed: Arc::default() };
        Listening::at(liar, ([127, 0, 0, 1], 0).into(), None)
    }

    pub fn secure(tls: ServerTlsConfig) -> Listening {
        let liar = Liar { state: Arc::default(), changed: Arc::default() };
        Listening::at(liar, ([127, 0, 0, 1], 0).into(), Some(tls))
    }

    pub fn at(liar: Liar, address: SocketAddr, tls: Option<ServerTlsConfig>) -> Listening {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            socket.listen(64).unwrap()
        };
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder()
            // What a call that hangs has not read shall not fill the window of the calls beside it.
            .initial_connection_window_size(1 << 26);
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let router = server
            .add_service(CapabilitiesServer::new(liar.clone()))
            .add_service(ContentAddressableStorageServer::new(liar.clone()))
            .add_service(ByteStreamServer::new(liar.clone()))
            .add_service(ActionCacheServer::new(liar.clone()))
            .add_service(ExecutionServer::new(liar.clone()))
            .add_service(OperationsServer::new(liar.clone()));
        runtime.spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Listening { liar, address, runtime: Some(runtime) }
    }
}

impl Liar {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn lie(&self, with: impl FnOnce(&mut Lies)) {
        with(&mut self.state().lies);
    }

    /// Calls of this name never answer.
    pub fn hang(&self, call: &'static str) {
        self.state().lies.hang.insert(call);
    }

    pub fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, bytes);
        self.state().blobs.insert(digest, Bytes::copy_from_slice(bytes));
        digest
    }

    pub fn calls(&self, name: &str) -> usize {
        self.state().calls.get(name).copied().unwrap_or(0)
    }

    /// Waits until something is so; every call looks again.
    pub async fn until(&self, is_so: impl Fn(&State) -> bool) {
        let look = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if is_so(&self.state()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(super::PATIENCE, look).await.expect("it never comes to that");
    }

    async fn enter(&self, name: &'static str) -> Result<(), Status> {
        let (failure, hangs) = {
            let mut state = self.state();
            *state.calls.entry(name).or_default() += 1;
            let failure = state.lies.fail.get_mut(name).and_then(VecDeque::pop_front);
            (failure, state.lies.hang.contains(name))
        };
        self.changed.notify_waiters();
        if hangs {
            std::future::pending::<()>().await;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.state().lies.hold.contains(name) {
                return failure.map_or(Ok(()), Err);
            }
            changed.await;
        }
    }

    /// Lets calls go that were held.
    pub fn let_go(&self, call: &'static str) {
        self.state().lies.hold.remove(call);
        self.changed.notify_waiters();
    }

    fn blob(&self, digest: &Digest) -> Option<Bytes> {
        let state = self.state();
        if let Some(other) = state.lies.instead.get(digest) {
            return Some(other.clone().into());
        }
        state.blobs.get(digest).filter(|_| !state.lies.only_said.contains(digest)).cloned()
    }

    fn store(&self, digest: Digest, bytes: Bytes) -> Result<(), Status> {
        if Digest::of(digest.function, &bytes) != digest {
            return Err(Status::invalid_argument("other bytes than announced"));
        }
        let mut state = self.state();
        *state.uploads.entry(digest).or_default() += 1;
        state.lies.only_said.remove(&digest);
        state.blobs.insert(digest, bytes);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    fn play(&self, script: Script) -> Answer<Messages<Operation>> {
        let (sender, receiver) = mpsc::channel(1);
        let steps = script?;
        tokio::spawn(async move {
            for step in steps {
                let sent = match step {
                    Step::Say(operation) => sender.send(Ok(operation)).await,
                    Step::Break(status) => sender.send(Err(status)).await,
                    Step::Hang => {
                        sender.closed().await;
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

pub fn parse(sent: Option<&reapi::Digest>) -> Digest {
    let sent = sent.unwrap();
    Digest::parse(DigestFunction::Sha256, &sent.hash, sent.size_bytes).unwrap()
}

/// The digest at the end of a resource's name, and whether it is of frames.
fn resource(name: &str) -> (Digest, bool) {
    let parts: Vec<&str> = name.rsplit('/').collect();
    let digest = Digest::parse(DigestFunction::Sha256, parts[1], parts[0].parse().unwrap()).unwrap();
    (digest, name.contains("compressed-blobs/zstd/"))
}

fn next(scripts: &mut VecDeque<Script>) -> Script {
    let kept = (scripts.len() == 1).then(|| scripts[0].clone());
    kept.or_else(|| scripts.pop_front()).unwrap_or_else(|| Err(Status::unimplemented("no script")))
}

#[tonic::async_trait]
impl Capabilities for Liar {
    async fn get_capabilities(
        &self,
        request: Request<reapi::GetCapabilitiesRequest>,
    ) -> Answer<reapi::ServerCapabilities> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        self.state().authorizations.push(authorization);
        self.enter("GetCapabilities").await?;
        let compressors = if self.state().lies.zstd { vec![1] } else { Vec::new() };
        let cache = reapi::CacheCapabilities {
            digest_functions: vec![1],
            supported_compressors: compressors,
            ..reapi::CacheCapabilities::default()
        };
        let execution = reapi::ExecutionCapabilities {
            digest_function: 1,
            exec_enabled: true,
            ..reapi::ExecutionCapabilities::default()
        };
        Ok(Response::new(reapi::ServerCapabilities {
            cache_capabilities: Some(cache),
            execution_capabilities: Some(execution),
            ..reapi::ServerCapabilities::default()
        }))
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Liar {
    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Answer<reapi::FindMissingBlobsResponse> {
        self.enter("FindMissingBlobs").await?;
        let state = self.state();
        let mut asked = request.into_inner().blob_digests;
        asked.retain(|sent| {
            let digest = parse(Some(sent));
            !state.blobs.contains_key(&digest) && !state.lies.only_said.contains(&digest)
        });
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests: asked }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Answer<reapi::BatchUpdateBlobsResponse> {
        self.enter("BatchUpdateBlobs").await?;
        let mut responses = Vec::new();
        for one in request.into_inner().requests {
            self.store(parse(one.digest.as_ref()), one.data)?;
            let status = Some(rpc::Status::default());
            responses.push(reapi::batch_update_blobs_response::Response { digest: one.digest, status });
        }
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Answer<reapi::BatchReadBlobsResponse> {
        self.enter("BatchReadBlobs").await?;
        let mut responses = Vec::new();
        for sent in request.into_inner().digests {
            let blob = self.blob(&parse(Some(&sent)));
            let code = if blob.is_some() { 0 } else { tonic::Code::NotFound as i32 };
            let status = Some(rpc::Status { code, ..rpc::Status::default() });
            let data = blob.unwrap_or_default();
            let digest = Some(sent);
            responses.push(reapi::batch_read_blobs_response::Response {
                digest,
                data,
                compressor: 0,
                status,
            });
        }
        if self.state().lies.doubled {
            responses.extend(responses.clone());
        }
        Ok(Response::new(reapi::BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = Messages<reapi::GetTreeResponse>;

    async fn get_tree(&self, _: Request<reapi::GetTreeRequest>) -> Answer<Self::GetTreeStream> {
        Err(Status::unimplemented("GetTree"))
    }

    async fn split_blob(&self, _: Request<reapi::SplitBlobRequest>) -> Answer<reapi::SplitBlobResponse> {
        Err(Status::unimplemented("SplitBlob"))
    }

    async fn splice_blob(&self, _: Request<reapi::SpliceBlobRequest>) -> Answer<reapi::SpliceBlobResponse> {
        Err(Status::unimplemented("SpliceBlob"))
    }
}

#[tonic::async_trait]
impl ByteStream for Liar {
    type ReadStream = Messages<ReadResponse>;

    async fn read(&self, request: Request<ReadRequest>) -> Answer<Self::ReadStream> {
        self.enter("Read").await?;
        let (digest, is_zstd) = resource(&request.into_inner().resource_name);
        let mut bytes = self.blob(&digest).ok_or_else(|| Status::not_found("no such blob"))?;
        let (frames, stop) = {
            let state = self.state();
            (state.lies.frames.clone(), state.lies.stop)
        };
        if is_zstd {
            let honest = || zstd::encode_all(&*bytes, 1).unwrap();
            bytes = frames.unwrap_or_else(honest).into();
        }
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for part in bytes.chunks(100 << 10) {
                let message = ReadResponse { data: Bytes::copy_from_slice(part) };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            if stop {
                sender.closed().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Answer<WriteResponse> {
        self.enter("Write").await?;
        let mut stream = request.into_inner();
        let (mut name, mut bytes) = (String::new(), Vec::new());
        while let Some(message) = stream.message().await? {
            name = message.resource_name;
            bytes.extend_from_slice(&message.data);
        }
        let sent = bytes.len();
        let (digest, is_zstd) = resource(&name);
        if is_zstd {
            let mut plain = Vec::new();
            zstd::Decoder::new(&*bytes).unwrap().read_to_end(&mut plain).unwrap();
            bytes = plain;
        }
        self.store(digest, bytes.into())?;
        let committed = self.state().lies.committed.unwrap_or(i64::try_from(sent).unwrap());
        Ok(Response::new(WriteResponse { committed_size: committed }))
    }

    async fn query_write_status(
        &self,
        _: Request<QueryWriteStatusRequest>,
    ) -> Answer<QueryWriteStatusResponse> {
        Err(Status::unimplemented("QueryWriteStatus"))
    }
}

#[tonic::async_trait]
impl ActionCache for Liar {
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Answer<reapi::ActionResult> {
        self.enter("GetActionResult").await?;
        let digest = parse(request.into_inner().action_digest.as_ref());
        let found = self.state().results.get(&digest).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("no result"))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Answer<reapi::ActionResult> {
        self.enter("UpdateActionResult").await?;
        let request = request.into_inner();
        let result = request.action_result.unwrap_or_default();
        self.state().results.insert(parse(request.action_digest.as_ref()), result.clone());
        Ok(Response::new(result))
    }
}

#[tonic::async_trait]
impl Execution for Liar {
    type ExecuteStream = Messages<Operation>;

    async fn execute(&self, _: Request<reapi::ExecuteRequest>) -> Answer<Self::ExecuteStream> {
        self.enter("Execute").await?;
        let script = next(&mut self.state().lies.executes);
        self.play(script)
    }

    type WaitExecutionStream = Messages<Operation>;

    async fn wait_execution(
        &self,
        _: Request<reapi::WaitExecutionRequest>,
    ) -> Answer<Self::WaitExecutionStream> {
        self.enter("WaitExecution").await?;
        let script = next(&mut self.state().lies.waits);
        self.play(script)
    }
}

#[tonic::async_trait]
impl Operations for Liar {
    async fn list_operations(&self, _: Request<ListOperationsRequest>) -> Answer<ListOperationsResponse> {
        Err(Status::unimplemented("ListOperations"))
    }

    async fn get_operation(&self, _: Request<GetOperationRequest>) -> Answer<Operation> {
        Err(Status::unimplemented("GetOperation"))
    }

    async fn delete_operation(&self, _: Request<DeleteOperationRequest>) -> Answer<()> {
        Err(Status::unimplemented("DeleteOperation"))
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Answer<()> {
        let name = request.into_inner().name;
        self.state().canceled.push(name);
        self.enter("CancelOperation").await?;
        Ok(Response::new(()))
    }

    async fn wait_operation(&self, _: Request<WaitOperationRequest>) -> Answer<Operation> {
        Err(Status::unimplemented("WaitOperation"))
    }
}

/// A digest as it travels.
pub fn sent(digest: &Digest) -> Option<reapi::Digest> {
    Some(encode::digest(digest))
}
