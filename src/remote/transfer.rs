//! Blobs to and from a cluster.
//!
//! ```text
//!   upload   known? ─► FindMissingBlobs ─► on its way? wait for it : a task of the cluster's ─► batch, or stream
//!   download small: BatchReadBlobs    large: ByteStream.Read ─► hashed as it comes ─► our store
//! ```
//! Invariants: an upload belongs to the cluster, not to who asked for it: nobody who goes away cancels what others wait
//! for, and no blob is on its way twice; what is downloaded gets its name only after it was hashed, by the store.
//! Limits: what a cluster was seen to have is believed for ten minutes; a stream begins anew when it breaks.

use super::cluster::{Cluster, ClusterError};
use super::decode;
use super::limits::{
    BATCH_BLOBS_MAX, BLOBS_AT_ONCE, FIND_MISSING_MAX, KNOWN_FOR, KNOWN_MAX, MESSAGE_BYTES_MAX, PIECE_BYTES,
    TRANSFER_BYTES_PER_SECOND_MIN,
};
use crate::action::{Digest, encode};
use crate::cas::{Cas, CasError};
use bytes::Bytes;
use fulgurite_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use fulgurite_proto::google::bytestream::{ReadRequest, WriteRequest};
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How an upload ended; `None` while it has not.
type Progress = Option<Result<(), ClusterError>>;

/// What is on its way, and what is known to be there.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    uploads: HashMap<Digest, watch::Receiver<Progress>>,
    tasks: JoinSet<()>,
    known: HashMap<Digest, Instant>,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something that nobody waits for. It ends with the cluster.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.lock();
        while state.tasks.try_join_next().is_some() {}
        state.tasks.spawn(task);
    }

    fn learn(&self, digests: impl IntoIterator<Item = Digest>) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.known.len() > KNOWN_MAX {
            state.known.retain(|_, since| now.duration_since(*since) < KNOWN_FOR / 2);
            if state.known.len() > KNOWN_MAX {
                state.known.clear();
            }
        }
        state.known.extend(digests.into_iter().map(|digest| (digest, now)));
    }

    fn unknown(&self, digests: &[Digest]) -> Vec<Digest> {
        let now = Instant::now();
        let state = self.lock();
        let mut seen = HashSet::new();
        let is_known = |digest: &Digest| {
            state.known.get(digest).is_some_and(|since| now.duration_since(*since) < KNOWN_FOR)
        };
        digests
            .iter()
            .filter(|digest| !digest.is_empty() && !is_known(digest) && seen.insert(**digest))
            .copied()
            .collect()
    }
}

/// How long a transfer may take: what a call may, and the time of a slow line.
fn transfer_within(call_within: Duration, bytes: u64) -> Duration {
    call_within + Duration::from_secs(bytes / TRANSFER_BYTES_PER_SECOND_MIN)
}

fn store(error: &CasError) -> ClusterError {
    ClusterError::Store(error.to_string())
}

impl Cluster {
    fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn within(&self, bytes: u64) -> Duration {
        transfer_within(self.shared.options.call_within, bytes)
    }

    /// Forgets that the cluster has these: it said that it has not.
    pub fn forget(&self, digests: &[Digest]) {
        let mut state = self.shared.transfers.lock();
        digests.iter().for_each(|digest| {
            state.known.remove(digest);
        });
    }

