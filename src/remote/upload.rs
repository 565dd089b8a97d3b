//! Blobs to a cluster.
//!
//! ```text
//!   known? ─► FindMissingBlobs ─► on its way? wait for it : a task of the cluster's ─► batch, or stream
//! ```
//! Invariants: an upload belongs to the cluster, not to who asked for it: nobody who goes away cancels what others wait
//! for, and no blob is on its way twice; a blob that cannot be sent fails those who need it and no others.
//! Limits: a stream begins anew when it breaks; one that stands still is given up.

use super::cluster::{Cluster, ClusterError};
use super::limits::{BATCH_BLOBS_MAX, PIECE_BYTES};
use super::transfer::{Upload, store};
use crate::action::{Digest, encode};
use crate::cas::Cas;
use crate::observe;
use bytes::Bytes;
use fulgurite_proto::google::bytestream::WriteRequest;
use fulgurite_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use fulgurite_proto::reapi;
use std::collections::HashMap;
use std::io::Read;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Code, Status};

/// What goes into one call each.
fn batches(uploads: Vec<Upload>, batch_bytes_max: usize) -> Vec<Vec<Upload>> {
    let (mut batches, mut batch, mut batch_bytes) = (Vec::new(), Vec::new(), 0usize);
    for upload in uploads {
        let size = usize::try_from(upload.digest.size_bytes).unwrap_or(usize::MAX);
        if size > batch_bytes_max / 2 {
            batches.push(vec![upload]);
            continue;
        }
        if batch_bytes + size > batch_bytes_max || batch.len() == BATCH_BLOBS_MAX {
            batches.push(std::mem::take(&mut batch));
            batch_bytes = 0;
        }
        batch_bytes += size;
        batch.push(upload);
    }
    batches.push(batch);
    batches.retain(|batch| !batch.is_empty());
    batches
}

impl Cluster {
    /// Sees to it that the cluster has these blobs, which `from` has. What is on its way already is waited for.
    ///
    /// # Errors
    /// [`ClusterError`]: of the first upload that failed.
    pub async fn upload(&self, from: &Cas, digests: &[Digest]) -> Result<u64, ClusterError> {
        let missing = self.find_missing(digests).await?;
        if missing.is_empty() {
            return Ok(0);
        }
        let capabilities = self.capabilities().await?;
        let transfers = &self.shared.transfers;
        let (uploads, waits) = transfers.begin(missing);
        let bytes = uploads.iter().map(|upload| upload.digest.size_bytes).sum();
        for batch in batches(uploads, capabilities.batch_bytes_max) {
            let (cluster, from) = (self.clone(), from.clone());
            let task = async move { cluster.upload_batch(from, batch, capabilities.zstd).await };
            transfers.spawn(&self.shared.handle, task);
        }
        for mut wait in waits {
            let ended = wait.wait_for(Option::is_some).await;
            let gone = || ClusterError::Store("an upload was given up".to_owned());
            ended.map_err(|_| gone())?.clone().unwrap_or_else(|| Err(gone()))?;
        }
        Ok(bytes)
    }

    /// Uploads blobs in one call, and tells who waits.
    async fn upload_batch(&self, from: Cas, batch: Vec<Upload>, zstd: bool) {
        let digests: Vec<Digest> = batch.iter().map(|upload| upload.digest).collect();
        let results = match self.shared.transfers.upload_turn().await {
            Err(error) => vec![Err(error); digests.len()],
            Ok(_turn) => match digests.as_slice() {
                [one] => vec![self.upload_stream(&from, *one, zstd).await],
                many => self.upload_messages(&from, many).await,
            },
        };
        let sent = digests.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let bytes = sent.map(|(digest, _)| digest.size_bytes).sum();
        observe::metrics().remote_bytes.of(observe::Way::Up).add(bytes);
        self.shared.transfers.end(batch, results);
    }

    async fn upload_messages(&self, from: &Cas, digests: &[Digest]) -> Vec<Result<(), ClusterError>> {
        const CALL: &str = "BatchUpdateBlobs";
        let read = match read_all(from, digests).await {
            Ok(read) => read,
            Err(error) => return vec![Err(error); digests.len()],
        };
        let send = || async {
            let one = |(digest, data): (&Digest, &Bytes)| reapi::batch_update_blobs_request::Request {
                digest: Some(encode::digest(digest)),
                data: data.clone(),
                compressor: 0,
            };
            let there =
                digests.iter().zip(&read).filter_map(|(digest, data)| Some((digest, data.as_ref().ok()?)));
            let request = reapi::BatchUpdateBlobsRequest {
                instance_name: self.instance(),
                requests: there.map(one).collect(),
                digest_function: self.wire_function(),
            };
            self.cas().batch_update_blobs(self.request(request)).await
        };
        let total = digests.iter().map(|digest| digest.size_bytes).sum();
        let answer = match self.call_within(CALL, self.within(total), send).await {
            Ok(answer) => answer.into_inner(),
            Err(error) => return vec![Err(error); digests.len()],
        };
        let mut told: HashMap<(String, i64), _> = answer
            .responses
            .into_iter()
            .filter_map(|one| Some((one.digest.map(|sent| (sent.hash, sent.size_bytes))?, one.status)))
            .collect();
        let result = |(digest, data): (&Digest, Result<Bytes, ClusterError>)| {
            data?;
            let sent = encode::digest(digest);
            match told.remove(&(sent.hash, sent.size_bytes)) {
                None => {
                    Err(ClusterError::Malformed { call: CALL, why: format!("nothing is said of {digest}") })
                }
                Some(Some(status)) if status.code != 0 => {
                    let code = Code::from_i32(status.code);
                    Err(ClusterError::Status { call: CALL, code, message: status.message })
                }
                Some(_) => Ok(()),
            }
        };
        digests.iter().zip(read).map(result).collect()
    }

