//! S16: what a store may lie on. A filesystem that can do what a put needs is taken; another is refused at the start,
//! in words, and nothing is half then.

use super::*;
use crate::cas::{Adopted, CasError, Sealed};
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use std::process::Command;

/// What was mounted at a directory, until this is dropped.
struct Mounted {
    at: PathBuf,
    dir: TempDir,
}

impl Mounted {
    /// Runs a script with `$D`, a directory of its own, and `$M`, the mount point.
    fn by(script: &str) -> Option<Mounted> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("mounted");
        std::fs::create_dir(&at).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).env("D", dir.path()).env("M", &at);
        shell.output().is_ok_and(|done| done.status.success()).then(|| Mounted { at, dir })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        // What the script may have mounted at its own directory.
        let _ = rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

/// Put, read, adopt, evict and open again.
fn works(dir: &Path, what: &str) {
    let options = CasOptions { dir: dir.join("cas"), size_bytes_max: 1 << 30 };
    for round in 0..2u64 {
        let cas = Cas::open(&options).unwrap_or_else(|error| panic!("{what}: {error}"));
        let digest = put(&cas, round, 3000);
        assert_eq!(cas.read(&digest, 3000).unwrap(), bytes(round, 3000), "{what}");
        std::fs::write(dir.join("output"), bytes(100 + round, 50)).unwrap();
        let open = |path: &Path, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
        let top = open(dir, OFlags::DIRECTORY);
        let file = open(&dir.join("output"), OFlags::RDONLY);
        let sealed = Sealed { dir: top.as_fd(), name: c"output", file: file.as_fd(), is_leased: false };
        let (digest, how) = cas.adopt(DigestFunction::Sha256, &sealed).unwrap();
        assert_eq!(cas.read(&digest, 50).unwrap(), bytes(100 + round, 50), "{what}");
        assert!(matches!(how, Adopted::Renamed | Adopted::Copied), "{what}");
        assert_eq!(cas.missing((0..=round).map(|number| sha(&bytes(number, 3000)))), [], "{what}");
        cas.checkpoint().unwrap();
        cas.close();
        check_temporary(&options.dir);
        let _ = std::fs::remove_file(dir.join("output"));
    }
}

#[test]
fn s16_filesystems_that_can_do_it_are_taken_and_others_refused() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIP s16: only root can mount");
    }
    let image = |make: &str| format!("truncate -s 320M $D/image; {make} $D/image; mount -o loop $D/image $M");
    let cases = [
        ("tmpfs", "mount -t tmpfs none $M".to_owned(), true),
        ("ext4", image("mkfs.ext4 -q"), true),
        ("ext4 without journal", image("mkfs.ext4 -q -O ^has_journal"), true),
        ("xfs", image("mkfs.xfs -q"), true),
        (
            "overlay",
            "mount -t tmpfs none $D; mkdir $D/l $D/u $D/w $D/mounted; \
             mount -t overlay -o lowerdir=$D/l,upperdir=$D/u,workdir=$D/w none $M"
                .to_owned(),
            true,
        ),
        ("read-only", "mount -t tmpfs -o ro none $M".to_owned(), false),
    ];
    for (what, script, is_good) in cases {
        let Some(mounted) = Mounted::by(&script) else {
            println!("SKIP s16 {what}: it cannot be had here");
            continue;
        };
        if is_good {
            works(&mounted.at, what);
            continue;
        }
        let options = CasOptions { dir: mounted.at.join("cas"), size_bytes_max: 1 << 30 };
        match Cas::open(&options) {
            Ok(cas) => {
                // Then it must be right.
                cas.close();
                works(&mounted.at, what);
            }
            Err(error @ CasError::Io { .. }) => {
                assert!(error.to_string().contains(&mounted.at.display().to_string()), "{what}: {error}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}
