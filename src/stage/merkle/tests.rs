//! Imports of real trees into a real store.

use super::memory::Stamp;
use super::*;
use crate::action::{ExecPath, Source, decode};
use crate::cas::CasOptions;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const FUNCTION: DigestFunction = DigestFunction::Sha256;

fn now_ns() -> i128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos() as i128
}

struct Scene {
    dir: tempfile::TempDir,
    cas: Cas,
    memory: DigestMemory,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        let cas = Cas::open(&CasOptions { dir: dir.path().join("store"), size_bytes_max: 1 << 30 }).unwrap();
        Scene { dir, cas, memory: DigestMemory::new(100) }
    }

    fn tree(&self) -> std::path::PathBuf {
        self.dir.path().join("tree")
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.tree().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn root(&self) -> OwnedFd {
        rustix::fs::open(self.tree(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn import(&self, inputs: Option<&[InputSpec]>) -> Result<Imported, MerkleError> {
        self.import_within(inputs, TreeLimits::default())
    }

    fn import_tools(&self, inputs: Option<&[InputSpec]>, tools: &[&str]) -> Result<Imported, MerkleError> {
        let tools: Vec<_> = tools.iter().map(|path| ExecPath::new(path).unwrap()).collect();
        self.import_of(inputs, &tools, TreeLimits::default())
    }

    fn import_within(
        &self,
        inputs: Option<&[InputSpec]>,
        limits: TreeLimits,
    ) -> Result<Imported, MerkleError> {
        self.import_of(inputs, &[], limits)
    }

    fn import_of(
        &self,
        inputs: Option<&[InputSpec]>,
        tools: &[ExecPath],
        limits: TreeLimits,
    ) -> Result<Imported, MerkleError> {
        let root = self.root();
        let from = ImportFrom { exec_root: root.as_fd(), inputs, tools, limits, now_ns: now_ns() };
        import(&self.cas, FUNCTION, &self.memory, &from)
    }

    /// All paths below a root, with what they are.
    fn listed(&self, root: &Digest) -> Vec<String> {
        let mut listed = Vec::new();
        self.list(root, "", &mut listed);
        listed
    }

    fn list(&self, digest: &Digest, above: &str, listed: &mut Vec<String>) {
        let bytes = if digest.is_empty() { Vec::new() } else { self.cas.read(digest, 1 << 20).unwrap() };
        let directory = decode::directory(FUNCTION, &bytes).unwrap();
        for file in &directory.files {
            let bytes = if file.digest.is_empty() {
                Vec::new()
            } else {
                self.cas.read(&file.digest, 1 << 20).unwrap()
            };
            let mark = if file.executable { "*" } else { "" };
            let is_tool = file.properties.properties.iter().any(|(name, _)| name == "bazel_tool_input");
            let mark = format!("{mark}{}", if is_tool { "!" } else { "" });
            listed.push(format!("{above}{}{mark}={}", file.name, String::from_utf8_lossy(&bytes)));
        }
        listed.extend(directory.symlinks.iter().map(|link| format!("{above}{}->{}", link.name, link.target)));
        for below in &directory.directories {
            self.list(&below.digest, &format!("{above}{}/", below.name), listed);
        }
    }
}

fn beneath(source: &str, dest: &str) -> InputSpec {
    let path = |text: &str| ExecPath::new(text).unwrap();
    InputSpec { source: Source::Beneath(path(source)), dest: path(dest) }
}

#[test]
fn a_tree_comes_in_whole() {
    let scene = Scene::new();
    scene.write("a/x", b"1");
    scene.write("a/empty", b"");
    scene.write("tool", b"2");
    std::fs::set_permissions(scene.tree().join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("a/x", scene.tree().join("link")).unwrap();
    std::fs::create_dir(scene.tree().join("hollow")).unwrap();
    let imported = scene.import(None).unwrap();
    assert_eq!(scene.listed(&imported.root), ["tool*=2", "link->a/x", "a/empty=", "a/x=1"]);
    assert_eq!((imported.files, imported.bytes, imported.stored), (3, 2, 2));
    let root = decode::directory(FUNCTION, &scene.cas.read(&imported.root, 1 << 20).unwrap()).unwrap();
    let names: Vec<_> = root.directories.iter().map(|below| below.name.as_str()).collect();
    assert_eq!(names, ["a", "hollow"]);
}

#[test]
fn files_of_a_worker_are_marked() {
    let scene = Scene::new();
    for path in ["tools/worker", "tools/lib/a", "tools/lib/b", "src/a"] {
        scene.write(path, b"x");
    }
    symlink("a", scene.tree().join("tools/lib/link")).unwrap();
    let imported = scene.import_tools(None, &["tools/lib", "tools/worker"]).unwrap();
    let listed = ["src/a=x", "tools/worker!=x", "tools/lib/a!=x", "tools/lib/b!=x", "tools/lib/link->a"];
    assert_eq!(scene.listed(&imported.root), listed);
    let declared = [beneath("tools", "moved"), beneath("tools/lib/a", "moved/lib/a")];
    let imported = scene.import_tools(Some(&declared), &["moved/worker"]).unwrap();
    assert!(scene.listed(&imported.root).contains(&"moved/worker!=x".to_owned()));
    assert_ne!(imported.root, scene.import(Some(&declared)).unwrap().root, "the mark is a part of the root");
    for none in ["tools/none", "src/a/x", "tools/lib/link"] {
        let error = scene.import_tools(None, &[none]).unwrap_err();
        assert!(matches!(error, MerkleError::NoTool(_)), "{none}: {error}");
    }
}

#[test]
fn declared_inputs_come_where_they_are_wanted() {
    let scene = Scene::new();
    scene.write("src/a.c", b"a");
    scene.write("src/b.c", b"b");
    let outside = scene.dir.path().join("outside");
    std::fs::write(&outside, b"o").unwrap();
    symlink(&outside, scene.dir.path().join("way")).unwrap();
    let absolute = InputSpec {
        source: Source::Absolute(scene.dir.path().join("way")),
        dest: ExecPath::new("sdk/o").unwrap(),
    };
    // Declared twice with one meaning is declared once.
    let inputs =
        [beneath("src", "src"), beneath("src/a.c", "src/a.c"), beneath("src/b.c", "gen/c.c"), absolute];
    let imported = scene.import(Some(&inputs)).unwrap();
    assert_eq!(scene.listed(&imported.root), ["gen/c.c=b", "sdk/o=o", "src/a.c=a", "src/b.c=b"]);
    let nothing = scene.import(Some(&[])).unwrap();
    assert!(scene.listed(&nothing.root).is_empty());
}

#[test]
fn what_cannot_be_an_input_is_refused_by_name() {
    let scene = Scene::new();
    scene.write("a", b"a");
    scene.write("b", b"b");
    symlink("/etc", scene.tree().join("out")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, scene.tree().join("fifo"), Mode::RUSR).unwrap();
    let refused = |inputs: &[InputSpec]| scene.import(Some(inputs)).unwrap_err().to_string();
    assert_eq!(refused(&[beneath("none", "x")]), "cannot find input \"none\": no such file or directory");
    assert!(refused(&[beneath("out/passwd", "x")]).contains("leads out of the exec root"));
    assert!(refused(&[beneath("a", "x"), beneath("b", "x")]).contains("another input is already there"));
    assert!(refused(&[beneath("a", "x"), beneath("b", "x/y")]).contains("an input above it is no directory"));
    assert!(refused(&[beneath("fifo", "x")]).contains("fifo"));
    std::fs::remove_file(scene.tree().join("fifo")).unwrap();
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff");
    std::fs::write(scene.tree().join(odd), b"").unwrap();
    assert!(matches!(scene.import(None).unwrap_err(), MerkleError::NotUtf8 { what: "its name", .. }));
}

#[test]
fn trees_are_bounded() {
    let scene = Scene::new();
    scene.write("a", b"a");
    scene.write("b", b"b");
    let limits = TreeLimits { entries_max: 1, ..TreeLimits::default() };
    let small = scene.import_within(None, limits);
    assert!(small.unwrap_err().to_string().contains("entries"));
    let deep = scene.tree().join(vec!["d"; crate::stage::limits::MERKLE_DEPTH_MAX + 1].join("/"));
    std::fs::create_dir_all(deep).unwrap();
    assert!(scene.import(None).unwrap_err().to_string().contains("levels"));
}

#[test]
fn what_was_read_once_is_not_read_again() {
    let scene = Scene::new();
    scene.write("old", b"12345");
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::options()
        .write(true)
        .open(scene.tree().join("old"))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let first = scene.import(None).unwrap();
    assert_eq!(first.bytes_hashed, 5);
    // Its change was a moment ago, which is too close to be told from another.
    assert_eq!(scene.import(None).unwrap().bytes_hashed, 5);
    let stat = rustix::fs::stat(scene.tree().join("old").as_path()).unwrap();
    let later = now_ns() + 3_000_000_000;
    let digest = Digest::of(FUNCTION, b"12345");
    scene.memory.put(Stamp::of(&stat), FUNCTION, digest, later);
    let again = scene.import(None).unwrap();
    assert_eq!((again.bytes_hashed, again.root), (0, first.root));
    scene.write("old", b"54321");
    let changed = scene.import(None).unwrap();
    assert_eq!(changed.bytes_hashed, 5);
    assert_ne!(changed.root, first.root);
}

#[test]
fn the_memory_is_bounded_and_keeps_what_is_used() {
    let memory = DigestMemory::new(8);
    let stamps: Vec<Stamp> = (0..20u64)
        .map(|inode| {
            let mut stat = rustix::fs::stat(Path::new("/")).unwrap();
            stat.st_ino = inode;
            Stamp::of(&stat)
        })
        .collect();
    let digest = Digest::of(FUNCTION, b"x");
    let later = i128::MAX / 2;
    for stamp in &stamps {
        memory.put(*stamp, FUNCTION, digest, later);
        assert_eq!(memory.get(&stamps[0], FUNCTION), Some(digest));
    }
    let kept = stamps.iter().filter(|stamp| memory.get(stamp, FUNCTION).is_some()).count();
    assert!((2..=8).contains(&kept), "{kept}");
}

#[test]
fn what_is_imported_stays_until_its_pin_goes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("tree/d")).unwrap();
    std::fs::write(dir.path().join("tree/d/file"), vec![7; 8192]).unwrap();
    let options = CasOptions { dir: dir.path().join("store"), size_bytes_max: 64 * 4096 };
    let cas = Cas::open(&options).unwrap();
    let root = rustix::fs::open(dir.path().join("tree"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.unwrap();
    let limits = TreeLimits::default();
    let from = ImportFrom { exec_root: root.as_fd(), inputs: None, tools: &[], limits, now_ns: now_ns() };
    let memory = DigestMemory::new(100);
    let mut command = Digest::empty(FUNCTION);
    let (imported, pin) = import_pinned(&cas, FUNCTION, &memory, &from, |_| {
        command = cas.put_bytes(FUNCTION, b"command")?;
        Ok(vec![command])
    })
    .unwrap();
    let mut all = imported.blobs.clone();
    all.push(command);
    assert_eq!(all.len(), 4, "a file, two directories and the command");
    // Others fill the store many times over.
    let fill = || {
        for number in 0..256u32 {
            let mut bytes = vec![0; 4096];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            cas.put_bytes(FUNCTION, &bytes).unwrap();
        }
    };
    fill();
    assert_eq!(cas.missing(all.clone()), []);
    drop(pin);
    fill();
    assert_ne!(cas.missing(all), []);
}
