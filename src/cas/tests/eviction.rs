//! Eviction: who goes, who stays, and what a put does when nothing may go.

use super::*;
use crate::cas::CasError;
use crate::cas::limits::{GRACE_SECONDS, USE_BUCKET_SECONDS};

const BLOCK: u64 = 4096;

/// A store for 64 blocks, the marks of which are at 61 and 58.
fn small() -> Scene {
    Scene::of_size(64 * BLOCK)
}

/// Long enough that nothing is young any more.
fn age(cas: &Cas) {
    cas.store().clock.advance(2 * GRACE_SECONDS);
}

#[test]
fn a_put_into_a_full_store_evicts_the_longest_unused() {
    let scene = small();
    let cas = scene.open();
    let old: Vec<Digest> = (0..32).map(|number| put(&cas, number, 4096)).collect();
    age(&cas);
    let young: Vec<Digest> = (100..132).map(|number| put(&cas, number, 4096)).collect();
    // A use makes the first of the old ones young.
    assert!(cas.contains(&old[0]));
    age(&cas);
    put(&cas, 200, 4096);
    let stats = cas.stats();
    assert_eq!((stats.evicted, stats.bytes), (6, 59 * BLOCK));
    assert_eq!(cas.missing(young), []);
    let missing = cas.missing(old.clone());
    assert_eq!(missing.len(), 6);
    assert!(!missing.contains(&old[0]));
    assert_eq!(check_objects(&scene.path()).len() as u64, stats.blobs);
    drop(cas);
    assert_eq!(scene.open().missing(old), missing);
}

/// S08: what `missing` has just confirmed survives, although it is older than what is not needed.
#[test]
fn confirmed_blobs_survive() {
    let scene = small();
    let cas = scene.open();
    let needed: Vec<Digest> = (0..20).map(|number| put(&cas, number, 4096)).collect();
    age(&cas);
    let other: Vec<Digest> = (100..144).map(|number| put(&cas, number, 4096)).collect();
    age(&cas);
    assert_eq!(cas.missing(needed.clone()), []);
    for number in 200..230 {
        put(&cas, number, 4096);
    }
    assert_eq!(cas.missing(needed), []);
    assert!(cas.missing(other).len() >= 30);
}

/// Grace gives way before a put fails; pins never do.
#[test]
fn a_store_of_young_blobs_still_takes_new_ones() {
    let scene = small();
    let cas = scene.open();
    let pinned: Vec<Digest> = (0..10).map(|number| put(&cas, number, 4096)).collect();
    let pin = cas.pin(&pinned).unwrap();
    for number in 100..200 {
        put(&cas, number, 4096);
        assert!(cas.stats().bytes <= 64 * BLOCK);
    }
    assert_eq!(cas.missing(pinned.clone()), []);
    cas.store().clock.advance(USE_BUCKET_SECONDS);
    let rest: Vec<Digest> = (1000..1054).map(|number| put(&cas, number, 4096)).collect();
    let all = cas.pin(&rest).unwrap();
    // S07: everything is in use.
    let error = cas.put(sha(&bytes(2000, 10)), &bytes(2000, 10)).unwrap_err();
    assert!(matches!(error, CasError::Full { .. }), "{error}");
    drop(all);
    put(&cas, 2000, 10);
    assert_eq!(cas.missing(pinned), []);
    drop(pin);
    check_objects(&scene.path());
}

#[test]
fn a_blob_larger_than_the_store_is_refused() {
    let scene = small();
    let cas = scene.open();
    let digest = Digest { size_bytes: 1 << 20, ..sha(b"large") };
    let error = cas.writer(digest).unwrap_err();
    assert_eq!(error, CasError::TooLarge { size_bytes: 1 << 20, bytes_max: 64 * BLOCK });
}

/// Writers that have come with a promise of bytes count before the bytes are there.
#[test]
fn room_is_taken_when_a_write_begins() {
    let scene = small();
    let cas = scene.open();
    let digest = |number| Digest { size_bytes: 40 * BLOCK, ..sha(&bytes(number, 10)) };
    let first = cas.writer(digest(1)).unwrap();
    assert!(matches!(cas.writer(digest(2)), Err(CasError::Full { .. })));
    drop(first);
    cas.writer(digest(2)).unwrap();
}

#[test]
fn the_background_evicts_from_mark_to_mark() {
    let scene = small();
    let cas = scene.open();
    for number in 0..62 {
        put(&cas, number, 4096);
    }
    cas.store().evict_in_background().unwrap();
    assert_eq!(cas.stats().evicted, 0, "all are young");
    age(&cas);
    cas.store().evict_in_background().unwrap();
    assert_eq!((cas.stats().evicted, cas.stats().bytes), (4, 58 * BLOCK));
}

/// A blob that is put again while its eviction is under way is there afterwards.
#[test]
fn an_evicted_blob_can_be_put_again() {
    let scene = small();
    let cas = scene.open();
    for round in 0..2 {
        for number in 0..80 {
            put(&cas, number, 4096);
        }
        age(&cas);
        let last = put(&cas, 79, 4096);
        assert_eq!(cas.read(&last, 4096).unwrap(), bytes(79, 4096), "{round}");
    }
    let stats = cas.stats();
    assert_eq!(check_objects(&scene.path()).len() as u64, stats.blobs);
}

/// S07: what is open stays readable.
#[test]
fn an_open_blob_outlives_its_eviction() {
    use std::io::Read;
    let scene = small();
    let cas = scene.open();
    let digest = put(&cas, 1, 4096);
    let mut blob = cas.open_blob(&digest).unwrap();
    age(&cas);
    for number in 100..170 {
        put(&cas, number, 4096);
    }
    assert!(!cas.contains(&digest));
    let mut read = Vec::new();
    blob.file.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes(1, 4096));
}
