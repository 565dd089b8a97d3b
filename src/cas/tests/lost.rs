//! S01, S02: an index that cannot be used, and files that only a machine that stopped leaves.

use super::damage::copy_store;
use super::*;
use std::os::unix::fs::FileExt;

/// What is done to an index, by name.
type Harm<'a> = (&'a str, &'a dyn Fn(&std::fs::File));

/// A closed store of some blobs.
fn filled(scene: &Scene) -> Vec<Digest> {
    let cas = scene.open();
    let digests = (0..50).map(|number| put(&cas, number, 3000)).collect();
    cas.close();
    digests
}

fn check_found(scene: &Scene, digests: &[Digest], what: &str) {
    let cas = scene.open();
    let stats = cas.stats();
    // Two empty blobs are always there.
    assert_eq!((stats.blobs, stats.bytes), (digests.len() as u64 + 2, digests.len() as u64 * 4096), "{what}");
    assert_eq!(cas.missing(digests.iter().copied()), [], "{what}");
    // What nobody can vouch for was hashed.
    assert!(cas.stats().verified >= digests.len() as u64, "{what}");
    assert!(scene.path().join("index.corrupt").exists(), "{what}");
    cas.close();
    let cas = scene.open();
    assert_eq!((cas.stats().blobs, cas.stats().strays), (digests.len() as u64 + 2, 0), "{what}");
    assert_eq!(cas.missing(digests.iter().copied()), [], "{what}");
}

#[test]
fn an_index_that_cannot_be_opened_is_moved_aside_and_made_again() {
    let harms: [Harm<'_>; 6] = [
        ("zeros", &|file| file.write_all_at(&[0; 8192], 0).unwrap()),
        ("text", &|file| file.write_all_at(b"no database", 0).unwrap()),
        // A file that is shorter than its header says makes redb panic, in every build.
        ("cut in half", &|file| file.set_len(file.metadata().unwrap().len() / 2).unwrap()),
        ("cut by a byte", &|file| file.set_len(file.metadata().unwrap().len() - 1).unwrap()),
        ("its sizes", &|file| file.write_all_at(&[0xa5; 16], 16).unwrap()),
        ("its commits", &|file| file.write_all_at(&[0xa5; 256], 64).unwrap()),
    ];
    for (what, harm) in harms {
        let scene = Scene::new();
        let digests = filled(&scene);
        harm(&std::fs::File::options().write(true).open(scene.path().join("index")).unwrap());
        check_found(&scene, &digests, what);
    }
}

/// A blob whose bytes went with the power is found by its name, hashed, and not served.
#[test]
fn strays_of_a_lost_index_are_not_believed() {
    let scene = Scene::new();
    let digests = filled(&scene);
    let bad = scene.file(&digests[0]);
    std::fs::remove_file(&bad).unwrap();
    std::fs::write(&bad, vec![0; 3000]).unwrap();
    std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o444)).unwrap();
    let empty = scene.file(&digests[1]);
    std::fs::remove_file(&empty).unwrap();
    std::fs::write(&empty, b"").unwrap();
    std::fs::write(scene.path().join("index"), b"none").unwrap();
    let cas = scene.open();
    assert_eq!(cas.missing(digests.iter().copied()), digests[..2]);
    put(&cas, 0, 3000);
    assert!(cas.contains(&digests[0]));
}

/// Names that came to the disk although the records of them did not: they are found, step by step, while the store is
/// in use.
#[test]
fn strays_of_a_machine_that_stopped_are_swept() {
    let mut scene = Scene::new();
    let cas = scene.open();
    let known = put(&cas, 1, 3000);
    cas.checkpoint().unwrap();
    let before = scene.dir.path().join("before");
    copy_store(&scene.path(), &before);
    let strays: Vec<Digest> = (10..40).map(|number| put(&cas, number, 3000)).collect();
    cas.close();
    // The index and the logs of before, the files of after.
    for name in ["index", "log.0", "log.1", "lock"] {
        std::fs::copy(before.join(name), scene.path().join(name)).unwrap();
    }
    let torn = scene.file(&strays[0]);
    std::fs::set_permissions(&torn, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&torn, vec![0; 3000]).unwrap();
    std::fs::set_permissions(&torn, std::fs::Permissions::from_mode(0o444)).unwrap();
    let half = scene.file(&strays[1]);
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o600)).unwrap();
    scene.tuning.boot = [9; 8];
    let cas = scene.open();
    assert_eq!(cas.missing(strays.clone()), strays, "nobody knows them yet");
    // One is put again before the sweep comes to it.
    put(&cas, 12, 3000);
    while cas.store().sweep_next.load(std::sync::atomic::Ordering::Relaxed) != super::super::strays::NONE_LEFT
    {
        cas.store().sweep_some(7).unwrap();
    }
    assert_eq!(cas.stats().strays, 28);
    assert!(!half.exists(), "it could not be a blob");
    assert_eq!(cas.missing(strays.clone()), strays[..2], "the torn one was hashed");
    assert_eq!(cas.read(&known, 3000).unwrap(), bytes(1, 3000));
    assert_eq!(cas.stats().blobs, 2 + 1 + 28);
    cas.close();
    scene.tuning.boot = [10; 8];
    let cas = scene.open();
    assert_eq!(
        cas.store().sweep_next.load(std::sync::atomic::Ordering::Relaxed),
        super::super::strays::NONE_LEFT
    );
    assert_eq!((cas.missing(strays[2..].iter().copied()), cas.stats().blobs), (vec![], 31));
}