    async fn upload_stream(&self, from: &Cas, digest: Digest, zstd: bool) -> Result<(), ClusterError> {
        const CALL: &str = "ByteStream.Write";
        let zstd = zstd && digest.size_bytes >= PIECE_BYTES as u64;
        // What is wrong with our own store is nothing that the remote said.
        let refused = Mutex::new(None);
        let own = |error: ClusterError| {
            let status = Status::failed_precondition(error.to_string());
            *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            status
        };
        let write = || async {
            let name = self.write_name(&digest, zstd);
            let blob = from.open_blob(&digest).map_err(|error| own(store(&error)))?;
            let (sender, pieces) = Pieces::new();
            let closing = Closing(pieces.receiver.clone());
            let taken = pieces.taken.clone();
            let read = tokio::task::spawn_blocking(move || send_pieces(blob.file, &name, zstd, &sender));
            let mut client = ByteStreamClient::new(self.channel());
            let written = tokio::select! {
                written = client.write(self.request(pieces)) => written?.into_inner(),
                () = stalled(&taken, self.shared.options.call_within) => {
                    return Err(Status::deadline_exceeded("nothing of it is taken"));
                }
            };
            // Who has the blob already may answer before all of it was sent: then nobody takes the rest.
            drop(closing);
            let sent = read.await.map_err(|error| Status::internal(error.to_string()))?;
            let committed = u64::try_from(written.committed_size).ok();
            let already = written.committed_size == -1 || committed == Some(digest.size_bytes);
            match sent {
                Err(Some(error)) => Err(own(ClusterError::Store(error.to_string()))),
                _ if already => Ok(()),
                Ok(bytes) if committed == Some(bytes) => Ok(()),
                _ => {
                    let committed = written.committed_size;
                    Err(Status::data_loss(format!(
                        "the remote says that it has {committed} bytes of {digest}"
                    )))
                }
            }
        };
        let ended = self.call_within(CALL, self.within(digest.size_bytes), write).await;
        match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) if ended.is_err() => Err(error),
            _ => ended,
        }
    }
}

/// Reads small blobs, away from the threads that wait for peers.
async fn read_all(from: &Cas, digests: &[Digest]) -> Result<Vec<Result<Bytes, ClusterError>>, ClusterError> {
    let (from, digests) = (from.clone(), digests.to_vec());
    let read = move || {
        let one = |digest: &Digest| from.read(digest, digest.size_bytes).map(Bytes::from);
        digests.iter().map(|digest| one(digest).map_err(|error| store(&error))).collect()
    };
    let failed = |error: tokio::task::JoinError| ClusterError::Store(error.to_string());
    tokio::task::spawn_blocking(read).await.map_err(failed)
}

/// Ends when nothing was taken for so long.
async fn stalled(taken: &AtomicU64, within: Duration) {
    let mut before = taken.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(within).await;
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

type Receiver = Arc<Mutex<mpsc::Receiver<WriteRequest>>>;

/// The pieces of a blob, as the transport takes them.
struct Pieces {
    receiver: Receiver,
    taken: Arc<AtomicU64>,
}

impl Pieces {
    fn new() -> (mpsc::Sender<WriteRequest>, Self) {
        let (sender, receiver) = mpsc::channel(2);
        (sender, Pieces { receiver: Arc::new(Mutex::new(receiver)), taken: Arc::default() })
    }
}

impl tokio_stream::Stream for Pieces {
    type Item = WriteRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WriteRequest>> {
        let next = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(context);
        if next.is_ready() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        next
    }
}

/// Ends the reader when nobody wants the rest, though the transport still holds the pieces.
struct Closing(Receiver);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).close();
    }
}

/// Reads a file and sends it in pieces. `Err(None)`: nobody takes them any more.
fn send_pieces(
    mut file: std::fs::File,
    name: &str,
    zstd: bool,
    sender: &mpsc::Sender<WriteRequest>,
) -> Result<u64, Option<std::io::Error>> {
    let mut offset: u64 = 0;
    let mut send = |data: Vec<u8>, finish_write: bool| {
        let request = WriteRequest {
            resource_name: name.to_owned(),
            write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            finish_write,
            data: data.into(),
        };
        offset += request.data.len() as u64;
        sender.blocking_send(request).map_err(|_| None)
    };
    let mut buffer = vec![0; PIECE_BYTES];
    let mut encoder =
        if zstd { Some(zstd::stream::write::Encoder::new(Vec::new(), 1).map_err(Some)?) } else { None };
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Some(error)),
        };
        match &mut encoder {
            None => send(buffer[..count].to_vec(), false)?,
            Some(encoder) => {
                std::io::Write::write_all(encoder, &buffer[..count]).map_err(Some)?;
                if encoder.get_ref().len() >= PIECE_BYTES {
                    send(std::mem::take(encoder.get_mut()), false)?;
                }
            }
        }
    }
    let rest = encoder.map_or(Ok(Vec::new()), zstd::stream::write::Encoder::finish).map_err(Some)?;
    send(rest, true)?;
    Ok(offset)
}
