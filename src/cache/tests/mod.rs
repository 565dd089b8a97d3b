//! The action cache against real files, and against its own death.

mod damage;
mod decode;
mod eviction;
mod killed;
mod serving;

pub(super) use super::FILE_NAME;
use super::{ActionCache, ActionCacheOptions};
use crate::action::{Digest, DigestFunction};
use crate::cas::{Cas, CasOptions};
use bytes::Bytes;
use std::path::Path;

pub(super) const SHA: DigestFunction = DigestFunction::Sha256;

/// A state directory with a store.
pub(super) struct Scene {
    pub(super) dir: tempfile::TempDir,
    pub(super) cas: Cas,
}

impl Scene {
    pub(super) fn new() -> Self {
        Scene::of(tempfile::tempdir().unwrap())
    }

    /// A scene in a directory that there is; it goes with the scene.
    pub(super) fn of(dir: tempfile::TempDir) -> Self {
        let cas = Cas::open(&CasOptions { dir: dir.path().join("cas"), size_bytes_max: 1 << 30 }).unwrap();
        Scene { dir, cas }
    }

    /// Closes the store, so that another process can open it.
    pub(super) fn close(self) -> tempfile::TempDir {
        self.cas.close();
        self.dir
    }

    pub(super) fn blob(&self, bytes: &[u8]) -> Digest {
        self.cas.put_bytes(SHA, bytes).unwrap()
    }

    pub(super) fn cache(&self) -> ActionCache {
        self.cache_with(&ActionCacheOptions::default())
    }

    pub(super) fn cache_with(&self, options: &ActionCacheOptions) -> ActionCache {
        open(self.dir.path(), &self.cas, options)
    }

    /// Takes a blob out of the store, as eviction does: the cache is not told.
    pub(super) fn evict(&self, digest: &Digest) {
        self.cas.quarantine(digest, "a test wants it gone").unwrap();
    }
}

pub(super) fn open(dir: &Path, cas: &Cas, options: &ActionCacheOptions) -> ActionCache {
    ActionCache::open(dir, cas.clone(), options).unwrap()
}

pub(super) fn action(name: &str) -> Digest {
    Digest::of(SHA, name.as_bytes())
}

pub(super) fn put(cache: &ActionCache, name: &str, result: &str, references: &[Digest]) {
    let encoded = Bytes::copy_from_slice(result.as_bytes());
    cache.put("", &action(name), encoded, references.to_vec()).unwrap();
}

/// What the cache has for an action, as text.
pub(super) fn got(cache: &ActionCache, name: &str) -> Option<String> {
    let found = cache.get("", &action(name)).unwrap()?;
    Some(String::from_utf8(found.encoded.to_vec()).unwrap())
}

/// Nothing is kept in memory once it is written.
pub(super) const COLD: ActionCacheOptions =
    ActionCacheOptions { entries_max: 1 << 20, size_bytes_max: 1 << 30, hot_bytes_max: 0 };
