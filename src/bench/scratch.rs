//! The place for everything that a measurement writes.
//!
//! By default it is a new tmpfs over a directory that nobody here needs, in this process's own mount namespace: other
//! processes never see it, the children that are measured do, and the kernel drops it with the last of them, whatever
//! ended them. A directory that the user chose instead gets a directory of ours, named after this process; the next run
//! removes what a killed one left there.
use super::error::BenchError;
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sys::mount;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// Directories that exist everywhere and that neither a compiler nor we need.
const COVERED: [&str; 4] = ["/dev/shm", "/mnt", "/media", "/srv"];
/// What directories of ours are called; a pid follows.
pub(super) const PREFIX: &str = "fulgurite-bench-";

/// A place for temporary files. Dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Mount,
    Directory,
}

impl Scratch {
    /// Makes one: in `directory`, or on a new tmpfs that covers none of `needed`.
    ///
    /// # Errors
    /// [`BenchError::NoScratch`] or [`BenchError::File`].
    pub fn new(directory: Option<&Path>, needed: &[&Path]) -> Result<Self, BenchError> {
        match directory {
            Some(directory) => Scratch::in_directory(directory),
            None => Scratch::on_tmpfs(needed),
        }
    }

    fn on_tmpfs(needed: &[&Path]) -> Result<Self, BenchError> {
        let here = std::env::current_dir().unwrap_or_default();
        let needed: Vec<PathBuf> =
            needed.iter().map(|path| real(&here.join(path))).chain([here.clone()]).collect();
        for covered in COVERED {
            let path = real(Path::new(covered));
            if needed.iter().any(|needed| needed.starts_with(&path)) || !path.is_dir() {
                continue;
            }
            let Ok(target) = CString::new(path.as_os_str().as_bytes()) else { continue };
            let mounted = mount::tmpfs(c"", c"", c"0755", mount::attr::NO_SUID | mount::attr::NO_DEV)
                .and_then(|tmpfs| mount::attach_at(tmpfs.as_fd(), mount::here(), &target));
            if mounted.is_ok() {
                return Ok(Scratch { path, kind: Kind::Mount });
            }
        }
        Err(BenchError::NoScratch { tried: COVERED.join(", ") })
    }

    fn in_directory(directory: &Path) -> Result<Self, BenchError> {
        remove_leftovers(directory);
        let path = real(directory).join(format!("{PREFIX}{}", std::process::id()));
        // Actions have ids of their own: they must be able to pass.
        make_open_directory(&path)?;
        Ok(Scratch { path, kind: Kind::Directory })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory that everybody may read.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn directory(&self, name: &str) -> Result<PathBuf, BenchError> {
        let path = self.path.join(name);
        make_open_directory(&path)?;
        Ok(path)
    }

    /// The name of the filesystem that it is on.
    #[must_use]
    pub fn filesystem(&self) -> String {
        name_of(&self.path)
    }
}

/// The name of the filesystem that a path is on.
pub(super) fn name_of(path: &Path) -> String {
    let Ok(found) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    match found.f_type {
        0x0102_1994 => "tmpfs".to_owned(),
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x794c_7630 => "overlay".to_owned(),
        other => format!("{other:#x}"),
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match self.kind {
            Kind::Mount => {
                let path = CString::new(self.path.as_os_str().as_bytes()).unwrap_or_default();
                // It goes with the process at the latest.
                let _ = mount::detach(&path);
            }
            Kind::Directory => {
                let _ = fs::remove_dir_all(&self.path);
            }
        }
    }
}

pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn make_open_directory(path: &Path) -> Result<(), BenchError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || BenchError::file(format!("make the directory {}", path.display()));
    fs::create_dir(path).map_err(failed())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed())
}

fn remove_leftovers(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).map(str::parse::<u32>);
        if let Some(Ok(pid)) = pid
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The two directories that one overlay mount writes to.
#[derive(Debug)]
pub struct LayerDirectory {
    path: PathBuf,
    /// Takes the writes.
    pub upper: OwnedFd,
    /// overlayfs's own.
    pub work: OwnedFd,
}

impl LayerDirectory {
    /// Makes a fresh layer at `path`, owned by the id of the actions that will write to it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(path: PathBuf, runtime: &Runtime, action_id: u32) -> std::io::Result<Self> {
        fs::create_dir(&path)?;
        let (upper, work) = (path.join("upper"), path.join("work"));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        if runtime.features().privileged {
            chown(&upper, Some(action_id), Some(action_id))?;
        }
        Ok(LayerDirectory { upper: open_directory(&upper)?, work: open_directory(&work)?, path })
    }

    /// Whether the action has written a file of this name at the top.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        rustix::fs::statat(&self.upper, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes it. Call it when nothing is mounted from it any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(self) -> std::io::Result<()> {
        let LayerDirectory { path, upper, work } = self;
        drop((upper, work));
        fs::remove_dir_all(path)
    }
}

/// Opens a directory.
///
/// # Errors
/// As openat(2).
pub fn open_directory(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_directory_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        // No process has this pid: it is above the kernel's highest.
        fs::create_dir(dir.path().join(format!("{PREFIX}4194305"))).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        let scratch = Scratch::new(Some(dir.path()), &[]).unwrap();
        assert!(scratch.directory("a").unwrap().is_dir());
        assert!(!scratch.filesystem().is_empty());
        drop(scratch);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other"]);
    }
}
