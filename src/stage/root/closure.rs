//! The closure of an input root: every Directory once, checked and counted before a single path is made of it.
//!
//! ```text
//!   root ─► read, decode ─► digests of children ─► read, decode ─► …        each digest once
//!        ─► bottom up: paths, bytes, depth of each, saturating               2^40 paths by sharing are a number here
//!        ─► budget ─► files, each digest once ─► pin
//! ```
//! Invariants: all that is missing is told at once, as far as it can be known (what is below a missing directory can
//! not); no recursion; nothing was mounted or made when this refuses. Limits: [`RootLimits`].

use super::error::StageRootError;
use super::limits::RootLimits;
use crate::action::{Digest, Directory, decode};
use crate::cas::{Cas, CasError};
use std::collections::HashMap;
use std::sync::Arc;

/// A checked input root.
#[derive(Debug)]
pub struct Closure {
    /// Its name.
    pub root: Digest,
    /// Every directory of it.
    pub directories: HashMap<Digest, Arc<Directory>>,
    /// How much it is, expanded.
    pub size: Size,
}

/// What a directory expands to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Regular files.
    pub files: u64,
    /// Directories, the top one not counted.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Bytes of all paths together.
    pub path_bytes: u64,
    /// Bytes of the longest path.
    pub longest: u64,
    /// Levels of directories below the top one.
    pub depth: u64,
}

impl Size {
    /// All paths.
    #[must_use]
    pub fn paths(&self) -> u64 {
        self.files.saturating_add(self.directories).saturating_add(self.symlinks)
    }

    fn check(&self, limits: &RootLimits) -> Result<(), StageRootError> {
        let bounds = [
            ("paths:", self.paths(), limits.paths_max),
            ("bytes of paths:", self.path_bytes, limits.path_bytes_max),
            ("a path of bytes:", self.longest, limits.path_length_max),
            ("levels of directories:", self.depth, limits.depth_max),
        ];
        match bounds.into_iter().find(|(_, found, max)| found > max) {
            Some((what, found, max)) => Err(StageRootError::TooLarge { what, found, max }),
            None => Ok(()),
        }
    }
}

impl Closure {
    /// Reads, checks and counts an input root.
    ///
    /// # Errors
    /// [`StageRootError::Missing`], [`StageRootError::Malformed`], [`StageRootError::TooLarge`],
    /// [`StageRootError::Cas`].
    pub fn read(cas: &Cas, root: &Digest, limits: &RootLimits) -> Result<Closure, StageRootError> {
        let mut reading = Reading { cas, limits, directories: HashMap::new(), missing: Vec::new(), bytes: 0 };
        reading.all(root)?;
        let Reading { directories, mut missing, .. } = reading;
        if !missing.is_empty() {
            missing.extend(cas.missing(blobs(&directories)));
            return Err(StageRootError::Missing(missing));
        }
        let size = measure(root, &directories, limits)?;
        size.check(limits)?;
        Ok(Closure { root: *root, directories, size })
    }

    /// Every blob of it once, those of no bytes excepted, which need no place.
    #[must_use]
    pub fn blobs(&self) -> Vec<Digest> {
        let mut all = blobs(&self.directories);
        let empty = Digest::empty(self.root.function);
        all.extend(self.directories.keys().copied().filter(|digest| *digest != empty));
        all
    }
}

/// The digests of all files, each once.
fn blobs(directories: &HashMap<Digest, Arc<Directory>>) -> Vec<Digest> {
    let count = directories.values().map(|directory| directory.files.len()).sum();
    let mut files = Vec::with_capacity(count);
    for directory in directories.values() {
        files.extend(directory.files.iter().map(|file| file.digest));
    }
    files.sort_unstable();
    files.dedup();
    files.retain(|digest| !is_empty_blob(digest));
    files
}

/// Whether this is the blob of no bytes; one that only claims to be is looked for, and is missing.
pub fn is_empty_blob(digest: &Digest) -> bool {
    digest.is_empty() && *digest == Digest::empty(digest.function)
}

struct Reading<'a> {
    cas: &'a Cas,
    limits: &'a RootLimits,
    directories: HashMap<Digest, Arc<Directory>>,
    missing: Vec<Digest>,
    bytes: u64,
}

