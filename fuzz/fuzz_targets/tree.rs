//! Trees and Directories that a result names: the bytes are both.
#![no_main]
use fulgurite::action::{Digest, DigestFunction};
use fulgurite::cache::decode::references;
use fulgurite::cas::{Cas, CasOptions};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STORE: LazyLock<Cas> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("fulgurite-fuzz-tree-{}", std::process::id()));
    // Small, so that eviction keeps the directory small.
    // Without a store nothing would be tried, and nobody would know.
    Cas::open(&CasOptions { dir, size_bytes_max: 16 << 20 })
        .unwrap_or_else(|error| panic!("no store to try with: {error}"))
});

/// `field` with length: the lengths here are below 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, bytes.len() as u8];
    field.extend_from_slice(bytes);
    field
}

fn message(digest: &Digest) -> Vec<u8> {
    let mut message = field(1, digest.hex().as_bytes());
    message.push(2 << 3);
    let mut size = digest.size_bytes;
    while size >= 0x80 {
        message.push(size as u8 | 0x80);
        size >>= 7;
    }
    message.push(size as u8);
    message
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(digest) = STORE.put_bytes(DigestFunction::Sha256, bytes) else { return };
    for number in [3, 5] {
        let directory = field(number, &message(&digest));
        if let Ok(found) = references(&STORE, DigestFunction::Sha256, &field(3, &directory)) {
            assert!(found.contains(&digest));
        }
    }
});
