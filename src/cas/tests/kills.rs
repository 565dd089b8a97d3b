//! S01: a store that is killed at each failpoint. Afterwards each blob is absent or whole, and none that was
//! acknowledged is missing.

use super::*;
use crate::cas::Sealed;
use rustix::fd::AsFd;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// Where the child works.
const DIR: &str = "FULGURITE_TEST_CAS_DIR";

/// All places that a put, an adoption, a checkpoint and an eviction pass, with the visits at which to die.
const PLACES: &[(&str, &[u64])] = &[
    ("cas.draft", &[1, 30]),
    ("cas.write", &[1, 30]),
    ("cas.log", &[3, 70]),
    ("cas.link", &[3, 70]),
    ("cas.linked", &[3, 70]),
    ("cas.adopt.hashed", &[1]),
    ("cas.checkpoint.rotated", &[1]),
    ("cas.checkpoint.sync", &[1]),
    ("cas.checkpoint.synced", &[2]),
    ("cas.checkpoint.commit", &[2]),
    ("cas.checkpoint.committed", &[1]),
    ("cas.evict.chosen", &[1]),
    ("cas.log.sync", &[1]),
    ("cas.unlink", &[1, 4]),
    ("cas.evict.removed", &[1]),
];

fn options(dir: &Path) -> CasOptions {
    CasOptions { dir: dir.join("cas"), size_bytes_max: 64 * 4096 }
}

/// What the child does. It writes down what was acknowledged, so that what it says is true at any moment.
fn work(dir: &Path) {
    let mut told = File::options().create(true).append(true).open(dir.join("told")).unwrap();
    let cas = Cas::open(&options(dir)).unwrap();
    let sealed = File::open(dir).unwrap();
    for number in 0..80u64 {
        let content = bytes(number, 3000);
        if number % 10 == 9 {
            let name = std::ffi::CString::new(format!("output.{number}")).unwrap();
            let path = dir.join(name.to_str().unwrap());
            std::fs::write(&path, &content).unwrap();
            let file = File::open(&path).unwrap();
            let sealed = Sealed { dir: sealed.as_fd(), name: &name, file: file.as_fd(), is_leased: false };
            cas.adopt(DigestFunction::Sha256, &sealed).unwrap();
        } else {
            cas.put(sha(&content), &content).unwrap();
        }
        if number < 50 {
            // Later ones evict earlier ones.
            told.write_all(&number.to_le_bytes()).unwrap();
        }
        if number % 20 == 19 {
            cas.checkpoint().unwrap();
        }
    }
    cas.close();
}

#[test]
#[ignore = "the child of another test"]
fn child_that_is_killed() {
    if let Ok(dir) = std::env::var(DIR) {
        work(Path::new(&dir));
    }
}

fn killed_at(place: &str, visit: u64) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "cas::tests::kills::child_that_is_killed"]);
    child.env(DIR, dir.path()).env("FULGURITE_FAILPOINT", format!("{place}:{visit}"));
    let output = child.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(9), "{place}:{visit} was not reached: {said}");

    let told = std::fs::read(dir.path().join("told")).unwrap_or_default();
    let told: Vec<u64> = told.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect();
    let cas = Cas::open(&options(dir.path())).unwrap();
    let root = dir.path().join("cas");
    check_temporary(&root);
    let found = check_objects(&root);
    // What is there is found, and what is found is there: none is claimed that was evicted, none lies forgotten.
    let claimed: Vec<u64> = (0..80).filter(|number| cas.contains(&sha(&bytes(*number, 3000)))).collect();
    for number in &claimed {
        assert_eq!(cas.read(&sha(&bytes(*number, 3000)), 3000).unwrap(), bytes(*number, 3000));
    }
    assert_eq!(claimed.len() + 2, found.len(), "{place}:{visit}");
    assert_eq!(cas.stats().blobs, found.len() as u64, "{place}:{visit}");
    assert_eq!(cas.stats().bytes, claimed.len() as u64 * 4096, "{place}:{visit}");
    assert_eq!(cas.stats().verified, 0, "nothing is hashed again after a mere death");
    let is_evicting = told.len() == 50;
    for number in told {
        assert!(is_evicting || claimed.contains(&number), "{place}:{visit}: {number} was acknowledged");
    }
    let again = put(&cas, 1000, 3000);
    cas.close();
    assert!(Cas::open(&options(dir.path())).unwrap().contains(&again));
}

#[test]
fn every_death_leaves_whole_blobs() {
    for (place, visits) in PLACES {
        for visit in *visits {
            killed_at(place, *visit);
        }
    }
}
