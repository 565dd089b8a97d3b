//! The C files to compile, each with the headers that it includes: its declared inputs.
//!
//! `#include "…"` is followed from file to file as a compiler would: beside the including file, then in the include
//! directories. Lines that a preprocessor would skip are followed as well, so that the set is sufficient and now and
//! then larger than needed; what is not there is not needed.
use super::error::DemoError;
use crate::action::{ExecPath, InputSpec, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where headers are looked for, relative to the root of the sources.
pub const INCLUDE_DIRECTORIES: [&str; 2] = ["lib", "lib/common"];

/// One C file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The file, relative to the root of the sources.
    pub source: ExecPath,
    /// The file and all headers that it can include.
    pub inputs: Vec<InputSpec>,
    /// Where its object goes.
    pub object: ExecPath,
    /// Its size, to compile the large ones first.
    pub bytes: usize,
}

/// All C files and headers below a directory, by their path relative to it.
#[derive(Debug, Default)]
pub struct Sources {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Sources {
    /// Reads `root/lib`.
    ///
    /// # Errors
    /// [`DemoError::NoSources`] where there is no `lib/zstd.h` or no C file.
    pub fn read(root: &Path) -> Result<Self, DemoError> {
        let missing = |why: &str| DemoError::NoSources { path: root.to_path_buf(), why: why.to_owned() };
        if !root.join("lib/zstd.h").is_file() {
            return Err(missing("there is no lib/zstd.h"));
        }
        let mut sources = Sources::default();
        let mut directories = vec![PathBuf::from("lib")];
        while let Some(directory) = directories.pop() {
            let failed = || DemoError::file(format!("read {}", root.join(&directory).display()));
            for entry in fs::read_dir(root.join(&directory)).map_err(failed())? {
                let entry = entry.map_err(failed())?;
                let path = directory.join(entry.file_name());
                let kind = entry.file_type().map_err(failed())?;
                let wanted = path.extension().is_some_and(|extension| extension == "c" || extension == "h");
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() && wanted {
                    let contents = fs::read(entry.path())
                        .map_err(DemoError::file(format!("read {}", entry.path().display())))?;
                    sources.files.insert(path, contents);
                }
            }
        }
        if sources.units()?.is_empty() { Err(missing("there is no C file in lib")) } else { Ok(sources) }
    }

    /// Writes all files below `root`.
    ///
    /// # Errors
    /// [`DemoError::File`].
    pub fn write(&self, root: &Path) -> Result<(), DemoError> {
        for (path, contents) in &self.files {
            let path = root.join(path);
            let failed = || DemoError::file(format!("write {}", path.display()));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed())?;
            }
            fs::write(&path, contents).map_err(failed())?;
        }
        Ok(())
    }

    /// The C files, the largest first.
    ///
    /// # Errors
    /// [`DemoError::Name`].
    pub fn units(&self) -> Result<Vec<Unit>, DemoError> {
        let sources = self.files.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "c"));
        let mut units: Vec<Unit> =
            sources.map(|(path, contents)| self.unit(path, contents.len())).collect::<Result<_, _>>()?;
        units.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.source.cmp(&b.source)));
        Ok(units)
    }

    fn unit(&self, source: &Path, bytes: usize) -> Result<Unit, DemoError> {
        let exec_path = |path: &Path| {
            ExecPath::new(path).map_err(|why| DemoError::Name { path: path.to_path_buf(), why })
        };
        let mut inputs = Vec::new();
        for path in self.closure(source) {
            let dest = exec_path(&path)?;
            inputs.push(InputSpec { source: Source::Beneath(dest.clone()), dest });
        }
        // lib/common/pool.c becomes objects/common-pool.o
        let below = source.strip_prefix("lib").unwrap_or(source).with_extension("o");
        let name = below.to_string_lossy().replace('/', "-");
        let object = exec_path(&Path::new("objects").join(name))?;
        Ok(Unit { source: exec_path(source)?, inputs, object, bytes })
    }

    /// The file and everything that it can include, directly or not.
    fn closure(&self, source: &Path) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::from([source.to_path_buf()]);
        let mut open = vec![source.to_path_buf()];
        while let Some(path) = open.pop() {
            let contents = self.files.get(&path).map_or(&[][..], Vec::as_slice);
            for name in included(contents) {
                if let Some(header) = self.resolve(&path, name)
                    && found.insert(header.clone())
                {
                    open.push(header);
                }
            }
        }
        found
    }

    fn resolve(&self, includer: &Path, name: &str) -> Option<PathBuf> {
        let beside = includer.parent().unwrap_or(Path::new(""));
        let places = [beside].into_iter().chain(INCLUDE_DIRECTORIES.map(Path::new));
        places.map(|place| normal(&place.join(name))).find(|path| self.files.contains_key(path))
    }
}

/// The names in the `#include "…"` lines of a file.
fn included(contents: &[u8]) -> impl Iterator<Item = &str> {
    contents.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?.trim_start().strip_prefix('#')?.trim_start();
        let name = line.strip_prefix("include")?.trim_start().strip_prefix('"')?;
        name.split_once('"').map(|(name, _)| name)
    })
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        let file = |path: &str, text: &str| (PathBuf::from(path), text.as_bytes().to_vec());
        Sources {
            files: BTreeMap::from([
                file("lib/zstd.h", "#include <limits.h>\n"),
                file("lib/common/mem.h", "#  include \"deps.h\"  /* memcpy */\n"),
                file("lib/common/deps.h", "#include \"mem.h\"\n"),
                file("lib/common/pool.c", "#include \"pool.h\"\n// nothing more\n"),
                file("lib/compress/fast.c", "#include \"../common/mem.h\"\n#include \"zstd.h\"\n"),
                file("lib/common/unused.h", ""),
            ]),
        }
    }

    #[test]
    fn a_unit_declares_what_it_includes_and_no_more() {
        let units = sources().units().unwrap();
        let shown = |unit: &Unit| -> Vec<String> {
            unit.inputs.iter().map(|input| input.dest.as_path().display().to_string()).collect()
        };
        assert_eq!(units.len(), 2);
        assert_eq!(units[0].source.as_path(), Path::new("lib/compress/fast.c"), "the larger one first");
        assert_eq!(
            shown(&units[0]),
            ["lib/common/deps.h", "lib/common/mem.h", "lib/compress/fast.c", "lib/zstd.h"]
        );
        assert_eq!(shown(&units[1]), ["lib/common/pool.c"]);
        assert_eq!(units[0].object.as_path(), Path::new("objects/compress-fast.o"));
    }

    #[test]
    fn includes_in_all_spellings() {
        let text = b"#include \"a.h\"\n  # include\t\"../b/c.h\" // x\n#include <stdio.h>\n#define include \"d.h\"\n";
        assert_eq!(included(text).collect::<Vec<_>>(), ["a.h", "../b/c.h"]);
    }

    #[test]
    fn a_directory_without_sources_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Sources::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("there is no lib/zstd.h"), "{error}");
        assert!(error.hint().is_some());
        fs::create_dir(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("lib/zstd.h"), "").unwrap();
        let error = Sources::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("no C file"), "{error}");
        fs::write(dir.path().join("lib/a.c"), "#include \"zstd.h\"\n").unwrap();
        let copied = tempfile::tempdir().unwrap();
        Sources::read(dir.path()).unwrap().write(copied.path()).unwrap();
        assert_eq!(Sources::read(copied.path()).unwrap().units().unwrap()[0].inputs.len(), 2);
    }
}
