//! ByteStream: blobs of any size, up and down, as they are or as zstd.

use super::blobs::Disk;
use super::context::Context;
use super::instance::Instance;
use super::limits::{INLINE_READ_BYTES, INLINE_WRITE_BYTES, READ_BYTES, RECHECK_BYTES, ZSTD_LEVEL};
use super::name::{Compression, ReadName, WriteName, parse_read, parse_write};
use super::pull::{Pull, Source};
use super::status;
use super::uploads::Writing;
use bytes::Bytes;
use fulgurite_proto::google::bytestream::byte_stream_server::ByteStream;
use fulgurite_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// If a call has this header, it must equal the resource name.
const NAME_HEADER: &str = "build.bazel.remote.execution.v2.resource-name";

/// The service.
#[derive(Clone)]
pub(super) struct ByteStreamService {
    pub(super) context: Arc<Context>,
}

/// Pieces of a file.
pub(super) struct FileSource {
    reader: Box<dyn Read + Send>,
    context: Arc<Context>,
}

impl Source for FileSource {
    type Item = ReadResponse;

    fn next(&mut self) -> Option<Result<ReadResponse, Status>> {
        let mut data = vec![0; READ_BYTES];
        let mut filled = 0;
        while filled < data.len() {
            match self.reader.read(&mut data[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(Status::internal(format!("cannot read the blob: {error}")))),
            }
        }
        data.truncate(filled);
        self.context.metrics.bytes_sent.add(filled as u64);
        (filled > 0).then(|| Ok(ReadResponse { data: data.into() }))
    }
}

fn check_header(headers: &MetadataMap, name: &str) -> Result<(), Status> {
    match headers.get(NAME_HEADER) {
        Some(header) if header.as_bytes() != name.as_bytes() => {
            Err(Status::invalid_argument(format!("the header {NAME_HEADER} is not the resource name")))
        }
        _ => Ok(()),
    }
}

impl ByteStreamService {
    /// What of a blob of this size a request is for.
    fn range(name: &ReadName, request: &ReadRequest) -> Result<(u64, u64), Status> {
        let size = name.digest.size_bytes;
        let offset = u64::try_from(request.read_offset).ok().filter(|offset| *offset <= size);
        let offset = offset.ok_or_else(|| {
            let sent = request.read_offset;
            Status::out_of_range(format!("read_offset {sent} is not within a blob of {size} bytes"))
        })?;
        let limit = u64::try_from(request.read_limit)
            .map_err(|_| Status::invalid_argument("read_limit is negative"))?;
        if limit > 0 && name.compression != Compression::Identity {
            return Err(Status::invalid_argument("compressed blobs are read without a read_limit"));
        }
        let left = size - offset;
        Ok((offset, if limit == 0 { left } else { left.min(limit) }))
    }

