//! A root that is staged: what is in it, and how an action comes to see it.

use super::Way;
use super::closure::Closure;
use super::error::StageRootError;
use super::paths;
use super::trees::{self, TreeCache};
use crate::action::{Digest, Directory, ExecPath};
use crate::cas::{Cas, Pin};
use crate::stage::Layer;
use crate::stage::beneath::Owner;
use fulgurite_sandbox::layer::{self, Layers};
use fulgurite_sandbox::runtime::Runtime;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::Arc;

/// A staged root. It stays staged as long as it is held.
#[derive(Debug)]
pub struct StagedRoot {
    kept: Arc<Kept>,
    /// Whether it was staged already.
    pub known: bool,
    /// Its regular files.
    pub files: u64,
    /// Its directories, the root not counted.
    pub directories: u64,
    /// Its symlinks.
    pub symlinks: u64,
    /// How it is staged.
    pub way: Way,
}

/// What is at a path of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// A regular file.
    File {
        /// Its content.
        digest: &'a Digest,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory.
    Directory {
        /// Its name.
        digest: &'a Digest,
        /// What is in it.
        directory: &'a Directory,
    },
    /// A symlink.
    Symlink {
        /// What it says.
        target: &'a str,
    },
}

/// What one action sees. Dropping it unmounts it, unless a sandbox has attached it; the blobs stay in the store until
/// then, so that it must be kept until the action is quiet.
#[derive(Debug)]
pub struct RootView {
    /// Detached, for /work: the inputs below the layer.
    pub mount: OwnedFd,
    /// The inputs alone, a directory: names, kinds, modes and symlinks. Not what is *in* files, which is elsewhere with
    /// composefs: ask [`StagedRoot::lookup`], or read through `mount`.
    pub lower: OwnedFd,
    /// What the overlay was made of. It holds what it needs; to unmount this takes the kernel a grace period, which
    /// nobody shall wait for before the action runs.
    _below: Option<OwnedFd>,
    /// The inputs were put into the layer itself, and nothing is below it.
    pub is_plain: bool,
    _kept: Arc<Kept>,
}

/// What is kept of a root while it is warm.
#[derive(Debug)]
pub(super) struct Kept {
    cas: Cas,
    closure: Closure,
    _pin: Pin,
    pins: u64,
    bytes: u64,
    lower: Lower,
}

/// What is below the layers of a root.
#[derive(Debug)]
pub(super) enum Lower {
    /// An image, mounted but not attached, and its root directory.
    Image { mount: OwnedFd, root: OwnedFd },
    /// A tree of the directory cache.
    Tree { root: OwnedFd, name: CString, trees: Arc<TreeCache> },
    /// Each action gets a tree of marks: so small a root is not worth an image. `plain`: or files of its own, since
    /// even an overlay costs more.
    Marks { plain: bool },
    /// Each action gets a copy.
    None,
}

impl Lower {
    pub(super) fn image(mount: OwnedFd) -> Result<Self, StageRootError> {
        let root = layer::open_directory(mount.as_fd(), c".").map_err(StageRootError::io("open an image"))?;
        Ok(Lower::Image { mount, root })
    }
}

impl Kept {
    /// `pin` is of these blobs.
    pub(super) fn new(cas: Cas, closure: Closure, pin: Pin, blobs: &[Digest], lower: Lower) -> Self {
        let bytes = blobs.iter().fold(0u64, |bytes, blob| bytes.saturating_add(blob.size_bytes));
        Kept { cas, closure, _pin: pin, pins: blobs.len() as u64, bytes, lower }
    }

    pub(super) fn paths(&self) -> u64 {
        self.closure.size.paths() + 1
    }