impl Reading<'_> {
    fn all(&mut self, root: &Digest) -> Result<(), StageRootError> {
        let mut wanted = vec![*root];
        let mut seen = std::collections::HashSet::from([*root]);
        while let Some(digest) = wanted.pop() {
            let Some(directory) = self.one(&digest)? else { continue };
            // A directory of distinct children is read in full only as far as its own paths are allowed.
            let paths = directory.files.len() + directory.directories.len() + directory.symlinks.len();
            self.within("paths:", paths as u64, self.limits.paths_max)?;
            self.within("directories:", seen.len() as u64, self.limits.paths_max)?;
            for child in &directory.directories {
                if seen.insert(child.digest) {
                    wanted.push(child.digest);
                }
            }
            self.directories.insert(digest, Arc::new(directory));
        }
        Ok(())
    }

    fn one(&mut self, digest: &Digest) -> Result<Option<Directory>, StageRootError> {
        if is_empty_blob(digest) {
            return Ok(Some(Directory::default()));
        }
        let max = self.limits.directory_bytes_max;
        self.within("a directory of bytes:", digest.size_bytes, max)?;
        self.bytes = self.bytes.saturating_add(digest.size_bytes);
        self.within("directories of bytes:", self.bytes, self.limits.directories_bytes_max)?;
        let bytes = match self.cas.read(digest, max) {
            Ok(bytes) => bytes,
            Err(CasError::Missing(digest)) => {
                self.missing.push(digest);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let decoded = decode::directory(digest.function, &bytes);
        decoded
            .map(Some)
            .map_err(|why| StageRootError::Malformed { directory: *digest, why: why.to_string() })
    }

    fn within(&self, what: &'static str, found: u64, max: u64) -> Result<(), StageRootError> {
        if found > max { Err(StageRootError::TooLarge { what, found, max }) } else { Ok(()) }
    }
}

/// Counts bottom up, each digest once, and so in the time of the messages and not of the paths.
fn measure(
    root: &Digest,
    directories: &HashMap<Digest, Arc<Directory>>,
    limits: &RootLimits,
) -> Result<Size, StageRootError> {
    enum Step<'a> {
        Enter(&'a Digest),
        Leave(&'a Digest),
    }
    let mut sizes: HashMap<&Digest, Option<Size>> = HashMap::with_capacity(directories.len());
    let mut steps = vec![Step::Enter(root)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Enter(digest) => {
                match sizes.get(digest) {
                    Some(Some(_)) => continue,
                    // Only a broken hash function makes a directory its own ancestor.
                    Some(None) => {
                        let why = "it contains itself".to_owned();
                        return Err(StageRootError::Malformed { directory: *digest, why });
                    }
                    None => {}
                }
                sizes.insert(digest, None);
                steps.push(Step::Leave(digest));
                let children = directories.get(digest).into_iter().flat_map(|found| &found.directories);
                steps.extend(
                    children
                        .filter(|child| !matches!(sizes.get(&child.digest), Some(Some(_))))
                        .map(|child| Step::Enter(&child.digest)),
                );
            }
            Step::Leave(digest) => {
                let Some(directory) = directories.get(digest) else { continue };
                let size = sum(directory, &sizes);
                // Depth and length are checked on the way, where the culprit is known best.
                if size.depth > limits.depth_max || size.longest > limits.path_length_max {
                    size.check(limits)?;
                }
                sizes.insert(digest, Some(size));
            }
        }
    }
    Ok(sizes.get(root).copied().flatten().unwrap_or_default())
}

fn sum(directory: &Directory, sizes: &HashMap<&Digest, Option<Size>>) -> Size {
    let mut total = Size {
        files: directory.files.len() as u64,
        symlinks: directory.symlinks.len() as u64,
        directories: directory.directories.len() as u64,
        ..Size::default()
    };
    let names = directory.files.iter().map(|file| &file.name);
    for name in names.chain(directory.symlinks.iter().map(|link| &link.name)) {
        total.path_bytes = total.path_bytes.saturating_add(name.len() as u64);
        total.longest = total.longest.max(name.len() as u64);
    }
    for child in &directory.directories {
        let below = sizes.get(&child.digest).copied().flatten().unwrap_or_default();
        let name = child.name.len() as u64;
        let prefixes = below.paths().saturating_mul(name + 1);
        total.path_bytes =
            total.path_bytes.saturating_add(name).saturating_add(prefixes).saturating_add(below.path_bytes);
        let longest = if below.longest > 0 { name + 1 + below.longest } else { name };
        total.longest = total.longest.max(longest);
        total.files = total.files.saturating_add(below.files);
        total.directories = total.directories.saturating_add(below.directories);
        total.symlinks = total.symlinks.saturating_add(below.symlinks);
        total.depth = total.depth.max(below.depth.saturating_add(1));
    }
    total
}
