//! Killed in the middle: a child process, which is this test program once more, puts without end.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const DIR: &str = "FULGURITE_TEST_ACTION_CACHE";

/// Entries between two flushes: enough that a commit takes its time.
const BATCH: u32 = 400;

/// Does nothing unless the test below starts it.
#[test]
fn the_child_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let cas = Cas::open(&CasOptions { dir: dir.join("cas"), size_bytes_max: 1 << 30 }).unwrap();
    let cache = open(dir, &cas, &ActionCacheOptions::default());
    for index in 0.. {
        let blob = cas.put_bytes(SHA, format!("blob {index}").as_bytes()).unwrap();
        put(&cache, &index.to_string(), &"x".repeat(200), &[blob]);
        if index % BATCH == BATCH - 1 {
            cache.flush().unwrap();
            println!("\nflushed {index}");
        }
    }
}

#[test]
fn a_killed_daemon_loses_no_flushed_entry_and_its_file_opens() {
    let mut dir = tempfile::tempdir().unwrap();
    let mut first_unread = 0;
    // Killed after the first flush, after the second, …: each time while the next batch is on its way.
    for round in 1..=6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "cache::tests::killed::the_child_that_is_killed"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let flushed = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("flushed ")?.parse::<u32>().ok())
            .nth(round % 3);
        child.kill().unwrap();
        child.wait().unwrap();
        let flushed = flushed.expect("the child flushed");
        first_unread = first_unread.max(flushed + 1);
        let scene = Scene::of(dir);
        let cache = scene.cache_with(&COLD);
        for index in 0..first_unread {
            assert_eq!(got(&cache, &index.to_string()).map(|text| text.len()), Some(200), "{index}");
        }
        // Nothing that is there points at nothing.
        for index in first_unread..first_unread + 2 * BATCH {
            if let Some(found) = cache.get("", &action(&index.to_string())).unwrap() {
                assert!(scene.cas.missing(found.references.iter().copied()).is_empty());
            }
        }
        cache.close().unwrap();
        let aside = scene.dir.path().join(format!("{}.corrupt", FILE_NAME));
        assert!(!aside.exists(), "round {round}: nothing had to be moved aside");
        dir = scene.close();
    }
}