    pub(super) fn pins(&self) -> u64 {
        self.pins
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes it apart. Nothing is mounted over it any more.
    pub(super) fn destroy(self) -> Result<(), StageRootError> {
        match self.lower {
            Lower::Tree { root, name, trees } => {
                drop(root);
                trees.remove(&name)
            }
            Lower::Image { .. } | Lower::Marks { .. } | Lower::None => Ok(()),
        }
    }
}

impl StagedRoot {
    pub(super) fn new(kept: Arc<Kept>, known: bool) -> Self {
        let size = kept.closure.size;
        let way = match kept.lower {
            Lower::Image { .. } | Lower::Marks { .. } => Way::Composefs,
            Lower::Tree { .. } => Way::DirectoryCache,
            Lower::None => Way::Copy,
        };
        let (files, directories, symlinks) = (size.files, size.directories, size.symlinks);
        StagedRoot { kept, known, files, directories, symlinks, way }
    }

    /// Its name.
    #[must_use]
    pub fn root(&self) -> &Digest {
        &self.kept.closure.root
    }

    /// A directory of it, by its digest.
    #[must_use]
    pub fn directory(&self, digest: &Digest) -> Option<&Directory> {
        self.kept.closure.directories.get(digest).map(AsRef::as_ref)
    }

    /// What is at a path, without a look at any disk; symlinks are not followed.
    #[must_use]
    pub fn lookup(&self, path: &ExecPath) -> Option<Node<'_>> {
        let mut names = path.components();
        let last = names.next_back()?.to_str()?;
        let mut directory = self.directory(self.root())?;
        for name in names {
            directory = self.directory(child(directory, name.to_str()?)?)?;
        }
        if let Ok(at) = directory.files.binary_search_by(|file| file.name.as_str().cmp(last)) {
            let file = &directory.files[at];
            return Some(Node::File { digest: &file.digest, executable: file.executable });
        }
        if let Ok(at) = directory.symlinks.binary_search_by(|link| link.name.as_str().cmp(last)) {
            return Some(Node::Symlink { target: &directory.symlinks[at].target });
        }
        let digest = child(directory, last)?;
        Some(Node::Directory { digest, directory: self.directory(digest)? })
    }