    fn open(
        self,
        instance: &Instance,
        name: &ReadName,
        offset: u64,
        length: u64,
    ) -> Result<Pull<FileSource>, Status> {
        let disk: Disk = self.context.disk.clone();
        if super::blobs::is_the_empty_blob(&name.digest) {
            let frame = match name.compression {
                Compression::Identity => None,
                Compression::Zstd => Some(ReadResponse { data: compressed(&[])? }),
            };
            return Ok(Pull::known(disk, frame));
        }
        let blob = instance.blobs.open(&name.digest).map_err(|error| status::of_blob(&error))?;
        let mut file: File = blob.file;
        let failed = |error: std::io::Error| Status::internal(format!("cannot read the blob: {error}"));
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        }
        let mut rest = file.take(length);
        if length <= INLINE_READ_BYTES {
            let mut data = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            rest.read_to_end(&mut data).map_err(failed)?;
            let data = match name.compression {
                Compression::Identity => data.into(),
                Compression::Zstd => compressed(&data)?,
            };
            self.context.metrics.bytes_sent.add(data.len() as u64);
            return Ok(Pull::known(
                disk,
                Some(ReadResponse { data }).filter(|answer| !answer.data.is_empty()),
            ));
        }
        let reader: Box<dyn Read + Send> = match name.compression {
            Compression::Identity => Box::new(rest),
            Compression::Zstd => {
                Box::new(zstd::stream::read::Encoder::new(rest, ZSTD_LEVEL).map_err(failed)?)
            }
        };
        Ok(Pull::new(disk, FileSource { reader, context: self.context }))
    }

    /// Takes the pieces of an upload until the last one came, or somebody else has brought the blob.
    async fn take(
        &self,
        instance: &Instance,
        name: &WriteName,
        first: WriteRequest,
        stream: &mut Streaming<WriteRequest>,
    ) -> Result<i64, Status> {
        let offset = offset_of(&first)?;
        let mut writing = instance.uploads.begin(&instance.blobs, name, offset)?;
        let resource_name = first.resource_name.clone();
        let mut message = first;
        let mut unchecked = 0;
        loop {
            if !message.resource_name.is_empty() && message.resource_name != resource_name {
                return Err(Status::invalid_argument("the resource name changes within the stream"));
            }
            if offset_of(&message)? != writing.offset() {
                return Err(Status::invalid_argument(format!(
                    "write_offset is {}, but {} bytes are here",
                    message.write_offset,
                    writing.offset()
                )));
            }
            let received = message.data.len() as u64;
            self.context.metrics.bytes_received.add(received);
            self.store(name, &mut writing, message.data, message.finish_write).await?;
            if message.finish_write {
                return Ok(committed(name));
            }
            unchecked += received;
            if unchecked >= RECHECK_BYTES {
                unchecked = 0;
                if instance.blobs.has(&name.digest) {
                    return Ok(committed(name));
                }
            }
            match self.next(stream).await? {
                Some(next) => message = next,
                // Not finished, and so not refused: it may go on in another stream.
                None => return Ok(i64::try_from(writing.offset()).unwrap_or(i64::MAX)),
            }
        }
    }

    /// The next message, which must come in time: a client that says nothing would hold its upload for ever.
    async fn next(&self, stream: &mut Streaming<WriteRequest>) -> Result<Option<WriteRequest>, Status> {
        let patience = self.context.limits.next_message_within;
        match tokio::time::timeout(patience, stream.message()).await {
            Ok(message) => message,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "nothing came of this upload for {} s",
                patience.as_secs()
            ))),
        }
    }

    async fn store(
        &self,
        name: &WriteName,
        writing: &mut Writing,
        data: Bytes,
        finish: bool,
    ) -> Result<(), Status> {
        let mut upload = writing.lend()?;
        // A small piece of zstd may hold gigabytes, up to what was announced.
        let is_plain =
            name.compression == Compression::Identity || name.digest.size_bytes <= INLINE_WRITE_BYTES as u64;
        let is_short = is_plain && data.len() <= INLINE_WRITE_BYTES;
        let work = move || {
            upload.take(&data)?;
            if finish { upload.finish().map(|()| None) } else { Ok(Some(upload)) }
        };
        let stored = if is_short { work() } else { self.context.disk.run(work).await? };
        if let Some(upload) = stored? {
            writing.restore(upload);
        }
        Ok(())
    }
}

fn compressed(data: &[u8]) -> Result<Bytes, Status> {
    zstd::bulk::compress(data, ZSTD_LEVEL)
        .map(Bytes::from)
        .map_err(|error| Status::internal(format!("cannot compress: {error}")))
}

fn offset_of(message: &WriteRequest) -> Result<u64, Status> {
    u64::try_from(message.write_offset).map_err(|_| Status::invalid_argument("write_offset is negative"))
}

/// What a finished upload is answered with.
fn committed(name: &WriteName) -> i64 {
    match name.compression {
        Compression::Identity => i64::try_from(name.digest.size_bytes).unwrap_or(i64::MAX),
        Compression::Zstd => -1,
    }
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = Pull<FileSource>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (headers, call, request) = request.into_parts();
        check_header(&headers, &request.resource_name)?;
        let name = parse_read(&request.resource_name)?;
        let instance = self.context.instances.open(&call, &name.instance)?;
        let (offset, length) = Self::range(&name, &request)?;
        instance.blobs.bring(&[name.digest]).await;
        self.clone().open(&instance, &name, offset, length).map(Response::new)
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let (headers, call, mut stream) = request.into_parts();
        let first = self.next(&mut stream).await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the upload has no message"))?;
        check_header(&headers, &first.resource_name)?;
        let name = parse_write(&first.resource_name)?;
        let instance = self.context.instances.open(&call, &name.instance)?;
        self.context.check_blob_size(&name.digest)?;
        let committed_size = if instance.blobs.has(&name.digest) {
            committed(&name)
        } else {
            self.take(&instance, &name, first, &mut stream).await?
        };
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = parse_write(&request.get_ref().resource_name)?;
        let instance = self.context.instances.open(request.extensions(), &name.instance)?;
        let complete = instance.blobs.has(&name.digest);
        let committed_size = if complete {
            committed(&name)
        } else if name.compression == Compression::Zstd {
            // It begins anew: what was sent says nothing about what was in it.
            0
        } else {
            // Unknown is not an error: clients ask before they begin, and begin at 0.
            i64::try_from(instance.uploads.offset(&name).unwrap_or(0)).unwrap_or(i64::MAX)
        };
        Ok(Response::new(QueryWriteStatusResponse { committed_size, complete }))
    }
}
