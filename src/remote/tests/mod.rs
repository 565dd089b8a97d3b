//! The client against a remote that lies, breaks, hangs and dies.

mod blobs;
mod branch;
mod executions;
mod liar;
mod lies;
mod outages;
mod results;
mod secure;
mod sharing;
pub(crate) mod slow;

use super::*;
use crate::action::{Command, Digest, DigestFunction, decode};
use crate::cas::{Cas, CasOptions};
use fulgurite_proto::reapi;
use liar::{Liar, Listening};
use prost::Message;
use std::time::Duration;

/// How long anything may take before a test gives up. No test measures time by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A deadline for calls that shall meet it.
const SOON: Duration = Duration::from_millis(300);

/// A liar, its client, and a store.
struct Scene {
    cluster: Cluster,
    cas: Cas,
    server: Listening,
    dir: tempfile::TempDir,
}

fn open_cas(dir: &std::path::Path) -> Cas {
    Cas::open(&CasOptions { dir: dir.to_owned(), size_bytes_max: 1 << 30 }).unwrap()
}

fn options(address: &str) -> ClusterOptions {
    let mut options = ClusterOptions::at(address);
    options.call_within = PATIENCE;
    options.retry.first_pause = Duration::from_millis(1);
    // Tests of one call that fails again and again are none of outages.
    options.breaker.failures_in_a_row = 100;
    options
}

impl Scene {
    async fn new() -> Scene {
        Scene::with(|_| ()).await
    }

    /// With other options.
    async fn with(tune: impl FnOnce(&mut ClusterOptions)) -> Scene {
        let server = Listening::start();
        let mut options = options(&server.address.to_string());
        tune(&mut options);
        let dir = tempfile::tempdir().unwrap();
        let cas = open_cas(&dir.path().join("store"));
        Scene { cluster: Cluster::new(options).unwrap(), cas, server, dir }
    }

    fn liar(&self) -> &Liar {
        &self.server.liar
    }

    /// Checks that every blob in the store is what its name says, and gives their number.
    fn check_store(&self) -> usize {
        let mut count = 0;
        for shard in list(&self.dir.path().join("store/objects/sha256")) {
            for path in list(&shard) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                assert_eq!(name, digest(&std::fs::read(&path).unwrap()).hex(), "a blob that is not whole");
                // The empty blob is in every store.
                count += usize::from(!digest(&[]).hex().eq(&name));
            }
        }
        count
    }
}

fn list(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What must not take for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it hangs")
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// Bytes that do not compress to nothing.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut word = 2 * seed + 1;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

fn wire_command(outputs: &[&str]) -> reapi::Command {
    reapi::Command {
        arguments: vec!["/bin/true".to_owned()],
        output_paths: outputs.iter().map(|path| (*path).to_owned()).collect(),
        ..reapi::Command::default()
    }
}

/// A command with these outputs.
fn command(outputs: &[&str]) -> Command {
    decode::command(&wire_command(outputs).encode_to_vec()).unwrap()
}

fn file(path: &str, digest: &Digest) -> reapi::OutputFile {
    reapi::OutputFile { path: path.to_owned(), digest: liar::sent(digest), ..reapi::OutputFile::default() }
}
