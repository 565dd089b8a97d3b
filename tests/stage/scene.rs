//! A store, trees that are put into it, and what an action would see of them.

use fulgurite::action::{
    Digest, DigestFunction, Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode, encode,
};
use fulgurite::cas::{Cas, CasOptions};
use fulgurite::stage::root::{RootView, StageRootError, StagedRoot, Stager, StagerOptions, Way, WayChoice};
use fulgurite::stage::{Layer, Owner, Places};
use fulgurite_sandbox::runtime::Runtime;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The id of the action that looks.
pub const ACTION: u32 = 0x7000_0001;

/// A store and a state directory.
pub struct Scene {
    pub temp: TempDir,
    pub cas: Cas,
}

impl Scene {
    pub fn new() -> Self {
        Self::in_directory(&std::env::temp_dir())
    }

    pub fn in_directory(dir: &Path) -> Self {
        let temp = tempfile::tempdir_in(dir).unwrap();
        let options = CasOptions { dir: temp.path().join("cas"), size_bytes_max: 1 << 40 };
        Scene { cas: Cas::open(&options).unwrap(), temp }
    }

    pub fn put(&self, bytes: &[u8]) -> Digest {
        self.cas.put_bytes(DigestFunction::Sha256, bytes).unwrap()
    }

    pub fn put_directory(&self, directory: &Directory) -> Digest {
        self.put(&encode::directory(directory))
    }

    /// A stager by this way, or `None` and a loud word if this host cannot.
    pub fn stager(&self, test: &str, runtime: &Runtime, way: Way) -> Option<Stager> {
        let options = StagerOptions { way: WayChoice::Forced(way), ..StagerOptions::default() };
        match self.open(runtime, options) {
            Ok(stager) => Some(stager),
            Err(error @ StageRootError::NoWay { .. }) => {
                eprintln!("SKIP stage::{test}: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub fn open(&self, runtime: &Runtime, options: StagerOptions) -> Result<Stager, StageRootError> {
        Stager::open(self.cas.clone(), &self.temp.path().join("stage"), runtime, options)
    }

    /// A layer for [`ACTION`].
    pub fn layer(&self, runtime: &Runtime, action: u32) -> Layer {
        let owner = runtime.features().privileged.then_some(Owner { uid: action, gid: action });
        let places = Places { explicit: Some(self.temp.path().to_owned()), ..Places::default() };
        let destination = open(self.temp.path());
        Layer::create(&places, destination.as_fd(), owner).unwrap()
    }

    /// What [`ACTION`] sees of a root.
    pub fn see(&self, runtime: &Runtime, staged: &StagedRoot) -> BTreeMap<String, Seen> {
        let layer = self.layer(runtime, ACTION);
        let view = staged.view(runtime, ACTION, &layer).unwrap();
        let seen = list(view.mount.as_fd());
        drop(view);
        layer.destroy().unwrap();
        seen
    }

    /// Every blob of the store is what its name says.
    pub fn check_blobs(&self) {
        for shard in files(&self.temp.path().join("cas/objects")) {
            let bytes = std::fs::read(&shard).unwrap();
            let name = shard.file_name().unwrap().to_str().unwrap();
            let of = |function: &DigestFunction| {
                shard.components().any(|part| part.as_os_str() == function.name())
            };
            let function = DigestFunction::ALL.into_iter().find(of).unwrap();
            assert_eq!(Digest::of(function, &bytes).hex(), name);
            assert_eq!(std::fs::metadata(&shard).unwrap().mode() & 0o7777, 0o444, "{name}");
        }
    }
}

/// All that is below a directory and is none.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path())
            } else {
                found.push(entry.path())
            }
        }
    }
    found
}

pub fn open(path: &Path) -> OwnedFd {
    fulgurite::bench::scratch::open_directory(path).unwrap()
}

/// A path in a mount that is not attached.
pub fn path_in(view: &RootView, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{path}", view.mount.as_raw_fd()))
}

/// What can be seen of one path.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub size: u64,
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen { mode, owner, mtime, size, content } = self;
        let shown = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
        write!(f, "{mode:o} {owner:?} {mtime:?} {size} {shown:?}")
    }
}

/// The first difference between two views.
pub fn difference(a: &BTreeMap<String, Seen>, b: &BTreeMap<String, Seen>) -> Option<String> {
    let paths = a.keys().chain(b.keys());
    let mut different = paths.filter(|path| a.get(*path) != b.get(*path));
    different.next().map(|path| format!("{path:?}: {:?} and {:?}", a.get(path), b.get(path)))
}

/// Everything below a directory that may be a detached mount.
pub fn list(dir: BorrowedFd<'_>) -> BTreeMap<String, Seen> {
    let root = PathBuf::from(format!("/proc/self/fd/{}/.", dir.as_raw_fd()));
    let mut seen = BTreeMap::from([(String::new(), look(&root))]);
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let found = look(&root.join(&path));
            let kind = entry.file_type().unwrap();
            assert_eq!(kind.is_dir(), found.mode & 0o170_000 == 0o040_000, "{path}");
            if kind.is_dir() {
                dirs.push(path.clone());
            }
            assert!(seen.insert(path, found).is_none());
        }
    }
    seen
}

fn look(path: &Path) -> Seen {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let content = match meta.mode() & 0o170_000 {
        0o100_000 => std::fs::read(path).unwrap(),
        0o120_000 => std::fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    // Sizes of directories are each filesystem's own matter.
    let size = if meta.is_dir() { 0 } else { meta.len() };
    let mtime = (meta.mtime(), meta.mtime_nsec());
    Seen { mode: meta.mode(), owner: (meta.uid(), meta.gid()), mtime, size, content }
}

pub fn file(name: &str, digest: Digest) -> FileNode {
    FileNode { name: name.to_owned(), digest, executable: false, properties: NodeProperties::default() }
}

pub fn symlink(name: &str, target: &str) -> SymlinkNode {
    let properties = NodeProperties::default();
    SymlinkNode { name: name.to_owned(), target: target.to_owned(), properties }
}

pub fn below(name: &str, digest: Digest) -> DirectoryNode {
    DirectoryNode { name: name.to_owned(), digest }
}
