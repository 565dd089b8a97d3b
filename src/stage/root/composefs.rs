//! The first way: an EROFS image of the names over the store's own files.
//!
//! ```text
//!   closure ─► image, a file without a name in the state directory ─► detached mount ─► lower layer
//!                                                        objects of the store ─────────► data layer
//! ```
//! The image has no name, so that nothing that lies on a disk is ever trusted, and nothing is left of it when the
//! daemon is killed; it costs less to make again than to verify. Invariants: the mount is read-only; the file is closed
//! for writing before it is mounted.

use super::closure::{Closure, is_empty_blob};
use super::error::StageRootError;
use super::paths::{What, expand};
use crate::action::Digest;
use crate::cas::Cas;
use crate::stage::erofs::{self, FILE_BYTES_MAX, Inode, Kind};
use fulgurite_sandbox::host::Features;
use fulgurite_sandbox::layer::{self, Layers};
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sys::mount;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::BufWriter;

/// Bytes that are written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// Makes the image of a closure and mounts it.
///
/// # Errors
/// [`StageRootError::TooLarge`] for a file beyond what one chunk covers, [`StageRootError::Io`].
pub fn mount(images: BorrowedFd<'_>, closure: &Closure) -> Result<OwnedFd, StageRootError> {
    let paths = expand(closure);
    let mut inodes = Vec::with_capacity(paths.len());
    for path in &paths {
        let kind = match path.what {
            What::Directory(_, first, count) => Kind::Directory { first, count },
            What::Symlink(link) => Kind::Symlink { target: link.target.as_bytes() },
            What::File(file) => file_kind(&file.digest)?,
        };
        let (mode, mtime) = (path.mode(), path.mtime());
        inodes.push(Inode { name: path.name.as_bytes(), parent: path.parent, mode, mtime, kind });
    }
    mount_inodes(images, &inodes)
}

fn file_kind(digest: &Digest) -> Result<Kind<'static>, StageRootError> {
    if is_empty_blob(digest) {
        return Ok(Kind::File { size_bytes: 0, object: None });
    }
    if digest.size_bytes > FILE_BYTES_MAX {
        let (what, found) = ("a file of bytes:", digest.size_bytes);
        return Err(StageRootError::TooLarge { what, found, max: FILE_BYTES_MAX });
    }
    Ok(Kind::File { size_bytes: digest.size_bytes, object: Some(Cas::object_path(digest)) })
}

fn mount_inodes(images: BorrowedFd<'_>, inodes: &[Inode<'_>]) -> Result<OwnedFd, StageRootError> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(images, c".", flags, Mode::from_raw_mode(0o600))
        .map_err(StageRootError::io("make an image"))?;
    let mut file = File::from(file);
    erofs::write(inodes, BufWriter::with_capacity(WRITE_BYTES, &mut file))
        .map_err(StageRootError::file("write an image"))?;
    mount::erofs(file.as_fd()).map_err(StageRootError::io("mount an image"))
}

/// Whether this host can do it with images in this directory: tried with a root of one file.
///
/// # Errors
/// Why not.
pub fn probe(images: BorrowedFd<'_>, runtime: &Runtime) -> Result<(), String> {
    let features = runtime.features();
    if !features.privileged {
        return Err("only the host's root can mount EROFS images".to_owned());
    }
    if !features.overlay_detached_layers.is_yes() {
        return Err(features.overlay_detached_layers.why().to_owned());
    }
    let name = c"probe";
    // What a killed daemon left of an earlier try.
    let _ = crate::stage::remove_tree(images, name, 64);
    let tried = rustix::fs::mkdirat(images, name, Mode::RWXU)
        .and_then(|()| layer::open_directory(images, name))
        .map_err(|errno| format!("cannot make a directory to try it in: {errno}"))
        .and_then(|dir| try_in(dir.as_fd(), runtime, features));
    let _ = crate::stage::remove_tree(images, name, 64);
    tried
}

fn try_in(dir: BorrowedFd<'_>, runtime: &Runtime, features: &Features) -> Result<(), String> {
    let failed = |what: &'static str| move |errno: Errno| format!("cannot {what}: {errno}");
    let make = |name: &std::ffi::CStr| -> Result<OwnedFd, Errno> {
        rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
        layer::open_directory(dir, name)
    };
    let inode = |name, kind| Inode { name, parent: 0, mode: 0o755, mtime: super::paths::MTIME, kind };
    let inodes = [
        inode(b"".as_slice(), Kind::Directory { first: 1, count: 1 }),
        inode(b"a".as_slice(), Kind::File { size_bytes: 1, object: Some("a/b".to_owned()) }),
    ];
    let image = mount_inodes(dir, &inodes).map_err(|error| match error {
        StageRootError::Io { what, errno: Errno::NODEV } => {
            format!("cannot {what}: the kernel has no EROFS (modprobe erofs)")
        }
        StageRootError::Io { what, errno: Errno::NOTBLK | Errno::INVAL } => {
            format!("cannot {what}: it takes Linux 6.12, and a state directory that is not on tmpfs")
        }
        other => other.to_string(),
    })?;
    let data = make(c"data").map_err(failed("make a directory"))?;
    let (upper, work) = (make(c"upper"), make(c"work"));
    let (upper, work) =
        (upper.map_err(failed("make a directory"))?, work.map_err(failed("make a directory"))?);
    let object = make(c"data/a").and_then(|a| crate::stage::beneath::create_file(a.as_fd(), c"b"));
    let object = object.map_err(failed("make a file"))?;
    rustix::io::write(&object, b"x").map_err(failed("write a file"))?;
    let mapped = runtime.map_owner(image.as_fd(), 1).map_err(|error| error.to_string())?;
    let mapped = mapped.ok_or("EROFS has no idmapped mounts here (Linux 5.19)")?;
    let layers = Layers { lower: mapped.as_fd(), upper: upper.as_fd(), work: work.as_fd() };
    let view = layer::overlay_over_data(&layers, data.as_fd(), features)
        .map_err(|errno| format!("cannot mount an overlay over a data layer (Linux 6.16): {errno}"))?;
    let mut byte = [0];
    let read = rustix::fs::openat(&view, c"a", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut byte));
    match read {
        Ok(1) if byte == *b"x" => Ok(()),
        Ok(_) => Err("the kernel does not follow redirects into a data layer (Linux 6.16)".to_owned()),
        Err(errno) => Err(format!("cannot read through a data layer (Linux 6.16): {errno}")),
    }
}
