//! Opening things in a tree that an action may have shaped: one name at a time, from a descriptor.
//!
//! ```text
//!   open_dir(dir, "a")     openat2(dir, "a", O_DIRECTORY, BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV)
//!   open_path_dir(root, "a/b/c", Way::..)                 the same for a declared path of several components
//!   pin(dir, "a")          O_PATH: the inode itself, whatever its mode, never opened for input or output
//! ```
//!
//! Invariants: no function here follows a symlink in the last component; opening never blocks (a FIFO is seen
//! by its type first, and O_NONBLOCK is set all the same); every descriptor is close-on-exec.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dev, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

/// Gives a file without a name (`O_TMPFILE`) the name `name` in `dir`; what has it stays, with `EXIST`.
///
/// # Errors
/// As linkat(2).
pub fn name_file(
    file: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> Result<(), Errno> {
    match rustix::fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        // Also what a caller without CAP_DAC_READ_SEARCH in the first user namespace gets before Linux 6.10.
        Err(Errno::NOENT | Errno::PERM) => {
            rustix::fs::linkat(rustix::fs::CWD, own_path(file), dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        result => result,
    }
}

/// How a path of several components may be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No symlink, no mount point, never out: for layers and staged trees.
    Strict,
    /// No symlink, never out, but mounts below may be entered: for destinations.
    NoSymlinks,
    /// Symlinks are followed as long as they stay beneath: for declared inputs.
    Beneath,
}

impl Way {
    fn flags(self) -> ResolveFlags {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match self {
            Self::Strict => beneath | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
            Self::NoSymlinks => beneath | ResolveFlags::NO_SYMLINKS,
            Self::Beneath => beneath,
        }
    }
}

/// A uid and a gid, set together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id, as this process sees it.
    pub uid: u32,
    /// Group id, as this process sees it.
    pub gid: u32,
}

impl Owner {
    /// The user id as rustix wants it.
    pub fn user(self) -> Option<rustix::fs::Uid> {
        Some(rustix::fs::Uid::from_raw(self.uid))
    }

    /// The group id as rustix wants it.
    pub fn group(self) -> Option<rustix::fs::Gid> {
        Some(rustix::fs::Gid::from_raw(self.gid))
    }
}

/// Opens the directory `name` in `dir` for listing. A symlink answers `LOOP`: it is the resolve flags that
/// refuse it, because `O_NOFOLLOW` together with `O_DIRECTORY` would answer `NOTDIR`.
pub fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2_again(dir, name, flags, Way::Strict)
}

/// Opens the directory at the relative path `path`.
pub fn open_dir_at(dir: BorrowedFd<'_>, path: &Path, way: Way) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2_again(dir, path, flags, way)
}

/// Opens the regular file `name` in `dir` for reading. The caller checks the type before and after.
pub fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    openat2_again(dir, name, flags, Way::Strict)
}

/// Creates the regular file `name` in `dir` for writing; it must not exist.
pub fn create_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
}

/// Opens the inode of `name` itself (O_PATH), whatever it is.
pub fn pin(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat2_again(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Way::Strict)
}

/// What `name` in `dir` is, or `None` if there is nothing.
pub fn look(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Changes the mode of `name` in `dir`, which is no symlink, without opening it for input or output.
pub fn change_mode(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<(), Errno> {
    let pinned = pin(dir, name)?;
    if kind(&rustix::fs::fstat(&pinned)?) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(own_path(pinned.as_fd()), mode)
}

/// The path under which this process reaches one of its own descriptors, for calls that take only paths.
pub fn own_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The type of a file.
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The permission bits of a file, set-id and sticky bits included.
pub fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode)
}

/// What a refused kind of file is called in errors, or `None` if it is no special file.
pub fn special(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice => Some("a character device"),
        FileType::BlockDevice => Some("a block device"),
        FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
        FileType::Unknown => Some("of unknown type"),
    }
}

/// A name and its type, where the filesystem tells it in listings (else `Unknown`).
pub type Entry = (std::ffi::CString, FileType);

/// Lists `dir` from its beginning: at most `max` entries, and whether there are more.
pub fn list(dir: BorrowedFd<'_>, max: usize) -> Result<(Vec<Entry>, bool), Errno> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
    let mut listing = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if entries.len() == max {
            return Ok((entries, true));
        }
        entries.push((entry.file_name().to_owned(), entry.file_type()));
    }
    Ok((entries, false))
}

/// The filesystem and the mount that a descriptor is on; two places with equal answers can be renamed
/// between.
pub fn mount_of(fd: BorrowedFd<'_>) -> Result<(Dev, Option<u64>), Errno> {
    use rustix::fs::StatxFlags;
    let device = rustix::fs::fstat(fd)?.st_dev;
    let answer = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let known = answer.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok((device, known.then_some(answer.stx_mnt_id)))
}

/// `openat2` is allowed to answer EAGAIN when a rename happens elsewhere during the resolution.
fn openat2_again(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    way: Way,
) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), way.flags()) {
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            answer => return answer,
        }
    }
}
