//! What is built: C files with all that they include, or Java files, as actions for any server.
//!
//! ```text
//!   zstd's C files, the smallest first        or as many generated ones where there are no sources
//!     + fulgurite-build.h: .ident "fulgurite-race-<16 digits>"     different in each build: every action is new, and
//!                                                                   so is every object, by these digits alone
//!   Java files, see [`super::java`]
//! ```
//! Invariants: a build's objects are those of the plain build, byte by byte, with the digits in the place of zeros; so
//! one plain build says what the objects of all builds must be.
use super::java::{self, JavaSources};
use super::limits::UNITS_MAX;
use crate::action::{
    ActionSpec, Command, CommandOutput, Digest, Directory, DirectoryNode, ExecPath, FileNode, NodeProperties,
    OutputDirectoryFormat, OutputKind, encode,
};
use crate::bench::BenchError;
use crate::bench::command::{Bare, PATH, Streams, find_program};
use crate::bench::prepared::FUNCTION;
use crate::demo::units::{INCLUDE_DIRECTORIES, Sources};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What makes a build different from all others.
const HEADER: &str = "fulgurite-build.h";
/// Before the digits.
pub const MARK: &str = "fulgurite-race-";
/// No unit takes this long.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Functions of a generated file: about as much work as a middling file of zstd's.
const FUNCTIONS: usize = 150;

/// Something is wrong with what shall be built.
pub(super) fn unbuildable(why: impl Into<String>) -> BenchError {
    BenchError::Race { why: why.into() }
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The smallest of zstd's C files, of those below this directory.
    Zstd(&'a Path),
    /// Generated C files.
    C,
    /// Generated Java files.
    Java,
}

/// One file to compile.
#[derive(Clone, Debug)]
struct Unit {
    source: String,
    output: String,
    /// What is the same in all builds: where, what, and whether it is a tool.
    files: Vec<(PathBuf, Digest, bool)>,
}

#[derive(Debug)]
enum Language {
    C { compiler: String },
    Java(JavaSources),
}

/// All that is built.
#[derive(Debug)]
pub struct Units {
    language: Language,
    units: Vec<Unit>,
    blobs: BTreeMap<Digest, Bytes>,
    /// What these units are, in words.
    pub described: String,
}

/// An action, ready to be sent.
#[derive(Clone, Debug)]
pub struct Job {
    /// The action.
    pub action: Digest,
    /// What its only output must be.
    pub object: Digest,
}

/// A build, ready to be sent.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its actions, the largest first.
    pub jobs: Vec<Job>,
    /// All that they need.
    pub blobs: Vec<(Digest, Bytes)>,
}

impl Units {
    /// `count` units. What is generated is written to `root`.
    ///
    /// # Errors
    /// No sources, no compiler, or files that can't be written.
    pub fn take(wanted: Wanted<'_>, count: usize, root: &Path) -> Result<Units, BenchError> {
        if count == 0 || count > UNITS_MAX {
            return Err(unbuildable(format!("{count} files: there may be 1 to {UNITS_MAX}")));
        }
        let language = match wanted {
            Wanted::Java => Language::Java(JavaSources::generate(count, root)?),
            Wanted::C | Wanted::Zstd(_) => {
                let compiler = find_program("cc", "install a C compiler: apt-get install gcc libc6-dev")?;
                Language::C { compiler: compiler.to_string_lossy().into_owned() }
            }
        };
        let (units, blobs, described) = (Vec::new(), BTreeMap::new(), String::new());
        let mut units = Units { language, units, blobs, described };
        match wanted {
            Wanted::Zstd(sources) => units.of_zstd(sources, count, root)?,
            Wanted::C => units.generated(count, root)?,
            Wanted::Java => units.of_java(),
        }
        Ok(units)
    }

    fn of_java(&mut self) {
        let Language::Java(sources) = &self.language else { return };
        let worker = put(&mut self.blobs, sources.worker.clone());
        for (source, output) in sources.outputs() {
            let arguments = put(&mut self.blobs, JavaSources::arguments(&source));
            let files = vec![(java::WORKER.into(), worker, true), (java::ARGUMENTS.into(), arguments, false)];
            self.units.push(Unit { source, output, files });
        }
        self.described = format!("{} Java files by workers", self.units.len());
    }

    fn of_zstd(&mut self, sources: &Path, count: usize, root: &Path) -> Result<(), BenchError> {
        let failed = |error: crate::demo::DemoError| unbuildable(error.to_string());
        let sources = Sources::read(sources).map_err(failed)?;
        sources.write(root).map_err(failed)?;
        let all = sources.units().map_err(failed)?;
        let skipped = all.len().saturating_sub(count);
        for unit in all.into_iter().skip(skipped) {
            let mut files = Vec::new();
            for input in &unit.inputs {
                let path = input.dest.as_path();
                files.push((path.to_path_buf(), self.file(&root.join(path))?, false));
            }
            let source = unit.source.as_path().display().to_string();
            let output = unit.object.as_path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.units.push(Unit { source, output, files });
        }
        self.described = format!("the {} smallest C files of zstd", self.units.len());
        Ok(())
    }

