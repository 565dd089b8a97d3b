//! S03, S05: blobs that a disk, a hand or a failed sync has damaged.

use super::*;
use crate::cas::CasError;
use crate::failpoint;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::fs::Permissions;

/// Damages a blob's file with `harm`, and expects an open to notice, and the next put to heal it.
fn check(what: &str, harm: impl Fn(&Path)) {
    for is_checkpointed in [false, true] {
        let scene = Scene::new();
        let cas = scene.open();
        let digest = put(&cas, 1, 3000);
        if is_checkpointed {
            cas.checkpoint().unwrap();
        }
        harm(&scene.file(&digest));
        assert_eq!(cas.open_blob(&digest).unwrap_err(), CasError::Missing(digest), "{what}");
        assert!(!cas.contains(&digest), "{what}");
        assert_eq!(cas.stats().quarantined, 1, "{what}");
        assert_eq!(put(&cas, 1, 3000), digest);
        assert_eq!(cas.read(&digest, 3000).unwrap(), bytes(1, 3000), "{what}");
        assert_eq!(cas.stats().blobs, 3, "{what}");
        drop(cas);
        assert_eq!(scene.open().read(&digest, 3000).unwrap(), bytes(1, 3000), "{what}");
    }
}

fn overwrite(path: &Path, content: &[u8]) {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn damage_that_an_open_sees() {
    check("truncated", |path| overwrite(path, b"short"));
    check("of no size", |path| overwrite(path, b""));
    check("gone", |path| std::fs::remove_file(path).unwrap());
    check("writable", |path| std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap());
    check("a symlink", |path| {
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    });
    check("a fifo", |path| {
        std::fs::remove_file(path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_raw_mode(0o444)).unwrap();
    });
    if rustix::process::geteuid().is_root() {
        check("another's", |path| std::os::unix::fs::chown(path, Some(4242), None).unwrap());
    }
}

/// A put heals a damaged blob without anybody having opened it in between.
#[test]
fn a_put_looks_at_the_file() {
    let scene = Scene::new();
    let cas = scene.open();
    let digest = put(&cas, 1, 3000);
    overwrite(&scene.file(&digest), b"short");
    put(&cas, 1, 3000);
    assert_eq!(cas.read(&digest, 3000).unwrap(), bytes(1, 3000));
}

#[test]
fn a_flipped_bit_is_found_by_verifying() {
    let scene = Scene::new();
    let cas = scene.open();
    let digest = put(&cas, 1, 3000);
    assert!(cas.verify(&digest).unwrap());
    let mut flipped = bytes(1, 3000);
    flipped[1000] ^= 1;
    overwrite(&scene.file(&digest), &flipped);
    assert!(!cas.verify(&digest).unwrap());
    assert!(!cas.contains(&digest));
    let kept: Vec<_> = std::fs::read_dir(scene.path().join("quarantine")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(kept[0].as_ref().unwrap().path()).unwrap(), flipped);
}

#[test]
fn the_quarantine_is_bounded() {
    let scene = Scene::new();
    let cas = scene.open();
    for number in 0..80 {
        let digest = put(&cas, number, 10);
        cas.quarantine(&digest, "a test says so").unwrap();
        assert!(!cas.contains(&digest));
    }
    assert_eq!(std::fs::read_dir(scene.path().join("quarantine")).unwrap().count(), 64);
    assert_eq!((cas.stats().quarantined, cas.stats().blobs, cas.stats().bytes), (80, 2, 0));
}

/// After an unclean boot, what came since the last checkpoint is hashed before its first use; what was there before,
/// or came from this boot, is not.
#[test]
fn suspects_of_another_boot_are_hashed() {
    let mut scene = Scene::new();
    let cas = scene.open();
    let old = put(&cas, 1, 3000);
    cas.checkpoint().unwrap();
    let digests: Vec<Digest> = (2..6).map(|number| put(&cas, number, 3000)).collect();
    let copy = scene.dir.path().join("copy");
    copy_store(&scene.path(), &copy);
    cas.close();
    std::fs::remove_dir_all(scene.path()).unwrap();
    std::fs::rename(&copy, scene.path()).unwrap();
    // What a power cut leaves: zeros, nothing, another's bytes of the same size.
    overwrite(&scene.file(&digests[0]), &[0; 3000]);
    overwrite(&scene.file(&digests[1]), &[]);
    overwrite(&scene.file(&digests[2]), &bytes(9, 3000));
    scene.tuning.boot = [9; 8];
    let cas = scene.open();
    assert_eq!(cas.pin(&digests[..1]).unwrap_err(), digests[..1]);
    assert!(!cas.contains(&digests[1]));
    assert_eq!(cas.missing(digests.clone()), digests[..3]);
    let verified = cas.stats().verified;
    assert!(verified >= 3, "{verified}");
    assert_eq!(cas.read(&digests[3], 3000).unwrap(), bytes(5, 3000));
    assert_eq!(cas.read(&old, 3000).unwrap(), bytes(1, 3000));
    assert_eq!(cas.stats().verified, verified);
    cas.close();
    let cas = scene.open();
    assert_eq!(cas.missing(digests.clone()), digests[..3]);
    assert_eq!(cas.stats().verified, 0);
}

#[test]
fn suspects_stay_suspect_over_a_clean_restart() {
    let mut scene = Scene::new();
    let cas = scene.open();
    let digest = put(&cas, 2, 3000);
    let copy = scene.dir.path().join("copy");
    copy_store(&scene.path(), &copy);
    cas.close();
    std::fs::remove_dir_all(scene.path()).unwrap();
    std::fs::rename(&copy, scene.path()).unwrap();
    overwrite(&scene.file(&digest), &bytes(9, 3000));
    scene.tuning.boot = [9; 8];
    scene.open().close();
    let cas = scene.open();
    assert!(!cas.contains(&digest));
    assert_eq!((cas.stats().verified, cas.stats().quarantined), (1, 1));
}

/// As a machine that stops would leave it: what the page cache has, at one moment.
pub(super) fn copy_store(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// S03 and rule 8, with `durability = "power"`.
#[test]
fn a_failed_sync_fails_the_put_for_good() {
    let mut scene = Scene::new();
    scene.durability = Durability::Power;
    let cas = scene.open();
    let digest = sha(&bytes(1, 100));
    for place in ["cas.fsync", "cas.sync-dir", "cas.log.sync"] {
        let armed = failpoint::arm(place, 1, Errno::IO);
        let error = cas.put(digest, &bytes(1, 100)).unwrap_err();
        assert!(matches!(error, CasError::Io { errno: Errno::IO, .. }), "{place}: {error}");
        assert!(!cas.contains(&digest), "{place}");
        assert_eq!(check_objects(&scene.path()).len(), 2, "{place}");
        drop(armed);
    }
    cas.put(digest, &bytes(1, 100)).unwrap();
    assert_eq!(cas.read(&digest, 100).unwrap(), bytes(1, 100));
    assert_eq!((cas.stats().blobs, cas.stats().bytes), (3, 4096));
}

/// Rule 8 for checkpoints: what was to be synced is lost, but for what is in use, and what comes next is not.
#[test]
fn a_failed_checkpoint_loses_its_blobs() {
    let scene = Scene::new();
    let cas = scene.open();
    let old = put(&cas, 1, 100);
    cas.checkpoint().unwrap();
    let lost = put(&cas, 2, 100);
    let used = put(&cas, 3, 100);
    let pin = cas.pin(&[used]).unwrap();
    let armed = failpoint::arm("cas.checkpoint.sync", 1, Errno::IO);
    assert!(matches!(cas.checkpoint(), Err(CasError::Io { errno: Errno::IO, .. })));
    drop(armed);
    assert_eq!(cas.missing([old, lost, used]), [lost, used]);
    let new = put(&cas, 4, 100);
    cas.checkpoint().unwrap();
    assert!(!scene.file(&lost).exists() && scene.file(&used).exists());
    drop(pin);
    cas.put(lost, &bytes(2, 100)).unwrap();
    cas.checkpoint().unwrap();
    assert!(!scene.file(&used).exists());
    cas.close();
    let cas = scene.open();
    assert_eq!(cas.missing([old, new, lost, used]), [used]);
    assert_eq!((cas.stats().blobs, cas.stats().bytes), (5, 3 * 4096));
}

/// A write to the index that fails: the store goes on, and a later checkpoint brings it all.
#[test]
fn a_failed_commit_is_made_good() {
    let scene = Scene::new();
    let cas = scene.open();
    let mut digests = vec![put(&cas, 0, 10)];
    cas.checkpoint().unwrap();
    for (number, place) in [(1, "cas.checkpoint.commit"), (2, "cas.checkpoint.committed")] {
        digests.push(put(&cas, number, 10));
        for _ in 0..2 {
            let armed = failpoint::arm(place, 1, Errno::NOSPC);
            assert!(matches!(cas.checkpoint(), Err(CasError::Full { .. })), "{place}");
            drop(armed);
            digests.push(put(&cas, 100 + digests.len() as u64, 10));
            assert_eq!(cas.missing(digests.clone()), []);
        }
        cas.checkpoint().unwrap();
        assert_eq!(cas.stats().pending, 0);
        assert_eq!(cas.missing(digests.clone()), []);
    }
    cas.close();
    let cas = scene.open();
    assert_eq!(cas.missing(digests.clone()), []);
    assert_eq!(cas.stats().blobs, digests.len() as u64 + 2);
}
