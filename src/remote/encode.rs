//! From domain types to calls.

use super::decode::{self, Executed};
use super::error::RemoteError;
use super::limits::{BATCH_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::action::{Digest, DigestFunction, encode};
use bytes::Bytes;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The header that says which build a request is of.
const METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// A connection to a peer. Clones share it.
#[derive(Clone, Debug)]
pub struct Remote {
    channel: Channel,
    instance: String,
    function: DigestFunction,
    /// Encoded RequestMetadata.
    metadata: Bytes,
}

fn refused(call: &'static str) -> impl FnOnce(Status) -> RemoteError {
    move |status| RemoteError::Status {
        call,
        code: format!("{:?}", status.code()),
        message: status.message().to_owned(),
    }
}

fn wire(function: DigestFunction) -> i32 {
    let value = match function {
        DigestFunction::Sha256 => reapi::digest_function::Value::Sha256,
        DigestFunction::Blake3 => reapi::digest_function::Value::Blake3,
    };
    value.into()
}

impl Remote {
    /// Connects to `host:port`, `grpc://host:port` or `unix:/path`.
    ///
    /// # Errors
    /// [`RemoteError::Address`], [`RemoteError::Connect`].
    pub async fn connect(
        address: &str,
        instance: &str,
        function: DigestFunction,
    ) -> Result<Remote, RemoteError> {
        let uri = match address.strip_prefix("grpc://") {
            Some(rest) => format!("http://{rest}"),
            None if address.starts_with("unix:") => address.to_owned(),
            None => format!("http://{address}"),
        };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|why| RemoteError::Address { address: address.to_owned(), why: why.to_string() })?;
        let channel = endpoint
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|why| RemoteError::Connect { address: address.to_owned(), why: why.to_string() })?;
        Ok(Remote { channel, instance: instance.to_owned(), function, metadata: Bytes::new() })
    }

    /// The same connection, for a build of this name: what a server is fair between.
    #[must_use]
    pub fn of_invocation(mut self, name: &str) -> Remote {
        let metadata = reapi::RequestMetadata {
            tool_invocation_id: name.to_owned(),
            ..reapi::RequestMetadata::default()
        };
        self.metadata = metadata.encode_to_vec().into();
        self
    }

    /// A request, with the name of the build in its header.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.metadata.is_empty() {
            request.metadata_mut().insert_bin(METADATA, MetadataValue::from_bytes(&self.metadata));
        }
        request
    }

    fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Which of these blobs the peer does not have.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, RemoteError> {
        const CALL: &str = "FindMissingBlobs";
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: digests.iter().map(encode::digest).collect(),
            digest_function: wire(self.function),
        };
        let answer = self.cas().find_missing_blobs(request).await.map_err(refused(CALL))?.into_inner();
        answer
            .missing_blob_digests
            .iter()
            .map(|sent| decode::digest(CALL, self.function, Some(sent)))
            .collect()
    }

    /// Uploads blobs of at most [`BATCH_BYTES_MAX`] bytes each, in as few batches as possible.
    ///
    /// # Errors
    /// [`RemoteError`], also when the peer refuses one of them.
    pub async fn upload(&self, blobs: Vec<(Digest, Bytes)>) -> Result<(), RemoteError> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (digest, data) in blobs {
            if bytes + data.len() > BATCH_BYTES_MAX && !batch.is_empty() {
                self.upload_batch(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += data.len();
            batch.push(reapi::batch_update_blobs_request::Request {
                digest: Some(encode::digest(&digest)),
                data,
                compressor: 0,
            });
        }
        if batch.is_empty() { Ok(()) } else { self.upload_batch(batch).await }
    }

    async fn upload_batch(
        &self,
        requests: Vec<reapi::batch_update_blobs_request::Request>,
    ) -> Result<(), RemoteError> {
        const CALL: &str = "BatchUpdateBlobs";
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests,
            digest_function: wire(self.function),
        };
        let answer = self.cas().batch_update_blobs(request).await.map_err(refused(CALL))?.into_inner();
        let failed =
            answer.responses.into_iter().filter_map(|one| one.status).find(|status| status.code != 0);
        match failed {
            None => Ok(()),
            Some(status) => Err(RemoteError::Status {
                call: CALL,
                code: format!("{:?}", tonic::Code::from_i32(status.code)),
                message: status.message,
            }),
        }
    }

    /// Downloads a blob of at most [`BATCH_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::Corrupt`] if the bytes are others.
    pub async fn download(&self, digest: &Digest) -> Result<Bytes, RemoteError> {
        const CALL: &str = "BatchReadBlobs";
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: vec![encode::digest(digest)],
            acceptable_compressors: Vec::new(),
            digest_function: wire(self.function),
        };
        let answer = self.cas().batch_read_blobs(request).await.map_err(refused(CALL))?.into_inner();
        let Some(one) = answer.responses.into_iter().next() else {
            return Err(RemoteError::Malformed { call: CALL, why: "no blob came".to_owned() });
        };
        if let Some(status) = one.status.filter(|status| status.code != 0) {
            let code = format!("{:?}", tonic::Code::from_i32(status.code));
            return Err(RemoteError::Status { call: CALL, code, message: status.message });
        }
        let found = Digest::of(digest.function, &one.data);
        if found == *digest { Ok(one.data) } else { Err(RemoteError::Corrupt(*digest, found)) }
    }

    /// Has an action run, or its result taken from the cache, and waits for the end.
    ///
    /// # Errors
    /// [`RemoteError`], when there is no response; a response with a bad status is not an error here.
    pub async fn execute(&self, action: &Digest, skip_cache_lookup: bool) -> Result<Executed, RemoteError> {
        const CALL: &str = "Execute";
        let request = reapi::ExecuteRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(encode::digest(action)),
            skip_cache_lookup,
            digest_function: wire(self.function),
            ..reapi::ExecuteRequest::default()
        };
        let mut client =
            ExecutionClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = client.execute(self.request(request)).await.map_err(refused(CALL))?.into_inner();
        let mut done = None;
        // To its end: a stream that is dropped is reset, and a connection bears only so many resets.
        while let Some(operation) = stream.message().await.map_err(refused(CALL))? {
            done = done.or_else(|| operation.done.then_some(operation));
        }
        match done {
            Some(operation) => decode::executed(self.function, operation),
            None => Err(RemoteError::Malformed {
                call: CALL,
                why: "the stream ended before the operation".to_owned(),
            }),
        }
    }
}