    /// The names, kinds, modes and symlinks of the inputs, for those who prepare a layer before it is mounted; `None`
    /// if each action has a copy, which [`StagedRoot::view`] makes.
    #[must_use]
    pub fn lower(&self) -> Option<BorrowedFd<'_>> {
        match &self.kept.lower {
            Lower::Image { root, .. } | Lower::Tree { root, .. } => Some(root.as_fd()),
            Lower::Marks { .. } | Lower::None => None,
        }
    }

    /// Makes the view of an action whose processes have `action_id` outside, and which writes to `layer`.
    ///
    /// # Errors
    /// [`StageRootError::Io`], [`StageRootError::Sandbox`], [`StageRootError::Cas`].
    pub fn view(&self, runtime: &Runtime, action_id: u32, layer: &Layer) -> Result<RootView, StageRootError> {
        self.view_after(runtime, action_id, layer, |_| Ok(()))
    }

    /// As [`StagedRoot::view`]; `prepare` fills the layer before it is mounted, and is given the inputs as
    /// [`RootView::lower`] has them.
    ///
    /// # Errors
    /// As [`StagedRoot::view`], and those of `prepare`.
    pub fn view_after<E: From<StageRootError>>(
        &self,
        runtime: &Runtime,
        action_id: u32,
        layer: &Layer,
        prepare: impl FnOnce(BorrowedFd<'_>) -> Result<(), E>,
    ) -> Result<RootView, E> {
        let lower = match &self.kept.lower {
            Lower::Image { root, .. } | Lower::Tree { root, .. } => same(root)?,
            own @ (Lower::Marks { .. } | Lower::None) => {
                let owner = runtime.features().privileged.then_some(Owner { uid: action_id, gid: action_id });
                let Kept { cas, closure, .. } = &*self.kept;
                match own {
                    Lower::Marks { .. } => trees::marks(layer.dir(), c"tree", cas, closure, owner)?,
                    _ => trees::copy(layer.dir(), c"tree", cas, closure, owner)?,
                }
            }
        };
        prepare(lower.as_fd())?;
        Ok(self.mount(runtime, action_id, layer, lower)?)
    }

    fn mount(
        &self,
        runtime: &Runtime,
        action_id: u32,
        layer: &Layer,
        lower: OwnedFd,
    ) -> Result<RootView, StageRootError> {
        self.dress(layer)?;
        let work = layer::open_directory(layer.dir(), c"work")
            .map_err(StageRootError::io("open the layer's work directory"))?;
        let failed =
            || StageRootError::io(format!("mount an overlay with its layer in {}", layer.path().display()));
        let layers = |lower| Layers { lower, upper: layer.upper(), work: work.as_fd() };
        let features = runtime.features();
        let below = match &self.kept.lower {
            Lower::Image { mount, .. } => runtime.map_owner(mount.as_fd(), action_id)?,
            Lower::Tree { root, .. } => runtime.map_owner(root.as_fd(), action_id)?,
            Lower::Marks { .. } | Lower::None => None,
        };
        let mounted = match (&self.kept.lower, &below) {
            (Lower::Image { .. }, Some(mapped)) => {
                layer::overlay_over_data(&layers(mapped.as_fd()), self.kept.cas.objects(), features)
            }
            (Lower::Image { .. }, None) => Err(Errno::OPNOTSUPP),
            (Lower::Tree { .. }, Some(mapped)) => {
                layer::overlay_on_detached(&layers(mapped.as_fd()), layer.dir(), c"lower", features)
            }
            (Lower::Tree { root, .. }, None) => layer::overlay(&layers(root.as_fd()), features),
            (Lower::Marks { .. }, _) => {
                layer::overlay_over_data(&layers(lower.as_fd()), self.kept.cas.objects(), features)
            }
            (Lower::None, _) => layer::overlay(&layers(lower.as_fd()), features),
        };
        let mount = mounted.map_err(failed())?;
        Ok(RootView { mount, lower, _below: below, is_plain: false, _kept: self.kept.clone() })
    }

    /// Whether the root is so small that [`StagedRoot::plain_view_after`] is the cheapest view of it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self.kept.lower, Lower::Marks { plain: true })
    }

    /// As [`StagedRoot::view_after`], without an overlay: the inputs are copied into the layer, and the layer itself
    /// is what the action sees. Its outputs lie there among its inputs.
    ///
    /// # Errors
    /// As [`StagedRoot::view_after`].
    pub fn plain_view_after<E: From<StageRootError>>(
        &self,
        action_id: u32,
        layer: &Layer,
        prepare: impl FnOnce(BorrowedFd<'_>) -> Result<(), E>,
    ) -> Result<RootView, E> {
        let owner = Some(Owner { uid: action_id, gid: action_id });
        let Kept { cas, closure, .. } = &*self.kept;
        trees::copy_into(layer.upper(), cas, closure, owner)?;
        prepare(layer.upper())?;
        self.dress(layer)?;
        let mount = layer::plain(layer.upper())
            .map_err(StageRootError::io(format!("mount the layer in {}", layer.path().display())))?;
        let lower = layer
            .upper()
            .try_clone_to_owned()
            .map_err(StageRootError::file("open the layer once more".to_owned()))?;
        Ok(RootView { mount, lower, _below: None, is_plain: true, _kept: self.kept.clone() })
    }

    /// The top of a view looks as the layer does, and that is as old as the action.
    fn dress(&self, layer: &Layer) -> Result<(), StageRootError> {
        let looks = self.directory(self.root()).map(|top| (paths::directory_mode(top), paths::mtime(top)));
        if let Some((mode, mtime)) = looks {
            rustix::fs::fchmod(layer.upper(), Mode::from_raw_mode(mode.into()))
                .and_then(|()| rustix::fs::futimens(layer.upper(), &trees::times(mtime)))
                .map_err(StageRootError::io("prepare the layer"))?;
        }
        Ok(())
    }
}

/// The digest of a directory in another.
fn child<'a>(directory: &'a Directory, name: &str) -> Option<&'a Digest> {
    let found = directory.directories.binary_search_by(|child| child.name.as_str().cmp(name)).ok()?;
    Some(&directory.directories[found].digest)
}

/// Opens a directory once more, with a position of its own for listings.
fn same(dir: &OwnedFd) -> Result<OwnedFd, StageRootError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, c".", flags, Mode::empty()).map_err(StageRootError::io("open the inputs"))
}
