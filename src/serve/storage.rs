//! ContentAddressableStorage: many small blobs at once, and trees.

use super::compression::Decompressor;
use super::context::Context;
use super::instance::{Instance, digest, function};
use super::limits::{
    BATCH_BLOBS_MAX, BATCH_BYTES_MAX, FIND_DIGESTS_MAX, PAGE_BYTES_MAX, PAGE_DIRECTORIES_MAX,
};
use super::pull::{Pull, Source};
use super::status;
use super::walk::{Step, Walk};
use crate::action::{Digest, DigestFunction, encode};
use bytes::Bytes;
use fulgurite_proto::google::rpc;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::compressor::Value as Compressor;
use fulgurite_proto::reapi::content_addressable_storage_server::ContentAddressableStorage;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone)]
pub(super) struct StorageService {
    pub(super) context: Arc<Context>,
}

/// Lookups that are made on the thread of the call.
const INLINE_LOOKUPS: usize = 64;

fn digests(function: DigestFunction, sent: &[reapi::Digest]) -> Result<Vec<Digest>, Status> {
    sent.iter().map(|sent| digest(function, "digest", Some(sent))).collect()
}

fn check_batch(blobs: usize, bytes: u64) -> Result<(), Status> {
    if blobs > BATCH_BLOBS_MAX {
        return Err(Status::invalid_argument(format!(
            "a batch of {blobs} blobs is too large: {BATCH_BLOBS_MAX} are possible"
        )));
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a batch of {bytes} bytes is too large: max_batch_total_size_bytes is {BATCH_BYTES_MAX}"
        )));
    }
    Ok(())
}

fn ok() -> rpc::Status {
    rpc::Status::default()
}

/// Stores one blob of a batch.
fn put(instance: &Instance, digest: Digest, data: &[u8], compressor: i32) -> Result<(), Status> {
    match Compressor::try_from(compressor) {
        Ok(Compressor::Identity) => instance.blobs.put(digest, data).map_err(|error| status::of_blob(&error)),
        Ok(Compressor::Zstd) => {
            let plain = decompress(data, digest.size_bytes)?;
            instance.blobs.put(digest, &plain).map_err(|error| status::of_blob(&error))
        }
        _ => Err(Status::invalid_argument(format!("compressor {compressor} is not supported: ZSTD is"))),
    }
}

fn decompress(data: &[u8], size_bytes: u64) -> Result<Vec<u8>, Status> {
    let failed = |why: String| Status::invalid_argument(why);
    let mut decompressor = Decompressor::new().map_err(|error| Status::internal(error.to_string()))?;
    let mut plain = Vec::new();
    decompressor
        .feed(data, |bytes| {
            plain.extend_from_slice(bytes);
            if plain.len() as u64 > size_bytes { Err("more bytes than the digest says") } else { Ok(()) }
        })
        .map_err(|error| failed(error.to_string()))?;
    if decompressor.is_complete() { Ok(plain) } else { Err(failed("the zstd frame is cut short".to_owned())) }
}

/// Pages of a tree.
pub(super) struct TreeSource {
    walk: Walk,
    /// Directories that were given in earlier answers to this client.
    skip: usize,
    given: usize,
    page_directories: usize,
    /// Read, but had no room in the page before.
    ahead: Option<(Box<reapi::Directory>, usize)>,
    over: bool,
}

impl TreeSource {
    fn next_directory(&mut self) -> Result<Option<(Box<reapi::Directory>, usize)>, Status> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        while let Some(step) = self.walk.next() {
            match step? {
                // What is not there is left out.
                Step::Missing(_) => {}
                Step::Directory(..) if self.skip > 0 => self.skip -= 1,
                Step::Directory(directory, size) => return Ok(Some((directory, size))),
            }
        }
        Ok(None)
    }

    fn page(&mut self) -> Result<reapi::GetTreeResponse, Status> {
        let mut directories = Vec::new();
        let mut bytes = 0;
        while let Some((directory, size)) = self.next_directory()? {
            let is_full = directories.len() >= self.page_directories || bytes + size > PAGE_BYTES_MAX;
            if is_full && !directories.is_empty() {
                self.ahead = Some((directory, size));
                break;
            }
            bytes += size;
            directories.push(*directory);
        }
        self.given += directories.len();
        self.over = self.ahead.is_none();
        let next_page_token = if self.over { String::new() } else { self.given.to_string() };
        Ok(reapi::GetTreeResponse { directories, next_page_token })
    }
}

impl Source for TreeSource {
    type Item = reapi::GetTreeResponse;

