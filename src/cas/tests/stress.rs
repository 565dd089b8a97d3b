//! S09: threads that put, pin, read and evict the same few blobs.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// A small generator, so that a seed gives the same calls.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn churn(cas: &Cas, seed: u64) {
    let mut state = seed;
    for _ in 0..400 {
        let number = next(&mut state) % 60;
        let size = 100 + (number as usize) * 100;
        let content = bytes(number, size);
        let digest = sha(&content);
        match next(&mut state) % 4 {
            // It may be full of what is pinned.
            0 | 1 => _ = cas.put(digest, &content),
            2 => {
                if let Ok(found) = cas.read(&digest, 1 << 20) {
                    assert_eq!(found, content);
                }
            }
            _ => {
                let others =
                    [digest, sha(&bytes(number + 1, size + 100)), sha(&bytes(number + 2, size + 200))];
                if let Ok(pin) = cas.pin(&others) {
                    for digest in &others {
                        assert!(cas.read(digest, 1 << 20).is_ok(), "a pinned blob is gone");
                    }
                    drop(pin);
                }
            }
        }
    }
}

#[test]
fn nothing_vanishes_under_a_pin_and_nothing_is_half() {
    let scene = Scene::of_size(30 * 4096);
    let cas = scene.open();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let evictor = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                cas.store().evict_to(20 * 4096).unwrap();
                std::thread::yield_now();
            }
        });
        let threads: Vec<_> = (1..=4)
            .map(|seed| {
                scope.spawn({
                    let cas = &cas;
                    move || churn(cas, seed * 7919)
                })
            })
            .collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        is_over.store(true, Ordering::SeqCst);
        evictor.join().unwrap();
        assert!(ends.iter().all(Result::is_ok));
    });
    let stats = cas.stats();
    assert!(stats.evicted > 0);
    assert_eq!(stats.quarantined, 0);
    assert_eq!(stats.pinned, 0);
    assert_eq!(cas.store().reserved.load(Ordering::SeqCst), 0);
    let found = check_objects(&scene.path());
    assert_eq!(found.len() as u64, stats.blobs);
    assert_eq!(cas.missing(found.clone()), []);
    let bytes: u64 = found.iter().map(|digest| crate::cas::limits::charge(digest.size_bytes)).sum();
    assert_eq!(bytes, stats.bytes);
    drop(cas);
    let cas = scene.open();
    assert_eq!((cas.stats().blobs, cas.stats().bytes), (stats.blobs, stats.bytes));
    assert_eq!(cas.missing(found), []);
}
