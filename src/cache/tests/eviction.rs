//! The bounds of the file: the least recently used go, and only they.

use super::*;

fn there(cache: &ActionCache, names: &[&str]) -> Vec<bool> {
    names.iter().map(|name| got(cache, name).is_some()).collect()
}

#[test]
fn the_least_recently_used_entries_go() {
    let scene = Scene::new();
    for hot_bytes_max in [0, 1 << 20] {
        let options = ActionCacheOptions { entries_max: 3, hot_bytes_max, ..COLD };
        let cache = scene.cache_with(&options);
        for name in ["a", "b", "c"] {
            put(&cache, name, name, &[]);
            cache.flush().unwrap();
        }
        assert!(got(&cache, "a").is_some());
        cache.flush().unwrap();
        put(&cache, "d", "d", &[]);
        cache.flush().unwrap();
        assert_eq!(cache.stats().evicted, 1);
        assert_eq!(cache.totals().unwrap().0, 3);
        cache.close().unwrap();
        // The order outlives the daemon.
        let cache = scene.cache_with(&options);
        assert_eq!(there(&cache, &["b", "c", "d", "a"]), [false, true, true, true]);
        cache.flush().unwrap();
        put(&cache, "e", "e", &[]);
        cache.flush().unwrap();
        assert_eq!(there(&cache, &["c", "d", "a", "e"]), [false, true, true, true]);
        cache.close().unwrap();
        std::fs::remove_file(scene.dir.path().join(FILE_NAME)).unwrap();
    }
}

#[test]
fn bytes_are_bounded_as_well() {
    let scene = Scene::new();
    let options = ActionCacheOptions { size_bytes_max: 100_000, hot_bytes_max: 0, ..COLD };
    let cache = scene.cache_with(&options);
    let large = "x".repeat(30_000);
    for name in ["a", "b", "c", "d"] {
        put(&cache, name, &large, &[]);
        cache.flush().unwrap();
    }
    let (entries, bytes) = cache.totals().unwrap();
    assert_eq!((entries, bytes > 90_000 && bytes < 100_000), (3, true));
    assert_eq!(there(&cache, &["a", "b", "c", "d"]), [false, true, true, true]);
    // Overwriting does not add up.
    for _ in 0..10 {
        put(&cache, "d", "small", &[]);
        cache.flush().unwrap();
    }
    assert_eq!(cache.totals().unwrap().0, 3);
    assert!(cache.totals().unwrap().1 < 61_000);
    put(&cache, "huge", &"x".repeat(200_000), &[]);
    cache.flush().unwrap();
    assert_eq!(cache.totals().unwrap(), (0, 0), "larger than all there may be");
}

#[test]
fn the_file_does_not_grow_with_what_goes_through_it() {
    let scene = Scene::new();
    let options = ActionCacheOptions { entries_max: 100, hot_bytes_max: 0, ..COLD };
    let cache = scene.cache_with(&options);
    let size = || std::fs::metadata(scene.dir.path().join(FILE_NAME)).unwrap().len();
    let fill = |round: usize| {
        for index in 0..100 {
            put(&cache, &format!("{round}-{index}"), &"x".repeat(1000), &[]);
        }
        cache.flush().unwrap();
    };
    (0..5).for_each(fill);
    let early = size();
    (5..30).for_each(fill);
    assert!(size() <= 2 * early, "{} bytes, and {early} before", size());
    assert_eq!(cache.totals().unwrap().0, 100);
}