    fn next(&mut self) -> Option<Result<reapi::GetTreeResponse, Status>> {
        if self.over {
            return None;
        }
        let page = self.page();
        self.over |= page.is_err();
        Some(page)
    }
}

impl StorageService {
    fn read_batch(
        &self,
        instance: &Instance,
        digests: Vec<Digest>,
    ) -> Vec<reapi::batch_read_blobs_response::Response> {
        let read = |digest: Digest| {
            let (data, status) = match instance.blobs.read(&digest, BATCH_BYTES_MAX) {
                Ok(data) => (data, ok()),
                Err(error) => (Bytes::new(), status::from_call(&status::of_blob(&error))),
            };
            self.context.metrics.bytes_sent.add(data.len() as u64);
            reapi::batch_read_blobs_response::Response {
                digest: Some(encode::digest(&digest)),
                data,
                compressor: Compressor::Identity as i32,
                status: Some(status),
            }
        };
        digests.into_iter().map(read).collect()
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for StorageService {
    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        let (_, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        if request.blob_digests.len() > FIND_DIGESTS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} digests are too many: {FIND_DIGESTS_MAX} are possible at once",
                request.blob_digests.len()
            )));
        }
        let digests = digests(function(request.digest_function)?, &request.blob_digests)?;
        let count = digests.len();
        let work = move || instance.blobs.lacking(digests);
        let missing = if count <= INLINE_LOOKUPS { work() } else { self.context.disk.run(work).await? };
        Ok(Response::new(reapi::FindMissingBlobsResponse {
            missing_blob_digests: missing.iter().map(encode::digest).collect(),
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let (_, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        let function = function(request.digest_function)?;
        let sent: u64 = request.requests.iter().map(|blob| blob.data.len() as u64).sum();
        check_batch(request.requests.len(), sent)?;
        let mut blobs = Vec::with_capacity(request.requests.len());
        let mut claimed = 0u64;
        for blob in request.requests {
            let digest = digest(function, "BatchUpdateBlobsRequest.Request", blob.digest.as_ref())?;
            claimed = claimed.saturating_add(digest.size_bytes);
            blobs.push((digest, blob));
        }
        check_batch(blobs.len(), claimed)?;
        self.context.metrics.bytes_received.add(sent);
        let work = move || {
            let answer = |(digest, blob): (Digest, reapi::batch_update_blobs_request::Request)| {
                let stored = put(&instance, digest, &blob.data, blob.compressor);
                let status = stored.map_or_else(|failed| status::from_call(&failed), |()| ok());
                reapi::batch_update_blobs_response::Response { digest: blob.digest, status: Some(status) }
            };
            blobs.into_iter().map(answer).collect::<Vec<_>>()
        };
        let responses = self.context.disk.run_if_long(claimed, work).await?;
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let (_, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        let digests = digests(function(request.digest_function)?, &request.digests)?;
        let bytes = digests.iter().fold(0u64, |sum, digest| sum.saturating_add(digest.size_bytes));
        check_batch(digests.len(), bytes)?;
        instance.blobs.bring(&digests).await;
        let service = self.clone();
        let work = move || service.read_batch(&instance, digests);
        let responses = self.context.disk.run_if_long(bytes, work).await?;
        Ok(Response::new(reapi::BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = Pull<TreeSource>;

    async fn get_tree(
        &self,
        request: Request<reapi::GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let (_, call, request) = request.into_parts();
        let instance = self.context.instances.open(&call, &request.instance_name)?;
        let root = digest(function(request.digest_function)?, "root_digest", request.root_digest.as_ref())?;
        let size = usize::try_from(request.page_size)
            .map_err(|_| Status::invalid_argument("page_size is negative"))?;
        let skip = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| Status::invalid_argument("page_token is none of ours"))?,
        };
        if !instance.blobs.has(&root) {
            return Err(Status::not_found(format!("the root directory {root} is not in the store")));
        }
        let source = TreeSource {
            walk: Walk::new(instance.blobs.clone(), root),
            skip,
            given: skip,
            page_directories: if size == 0 { PAGE_DIRECTORIES_MAX } else { size.min(PAGE_DIRECTORIES_MAX) },
            ahead: None,
            over: false,
        };
        Ok(Response::new(Pull::new(self.context.disk.clone(), source)))
    }

    async fn split_blob(
        &self,
        _: Request<reapi::SplitBlobRequest>,
    ) -> Result<Response<reapi::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("SplitBlob is not offered: see split_blob_support in the capabilities"))
    }

    async fn splice_blob(
        &self,
        _: Request<reapi::SpliceBlobRequest>,
    ) -> Result<Response<reapi::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("SpliceBlob is not offered: see splice_blob_support in the capabilities"))
    }
}
