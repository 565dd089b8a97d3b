//! Filesystems of their own for measurements that make many files.
//!
//! What a new file costs depends on the filesystem, on its age, and on what others have done to it: a root disk of ext4
//! without journal takes 300 µs for each new inode for minutes after a mass deletion. So a new filesystem is made in a
//! sparse file and loop-mounted, in this process's own mount namespace. The file has no name once it is mounted: whatever
//! ends the process, mount, loop device and file go with it.
use super::error::BenchError;
use super::scratch::{PREFIX, real};
use fulgurite_sandbox::sys::mount;
use rustix::fd::AsFd;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the sparse file: as much as 100,000 small files in four copies take.
const IMAGE_BYTES: u64 = 8 << 30;
/// Inodes of an ext4 image.
const INODES: &str = "800000";
/// Directories that nobody here needs, over one of which a filesystem is mounted.
const COVERED: [&str; 3] = ["/mnt", "/media", "/srv"];

/// What kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesystemKind {
    /// ext4 with a journal, as hosts have it.
    Ext4,
    /// XFS, with reflinks.
    Xfs,
    /// tmpfs, which cannot hold images for composefs.
    Tmpfs,
}

impl FilesystemKind {
    /// All of them.
    pub const ALL: [FilesystemKind; 3] = [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Tmpfs];

    /// Its name in reports and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FilesystemKind::Ext4 => "ext4",
            FilesystemKind::Xfs => "xfs",
            FilesystemKind::Tmpfs => "tmpfs",
        }
    }
}

/// A new filesystem. Dropping it unmounts it.
#[derive(Debug)]
pub struct Filesystem {
    path: PathBuf,
    description: String,
}

impl Filesystem {
    /// Makes one, with its sparse file in `images`.
    ///
    /// # Errors
    /// [`BenchError`]: a program that is not installed, or what it said.
    pub fn make(kind: FilesystemKind, images: &Path) -> Result<Self, BenchError> {
        let path = mount_point(images)?;
        let Ok(target) = CString::new(path.as_os_str().as_bytes()) else {
            return Err(BenchError::Path { path, why: "its name has a NUL byte" });
        };
        let description = if kind == FilesystemKind::Tmpfs {
            mount::tmpfs(c"", c"", c"0755", mount::attr::NO_SUID | mount::attr::NO_DEV)
                .and_then(|made| mount::attach_at(made.as_fd(), mount::here(), &target))
                .map_err(|errno| BenchError::file("mount a tmpfs")(errno.into()))?;
            "tmpfs".to_owned()
        } else {
            let image = images.join(format!("{PREFIX}{}.img", std::process::id()));
            let made = loop_mount(kind, &image, &path);
            let removed = fs::remove_file(&image);
            made?;
            removed.map_err(BenchError::file(format!("remove {}", image.display())))?;
            format!("{} (new, loop-mounted, image on {})", kind.name(), super::scratch::name_of(images))
        };
        Ok(Filesystem { path, description })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is, for reports.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let path = CString::new(self.path.as_os_str().as_bytes()).unwrap_or_default();
        // It goes with the process at the latest.
        let _ = mount::detach(&path);
    }
}

/// A directory to mount over.
fn mount_point(images: &Path) -> Result<PathBuf, BenchError> {
    let images = real(images);
    let mut places = COVERED.iter().map(|path| real(Path::new(path)));
    places
        .find(|path| path.is_dir() && !images.starts_with(path))
        .ok_or_else(|| BenchError::NoScratch { tried: COVERED.join(", ") })
}

fn loop_mount(kind: FilesystemKind, image: &Path, at: &Path) -> Result<(), BenchError> {
    let what = || format!("make a filesystem in {}", image.display());
    let file = fs::File::create_new(image).map_err(BenchError::file(what()))?;
    file.set_len(IMAGE_BYTES).map_err(BenchError::file(what()))?;
    let (program, options): (_, &[&str]) = match kind {
        FilesystemKind::Xfs => ("mkfs.xfs", &["-q", "-K"]),
        // What is made lazily would be made while it is measured.
        _ => (
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-N",
                INODES,
                "-O",
                "has_journal",
                "-E",
                "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            ],
        ),
    };
    call(Command::new(program).args(options).arg(image), program, "install e2fsprogs and xfsprogs")?;
    let mut mounting = Command::new("mount");
    mounting.args(["-t", kind.name(), "-o", "loop,noatime"]).arg(image).arg(at);
    call(&mut mounting, "mount", "install util-linux")
}

fn call(command: &mut Command, name: &str, remedy: &'static str) -> Result<(), BenchError> {
    // mkfs and mount live in directories that ordinary users do not search.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => BenchError::NoProgram { name: name.to_owned(), remedy },
        _ => BenchError::file(format!("run {name}"))(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::file(format!("run {name}"))(std::io::Error::other(said)))
}
