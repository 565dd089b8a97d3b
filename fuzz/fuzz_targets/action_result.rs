//! ActionResults: which blobs they need, with a store that has none.
#![no_main]
use fulgurite::action::{Digest, DigestFunction};
use fulgurite::cache::decode::references;
use fulgurite::cas::{Cas, CasOptions};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STORE: LazyLock<Cas> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("fulgurite-fuzz-result-{}", std::process::id()));
    // Without a store nothing would be tried, and nobody would know.
    Cas::open(&CasOptions { dir, size_bytes_max: 1 << 30 })
        .unwrap_or_else(|error| panic!("no store to try with: {error}"))
});

fuzz_target!(|bytes: &[u8]| {
    for function in DigestFunction::ALL {
        if let Ok(found) = references(&STORE, function, bytes) {
            assert!(found.iter().all(|digest: &Digest| digest.function == function));
        }
    }
});
