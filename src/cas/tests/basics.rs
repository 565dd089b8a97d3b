//! Put, read, pin, reopen, lock.

use super::*;
use crate::cas::CasError;
use rustix::io::Errno;

#[test]
fn a_blob_is_put_and_read() {
    let scene = Scene::new();
    let cas = scene.open();
    let digest = cas.put_bytes(DigestFunction::Blake3, b"hello").unwrap();
    assert!(cas.contains(&digest));
    assert_eq!(cas.read(&digest, 5).unwrap(), b"hello");
    assert_eq!(cas.read(&digest, 4), Err(CasError::TooLarge { size_bytes: 5, bytes_max: 4 }));
    assert_eq!(check_objects(&scene.path()).len(), 3);
    check_temporary(&scene.path());
    assert_eq!(std::fs::metadata(scene.path()).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn the_empty_blob_is_always_there() {
    let scene = Scene::new();
    let cas = scene.open();
    for function in DigestFunction::ALL {
        let empty = Digest::empty(function);
        assert!(cas.contains(&empty));
        assert_eq!(cas.read(&empty, 0).unwrap(), b"");
        cas.put(empty, b"").unwrap();
    }
}

#[test]
fn another_size_of_a_hash_is_another_blob() {
    let scene = Scene::new();
    let cas = scene.open();
    let digest = put(&cas, 1, 100);
    for is_checkpointed in [false, true] {
        if is_checkpointed {
            cas.checkpoint().unwrap();
        }
        let longer = Digest { size_bytes: 101, ..digest };
        assert!(!cas.contains(&longer));
        assert_eq!(cas.pin(&[digest, longer]).unwrap_err(), [longer]);
        assert_eq!(cas.open_blob(&longer).unwrap_err(), CasError::Missing(longer));
        assert!(!cas.verify(&longer).unwrap());
        assert!(cas.contains(&digest));
    }
    assert_eq!(cas.stats().quarantined, 0);
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let scene = Scene::new();
    let cas = scene.open();
    let digest = sha(b"right");
    assert!(matches!(cas.put(digest, b"wrong"), Err(CasError::Mismatch { .. })));
    let mut writer = cas.writer(digest).unwrap();
    writer.write(b"rig").unwrap();
    assert!(matches!(writer.write(b"ht and more"), Err(CasError::Mismatch { .. })));
    let mut short = cas.writer(digest).unwrap();
    short.write(b"rig").unwrap();
    assert_eq!(short.written_bytes(), 3);
    assert!(matches!(short.finish(), Err(CasError::Mismatch { .. })));
    drop(writer);
    assert!(!cas.contains(&digest));
    assert_eq!(cas.store().reserved.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(check_objects(&scene.path()).len(), 2);
}

#[test]
fn blobs_outlive_the_store_that_took_them() {
    let scene = Scene::new();
    let mut digests = Vec::new();
    for round in 0..3 {
        let cas = scene.open();
        digests.extend((0..20).map(|number| put(&cas, round * 100 + number, 100)));
        if round == 1 {
            cas.checkpoint().unwrap();
        }
        assert_eq!(cas.missing(digests.clone()), []);
        let stats = cas.stats();
        assert_eq!(stats.blobs, digests.len() as u64 + 2);
        assert_eq!(stats.bytes, digests.len() as u64 * 4096);
        if round == 0 { cas.close() } else { drop(cas) }
    }
    assert_eq!(scene.open().missing(digests), []);
}

/// S10.
#[test]
fn a_second_daemon_is_refused_and_told_who_is_first() {
    let scene = Scene::new();
    let first = scene.open();
    let error = Cas::open(&scene.options()).unwrap_err();
    let CasError::Io { what, errno } = &error else { panic!("{error}") };
    assert_eq!(*errno, Errno::BUSY);
    assert!(what.contains(&format!("process {} ", std::process::id())), "{what}");
    first.close();
    scene.open();
}

/// S19.
#[test]
fn the_same_blob_at_once_a_hundred_times() {
    let scene = Scene::new();
    let cas = scene.open();
    let content = bytes(7, 5000);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| cas.put(sha(&content), &content).unwrap());
        }
    });
    assert_eq!(cas.stats().written, 1);
    assert_eq!(cas.stats().bytes, 8192);
    assert_eq!(check_objects(&scene.path()).len(), 3);
}

/// S18 and S01: names planted in the temporary directory, or left by a killed predecessor.
#[test]
fn leftovers_are_swept_and_named_drafts_work() {
    let mut scene = Scene::new();
    scene.open().close();
    for name in ["draft.0", "other"] {
        std::fs::write(scene.path().join("temporary").join(name), "left").unwrap();
    }
    scene.tuning.are_drafts_named = true;
    let cas = scene.open();
    let digest = put(&cas, 1, 100);
    assert_eq!(cas.read(&digest, 100).unwrap(), bytes(1, 100));
    drop(cas.writer(sha(b"never finished")).unwrap());
    check_temporary(&scene.path());
    check_objects(&scene.path());
}

/// S07.
#[test]
fn pins_are_all_or_none_and_counted() {
    let scene = Scene::new();
    let cas = scene.open();
    let digests: Vec<Digest> = (0..50).map(|number| put(&cas, number, 10)).collect();
    let none = sha(b"not there");
    let with_none: Vec<Digest> = digests.iter().copied().chain([none]).collect();
    assert_eq!(cas.pin(&with_none).unwrap_err(), [none]);
    let pinned = || cas.stats().pinned;
    let before = pinned();
    let twice: Vec<Digest> = digests.iter().chain(&digests).copied().collect();
    let pin = cas.pin(&twice).unwrap();
    let other = cas.pin(&digests[..10]).unwrap();
    assert_eq!(pinned() - before, 60);
    cas.checkpoint().unwrap();
    drop(pin);
    assert_eq!(pinned() - before, 10);
    drop(other);
    assert_eq!(pinned(), before);
    // Nothing is left in memory but the empty blobs, which are pinned.
    let needed = |shard: &std::sync::Mutex<crate::cas::shard::Shard>| {
        shard.lock().unwrap().iter().filter(|(_, live)| !live.is_needless()).count()
    };
    assert_eq!(cas.store().shards.iter().map(needed).sum::<usize>(), 2);
}

#[test]
fn a_full_log_is_checkpointed_by_who_puts() {
    let mut scene = Scene::new();
    scene.tuning.log_records = 16;
    let cas = scene.open();
    let digests: Vec<Digest> = (0..200).map(|number| put(&cas, number, 10)).collect();
    assert!(cas.stats().checkpoints >= 10);
    assert_eq!(cas.missing(digests.clone()), []);
    drop(cas);
    assert_eq!(scene.open().missing(digests), []);
}

/// S11: the store's clock stands while it is closed.
#[test]
fn the_clock_goes_on_where_it_stood() {
    let scene = Scene::new();
    let cas = scene.open();
    cas.store().clock.advance(100_000);
    put(&cas, 1, 10);
    cas.close();
    let seconds = scene.open().store().clock.seconds();
    assert!((100_000..101_000).contains(&seconds), "{seconds}");
}
