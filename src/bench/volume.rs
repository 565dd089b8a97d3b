//! A filesystem made for a measurement: an image in memory, mounted through a loop device.
//!
//! The image is sparse and lies in the scratch directory; the mount is in this process's own mount namespace and the
//! loop device clears itself, so that both go with the process at the latest.
use super::command::{Bare, Streams, find_program};
use super::error::BenchError;
use super::scratch::Scratch;
use fulgurite_sandbox::sys::mount;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The kinds that can be made, with how.
const KINDS: [(&str, &str, &[&str]); 2] = [
    ("xfs", "mkfs.xfs", &["-q", "-f", "-m", "reflink=1"]),
    ("ext4", "mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
];

/// A mounted image. Dropping it unmounts it.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    /// The names of all kinds.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(kind, ..)| *kind)
    }

    /// Makes and mounts one.
    ///
    /// # Errors
    /// No such program, or no right to mount: [`BenchError`].
    pub fn new(kind: &str, scratch: &Scratch, size_bytes: u64) -> Result<Self, BenchError> {
        let (_, program, options) = KINDS
            .iter()
            .find(|(name, ..)| *name == kind)
            .ok_or_else(|| BenchError::NoCase { name: kind.to_owned(), known: "xfs, ext4".to_owned() })?;
        let image = scratch.path().join(format!("{kind}.image"));
        let path = scratch.directory(kind)?;
        let failed = || BenchError::file(format!("make {}", image.display()));
        File::create_new(&image).and_then(|file| file.set_len(size_bytes)).map_err(failed())?;
        let make = [OsString::from(find(program)?)].into_iter().chain(options.iter().map(OsString::from));
        run(make.chain([image.clone().into()]).collect(), scratch, program)?;
        let words: [OsString; 7] = [
            find("mount")?.into(),
            "-t".into(),
            kind.into(),
            "-o".into(),
            "loop".into(),
            image.into(),
            path.clone().into(),
        ];
        run(words.to_vec(), scratch, "mount")?;
        Ok(Volume { path })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let path = CString::new(self.path.as_os_str().as_bytes()).unwrap_or_default();
        // It goes with the process at the latest.
        let _ = mount::detach(&path);
    }
}

/// Programs of administrators lie elsewhere than those of builds.
fn find(program: &str) -> Result<PathBuf, BenchError> {
    let places = ["/usr/sbin", "/sbin"].map(|directory| Path::new(directory).join(program));
    match places.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => find_program(program, "install xfsprogs and e2fsprogs"),
    }
}

fn run(arguments: Vec<OsString>, scratch: &Scratch, what: &str) -> Result<(), BenchError> {
    let bare = Bare { arguments, directory: "/".into(), temporary: scratch.path().to_path_buf() };
    let streams = Streams::new(scratch.path(), "volume")?;
    let status = bare.run(&streams).map_err(BenchError::file(format!("start {what}")))?;
    if status.success() {
        return Ok(());
    }
    let why = std::io::Error::other(format!("{status}: {}", streams.last_words()));
    Err(BenchError::File { what: format!("run {what}"), why })
}

/// Writes everything out, so that no measurement pays for what an earlier one wrote.
///
/// # Errors
/// The kernel's.
pub fn settle(directory: &Path) -> Result<(), BenchError> {
    let failed = |why: std::io::Error| BenchError::File { what: "sync the volume".to_owned(), why };
    let directory = fs::File::open(directory).map_err(failed)?;
    rustix::fs::syncfs(&directory).map_err(|errno| failed(errno.into()))
}
