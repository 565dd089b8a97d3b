//! Blobs that the cluster has and we do not: named by results whose bytes nobody has needed yet.
//!
//! ```text
//!   result, lazily ─► note: until then the cluster keeps them ─► has: yes, for a client that asks what is missing
//!                                                              └► bring: fetched, verified, into our store
//!                                                                    └ the cluster has lost it: forgotten, NOT_FOUND
//! ```
//! As with Bazel's *build without the bytes*: a client that is told that a blob is there, and does not find it later,
//! runs its action again. Invariants: only what the cluster has said to have is noted; what is noted longer than it is
//! trusted to keep things, or was found to be lost, is not here any more. Limits: a number of blobs; who finds no room
//! fetches.

use super::cluster::{Cluster, ClusterError};
use super::limits::ELSEWHERE_MAX;
use crate::action::Digest;
use crate::cas::Cas;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module's documentation. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    store: Cas,
    trusted_for: Duration,
    until: Mutex<HashMap<Digest, Instant>>,
}

impl Elsewhere {
    /// Of a cluster that is trusted to keep what it has for so long.
    #[must_use]
    pub fn new(cluster: Cluster, store: Cas, trusted_for: Duration) -> Elsewhere {
        Elsewhere { inner: Arc::new(Inner { cluster, store, trusted_for, until: Mutex::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.inner.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster has just said that it has these. False: there is no room, and they are to be fetched.
    #[must_use]
    pub fn note(&self, digests: &[Digest]) -> bool {
        let now = Instant::now();
        let mut until = self.lock();
        if until.len() + digests.len() > ELSEWHERE_MAX {
            until.retain(|_, end| *end > now);
        }
        if until.len() + digests.len() > ELSEWHERE_MAX {
            return false;
        }
        until.extend(digests.iter().map(|digest| (*digest, now + self.inner.trusted_for)));
        true
    }

    /// Whether the cluster has it, as far as is known.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.lock().get(digest).is_some_and(|end| *end > Instant::now())
    }

    /// Those that the cluster does not have either.
    #[must_use]
    pub fn lacking(&self, digests: Vec<Digest>) -> Vec<Digest> {
        let now = Instant::now();
        let until = self.lock();
        digests.into_iter().filter(|digest| until.get(digest).is_none_or(|end| *end <= now)).collect()
    }

    /// Fetches those of them that are noted and not in our store.
    ///
    /// # Errors
    /// [`ClusterError`]; those that the cluster has lost are forgotten.
    pub async fn bring(&self, digests: &[Digest]) -> Result<(), ClusterError> {
        let noted: Vec<Digest> = digests.iter().filter(|digest| self.has(digest)).copied().collect();
        if noted.is_empty() {
            return Ok(());
        }
        let fetched = self.inner.cluster.download(&self.inner.store, &noted).await;
        let gone = match &fetched {
            Ok(_) => noted,
            Err(ClusterError::Missing(lost)) => lost.clone(),
            Err(_) => Vec::new(),
        };
        let mut until = self.lock();
        for digest in gone {
            until.remove(&digest);
        }
        fetched.map(drop)
    }
}