    fn generated(&mut self, count: usize, root: &Path) -> Result<(), BenchError> {
        for number in 0..count {
            let source = format!("unit-{number:05}.c");
            let path = root.join(&source);
            let failed = BenchError::file(format!("write {}", path.display()));
            fs::write(&path, generated(number)).map_err(failed)?;
            let files = vec![(PathBuf::from(&source), self.file(&path)?, false)];
            self.units.push(Unit { source, output: format!("unit-{number:05}.o"), files });
        }
        self.described = format!("{count} generated C files");
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<Digest, BenchError> {
        let bytes = fs::read(path).map_err(BenchError::file(format!("read {}", path.display())))?;
        Ok(put(&mut self.blobs, bytes))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.units.len()
    }

    fn arguments(&self, unit: &Unit, output: &str) -> Vec<String> {
        let compiler = match &self.language {
            Language::Java(sources) => return sources.command(),
            Language::C { compiler } => compiler.clone(),
        };
        let mut arguments = vec![compiler];
        arguments.extend(["-O1", "-DZSTD_DISABLE_ASM=1", "-DZSTD_LEGACY_SUPPORT=1"].map(str::to_owned));
        arguments.extend(["-include", HEADER].map(str::to_owned));
        arguments.extend(INCLUDE_DIRECTORIES.map(|directory| format!("-I{directory}")));
        arguments.extend(["-c", "-o", output].map(str::to_owned));
        arguments.push(unit.source.clone());
        arguments
    }

    /// The plain build, one command after the other, with zeros for digits: its objects by unit.
    ///
    /// # Errors
    /// A command that fails.
    pub fn plain(&self, root: &Path, objects: &Path) -> Result<Vec<Vec<u8>>, BenchError> {
        if let Language::Java(sources) = &self.language {
            return sources.plain(root, objects);
        }
        fs::write(root.join(HEADER), header(0)).map_err(BenchError::file("write a header"))?;
        let streams = Streams::new(objects, "plain")?;
        let mut all = Vec::new();
        for unit in &self.units {
            let path = objects.join(&unit.output);
            let arguments = self.arguments(unit, &path.to_string_lossy());
            let arguments = arguments.into_iter().map(OsString::from).collect();
            let bare = Bare { arguments, directory: root.to_path_buf(), temporary: objects.to_path_buf() };
            let failed = |why: String| BenchError::Floor { workload: "cc", why };
            let status = bare.run(&streams).map_err(|error| failed(error.to_string()))?;
            if !status.success() {
                return Err(failed(format!("{}: {}", unit.source, streams.last_words())));
            }
            all.push(fs::read(&path).map_err(BenchError::file(format!("read {}", path.display())))?);
        }
        Ok(all)
    }

    /// The build of this number, whose objects differ from `plain` in the number alone.
    ///
    /// # Errors
    /// A file that has no place for the number.
    pub fn build(&self, number: u64, plain: &[Vec<u8>]) -> Result<Build, BenchError> {
        let mut blobs = self.blobs.clone();
        let mut jobs = Vec::new();
        for (index, (unit, object)) in self.units.iter().zip(plain).enumerate() {
            let mut root = Node::default();
            for (path, digest, is_tool) in &unit.files {
                root.add(path, *digest, *is_tool);
            }
            let (salted, text) = match &self.language {
                Language::C { .. } => (HEADER, header(number).into_bytes()),
                Language::Java(sources) => (unit.source.as_str(), sources.text(index, number)?),
            };
            root.add(Path::new(salted), put(&mut blobs, text), false);
            let input_root_digest = root.put(&mut blobs);
            let command_digest = put(&mut blobs, encode::command(&self.command(unit)));
            let platform: &[(&str, &str)] = match &self.language {
                Language::C { .. } => &[],
                Language::Java(_) => &java::PLATFORM,
            };
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let action = ActionSpec {
                command_digest,
                input_root_digest,
                timeout: Some(TIMEOUT),
                do_not_cache: false,
                platform: platform.iter().map(owned).collect(),
            };
            let action = put(&mut blobs, encode::action(&action, b""));
            jobs.push(Job { action, object: Digest::of(FUNCTION, &numbered(object, number)) });
        }
        Ok(Build { jobs, blobs: blobs.into_iter().collect() })
    }

    fn command(&self, unit: &Unit) -> Command {
        Command {
            arguments: self.arguments(unit, &unit.output),
            environment: vec![("LC_ALL".to_owned(), "C".to_owned()), ("PATH".to_owned(), PATH.to_owned())],
            outputs: vec![CommandOutput {
                declared: unit.output.clone(),
                path: ExecPath::new(&unit.output).ok(),
                kind: OutputKind::Any,
            }],
            outputs_are_typed: false,
            working_directory: None,
            platform: Vec::new(),
            output_properties: Vec::new(),
            output_directory_format: OutputDirectoryFormat::TreeOnly,
        }
    }
}

fn put(blobs: &mut BTreeMap<Digest, Bytes>, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(FUNCTION, &bytes);
    blobs.entry(digest).or_insert_with(|| bytes.into());
    digest
}

fn header(number: u64) -> String {
    format!("__asm__(\".ident \\\"{MARK}{number:016x}\\\"\");\n")
}

/// An object of the plain build, as the build of this number makes it.
#[must_use]
pub fn numbered(object: &[u8], number: u64) -> Vec<u8> {
    let plain = format!("{MARK}{:016x}", 0);
    let wanted = format!("{MARK}{number:016x}");
    let mut object = object.to_vec();
    if let Some(at) = object.windows(plain.len()).position(|window| window == plain.as_bytes())
        && let Some(place) = object.get_mut(at..at + wanted.len())
    {
        place.copy_from_slice(wanted.as_bytes());
    }
    object
}

/// A directory that is put together.
#[derive(Debug, Default)]
struct Node {
    /// Each with whether it is a tool.
    files: BTreeMap<String, (Digest, bool)>,
    directories: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, path: &Path, digest: Digest, is_tool: bool) {
        let mut names: Vec<String> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let Some(file) = names.pop() else { return };
        let mut node = self;
        for name in names {
            node = node.directories.entry(name).or_default();
        }
        node.files.insert(file, (digest, is_tool));
    }

