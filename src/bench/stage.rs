//! `bench stage`: input roots of 10 to 100,000 files, by every way, new and known.
//!
//! *new*: nothing of the root is staged, its blobs are in the store. *known*: it was staged before and is still kept;
//! farms know no such thing and are made anew. The cases and what they do are in [`super::staged`], the filesystems in
//! [`super::filesystem`].
use super::case::Case;
use super::cpu::TreeCpu;
use super::error::BenchError;
use super::filesystem::{Filesystem, FilesystemKind};
use super::progress;
use super::report::{CaseReport, HostReport, Report, Series};
use super::staged::{Farm, Staging, Surroundings, Tree};
use super::statistics::shuffled;
use crate::action::{Digest, DigestFunction, Directory, DirectoryNode, FileNode, NodeProperties, encode};
use crate::cas::{Cas, CasOptions};
use crate::stage::root::{StageRootError, Way};
use fulgurite_sandbox::runtime::Runtime;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The cases, the floor last but one, as reports have them.
const CASES: [&str; 5] = ["composefs", "directory-cache", "copy", FLOOR, "symlink-farm"];
const FLOOR: &str = "hardlink-farm";
/// Files of a directory.
const FILES_PER_DIRECTORY: usize = 100;
/// Bytes of a file.
const FILE_BYTES: usize = 1000;
/// The sizes of roots that are measured if none are asked for.
pub const SIZES: [usize; 6] = [10, 100, 1000, 5000, 20_000, 100_000];
/// Files that one case stages over all its rounds of one size, by which the rounds are chosen.
const FILES_PER_CASE: usize = 60_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct StageBench {
    /// Files of the roots.
    pub sizes: Vec<usize>,
    /// Rounds of each size; by size if `None`.
    pub rounds: Option<usize>,
    /// On which filesystems.
    pub filesystems: Vec<FilesystemKind>,
    /// Only these cases, and the floor; empty: all.
    pub cases: Vec<String>,
    /// Where the images of the filesystems lie.
    pub images: PathBuf,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Measures. A filesystem that cannot be made is left out, and said so on standard error.
///
/// # Errors
/// [`BenchError`]: no filesystem at all, or a floor that fails.
pub fn run(runtime: &Arc<Runtime>, bench: &StageBench) -> Result<Report, BenchError> {
    let wanted = wanted(&bench.cases)?;
    let mut host = HostReport::now(runtime, String::new());
    let rounds: usize = bench.sizes.iter().map(|files| bench.rounds_of(*files) + 1).sum();
    let bar = progress::bar(bench.filesystems.len() * rounds * 2 * wanted.len(), bench.progress);
    let (mut cases, mut failed, mut described) = (Vec::new(), None, Vec::new());
    for kind in &bench.filesystems {
        let filesystem = match Filesystem::make(*kind, &bench.images) {
            Ok(filesystem) => filesystem,
            Err(error) => {
                bar.suspend(|| eprintln!("SKIP bench stage on {}: {error}", kind.name()));
                failed = Some(error);
                continue;
            }
        };
        described.push(filesystem.description().to_owned());
        let store = Store::open(filesystem.path())?;
        for files in &bench.sizes {
            bar.set_message(format!("{files} files on {}", kind.name()));
            let tree = Rc::new(store.tree(*files)?);
            for state in ["new", "known"] {
                let mut bout = Bout::new(runtime, &store, &tree, state, &wanted)?;
                bout.rounds(bench.rounds_of(*files), &bar)?;
                cases.extend(bout.reports(kind.name(), *files, state));
            }
        }
    }
    bar.finish_and_clear();
    match failed {
        Some(error) if described.is_empty() => Err(error),
        _ => {
            host.filesystem = described.join(", ");
            Ok(Report { bench: "stage", host, cases })
        }
    }
}

impl StageBench {
    fn rounds_of(&self, files: usize) -> usize {
        self.rounds.unwrap_or_else(|| (FILES_PER_CASE / files.max(1)).clamp(2, 100))
    }
}

/// The names of all cases.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    CASES.into_iter()
}

fn wanted(filter: &[String]) -> Result<Vec<&'static str>, BenchError> {
    if let Some(name) = filter.iter().find(|name| !CASES.contains(&name.as_str())) {
        return Err(BenchError::NoCase { name: name.clone(), known: CASES.join(", ") });
    }
    let keep = |name: &&str| *name == FLOOR || filter.is_empty() || filter.iter().any(|some| some == name);
    Ok(case_names().filter(keep).collect())
}

/// Blobs on the filesystem that is measured.
struct Store {
    cas: Cas,
    root: PathBuf,
}

impl Store {
    fn open(root: &Path) -> Result<Self, BenchError> {
        let options = CasOptions { dir: root.join("cas"), size_bytes_max: u64::MAX };
        Ok(Store { cas: Cas::open(&options)?, root: root.to_path_buf() })
    }