    /// Which of these blobs the cluster does not have, each once.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, ClusterError> {
        const CALL: &str = "FindMissingBlobs";
        let unknown = self.shared.transfers.unknown(digests);
        let mut missing = Vec::new();
        for part in unknown.chunks(FIND_MISSING_MAX) {
            let ask = || async {
                let request = reapi::FindMissingBlobsRequest {
                    instance_name: self.instance(),
                    blob_digests: part.iter().map(encode::digest).collect(),
                    digest_function: self.wire_function(),
                };
                self.cas().find_missing_blobs(self.request(request)).await
            };
            let answer = self.call(CALL, ask).await?.into_inner();
            let asked: HashSet<Digest> = part.iter().copied().collect();
            let mut lacking = HashSet::new();
            for sent in &answer.missing_blob_digests {
                let digest = decode::digest(CALL, self.function(), Some(sent)).map_err(decode::malformed)?;
                if !asked.contains(&digest) {
                    let why = format!("{digest} was not asked for");
                    return Err(ClusterError::Malformed { call: CALL, why });
                }
                lacking.insert(digest);
            }
            self.shared.transfers.learn(part.iter().filter(|digest| !lacking.contains(digest)).copied());
            missing.extend(part.iter().filter(|digest| lacking.contains(digest)));
        }
        Ok(missing)
    }

    /// Sees to it that the cluster has these blobs, which `from` has. What is on its way already is waited for.
    ///
    /// # Errors
    /// [`ClusterError`]: of the first upload that failed.
    pub async fn upload(&self, from: &Cas, digests: &[Digest]) -> Result<u64, ClusterError> {
        let missing = self.find_missing(digests).await?;
        let capabilities = self.capabilities().await?;
        let mut waits = Vec::with_capacity(missing.len());
        let mut bytes = 0;
        {
            let mut state = self.shared.transfers.lock();
            while state.tasks.try_join_next().is_some() {}
            let mut batch: Vec<(Digest, watch::Sender<Progress>)> = Vec::new();
            let mut batch_bytes = 0;
            let mut batches = Vec::new();
            for digest in missing {
                if let Some(going) = state.uploads.get(&digest) {
                    waits.push(going.clone());
                    continue;
                }
                bytes += digest.size_bytes;
                let (sender, receiver) = watch::channel(None);
                state.uploads.insert(digest, receiver.clone());
                waits.push(receiver);
                let size = usize::try_from(digest.size_bytes).unwrap_or(usize::MAX);
                if size > capabilities.batch_bytes_max / 2 {
                    batches.push(vec![(digest, sender)]);
                    continue;
                }
                if batch_bytes + size > capabilities.batch_bytes_max || batch.len() == BATCH_BLOBS_MAX {
                    batches.push(std::mem::take(&mut batch));
                    batch_bytes = 0;
                }
                batch_bytes += size;
                batch.push((digest, sender));
            }
            batches.push(batch);
            for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
                let (cluster, from) = (self.clone(), from.clone());
                state.tasks.spawn(async move { cluster.upload_batch(from, batch, capabilities.zstd).await });
            }
        }
        for mut wait in waits {
            let ended = wait.wait_for(Option::is_some).await;
            let gone = || ClusterError::Store("an upload was given up".to_owned());
            ended.map_err(|_| gone())?.clone().unwrap_or_else(|| Err(gone()))?;
        }
        Ok(bytes)
    }

    /// Uploads blobs in one call, and tells who waits.
    async fn upload_batch(&self, from: Cas, batch: Vec<(Digest, watch::Sender<Progress>)>, zstd: bool) {
        let digests: Vec<Digest> = batch.iter().map(|(digest, _)| *digest).collect();
        let results = match digests.as_slice() {
            [one] => vec![self.upload_stream(&from, *one, zstd).await],
            many => self.upload_messages(&from, many).await,
        };
        let done =
            digests.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(digest, _)| *digest);
        self.shared.transfers.learn(done);
        let mut state = self.shared.transfers.lock();
        for ((digest, sender), result) in batch.into_iter().zip(results) {
            state.uploads.remove(&digest);
            sender.send_replace(Some(result));
        }
    }

    async fn upload_messages(&self, from: &Cas, digests: &[Digest]) -> Vec<Result<(), ClusterError>> {
        const CALL: &str = "BatchUpdateBlobs";
        let mut read = Vec::with_capacity(digests.len());
        for digest in digests {
            match from.read(digest, digest.size_bytes) {
                Ok(bytes) => read.push((*digest, Bytes::from(bytes))),
                Err(error) => return vec![Err(store(&error)); digests.len()],
            }
        }
        let send = || async {
            let one = |(digest, data): &(Digest, Bytes)| reapi::batch_update_blobs_request::Request {
                digest: Some(encode::digest(digest)),
                data: data.clone(),
                compressor: 0,
            };
            let request = reapi::BatchUpdateBlobsRequest {
                instance_name: self.instance(),
                requests: read.iter().map(one).collect(),
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
        let result = |digest: &Digest| {
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
        digests.iter().map(result).collect()
    }

    async fn upload_stream(&self, from: &Cas, digest: Digest, zstd: bool) -> Result<(), ClusterError> {
        const CALL: &str = "ByteStream.Write";
        let zstd = zstd && digest.size_bytes >= PIECE_BYTES as u64;
        let write = || async {
            let name = self.write_name(&digest, zstd);
            let opened = from.open_blob(&digest);
            let blob = opened.map_err(|error| Status::failed_precondition(error.to_string()))?;
            let (sender, receiver) = tokio::sync::mpsc::channel(2);
            let read = tokio::task::spawn_blocking(move || send_pieces(blob.file, &name, zstd, &sender));
            let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let written = ByteStreamClient::new(self.channel()).write(self.request(stream)).await;
            // The reader ends with the call: its channel is closed.
            let sent = read.await.map_err(|error| Status::internal(error.to_string()))?;
            let answer = written?.into_inner();
            // Who has the blob already may answer before all of it was sent.
            let already = answer.committed_size == -1 || answer.committed_size as u64 == digest.size_bytes;
            match sent {
                Ok(bytes) if already || answer.committed_size as u64 == bytes => Ok(()),
                Err(Some(error)) => Err(Status::failed_precondition(error.to_string())),
                Err(None) if already => Ok(()),
                _ => Err(Status::data_loss(format!(
                    "the remote says that it has {} bytes of {digest}",
                    answer.committed_size
                ))),
            }
        };
        self.call_within(CALL, self.within(digest.size_bytes), write).await
    }

    fn write_name(&self, digest: &Digest, zstd: bool) -> String {
        let mut word = [0u8; 16];
        // Two uploads of one name would only get in each other's way.
        let _ = rustix::rand::getrandom(&mut word, rustix::rand::GetRandomFlags::empty());
        word[6] = word[6] & 0x0f | 0x40;
        word[8] = word[8] & 0x3f | 0x80;
        let hex: String = word.iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        format!("{}uploads/{uuid}/{}", self.prefix(), Self::blob_name(digest, zstd))
    }

    fn prefix(&self) -> String {
        let instance = &self.shared.options.instance;
        if instance.is_empty() { String::new() } else { format!("{instance}/") }
    }

    fn blob_name(digest: &Digest, zstd: bool) -> String {
        let function = match digest.function {
            // The functions that were there first are known by their lengths.
            crate::action::DigestFunction::Sha256 => "",
            crate::action::DigestFunction::Blake3 => "blake3/",
        };
        let kind = if zstd { "compressed-blobs/zstd" } else { "blobs" };
        format!("{kind}/{function}{}/{}", digest.hex(), digest.size_bytes)
    }

    /// Fetches these blobs into `into`, each verified. What is there already is not fetched.
    ///
    /// # Errors
    /// [`ClusterError`]: of the first that failed. What came before stays.
    pub async fn download(&self, into: &Cas, digests: &[Digest]) -> Result<u64, ClusterError> {
        let mut wanted = into.missing(digests.iter().filter(|digest| !digest.is_empty()).copied());
        wanted.sort_unstable_by_key(|digest| (digest.size_bytes, digest.hex()));
        wanted.dedup();
        let capabilities = self.capabilities().await?;
        let mut batches = vec![Vec::new()];
        let mut batch_bytes = 0;
        for digest in &wanted {
            let size = usize::try_from(digest.size_bytes).unwrap_or(usize::MAX);
            let last = batches.len() - 1;
            let full =
                batch_bytes + size > capabilities.batch_bytes_max || batches[last].len() == BATCH_BLOBS_MAX;
            if full && !batches[last].is_empty() {
                batches.push(Vec::new());
                batch_bytes = 0;
            }
            batch_bytes = batch_bytes.saturating_add(size);
            if let Some(batch) = batches.last_mut() {
                batch.push(*digest);
            }
        }
        // Tasks of this call alone: who goes away ends them.
        let mut tasks = JoinSet::new();
        for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
            if tasks.len() >= BLOBS_AT_ONCE {
                joined(tasks.join_next().await)?;
            }
            let (cluster, into) = (self.clone(), into.clone());
            tasks.spawn(async move {
                match batch.as_slice() {
                    [one] => cluster.download_stream(&into, *one, capabilities.zstd).await,
                    many => cluster.download_messages(&into, many).await,
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            joined(Some(ended))?;
        }
        Ok(wanted.iter().map(|digest| digest.size_bytes).sum())
    }

    async fn download_messages(&self, into: &Cas, digests: &[Digest]) -> Result<(), ClusterError> {
        const CALL: &str = "BatchReadBlobs";
        let ask = || async {
            let request = reapi::BatchReadBlobsRequest {
                instance_name: self.instance(),
                digests: digests.iter().map(encode::digest).collect(),
                acceptable_compressors: Vec::new(),
                digest_function: self.wire_function(),
            };
            self.cas().batch_read_blobs(self.request(request)).await
        };
        let total = digests.iter().map(|digest| digest.size_bytes).sum();
        let answer = self.call_within(CALL, self.within(total), ask).await?.into_inner();
        let mut wanted: HashSet<Digest> = digests.iter().copied().collect();
        let mut missing = Vec::new();
        for one in answer.responses {
            let digest =
                decode::digest(CALL, self.function(), one.digest.as_ref()).map_err(decode::malformed)?;
            if !wanted.remove(&digest) {
                let why = format!("{digest} was not asked for");
                return Err(ClusterError::Malformed { call: CALL, why });
            }
            match one.status.filter(|status| status.code != 0) {
                None => keep(into, digest, &one.data)?,
                Some(status) if status.code == Code::NotFound as i32 => missing.push(digest),
                Some(status) => {
                    let code = Code::from_i32(status.code);
                    return Err(ClusterError::Status { call: CALL, code, message: status.message });
                }
            }
        }
        missing.extend(wanted);
        if missing.is_empty() { Ok(()) } else { Err(ClusterError::Missing(missing)) }
    }

    async fn download_stream(&self, into: &Cas, digest: Digest, zstd: bool) -> Result<(), ClusterError> {
        const CALL: &str = "ByteStream.Read";
        let zstd = zstd && digest.size_bytes >= PIECE_BYTES as u64;
        let name = format!("{}{}", self.prefix(), Self::blob_name(&digest, zstd));
        // What is wrong with the bytes is no reason to ask for them again at once.
        let refused = std::sync::Mutex::new(None);
        let read = || async {
            let request = ReadRequest { resource_name: name.clone(), read_offset: 0, read_limit: 0 };
            let mut client =
                ByteStreamClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut stream = client.read(self.request(request)).await?.into_inner();
            let bad = |error: ClusterError| {
                let status = Status::failed_precondition(error.to_string());
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                status
            };
            let writer = into.writer(digest).map_err(|error| bad(store(&error)))?;
            let mut sink = super::sink::Sink::new(writer, digest, zstd).map_err(bad)?;
            while let Some(message) = stream.message().await? {
                sink.take(&message.data).map_err(bad)?;
            }
            sink.finish().map_err(bad)
        };
        let ended = self.call_within(CALL, self.within(digest.size_bytes), read).await;
        match (ended, refused.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(error)) => Err(error),
            (Err(ClusterError::Status { code: Code::NotFound, .. }), None) => {
                Err(ClusterError::Missing(vec![digest]))
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn joined(
    ended: Option<Result<Result<(), ClusterError>, tokio::task::JoinError>>,
) -> Result<(), ClusterError> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(ClusterError::Store(format!("a download has failed: {error}"))),
    }
}

/// Stores bytes that must be those of a digest.
pub(super) fn keep(into: &Cas, digest: Digest, bytes: &[u8]) -> Result<(), ClusterError> {
    let got = Digest::of(digest.function, bytes);
    if got != digest {
        return Err(ClusterError::Corrupt { wanted: digest, got: got.to_string() });
    }
    into.put(digest, bytes).map_err(|error| store(&error))
}

/// Reads a file and sends it in pieces. `Err(None)`: nobody takes them any more.
fn send_pieces(
    mut file: std::fs::File,
    name: &str,
    zstd: bool,
    sender: &tokio::sync::mpsc::Sender<WriteRequest>,
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
