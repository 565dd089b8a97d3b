//! S04: a filesystem that is really full, and descriptors that run out.

use super::*;
use crate::cas::CasError;
use crate::failpoint;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// A small tmpfs, unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    fn new(size: &str) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        match rustix::mount::mount("cas-test", dir.path(), "tmpfs", flags, options.as_c_str()) {
            Ok(()) => Some(Disk(dir)),
            Err(errno) => {
                println!("SKIP a_full_disk: cannot mount a tmpfs: {errno}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_fails_puts_and_nothing_else() {
    let Some(disk) = Disk::new("24m") else { return };
    let options = CasOptions { dir: disk.0.path().join("cas"), size_bytes_max: 1 << 30 };
    let tuning = Tuning { is_keeper_idle: true, ..Tuning::usual() };
    let cas = Cas::open_tuned(&options, Durability::Process, tuning).unwrap();
    let mut digests = Vec::new();
    let error = loop {
        let content = bytes(digests.len() as u64, 100_000);
        match cas.put(sha(&content), &content) {
            Ok(()) => digests.push(sha(&content)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CasError::Full { .. }), "{error}");
    assert!(digests.len() > 20, "{}", digests.len());
    check_temporary(&options.dir);
    // Either this thread makes room, or the keeper has begun to: nothing is half afterwards, and all goes on.
    let pin = cas.pin(&digests[digests.len() - 1..]);
    cas.store().relieve(true).unwrap();
    if let Ok(_pin) = pin {
        let last = digests.len() as u64 - 1;
        assert_eq!(cas.read(&digests[digests.len() - 1], 100_000).unwrap(), bytes(last, 100_000));
    }
    let more: Vec<Digest> = (1000..1020).map(|number| put(&cas, number, 100_000)).collect();
    cas.checkpoint().unwrap();
    assert_eq!(cas.missing(more.clone()), []);
    cas.close();
    let cas = Cas::open(&options).unwrap();
    assert_eq!(cas.missing(more), []);
    assert_eq!(check_objects(&options.dir).len() as u64, cas.stats().blobs);
    cas.close();
}

/// Each call of a put that can fail does, once: a clean error, no room lost, and the next put works.
#[test]
fn every_call_of_a_put_may_fail() {
    let scene = Scene::new();
    let cas = scene.open();
    let places = ["cas.draft", "cas.write", "cas.log", "cas.link", "cas.linked"];
    for (number, place) in places.into_iter().enumerate() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::IO] {
            let content = bytes(number as u64, 100 + errno.raw_os_error() as usize);
            let digest = sha(&content);
            let armed = failpoint::arm(place, 1, errno);
            let error = cas.put(digest, &content).unwrap_err();
            drop(armed);
            match error {
                CasError::Full { .. } => assert!([Errno::NOSPC, Errno::DQUOT].contains(&errno), "{place}"),
                CasError::Io { errno: found, .. } => assert_eq!(found, errno, "{place}"),
                other => panic!("{place}: {other}"),
            }
            assert!(!cas.contains(&digest), "{place}");
            assert_eq!(cas.store().reserved.load(std::sync::atomic::Ordering::SeqCst), 0);
            cas.put(digest, &content).unwrap();
            assert_eq!(cas.read(&digest, 1000).unwrap(), content);
        }
    }
    let found = check_objects(&scene.path());
    assert_eq!(found.len() as u64, cas.stats().blobs);
}
