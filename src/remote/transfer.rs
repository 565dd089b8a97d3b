//! What is on its way to and from a cluster, what is known to be there, and how blobs are named.
//!
//! Invariants: a blob is on its way to the cluster at most once; each of a bounded number of transfers holds one batch
//! in memory. Limits: what a cluster was seen to have is believed for ten minutes.

use super::cluster::{Cluster, ClusterError};
use super::decode;
use super::limits::{
    DOWNLOADS_AT_ONCE, FIND_MISSING_MAX, KNOWN_FOR, KNOWN_MAX, MESSAGE_BYTES_MAX,
    TRANSFER_BYTES_PER_SECOND_MIN, UPLOADS_AT_ONCE,
};
use crate::action::{Digest, encode};
use crate::cas::CasError;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// How an upload ended; `None` while it has not.
pub(super) type Progress = Option<Result<(), ClusterError>>;

/// An upload that is to be made.
pub(super) struct Upload {
    pub(super) digest: Digest,
    waiters: watch::Sender<Progress>,
}

/// What is on its way, and what is known to be there.
#[derive(Debug)]
pub(super) struct Transfers {
    state: Mutex<State>,
    uploads: Semaphore,
    downloads: Semaphore,
}

impl Default for Transfers {
    fn default() -> Self {
        Transfers {
            state: Mutex::default(),
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            downloads: Semaphore::new(DOWNLOADS_AT_ONCE),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    uploads: HashMap<Digest, watch::Receiver<Progress>>,
    tasks: JoinSet<()>,
    cancels: JoinSet<()>,
    known: HashMap<Digest, Instant>,
}

impl State {
    fn knows(&self, digest: &Digest, now: Instant) -> bool {
        self.known.get(digest).is_some_and(|since| now.duration_since(*since) < KNOWN_FOR)
    }
}

async fn turn(of: &Semaphore) -> Result<SemaphorePermit<'_>, ClusterError> {
    of.acquire().await.map_err(|error| ClusterError::Store(error.to_string()))
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more upload may go on.
    pub(super) async fn upload_turn(&self) -> Result<SemaphorePermit<'_>, ClusterError> {
        turn(&self.uploads).await
    }

    /// Waits until one more download may go on.
    pub(super) async fn download_turn(&self) -> Result<SemaphorePermit<'_>, ClusterError> {
        turn(&self.downloads).await
    }

    /// Runs something that nobody waits for, on a runtime that need not be the caller's.
    pub(super) fn spawn(&self, on: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.lock();
        while state.tasks.try_join_next().is_some() {}
        state.tasks.spawn_on(task, on);
    }

    /// The same for the cancellation of an operation, which is waited for at the end.
    pub(super) fn spawn_cancel(&self, on: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.lock();
        while state.cancels.try_join_next().is_some() {}
        state.cancels.spawn_on(task, on);
    }

    /// Cancellations that are on their way.
    pub(super) fn take_cancels(&self) -> JoinSet<()> {
        std::mem::take(&mut self.lock().cancels)
    }

    /// Which of these the caller must upload, and what is to be waited for: that and what others upload.
    pub(super) fn begin(&self, missing: Vec<Digest>) -> (Vec<Upload>, Vec<watch::Receiver<Progress>>) {
        let now = Instant::now();
        let mut state = self.lock();
        let (mut uploads, mut waits) = (Vec::new(), Vec::new());
        for digest in missing {
            // Somebody else may have uploaded it since it was asked for.
            if state.knows(&digest, now) {
                continue;
            }
            // One whose task is gone without a word will never end.
            let going = state.uploads.get(&digest).filter(|going| going.has_changed().is_ok());
            if let Some(going) = going {
                waits.push(going.clone());
                continue;
            }
            let (waiters, wait) = watch::channel(None);
            state.uploads.insert(digest, wait.clone());
            waits.push(wait);
            uploads.push(Upload { digest, waiters });
        }
        (uploads, waits)
    }

    /// Tells who waits how it ended.
    pub(super) fn end(&self, uploads: Vec<Upload>, results: Vec<Result<(), ClusterError>>) {
        let ended = uploads.iter().zip(&results);
        self.learn(ended.filter(|(_, result)| result.is_ok()).map(|(upload, _)| upload.digest));
        let mut state = self.lock();
        for (upload, result) in uploads.into_iter().zip(results) {
            state.uploads.remove(&upload.digest);
            upload.waiters.send_replace(Some(result));
        }
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
        digests
            .iter()
            .filter(|digest| !digest.is_empty() && !state.knows(digest, now) && seen.insert(**digest))
            .copied()
            .collect()
    }
}

/// How long a transfer may take: what a call may, and the time of a slow line.
fn transfer_within(call_within: Duration, bytes: u64) -> Duration {
    call_within + Duration::from_secs(bytes / TRANSFER_BYTES_PER_SECOND_MIN)
}

pub(super) fn store(error: &CasError) -> ClusterError {
    ClusterError::Store(error.to_string())
}

impl Cluster {
    pub(super) fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn within(&self, bytes: u64) -> Duration {
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

    pub(super) fn write_name(&self, digest: &Digest, zstd: bool) -> String {
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

    pub(super) fn read_name(&self, digest: &Digest, zstd: bool) -> String {
        format!("{}{}", self.prefix(), Self::blob_name(digest, zstd))
    }
}
