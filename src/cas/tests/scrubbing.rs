//! S20: the disk and the kernel's cache say different things. The disk is the file behind a loop device, so that both
//! can be changed without the other.

use super::power::Image;
use super::*;
use crate::cas::Scrubbed;
use std::os::unix::fs::FileExt;

/// Puts `bytes` over the one place of a disk that has `found`.
fn change(disk: &Path, found: &[u8], bytes: &[u8]) {
    let file = std::fs::File::options().read(true).write(true).open(disk).unwrap();
    let all = std::fs::read(disk).unwrap();
    // Blobs begin at a block.
    let at: Vec<usize> =
        (0..all.len() / 1024).map(|block| block * 1024).filter(|at| all[*at..].starts_with(found)).collect();
    let [at] = at[..] else { panic!("it is at {} places", at.len()) };
    file.write_all_at(bytes, at as u64).unwrap();
}

#[test]
fn s20_the_disk_and_the_cache_are_both_looked_at() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIP s20: only root can mount images");
    }
    let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let disk = temp.path().join("disk");
    let image = match Image::new(&disk, 64 << 20, &["mkfs.ext4", "-q", "-b", "4096"]) {
        Ok(image) => image,
        Err(why) => return println!("SKIP s20: {why}"),
    };
    let tuning = Tuning { log_records: 1 << 8, is_keeper_idle: true, ..Tuning::usual() };
    let options = CasOptions { dir: image.at.path().join("cas"), size_bytes_max: 1 << 30 };
    let cas = Cas::open_tuned(&options, Durability::Process, tuning).unwrap();
    let sizes = [8, 4096, 5000, 300_000];
    let digests: Vec<Digest> = sizes.iter().zip(1..).map(|(size, number)| put(&cas, number, *size)).collect();
    cas.checkpoint().unwrap();
    rustix::fs::sync();
    for digest in &digests {
        assert_eq!(cas.scrub(digest).unwrap(), Scrubbed::Whole, "{digest}");
    }
    let good = bytes(3, 5000)[..1000].to_vec();
    let mut bad = good.clone();
    bad[500] ^= 1;
    let drop_cache = |digest: &Digest| {
        let file = std::fs::File::open(options.dir.join("objects").join(Cas::object_path(digest))).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        std::io::copy(&mut &file, &mut std::io::sink()).unwrap();
    };
    // The cache has what the disk once had, and has no more.
    change(&disk, &good, &bad);
    drop_cache(&digests[2]);
    change(&disk, &bad, &good);
    assert_ne!(cas.read(&digests[2], 5000).unwrap(), bytes(3, 5000), "the cache is to be bad");
    assert_eq!(cas.scrub(&digests[2]).unwrap(), Scrubbed::CacheDiffered);
    assert_eq!(cas.read(&digests[2], 5000).unwrap(), bytes(3, 5000));
    assert_eq!((cas.stats().cache_differed, cas.stats().quarantined), (1, 0));
    // The disk goes bad, and the cache hides it.
    change(&disk, &good, &bad);
    assert_eq!(cas.read(&digests[2], 5000).unwrap(), bytes(3, 5000), "the cache is to be good");
    // The keeper comes by it as well.
    while cas.stats().quarantined == 0 {
        cas.store().scrub_some().unwrap();
        assert!(cas.stats().scrubbed < 100, "it is not found");
    }
    assert!(!cas.contains(&digests[2]));
    put(&cas, 3, 5000);
    cas.checkpoint().unwrap();
    assert_eq!(cas.scrub(&digests[2]).unwrap(), Scrubbed::Whole);
    assert_eq!(cas.scrub(&sha(b"never")).unwrap(), Scrubbed::Missing);
    cas.close();
}
