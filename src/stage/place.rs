//! The directories that layers may lie in, and the choice among them.
//!
//! ```text
//!   explicit given       <explicit>/fulgurite-<uid>            and no other
//!   else                 <state dir>/layers
//!                        /var/tmp/fulgurite-<uid>
//!                        /tmp/fulgurite-<uid>
//!                        <parent of the exec root>/.fulgurite-<uid>      removed again when empty
//!   rank: same mount as the destination  >  same filesystem  >  other; among equals in this order
//! ```
//!
//! Invariants: a place is a directory of ours with mode 0700, opened without following a symlink in its last
//! component; one that is somebody else's, or open to others, is refused and never repaired. Only the chosen
//! place is created. Filesystems that cannot hold an overlay's upper layer are passed over.
//!
//! Limits: the directories above a place are taken as the caller wrote them, symlinks included.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::beneath;
use super::error::StageError;
use super::fault::Fault;

/// Where layers may lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// A directory that the user chose: used, or an error.
    pub explicit: Option<PathBuf>,
    /// The directory where Fulgurite keeps its state.
    pub state_dir: Option<PathBuf>,
    /// The directory that holds the exec root.
    pub exec_root_parent: Option<PathBuf>,
    /// The user's id as the host sees it; part of names that users share a directory with.
    pub uid: u32,
}

impl Places {
    /// The candidates, best first among equals.
    pub fn candidates(&self) -> Vec<PathBuf> {
        let own = format!("fulgurite-{}", self.uid);
        if let Some(explicit) = &self.explicit {
            return vec![explicit.join(own)];
        }
        let mut candidates = Vec::new();
        candidates.extend(self.state_dir.as_ref().map(|dir| dir.join("layers")));
        candidates.push(Path::new("/var/tmp").join(&own));
        candidates.push(Path::new("/tmp").join(&own));
        candidates.extend(self.exec_root_parent.as_ref().map(|dir| dir.join(format!(".{own}"))));
        candidates
    }
}

/// An open place.
#[derive(Debug)]
pub(super) struct Place {
    /// Its directory.
    pub dir: OwnedFd,
    /// Where it is.
    pub path: PathBuf,
    /// On the same mount as the destination it was chosen for.
    pub same_mount: bool,
    holder: OwnedFd,
    name: CString,
}

/// A candidate that has not been created: the directory that holds it.
struct Candidate {
    holder: OwnedFd,
    path: PathBuf,
    rank: u8,
}

impl Place {
    /// Chooses and creates the best place for outputs that go to `destination`.
    pub fn choose(places: &Places, destination: BorrowedFd<'_>) -> Result<Self, StageError> {
        let wanted = beneath::mount_of(destination).map_err(Fault::of("inspect", "the destination"))?;
        let mut tried = Vec::new();
        let mut candidates = Vec::new();
        for path in places.candidates() {
            match Candidate::look(&path, wanted) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => tried.push(error.to_string()),
            }
        }
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank));
        for candidate in candidates {
            let same_mount = candidate.rank == 2;
            match Self::open(candidate.holder, candidate.path, true) {
                Ok(place) => return Ok(Self { same_mount, ..place }),
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(StageError::NoPlace { tried })
    }

    /// Opens a place if it is there.
    pub fn open_existing(path: &Path) -> Result<Self, StageError> {
        Self::open(open_holder(path)?, path.to_path_buf(), false)
    }

    fn open(holder: OwnedFd, path: PathBuf, create: bool) -> Result<Self, StageError> {
        let name = CString::new(path.file_name().unwrap_or_default().as_bytes()).unwrap_or_default();
        if create {
            match rustix::fs::mkdirat(&holder, &name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(why) => return Err(Fault::new("create directory", path, why).into()),
            }
        }
        let dir = match beneath::open_dir(holder.as_fd(), &name) {
            Ok(dir) => dir,
            Err(Errno::LOOP) => return Err(StageError::NotPrivate { path, why: "it is a symlink" }),
            Err(why) => return Err(Fault::new("open directory", path, why).into()),
        };
        let stat = rustix::fs::fstat(&dir).map_err(Fault::of("inspect", &path))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StageError::NotPrivate { path, why: "it belongs to another user" });
        }
        if beneath::mode(&stat).intersects(Mode::RWXG | Mode::RWXO) {
            return Err(StageError::NotPrivate { path, why: "others may enter it (its mode must be 0700)" });
        }
        Ok(Self { dir, path, same_mount: false, holder, name })
    }

    /// Removes the place again if it is a guest beside the exec root and nobody uses it.
    pub fn leave(&self) {
        if self.name.to_bytes().starts_with(b".") {
            let _ = rustix::fs::unlinkat(&self.holder, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

impl Candidate {
    fn look(path: &Path, wanted: (u64, Option<u64>)) -> Result<Self, StageError> {
        let holder = open_holder(path)?;
        let fault = |why| Fault::new("inspect", path, why);
        if let Some(why) = unsuitable(holder.as_fd()).map_err(fault)? {
            return Err(StageError::NotPrivate { path: path.to_path_buf(), why });
        }
        let here = beneath::mount_of(holder.as_fd()).map_err(fault)?;
        let rank = u8::from(here.0 == wanted.0) + u8::from(here == wanted);
        Ok(Self { holder, path: path.to_path_buf(), rank })
    }
}

fn open_holder(path: &Path) -> Result<OwnedFd, Fault> {
    let holder = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(holder, flags, Mode::empty()).map_err(Fault::of("open directory", holder))
}

/// Why a filesystem cannot hold an upper layer, by its magic number (linux/magic.h).
fn unsuitable(fd: BorrowedFd<'_>) -> Result<Option<&'static str>, Errno> {
    Ok(match u64::try_from(rustix::fs::fstatfs(fd)?.f_type).unwrap_or_default() {
        0x794c_7630 => Some("it is on an overlay, which cannot hold another's upper layer"),
        0x6969 => Some("it is on NFS, which cannot hold an upper layer"),
        0x6573_5546 => Some("it is on FUSE, which cannot hold an upper layer"),
        0x4d44 => Some("it is on a FAT filesystem, which cannot hold an upper layer"),
        _ => None,
    })
}
