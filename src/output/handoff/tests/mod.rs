//! Tests of handoff: plain directories as layers, and real overlays as root. Names begin with the case of the threat
//! catalog that they try.

mod hostile;
mod overlay;
mod plain;

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{HandedOff, HandoffError, HandoffRequest, Inputs, hand_off};
use crate::action::{
    Command, CommandOutput, Digest, DigestFunction, Directory, DirectoryNode, ExecPath, OutputDirectory,
    OutputDirectoryFormat, OutputKind, encode,
};
use crate::cas::{Cas, CasOptions};
use crate::output::Marks;
use crate::output::limits::HandoffLimits;
use crate::stage::tests::open;

const SHA: DigestFunction = DigestFunction::Sha256;

/// The digest of bytes.
fn sha(bytes: &[u8]) -> Digest {
    Digest::of(SHA, bytes)
}

/// An input tree in memory.
#[derive(Default)]
struct Tree {
    root: Option<Digest>,
    known: HashMap<Digest, Directory>,
}

impl Tree {
    /// Adds a directory; the last one added is the root.
    fn add(&mut self, directory: Directory) -> Digest {
        let digest = sha(&encode::directory(&directory));
        self.known.insert(digest, directory);
        self.root = Some(digest);
        digest
    }

    /// The tree of a directory on disk.
    fn of(path: &Path) -> Tree {
        let mut tree = Tree::default();
        tree.read(path);
        tree
    }

    fn read(&mut self, path: &Path) -> Digest {
        use std::os::unix::fs::PermissionsExt;
        let mut directory = Directory::default();
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                let digest = self.read(&path);
                directory.directories.push(DirectoryNode { name, digest });
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string().into_string().unwrap();
                directory.symlinks.push(crate::action::SymlinkNode {
                    name,
                    target,
                    properties: Default::default(),
                });
            } else {
                directory.files.push(crate::action::FileNode {
                    name,
                    digest: sha(&fs::read(&path).unwrap()),
                    executable: entry.metadata().unwrap().permissions().mode() & 0o100 != 0,
                    properties: Default::default(),
                });
            }
        }
        self.add(directory)
    }
}

impl Inputs for Tree {
    fn root(&self) -> Option<&Directory> {
        self.known.get(&self.root?)
    }

    fn directory(&self, digest: &Digest) -> Option<&Directory> {
        self.known.get(digest)
    }
}

/// A layer, and a store on the same filesystem.
struct Scene {
    temp: tempfile::TempDir,
    upper: PathBuf,
    lower: PathBuf,
    cas: Cas,
    inputs: Tree,
    merged: Option<OwnedFd>,
    limits: HandoffLimits,
    marks: Marks,
}

impl Scene {
    fn new() -> Self {
        Scene::at(tempfile::tempdir().unwrap())
    }

    /// For thousands of inodes, where that is possible.
    fn in_memory() -> Self {
        Scene::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn at(temp: tempfile::TempDir) -> Self {
        let (upper, lower) = (temp.path().join("upper"), temp.path().join("lower"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&lower).unwrap();
        let options = CasOptions { dir: temp.path().join("store"), size_bytes_max: 1 << 40 };
        let cas = Cas::open(&options).unwrap();
        let (limits, marks) = (HandoffLimits::DEFAULT, Marks::Trusted);
        Scene { temp, upper, lower, cas, inputs: Tree::default(), merged: None, limits, marks }
    }

    /// Writes files into the layer, making their directories.
    fn write(&self, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = self.upper.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn hand_off_command(&self, command: &Command) -> Result<HandedOff, HandoffError> {
        let upper = open(&self.upper);
        hand_off(&HandoffRequest {
            upper: upper.as_fd(),
            merged: self.merged.as_ref().map(AsFd::as_fd),
            command,
            inputs: &self.inputs,
            marks: self.marks,
            function: SHA,
            cas: &self.cas,
            limits: self.limits,
        })
    }

    fn hand_off(&self, declared: &[&str]) -> Result<HandedOff, HandoffError> {
        self.hand_off_command(&command(declared, OutputKind::Any))
    }

    fn refused(&self, declared: &[&str], part: &str) {
        let error = self.hand_off(declared).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.is_the_actions(), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }

    /// What a blob holds.
    fn blob(&self, digest: &Digest) -> Vec<u8> {
        self.cas.read(digest, 1 << 30).unwrap()
    }

    /// The directories of an output, the root first, read from its Tree.
    fn tree(&self, of: &OutputDirectory) -> Vec<Vec<u8>> {
        records(&self.blob(&of.tree_digest.unwrap()))
    }

    /// All paths in an output directory, each with what it is: `a/f = 3 bytes`, `a/l -> target`, `a/d/`.
    fn listing(&self, of: &OutputDirectory) -> Vec<String> {
        let known: HashMap<Digest, Directory> = self
            .tree(of)
            .into_iter()
            .map(|bytes| (sha(&bytes), crate::action::decode::directory(SHA, &bytes).unwrap()))
            .collect();
        let root = sha(&self.tree(of)[0]);
        let mut lines = Vec::new();
        let mut stack = vec![(String::new(), root)];
        while let Some((path, digest)) = stack.pop() {
            let directory = &known[&digest];
            for file in &directory.files {
                let content = String::from_utf8_lossy(&self.blob(&file.digest)).into_owned();
                let mark = if file.executable { "*" } else { "" };
                lines.push(format!("{path}{}{mark} = {content}", file.name));
            }
            lines.extend(
                directory.symlinks.iter().map(|link| format!("{path}{} -> {}", link.name, link.target)),
            );
            for child in &directory.directories {
                lines.push(format!("{path}{}/", child.name));
                stack.push((format!("{path}{}/", child.name), child.digest));
            }
        }
        lines.sort();
        lines
    }
}

/// The records of a Tree message, by hand: tag, length, bytes.
fn records(mut tree: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let [tag, rest @ ..] = tree {
        assert_eq!(*tag, if found.is_empty() { 0x0a } else { 0x12 });
        let (mut length, mut at) = (0usize, 0);
        loop {
            length |= usize::from(rest[at] & 0x7f) << (7 * at);
            at += 1;
            if rest[at - 1] & 0x80 == 0 {
                break;
            }
        }
        found.push(rest[at..at + length].to_vec());
        tree = &rest[at + length..];
    }
    found
}

fn command(declared: &[&str], kind: OutputKind) -> Command {
    let outputs = declared
        .iter()
        .map(|declared| CommandOutput {
            declared: (*declared).to_owned(),
            path: ExecPath::new(declared).ok(),
            kind,
        })
        .collect();
    Command {
        arguments: vec!["true".to_owned()],
        environment: Vec::new(),
        outputs,
        outputs_are_typed: kind != OutputKind::Any,
        working_directory: None,
        platform: Vec::new(),
        output_properties: Vec::new(),
        output_directory_format: OutputDirectoryFormat::TreeOnly,
    }
}