    /// Puts a root of so many files into the store. Larger ones begin with the files of smaller ones.
    fn tree(&self, count: usize) -> Result<Tree, BenchError> {
        let function = DigestFunction::Sha256;
        let (mut directories, mut files, mut nodes) = (Vec::new(), Vec::with_capacity(count), Vec::new());
        for first in (0..count).step_by(FILES_PER_DIRECTORY) {
            let name = format!("directory-{:05}", first / FILES_PER_DIRECTORY);
            let mut directory = Directory::default();
            for number in first..count.min(first + FILES_PER_DIRECTORY) {
                let mut bytes = format!("file {number}\n").into_bytes();
                bytes.resize(FILE_BYTES, b'.');
                let digest = Digest::of(function, &bytes);
                if !self.cas.contains(&digest) {
                    self.cas.put(digest, &bytes)?;
                }
                let (file, properties) = (format!("source-{number:06}.c"), NodeProperties::default());
                files.push((format!("{name}/{file}"), digest));
                directory.files.push(FileNode { name: file, digest, executable: false, properties });
            }
            let digest = self.cas.put_bytes(function, &encode::directory(&directory))?;
            nodes.push(DirectoryNode { name: name.clone(), digest });
            directories.push(name);
        }
        let top = Directory { directories: nodes, ..Directory::default() };
        let root = self.cas.put_bytes(function, &encode::directory(&top))?;
        Ok(Tree { root, directories, files })
    }
}

/// All cases of one root in one state.
struct Bout {
    contenders: Vec<Contender>,
}

struct Contender {
    name: &'static str,
    /// `None` as soon as it has failed.
    case: Option<Box<dyn Case>>,
    series: Series,
    directory: PathBuf,
}

impl Bout {
    fn new(
        runtime: &Arc<Runtime>,
        store: &Store,
        tree: &Rc<Tree>,
        state: &'static str,
        wanted: &[&'static str],
    ) -> Result<Self, BenchError> {
        let cpu = Rc::new(TreeCpu::new(runtime));
        let mut contenders = Vec::new();
        for name in wanted.iter().copied() {
            let directory = store.root.join(name);
            std::fs::create_dir(&directory)
                .map_err(BenchError::file(format!("make {}", directory.display())))?;
            let around = Surroundings {
                runtime: runtime.clone(),
                cas: store.cas.clone(),
                tree: tree.clone(),
                directory: directory.clone(),
                cpu: cpu.clone(),
            };
            let mut series = Series::default();
            let case = match case(name, around, &store.root, state == "known") {
                Ok(case) => Some(case),
                Err(error @ StageRootError::NoWay { .. }) => {
                    series.error = Some(error.to_string());
                    None
                }
                Err(error) => return Err(error.into()),
            };
            contenders.push(Contender { name, case, series, directory });
        }
        Ok(Bout { contenders })
    }

    /// One round before those that count: caches fill, and what is known becomes so.
    fn rounds(&mut self, count: usize, bar: &ProgressBar) -> Result<(), BenchError> {
        for round in 0..=count {
            for index in shuffled(self.contenders.len(), round) {
                let Some(contender) = self.contenders.get_mut(index) else { continue };
                let sample = match contender.case.as_mut().map(|case| case.run()) {
                    Some(Ok(sample)) => Some(sample),
                    Some(Err(why)) if contender.name == FLOOR => {
                        return Err(BenchError::Floor { workload: FLOOR, why });
                    }
                    Some(Err(why)) => {
                        contender.series.error = Some(why);
                        contender.case = None;
                        None
                    }
                    None => None,
                };
                if round > 0 {
                    contender.series.samples.push(sample);
                }
                bar.inc(1);
            }
        }
        for contender in &mut self.contenders {
            contender.case = None;
            let shown = contender.directory.display().to_string();
            std::fs::remove_dir_all(&contender.directory)
                .map_err(BenchError::file(format!("remove {shown}")))?;
        }
        Ok(())
    }

    fn reports(&self, filesystem: &str, files: usize, state: &str) -> Vec<CaseReport> {
        let params = BTreeMap::from([
            ("filesystem", filesystem.to_owned()),
            ("files", files.to_string()),
            ("state", state.to_owned()),
        ]);
        let floor = self.contenders.iter().find(|contender| contender.name == FLOOR);
        let Some(floor) = floor else { return Vec::new() };
        let report =
            |contender: &Contender| contender.series.report(contender.name, params.clone(), &floor.series);
        self.contenders.iter().map(report).collect()
    }
}

fn case(
    name: &str,
    around: Surroundings,
    root: &Path,
    is_known: bool,
) -> Result<Box<dyn Case>, StageRootError> {
    let objects = root.join("cas/objects");
    Ok(match Way::ALL.into_iter().find(|way| way.name() == name) {
        Some(way) => Box::new(Staging::new(around, way, is_known)?),
        None => Box::new(Farm::new(around, objects, name == "symlink-farm")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_the_floor_and_the_order() {
        let filter = ["copy", "composefs"].map(str::to_owned);
        assert_eq!(wanted(&filter).unwrap(), ["composefs", "copy", FLOOR]);
        assert!(wanted(&["fuse".to_owned()]).unwrap_err().to_string().contains("symlink-farm"));
    }

    #[test]
    fn roots_have_as_many_files_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let tree = store.tree(250).unwrap();
        assert_eq!((tree.files.len(), tree.directories.len()), (250, 3));
        assert_eq!(tree.files[249].0, "directory-00002/source-000249.c");
    }
}
