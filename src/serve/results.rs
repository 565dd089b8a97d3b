//! What `serve` asks of an action cache, and a simple one in memory.

use crate::action::Digest;
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
    /// The result of an action. Whether the blobs that it names are there is for the caller to find out.
    ///
    /// # Errors
    /// [`ResultsError`].
    fn get(&self, tenant: &str, action: &Digest) -> Result<Option<Bytes>, ResultsError>;

    /// Keeps a result, whose blobs are there, in place of an older one.
    ///
    /// # Errors
    /// [`ResultsError`].
    fn put(&self, tenant: &str, action: &Digest, result: Bytes) -> Result<(), ResultsError>;
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
