//! The walk over the exec root: what is there becomes nodes, and files become blobs.

use super::memory::Stamp;
use super::node::{Branch, Node};
use super::{DigestMemory, Imported, MerkleError};
use crate::action::{Digest, DigestFunction, ExecPath, Hasher, InputSpec, Source};
use crate::cas::{Cas, CasError};
use crate::stage::beneath::{self, Way};
use crate::stage::error::StageError;
use crate::stage::fault::{Fault, TreeError};
use crate::stage::limits::{MERKLE_DEPTH_MAX, TreeLimits};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How often a file that changes while it is read is read again.
const READS_MAX: u32 = 3;
/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

pub(super) struct Walk<'a> {
    cas: &'a Cas,
    function: DigestFunction,
    memory: &'a DigestMemory,
    limits: TreeLimits,
    /// When the walk began: what was written since is not settled.
    now_ns: i128,
    entries: u64,
    files: u64,
    bytes: u64,
    bytes_hashed: u64,
    stored: u64,
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        cas: &'a Cas,
        function: DigestFunction,
        memory: &'a DigestMemory,
        limits: TreeLimits,
        now_ns: i128,
    ) -> Self {
        let buffer = Vec::new();
        Walk {
            cas,
            function,
            memory,
            limits,
            now_ns,
            entries: 0,
            files: 0,
            bytes: 0,
            bytes_hashed: 0,
            stored: 0,
            buffer,
        }
    }

    pub(super) fn done(&self, root: Digest) -> Imported {
        let Walk { files, bytes, bytes_hashed, stored, .. } = *self;
        Imported { root, files, bytes, bytes_hashed, stored, blobs: Vec::new() }
    }

    /// The tree of declared inputs.
    pub(super) fn declared(
        &mut self,
        exec_root: BorrowedFd<'_>,
        inputs: &[InputSpec],
    ) -> Result<Branch, MerkleError> {
        let mut root = Branch::default();
        for input in inputs {
            let node = self.input(exec_root, input)?;
            let conflict =
                |why| StageError::Conflict { input: input.source.to_string(), dest: input.dest.clone(), why };
            let names = names(&input.dest)?;
            let Some((last, above)) = names.split_last() else { continue };
            let parent = root
                .at(above.iter().copied())
                .ok_or_else(|| conflict("an input above it is no directory"))?;
            let alone = Branch { entries: [((*last).to_owned(), node)].into() };
            parent.merge(alone).map_err(|_| conflict("another input is already there"))?;
        }
        Ok(root)
    }

    fn input(&mut self, exec_root: BorrowedFd<'_>, input: &InputSpec) -> Result<Node, MerkleError> {
        let shown = match &input.source {
            Source::Beneath(path) => path.as_path().to_path_buf(),
            Source::Absolute(path) => path.clone(),
        };
        let fault = |why| match why {
            Errno::NOENT | Errno::NOTDIR => StageError::MissingInput { input: input.source.to_string() },
            Errno::XDEV => StageError::InputEscapes { input: input.source.to_string() },
            why => Fault::new("open the directory of", shown.clone(), why).into(),
        };
        let (dir, name) = match &input.source {
            Source::Beneath(path) => {
                let parent = path.parent();
                let parent = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
                let dir = beneath::open_dir_at(exec_root, parent, Way::Beneath).map_err(fault)?;
                (dir, text(path.file_name().as_bytes()))
            }
            Source::Absolute(path) => {
                let real = std::fs::canonicalize(path)
                    .map_err(|error| fault(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
                let parent = real.parent().unwrap_or(Path::new("/"));
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(fault)?;
                match real.file_name() {
                    Some(name) => (dir, text(name.as_bytes())),
                    None => (dir, text(b".")),
                }
            }
        };
        let stat = beneath::look(dir.as_fd(), &name).map_err(fault)?.ok_or_else(|| fault(Errno::NOENT))?;
        self.node((dir.as_fd(), &name), &stat, shown, 0)
    }

    /// A whole directory.
    pub(super) fn directory(&mut self, dir: BorrowedFd<'_>, shown: PathBuf) -> Result<Branch, MerkleError> {
        let dir = beneath::open_dir(dir, c".").map_err(Fault::of("open directory", &shown))?;
        self.branch(&dir, &shown, 0)
    }

    fn branch(&mut self, dir: &OwnedFd, shown: &Path, depth: usize) -> Result<Branch, MerkleError> {
        if depth > MERKLE_DEPTH_MAX {
            let max = MERKLE_DEPTH_MAX as u64;
            return Err(TreeError::TooLarge {
                path: shown.to_path_buf(),
                unit: "levels of directories",
                max,
            }
            .into());
        }
        let left = usize::try_from(self.limits.entries_max - self.entries).unwrap_or(usize::MAX);
        let (entries, more) = beneath::list(dir.as_fd(), left).map_err(Fault::of("list directory", shown))?;
        if more {
            let max = self.limits.entries_max;
            return Err(TreeError::TooLarge { path: shown.to_path_buf(), unit: "entries", max }.into());
        }
        let mut branch = Branch::default();
        for (name, _) in entries {
            let path = shown.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let stat = beneath::look(dir.as_fd(), &name).map_err(Fault::of("inspect", &path))?;
            // Gone since it was listed: somebody works in the tree, and the name was not there a moment later.
            let Some(stat) = stat else { continue };
            let key = utf8(name.to_bytes(), &path, "its name")?;
            let node = self.node((dir.as_fd(), &name), &stat, path, depth)?;
            branch.entries.insert(key, node);
        }
        Ok(branch)
    }

    fn node(
        &mut self,
        (dir, name): (BorrowedFd<'_>, &CStr),
        stat: &Stat,
        shown: PathBuf,
        depth: usize,
    ) -> Result<Node, MerkleError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            let max = self.limits.entries_max;
            return Err(TreeError::TooLarge { path: shown, unit: "entries", max }.into());
        }
        let kind = beneath::kind(stat);
        match kind {
            FileType::Directory => {
                let below = beneath::open_dir(dir, name).map_err(Fault::of("open directory", &shown))?;
                self.branch(&below, &shown, depth + 1).map(Node::Directory)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())
                    .map_err(Fault::of("read symlink", &shown))?;
                Ok(Node::Symlink { target: utf8(target.to_bytes(), &shown, "its target")? })
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let open = || rustix::fs::openat(dir, name, flags, Mode::empty());
                self.file(open, stat, &shown)
            }
            kind => match beneath::special(kind) {
                Some(kind) => Err(TreeError::Special { path: shown, kind }.into()),
                None => Err(Fault::new("inspect", shown, Errno::INVAL).into()),
            },
        }
    }

    fn file(
        &mut self,
        open: impl Fn() -> Result<OwnedFd, Errno>,
        stat: &Stat,
        shown: &Path,
    ) -> Result<Node, MerkleError> {
        let executable = stat.st_mode & 0o100 != 0;
        self.files += 1;
        self.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        let known = self.memory.get(&Stamp::of(stat), self.function);
        if let Some(digest) = known
            && self.cas.contains(&digest)
        {
            return Ok(Node::File { digest, executable, is_tool: false });
        }
        for _ in 0..READS_MAX {
            let file = std::fs::File::from(open().map_err(Fault::of("open", shown))?);
            let before = rustix::fs::fstat(&file).map_err(Fault::of("inspect", shown))?;
            if beneath::kind(&before) != FileType::RegularFile {
                return Err(Fault::new("read as a file", shown, Errno::INVAL).into());
            }
            let digest = self.hash(&file).map_err(Fault::of("read", shown))?;
            if !self.keep(&file, digest, shown)? {
                continue;
            }
            let after = rustix::fs::fstat(&file).map_err(Fault::of("inspect", shown))?;
            if Stamp::of(&before) == Stamp::of(&after) {
                self.memory.put(Stamp::of(&after), self.function, digest, self.now_ns);
            }
            return Ok(Node::File { digest, executable, is_tool: false });
        }
        Err(MerkleError::Unsteady(shown.to_path_buf()))
    }

    fn hash(&mut self, file: &std::fs::File) -> Result<Digest, Errno> {
        let mut hasher = Hasher::new(self.function);
        let hashed = pieces(file, &mut self.buffer, |piece| {
            hasher.update(piece);
            Ok(())
        });
        self.bytes_hashed += hashed?;
        Ok(hasher.finish())
    }

    /// Puts the file into the store unless it is there. False if the file is no longer what was hashed.
    fn keep(&mut self, file: &std::fs::File, digest: Digest, shown: &Path) -> Result<bool, MerkleError> {
        if digest.is_empty() || self.cas.contains(&digest) {
            return Ok(true);
        }
        let failed = |why| MerkleError::Store { path: shown.to_path_buf(), why };
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).map_err(Fault::of("read", shown))?;
        let mut writer = self.cas.writer(digest).map_err(failed)?;
        let mut refused = None;
        let copied = pieces(file, &mut self.buffer, |piece| {
            writer.write(piece).map_err(|error| {
                refused = Some(error);
                Errno::IO
            })
        });
        match refused {
            Some(CasError::Mismatch { .. }) => return Ok(false),
            Some(error) => return Err(failed(error)),
            None => {}
        }
        copied.map_err(Fault::of("read", shown))?;
        match writer.finish() {
            Ok(()) => {
                self.stored += 1;
                Ok(true)
            }
            Err(CasError::Mismatch { .. }) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Reads a file to its end.
fn pieces(
    mut file: &std::fs::File,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<u64, Errno> {
    buffer.resize(PIECE_BYTES, 0);
    let mut total = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                take(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// A name of a path, which has no NUL.
fn text(name: &[u8]) -> CString {
    CString::new(name).unwrap_or_default()
}

fn utf8(bytes: &[u8], path: &Path, what: &'static str) -> Result<String, MerkleError> {
    let not = |_| MerkleError::NotUtf8 { path: path.to_path_buf(), what };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(not)
}

fn names(dest: &ExecPath) -> Result<Vec<&str>, MerkleError> {
    let not = || MerkleError::NotUtf8 { path: dest.as_path().to_path_buf(), what: "its name" };
    dest.components().map(|name| name.to_str().ok_or_else(not)).collect()
}
