//! The store as its callers see it, on real filesystems.

mod adopting;
mod basics;
mod damage;
mod eviction;
mod filesystems;
mod full;
mod kills;
mod lost;
mod model;
mod power;
mod scrubbing;
mod sizes;
mod stress;

use super::{Cas, CasOptions, Durability, Tuning};
use crate::action::{Digest, DigestFunction};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A store in a directory of its own, in memory, which goes with it.
struct Scene {
    dir: TempDir,
    size_bytes_max: u64,
    durability: Durability,
    tuning: Tuning,
}

impl Scene {
    fn new() -> Self {
        Scene::of_size(1 << 30)
    }

    fn of_size(size_bytes_max: u64) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        // Small logs, which are made and read quickly.
        let tuning = Tuning { log_records: 1 << 10, is_keeper_idle: true, ..Tuning::usual() };
        Scene { dir, size_bytes_max, durability: Durability::Process, tuning }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cas")
    }

    fn options(&self) -> CasOptions {
        CasOptions { dir: self.path(), size_bytes_max: self.size_bytes_max }
    }

    fn open(&self) -> Cas {
        Cas::open_tuned(&self.options(), self.durability, self.tuning).unwrap()
    }

    /// The file of a blob.
    fn file(&self, digest: &Digest) -> PathBuf {
        self.path().join("objects").join(Cas::object_path(digest))
    }
}

/// A blob of `size` bytes that differs from that of another number.
fn bytes(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(size.max(8), 0x5a);
    bytes
}

fn sha(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

fn put(cas: &Cas, number: u64, size: usize) -> Digest {
    cas.put_bytes(DigestFunction::Sha256, &bytes(number, size)).unwrap()
}

/// Every file below `objects`, checked against its name: whole, and of mode 0444.
fn check_objects(root: &Path) -> Vec<Digest> {
    let mut found = Vec::new();
    for function in DigestFunction::ALL {
        let Ok(shards) = std::fs::read_dir(root.join("objects").join(function.name())) else { continue };
        for file in shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap()) {
            let file = file.unwrap();
            let digest = Digest::of(function, &std::fs::read(file.path()).unwrap());
            assert_eq!(file.file_name().to_str(), Some(digest.hex().as_str()), "a blob that is not whole");
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o444);
            found.push(digest);
        }
    }
    found
}

/// Nothing is on its way any more.
fn check_temporary(root: &Path) {
    assert_eq!(std::fs::read_dir(root.join("temporary")).unwrap().count(), 0);
}
