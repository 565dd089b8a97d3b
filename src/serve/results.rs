//! What `serve` asks of an action cache, and a simple one in memory.

use crate::action::Digest;
use crate::cache::ActionCache;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Why a result could not be read or kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ResultsError {
    /// What was tried.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// Encoded `ActionResult`s by tenant and action. Calls may block for as long as a small read or write takes.
pub trait Results: Send + Sync + std::fmt::Debug {
    /// The result of an action. Whether the blobs that it names are there is for the caller to find out, unless
    /// [`Results::gives_whole_ones`].
    ///
    /// # Errors
    /// [`ResultsError`].
    fn get(&self, tenant: &str, action: &Digest) -> Result<Option<Bytes>, ResultsError>;

    /// Keeps a result, whose blobs are there, in place of an older one.
    ///
    /// # Errors
    /// [`ResultsError`].
    fn put(&self, tenant: &str, action: &Digest, result: Bytes) -> Result<(), ResultsError>;

    /// Whether all that a result names is there when [`Results::get`] gives it.
    fn gives_whole_ones(&self) -> bool {
        false
    }
}

impl Results for ActionCache {
    fn get(&self, tenant: &str, action: &Digest) -> Result<Option<Bytes>, ResultsError> {
        let failed = |error: crate::cache::CacheError| ResultsError {
            what: "read the action cache".to_owned(),
            why: error.to_string(),
        };
        Ok(ActionCache::get(self, tenant, action).map_err(failed)?.map(|found| found.encoded))
    }

    fn put(&self, tenant: &str, action: &Digest, result: Bytes) -> Result<(), ResultsError> {
        let failed = |why: String| ResultsError { what: "write the action cache".to_owned(), why };
        let references = self.references(action.function, &result).map_err(|why| failed(why.to_string()))?;
        ActionCache::put(self, tenant, action, result, references).map_err(|why| failed(why.to_string()))
    }

    fn gives_whole_ones(&self) -> bool {
        true
    }
}

/// Results that are gone with the process: for tests, and for an instance that shall remember nothing.
#[derive(Debug)]
pub struct ResultsInMemory {
    entries: Mutex<HashMap<(String, Digest), Bytes>>,
    entries_max: usize,
}

impl ResultsInMemory {
    /// With room for so many; when it is used up, all are forgotten.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        ResultsInMemory { entries: Mutex::default(), entries_max }
    }
}

impl Results for ResultsInMemory {
    fn get(&self, tenant: &str, action: &Digest) -> Result<Option<Bytes>, ResultsError> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(entries.get(&(tenant.to_owned(), *action)).cloned())
    }

    fn put(&self, tenant: &str, action: &Digest, result: Bytes) -> Result<(), ResultsError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.entries_max {
            entries.clear();
        }
        entries.insert((tenant.to_owned(), *action), result);
        Ok(())
    }
}
