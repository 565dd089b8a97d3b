//! S17: a store of a million blobs opens in no time; and what the usual calls cost. Heavy, so ignored by default.

use super::*;
use crate::cas::index::{Change, Index, Opened, Row};
use crate::cas::key::Key;
use std::time::Instant;

const MILLION: u64 = 1_000_000;

/// The same number for a blob that is only in the index.
fn row_of(number: u64) -> (Digest, Change) {
    let digest = Digest { size_bytes: 1000, ..sha(&number.to_le_bytes()) };
    let row = Row { size_bytes: 1000, used: 1 + (number / 1000) as u32, is_suspect: false };
    (digest, Change { key: Key::of(&digest), row: Some(row) })
}

#[test]
#[ignore = "writes an index of a million rows"]
fn a_million_blobs_open_at_once() {
    let mut scene = Scene::new();
    scene.tuning = Tuning::usual();
    scene.size_bytes_max = u64::MAX;
    scene.open().close();
    let started = Instant::now();
    let Opened { index, totals, .. } = Index::open(&scene.path().join("index")).unwrap();
    for part in 0..10 {
        let numbers = part * MILLION / 10..(part + 1) * MILLION / 10;
        let mut changes: Vec<Change> = numbers.map(|number| row_of(number).1).collect();
        index.commit(&mut changes, totals.generation, 10_000).unwrap();
    }
    println!("a million rows written in {:?}", started.elapsed());
    drop(index);
    println!("index: {} bytes", std::fs::metadata(scene.path().join("index")).unwrap().len());

    let started = Instant::now();
    let cas = scene.open();
    println!("opened after a clean end in {:?}", started.elapsed());
    assert_eq!(cas.stats().blobs, MILLION + 2);
    let digests: Vec<Digest> = (0..100_000).map(|number| row_of(number * 10).0).collect();
    let started = Instant::now();
    assert_eq!(cas.missing(digests.clone()), []);
    println!("cold lookup: {:?}", started.elapsed() / 100_000);
    let started = Instant::now();
    assert_eq!(cas.missing(digests.clone()), []);
    println!("warm lookup: {:?}", started.elapsed() / 100_000);
    let started = Instant::now();
    cas.checkpoint().unwrap();
    println!("checkpoint of 100,000 uses: {:?}", started.elapsed());
    cas.close();

    let cas = scene.open();
    for count in [5_000, 100_000] {
        for state in ["cold", "known"] {
            let started = Instant::now();
            let pin = cas.pin(&digests[..count]).unwrap();
            println!("pin of {count}, {state}: {:?}", started.elapsed());
            let started = Instant::now();
            drop(pin);
            println!("unpin of {count}: {:?}", started.elapsed());
        }
    }
    measure_pins(&cas, &digests[..5_000]);
    cas.close();

    // A million and a log: what a killed daemon leaves.
    let cas = scene.open();
    for number in 0..20_000 {
        put(&cas, number, 100);
    }
    let copy = scene.dir.path().join("copy");
    super::damage::copy_store(&scene.path(), &copy);
    cas.close();
    let options = CasOptions { dir: copy, size_bytes_max: u64::MAX };
    let started = Instant::now();
    let cas = Cas::open(&options).unwrap();
    println!("opened after a kill in {:?}", started.elapsed());
    assert_eq!(cas.stats().blobs, MILLION + 2 + 20_000);
}

/// The best of ten, as an action's inputs are found again and again: right after a checkpoint, which is when memory
/// holds least.
fn measure_pins(cas: &Cas, digests: &[Digest]) {
    let best = |what: &str, call: &dyn Fn()| {
        let rounds = (0..10).map(|_| {
            cas.checkpoint().unwrap();
            let started = Instant::now();
            call();
            started.elapsed()
        });
        let mut rounds: Vec<_> = rounds.collect();
        rounds.sort_unstable();
        println!("{what} of {}: best {:?}, median {:?}", digests.len(), rounds[0], rounds[5]);
    };
    best("pin and unpin", &|| drop(cas.pin(digests).unwrap()));
    best("missing", &|| assert_eq!(cas.missing(digests.iter().copied()), []));
    best("missing by 4 threads", &|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(cas.missing(digests.iter().copied()), []));
            }
        });
    });
    let absent: Vec<Digest> = (0..digests.len() as u64).map(|number| sha(&bytes(number, 99))).collect();
    best("missing, absent,", &|| assert_eq!(cas.missing(absent.iter().copied()).len(), absent.len()));
}

/// FULGURITE_MEASURE_DIR chooses the filesystem.
#[test]
#[ignore = "measures"]
fn what_calls_cost() {
    let mut scene = Scene::new();
    scene.tuning = Tuning::usual();
    if let Ok(dir) = std::env::var("FULGURITE_MEASURE_DIR") {
        scene.dir = tempfile::tempdir_in(dir).unwrap();
    }
    let count = 8_000;
    for durability in [Durability::Process, Durability::Power] {
        scene.durability = durability;
        let cas = scene.open();
        let count = if durability == Durability::Power { 200 } else { count };
        let blobs: Vec<Vec<u8>> =
            (0..count).map(|number| bytes(number, 1024 + durability as usize)).collect();
        let digests: Vec<Digest> = blobs.iter().map(|blob| sha(blob)).collect();
        let started = Instant::now();
        for (digest, blob) in digests.iter().zip(&blobs) {
            cas.put(*digest, blob).unwrap();
        }
        let each = started.elapsed() / count as u32;
        println!("{durability:?}: put {each:?}, {:.0} a second", 1.0 / each.as_secs_f64());
        let report = |what: &str, call: &dyn Fn()| {
            let started = Instant::now();
            call();
            println!("{durability:?}: {what} {:?}", started.elapsed() / count as u32);
        };
        report("put of a known blob", &|| {
            digests.iter().zip(&blobs).for_each(|(d, b)| cas.put(*d, b).unwrap())
        });
        report("contains, recent", &|| assert!(digests.iter().all(|digest| cas.contains(digest))));
        cas.checkpoint().unwrap();
        report("contains, indexed", &|| assert!(digests.iter().all(|digest| cas.contains(digest))));
        report("contains, again", &|| assert!(digests.iter().all(|digest| cas.contains(digest))));
        report("open_blob", &|| digests.iter().for_each(|digest| drop(cas.open_blob(digest).unwrap())));
        report("read", &|| digests.iter().for_each(|digest| drop(cas.read(digest, 2000).unwrap())));
        report("pin of all, a blob", &|| drop(cas.pin(&digests).unwrap()));
        cas.close();
    }
}
