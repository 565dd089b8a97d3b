//! Sealed files that become blobs.

use super::*;
use crate::cas::{Adopted, CasError, Sealed};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

fn adopt_as(cas: &Cas, path: &Path, file: &File) -> Result<(Digest, Adopted), CasError> {
    let dir = File::open(path.parent().unwrap()).unwrap();
    let name = CString::new(path.file_name().unwrap().to_str().unwrap()).unwrap();
    cas.adopt(
        DigestFunction::Sha256,
        &Sealed { dir: dir.as_fd(), name: &name, file: file.as_fd(), is_leased: false },
    )
}

fn adopt(cas: &Cas, path: &Path) -> Result<(Digest, Adopted), CasError> {
    adopt_as(cas, path, &File::open(path).unwrap())
}

#[test]
fn an_output_is_renamed_and_made_ours() {
    let scene = Scene::new();
    let cas = scene.open();
    let path = scene.dir.path().join("output");
    std::fs::write(&path, bytes(1, 100_000)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let is_labelled = rustix::fs::setxattr(&path, "trusted.mark", b"1", flags).is_ok();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(4242), Some(4242)).unwrap();
    }
    let inode = std::fs::metadata(&path).unwrap().ino();
    let (digest, how) = adopt(&cas, &path).unwrap();
    assert_eq!((digest, how), (sha(&bytes(1, 100_000)), Adopted::Renamed));
    assert!(!path.exists());
    let file = scene.file(&digest);
    let stat = std::fs::metadata(&file).unwrap();
    let us = rustix::process::geteuid().as_raw();
    assert_eq!((stat.ino(), stat.uid(), stat.mode() & 0o7777), (inode, us, 0o444));
    if is_labelled {
        assert_eq!(rustix::fs::getxattr(&file, "trusted.mark", &mut [0; 8]), Err(Errno::NODATA));
    }
    assert_eq!(cas.read(&digest, 100_000).unwrap(), bytes(1, 100_000));
    assert_eq!((cas.stats().renamed, cas.stats().bytes_copied), (1, 0));
}

#[test]
fn a_known_output_stays_where_it_was() {
    let scene = Scene::new();
    let cas = scene.open();
    let digest = put(&cas, 1, 50);
    let path = scene.dir.path().join("output");
    std::fs::write(&path, bytes(1, 50)).unwrap();
    assert_eq!(adopt(&cas, &path).unwrap(), (digest, Adopted::Known));
    assert!(path.exists());
    assert_eq!(cas.stats().known, 1);
}

#[test]
fn what_could_still_change_is_copied() {
    let scene = Scene::new();
    let cas = scene.open();
    let path = scene.dir.path().join("output");
    std::fs::write(&path, bytes(1, 50)).unwrap();
    let link = scene.dir.path().join("link");
    std::fs::hard_link(&path, &link).unwrap();
    let (digest, how) = adopt(&cas, &path).unwrap();
    assert_eq!(how, Adopted::Copied);
    std::fs::write(&path, bytes(2, 50)).unwrap();
    assert_eq!(cas.read(&digest, 50).unwrap(), bytes(1, 50));
    std::fs::remove_file(&link).unwrap();

    let writer = File::options().write(true).open(&path).unwrap();
    let (digest, how) = adopt(&cas, &path).unwrap();
    assert_eq!((digest, how), (sha(&bytes(2, 50)), Adopted::Copied));
    assert_eq!(adopt(&cas, &path).unwrap(), (digest, Adopted::Known));
    drop(writer);
    assert_eq!((cas.stats().copied, cas.stats().bytes_copied), (2, 100));
    check_objects(&scene.path());
}

#[test]
fn an_output_of_another_filesystem_is_copied() {
    let scene = Scene::new();
    let cas = scene.open();
    let elsewhere = tempfile::tempdir_in("/tmp").unwrap();
    let path = elsewhere.path().join("output");
    std::fs::write(&path, bytes(3, 70_000)).unwrap();
    let is_other =
        std::fs::metadata(&path).unwrap().dev() != std::fs::metadata(scene.dir.path()).unwrap().dev();
    if !is_other {
        println!("SKIP an_output_of_another_filesystem_is_copied: /tmp and /dev/shm are one filesystem");
        return;
    }
    assert_eq!(adopt(&cas, &path).unwrap(), (sha(&bytes(3, 70_000)), Adopted::Copied));
    assert!(path.exists());
}

#[test]
fn another_file_under_the_name_is_refused() {
    let scene = Scene::new();
    let cas = scene.open();
    let path = scene.dir.path().join("output");
    std::fs::write(&path, "sealed").unwrap();
    let sealed = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "planted").unwrap();
    let refused = adopt_as(&cas, &path, &sealed).unwrap_err();
    assert!(matches!(refused, CasError::Io { errno: Errno::STALE, .. }), "{refused}");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let refused = adopt_as(&cas, &path, &sealed).unwrap_err();
    assert!(matches!(refused, CasError::Io { errno: Errno::STALE, .. }), "{refused}");
}
