//! S02: the machine stops at any moment. The disk is the file behind a loop device, on a filesystem that takes
//! snapshots of files; each snapshot is what a machine finds that lost its power then. It is mounted, which replays
//! its journal,
//! and opened by a store of another boot.
//!
//! Limits: a snapshot has all that the filesystem had handed to its disk, in order; a disk that forgets what it had not
//! flushed is not played.

use super::*;
use crate::cas::CasError;
use fulgurite_sandbox::testing::settles;
use rustix::mount::UnmountFlags;
use std::fs::File;
use std::process::Command;
use std::time::Duration;

/// A mounted image, unmounted when dropped.
pub(super) struct Image {
    pub(super) at: TempDir,
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let done =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

impl Image {
    pub(super) fn mount(file: &Path) -> Result<Image, String> {
        let at = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mount = |options: &str| {
            run("mount", &["-o".as_ref(), options.as_ref(), file.as_os_str(), at.path().as_os_str()])
        };
        // XFS has an option of its own for a disk whose copy is mounted.
        mount("loop,nouuid").or_else(|_| mount("loop"))?;
        Ok(Image { at })
    }

    pub(super) fn new(file: &Path, bytes: u64, make: &[&str]) -> Result<Image, String> {
        File::create(file).and_then(|made| made.set_len(bytes)).map_err(|error| error.to_string())?;
        let mut arguments: Vec<&std::ffi::OsStr> = make[1..].iter().map(std::ffi::OsStr::new).collect();
        arguments.push(file.as_os_str());
        run(make[0], &arguments)?;
        Image::mount(file)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Whoever still had a file open has closed it a moment later.
        let gone = || rustix::mount::unmount(self.at.path(), UnmountFlags::empty()).is_ok();
        if !settles(Duration::from_secs(20), gone) {
            let _ = rustix::mount::unmount(self.at.path(), UnmountFlags::DETACH);
        }
    }
}

/// What `durability` promised at the moment of the snapshot: these blobs.
fn check(snapshot: &Path, promised: &[Digest], durability: Durability, what: &str) {
    let image = Image::mount(snapshot).unwrap();
    let dir = image.at.path().join("cas");
    let tuning = Tuning { log_records: 1 << 10, is_keeper_idle: true, boot: [7; 8], ..Tuning::usual() };
    let options = CasOptions { dir: dir.clone(), size_bytes_max: 1 << 30 };
    if !dir.exists() {
        assert!(promised.is_empty(), "{what}: the store is gone");
        return;
    }
    let cas = Cas::open_tuned(&options, durability, tuning).unwrap();
    cas.store().sweep_all().unwrap();
    // SC3: whatever is served is what its name says.
    let mut names: Vec<Digest> = Vec::new();
    for shard in std::fs::read_dir(dir.join("objects/sha256")).into_iter().flatten() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let size = i64::try_from(file.metadata().unwrap().len()).unwrap();
            let name = file.file_name().into_string().unwrap();
            names.push(Digest::parse(DigestFunction::Sha256, &name, size).unwrap());
        }
    }
    for digest in &names {
        match cas.read(digest, u64::MAX) {
            Ok(bytes) => assert_eq!(sha(&bytes), *digest, "{what}: bytes of another blob"),
            Err(CasError::Missing(_)) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert_eq!(cas.missing(promised.iter().copied()), [], "{what}: promised and gone");
    // And it goes on from there.
    let again = put(&cas, 1_000_000, 5000);
    cas.checkpoint().unwrap();
    assert!(cas.contains(&again));
    cas.close();
}

#[test]
fn s02_the_machine_stops_at_any_moment() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIP s02: only root can mount images");
    }
    let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let outer = Image::new(&temp.path().join("outer"), 1 << 30, &["mkfs.xfs", "-q", "-m", "reflink=1"]);
    let outer = match outer {
        Ok(outer) => outer,
        Err(why) => return println!("SKIP s02: {why}"),
    };
    for (number, make) in [&["mkfs.ext4", "-q"][..], &["mkfs.xfs", "-q"]].into_iter().enumerate() {
        for durability in [Durability::Process, Durability::Power] {
            stop_again_and_again(&outer, number, make, durability);
        }
    }
}

fn stop_again_and_again(outer: &Image, number: usize, make: &[&str], durability: Durability) {
    const PUTS: u64 = 120;
    const EVERY: u64 = 15;
    let what = format!("{} {durability:?}", make[0]);
    let disk = outer.at.path().join(format!("disk-{number}-{durability:?}"));
    let inner = Image::new(&disk, 320 << 20, make).unwrap();
    let tuning = Tuning { log_records: 1 << 6, is_keeper_idle: true, boot: [1; 8], ..Tuning::usual() };
    let options = CasOptions { dir: inner.at.path().join("cas"), size_bytes_max: 1 << 30 };
    let cas = Cas::open_tuned(&options, durability, tuning).unwrap();
    // With `Process` a promise holds from the checkpoint on.
    let (mut promised, mut put_since) = (Vec::new(), Vec::new());
    let snapshot = outer.at.path().join("snapshot");
    for round in 0..PUTS {
        let digest = put(&cas, round, 100 + (round as usize * 997) % 20_000);
        match durability {
            Durability::Power => promised.push(digest),
            Durability::Process => put_since.push(digest),
        }
        if round % 40 == 39 {
            cas.checkpoint().unwrap();
            promised.append(&mut put_since);
        }
        if round % 50 == 24 {
            // What is being written back by the kernel meanwhile is not waited for.
            rustix::fs::sync();
        }
        if round % EVERY == 0 {
            let (from, to) = (File::open(&disk).unwrap(), File::create(&snapshot).unwrap());
            rustix::fs::ioctl_ficlone(&to, &from).unwrap();
            drop((from, to));
            check(&snapshot, &promised, durability, &format!("{what}, after put {round}"));
        }
    }
    cas.close();
}