    /// Its digest; it and all below it go into `blobs`.
    fn put(&self, blobs: &mut BTreeMap<Digest, Bytes>) -> Digest {
        let file = |(name, (digest, is_tool)): (&String, &(Digest, bool))| {
            let mut properties = NodeProperties::default();
            if *is_tool {
                properties.properties.push(("bazel_tool_input".to_owned(), String::new()));
            }
            FileNode { name: name.clone(), digest: *digest, executable: false, properties }
        };
        let mut directory =
            Directory { files: self.files.iter().map(file).collect(), ..Directory::default() };
        for (name, node) in &self.directories {
            let digest = node.put(blobs);
            directory.directories.push(DirectoryNode { name: name.clone(), digest });
        }
        put(blobs, encode::directory(&directory))
    }
}

/// A C file that keeps a compiler busy.
fn generated(number: usize) -> String {
    let mut text = String::new();
    for function in 0..FUNCTIONS {
        let (a, b) = (number * 31 + function * 7 + 3, function * 13 + 5);
        let _ = writeln!(
            text,
            "unsigned f{number}_{function}(unsigned *v, unsigned n)\n{{\n    unsigned s = {a}u;\n    \
             for (unsigned i = 0; i < n; i++) {{\n        switch ((v[i] ^ s) % 7u) {{\n        \
             case 0: s += v[i] * {a}u; break;\n        case 1: s ^= v[i] << ({b}u % 13u); break;\n        \
             case 2: v[i] = s / (v[i] | 1u); break;\n        case 3: s = (s << 5) | (s >> 27); break;\n        \
             default: s -= v[n - 1 - i] + {b}u;\n        }}\n    }}\n    return s;\n}}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_differ_by_their_number_alone() {
        let dir = tempfile::tempdir().unwrap();
        let objects = tempfile::tempdir().unwrap();
        let mut units = Units::take(Wanted::C, 2, dir.path()).unwrap();
        assert_eq!(units.count(), 2);
        units.units.truncate(1);
        let plain = units.plain(dir.path(), objects.path()).unwrap();
        fs::write(dir.path().join(HEADER), header(77)).unwrap();
        let unit = &units.units[0];
        let path = objects.path().join("other.o");
        let arguments = units.arguments(unit, path.to_str().unwrap());
        let bare = Bare {
            arguments: arguments.into_iter().map(OsString::from).collect(),
            directory: dir.path().to_path_buf(),
            temporary: objects.path().to_path_buf(),
        };
        assert!(bare.run(&Streams::new(objects.path(), "other").unwrap()).unwrap().success());
        let found = fs::read(&path).unwrap();
        assert_ne!(found, plain[0]);
        assert_eq!(found, numbered(&plain[0], 77));
        let (one, other) = (units.build(1, &plain).unwrap(), units.build(2, &plain).unwrap());
        assert_ne!(one.jobs[0].action, other.jobs[0].action);
        assert_ne!(one.jobs[0].object, other.jobs[0].object);
    }

    #[test]
    fn directories_are_nested_and_sorted() {
        let digest = Digest::of(FUNCTION, b"x");
        let mut root = Node::default();
        for path in ["lib/common/b.h", "lib/a.c", "lib/common/a.h"] {
            root.add(Path::new(path), digest, false);
        }
        let mut blobs = BTreeMap::new();
        let name = root.put(&mut blobs);
        assert_eq!(blobs.len(), 3, "the root, lib, lib/common");
        assert!(blobs.contains_key(&name));
    }

    #[test]
    fn a_build_has_a_size() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Units::take(Wanted::C, 0, dir.path()).is_err());
        assert!(Units::take(Wanted::C, UNITS_MAX + 1, dir.path()).is_err());
    }
}
