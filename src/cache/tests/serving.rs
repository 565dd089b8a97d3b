//! What is served, and to whom.

use super::*;
use crate::action::{Digest, DigestFunction, encode};
use crate::cache::limits::{ENCODED_BYTES_MAX, REFERENCES_MAX};
use crate::cache::{ActionCache, CacheError, CacheStats, decode};

fn result(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn what_was_put_is_served_from_memory_and_from_disk() {
    let scene = Scene::new();
    for options in [ActionCacheOptions::default(), COLD] {
        let cache = scene.cache_with(&options);
        let blob = scene.blob(b"blob");
        assert_eq!(got(&cache, "a"), None);
        put(&cache, "a", "result", &[blob, blob, Digest::empty(SHA)]);
        assert_eq!(got(&cache, "a"), result("result"), "before it is written");
        cache.flush().unwrap();
        assert_eq!(got(&cache, "a"), result("result"), "after");
        let found = cache.get("", &action("a")).unwrap().unwrap();
        assert_eq!(*found.references, [blob], "each once, without the empty one");
        let expected = CacheStats { hits: 3, misses: 1, ..CacheStats::default() };
        assert_eq!(cache.stats(), expected);
        cache.close().unwrap();
        std::fs::remove_file(scene.dir.path().join(FILE_NAME)).unwrap();
    }
}

#[test]
fn an_entry_outlives_the_daemon() {
    let scene = Scene::new();
    let first = scene.cache();
    put(&first, "a", "one", &[]);
    put(&first, "b", "two", &[]);
    first.close().unwrap();
    let second = scene.cache();
    assert_eq!((got(&second, "a"), got(&second, "b")), (result("one"), result("two")));
    put(&second, "a", "other", &[]);
    second.close().unwrap();
    let third = scene.cache_with(&COLD);
    assert_eq!((got(&third, "a"), got(&third, "b")), (result("other"), result("two")));
    assert_eq!(third.totals().unwrap().0, 2);
}

#[test]
fn a_later_result_takes_the_place_of_an_earlier_one() {
    let scene = Scene::new();
    let cache = scene.cache_with(&COLD);
    let gone = Digest::of(SHA, b"never stored");
    put(&cache, "a", "broken", &[gone]);
    put(&cache, "a", "repaired", &[]);
    assert_eq!(got(&cache, "a"), result("repaired"));
    cache.flush().unwrap();
    put(&cache, "a", "newest", &[]);
    cache.flush().unwrap();
    assert_eq!(got(&cache, "a"), result("newest"));
    assert_eq!(cache.totals().unwrap().0, 1);
}

/// Served only while every blob is there, wherever the entry lies; what is not complete is gone for good.
#[test]
fn incomplete_entries_are_misses_and_go() {
    for flush in [false, true] {
        for options in [ActionCacheOptions::default(), COLD] {
            let scene = Scene::new();
            let cache = scene.cache_with(&options);
            let [kept, evicted] = [scene.blob(b"kept"), scene.blob(b"evicted")];
            put(&cache, "a", "result", &[kept, evicted]);
            put(&cache, "b", "other", &[kept]);
            if flush {
                cache.flush().unwrap();
            }
            assert_eq!(got(&cache, "a"), result("result"));
            scene.evict(&evicted);
            assert_eq!(got(&cache, "a"), None);
            scene.blob(b"evicted");
            assert_eq!(got(&cache, "a"), None, "it was removed");
            assert_eq!(got(&cache, "b"), result("other"));
            assert_eq!(cache.stats().incomplete, 1);
            cache.flush().unwrap();
            assert_eq!(got(&cache, "a"), None);
            assert_eq!(cache.totals().unwrap().0, 1);
            put(&cache, "a", "again", &[kept]);
            assert_eq!(got(&cache, "a"), result("again"));
            cache.close().unwrap();
        }
    }
}

#[test]
fn a_file_inside_a_tree_is_checked_too() {
    let scene = Scene::new();
    let cache = scene.cache();
    let file = scene.blob(b"inside");
    let node = crate::action::FileNode {
        name: "f".to_owned(),
        digest: file,
        executable: false,
        properties: crate::action::NodeProperties::default(),
    };
    let root = crate::action::Directory { files: vec![node], ..Default::default() };
    let tree = scene.blob(&encode::tree([encode::directory(&root).as_slice()]));
    // ActionResult { output_directories: [OutputDirectory { tree_digest }] } by hand: messages stay behind their door.
    let mut digest = vec![0x0a, 64];
    digest.extend_from_slice(tree.hex().as_bytes());
    digest.extend_from_slice(&[0x10, u8::try_from(tree.size_bytes).unwrap()]);
    let mut directory = vec![0x1a, u8::try_from(digest.len()).unwrap()];
    directory.extend_from_slice(&digest);
    let mut encoded = vec![0x1a, u8::try_from(directory.len()).unwrap()];
    encoded.extend_from_slice(&directory);
    let references = decode::references(&scene.cas, SHA, &encoded).unwrap();
    assert_eq!(references.len(), 2);
    cache.put("", &action("a"), encoded.into(), references).unwrap();
    assert!(cache.get("", &action("a")).unwrap().is_some());
    scene.evict(&file);
    assert!(cache.get("", &action("a")).unwrap().is_none());
}

#[test]
fn tenants_and_digest_functions_are_apart() {
    let scene = Scene::new();
    for options in [ActionCacheOptions::default(), COLD] {
        let cache = scene.cache_with(&options);
        let sha = action("a");
        let blake = Digest { function: DigestFunction::Blake3, ..sha };
        let all = [("one", sha), ("two", sha), ("", sha), ("one", blake)];
        let get = |tenant: &str, action: &Digest| {
            cache.get(tenant, action).unwrap().map(|found| found.encoded.to_vec())
        };
        for (index, (tenant, action)) in all.iter().enumerate() {
            cache.flush().unwrap();
            assert_eq!(get(tenant, action), None);
            cache.put(tenant, action, vec![index as u8].into(), Vec::new()).unwrap();
        }
        cache.flush().unwrap();
        for (index, (tenant, action)) in all.iter().enumerate() {
            assert_eq!(get(tenant, action), Some(vec![index as u8]));
        }
        cache.close().unwrap();
        std::fs::remove_file(scene.dir.path().join(FILE_NAME)).unwrap();
    }
}

#[test]
fn what_does_not_belong_in_is_refused() {
    let scene = Scene::new();
    let cache = scene.cache();
    let put = |bytes: usize, references: Vec<Digest>| {
        cache.put("", &action("a"), vec![0; bytes].into(), references)
    };
    assert!(matches!(put(ENCODED_BYTES_MAX + 1, Vec::new()), Err(CacheError::TooLarge { .. })));
    let many = (0..=REFERENCES_MAX as u64).map(|size_bytes| Digest { size_bytes, ..action("blob") });
    assert!(matches!(put(1, many.collect()), Err(CacheError::TooLarge { .. })));
    let other = Digest::of(DigestFunction::Blake3, b"blob");
    let refused = put(1, vec![other]);
    assert_eq!(refused, Err(CacheError::MixedFunctions { action: "sha256", reference: "blake3" }));
    assert_eq!(got(&cache, "a"), None);
}

#[test]
fn a_second_cache_on_the_same_file_is_refused() {
    let scene = Scene::new();
    let first = scene.cache();
    put(&first, "a", "one", &[]);
    let path = scene.dir.path().join(FILE_NAME);
    let second = ActionCache::open(scene.dir.path(), scene.cas.clone(), &COLD);
    assert_eq!(second.err(), Some(CacheError::InUse { path }));
    first.close().unwrap();
    assert_eq!(got(&first, "a"), result("one"), "memory outlives the file");
    assert_eq!(got(&scene.cache(), "a"), result("one"));
}

#[test]
fn many_threads_put_and_get() {
    let scene = Scene::new();
    // Little of it in memory, so that all ways are taken.
    let options = ActionCacheOptions { hot_bytes_max: 20_000, ..COLD };
    let cache = scene.cache_with(&options);
    let blob = scene.blob(b"blob");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..300 {
                    let own = format!("{thread}-{round}");
                    put(cache, &own, &own, &[blob]);
                    put(cache, "shared", "shared", &[blob]);
                    assert_eq!(got(cache, "shared"), result("shared"));
                    let earlier = format!("{thread}-{}", round / 2);
                    assert_eq!(got(cache, &earlier), Some(earlier));
                    if round % 100 == 0 {
                        cache.flush().unwrap();
                    }
                }
            });
        }
    });
    cache.close().unwrap();
    let again = scene.cache_with(&COLD);
    assert_eq!(again.totals().unwrap().0, 1201);
    assert_eq!(got(&again, "3-299"), result("3-299"));
}
