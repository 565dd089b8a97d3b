//! Where workers and their requests stand: layers, views, and who takes them apart.

use crate::action::{Digest, Directory, ExecPath};
use crate::cas::Cas;
use crate::exec::Verdict;
use crate::exec::view::marks;
use crate::output::{Inputs, Marks};
use crate::stage::root::{RootView, StagedRoot, Stager};
use crate::stage::{Layer, LayerHome, Owner, prepare_parents};
use fulgurite_sandbox::pool::{Cleaner, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every worker needs.
#[derive(Debug)]
pub struct Ground {
    /// Sandboxes for workers only: one-shot actions never wait for a worker's.
    pub pool: Pool,
    /// Blobs.
    pub cas: Cas,
    /// Input roots.
    pub stager: Stager,
    /// Layers, on the store's filesystem.
    pub layers: LayerHome,
    cleaners: [Cleaner; CLEANERS],
    turn: AtomicUsize,
}

/// Threads that unmount and remove: they mostly wait for the kernel, which takes its time for each mount, and under
/// load more of it. What they do not get done is done by those who bring more.
const CLEANERS: usize = 3;

/// The view of one request, or a worker's own, with what lies below it.
#[derive(Debug)]
pub struct Mounted {
    /// What it shows.
    pub staged: Arc<StagedRoot>,
    /// What was written.
    pub layer: Layer,
    /// Detached, until a worker has it.
    pub view: RootView,
}

/// The input root, as handoff looks at it.
pub(super) struct StagedInputs<'a>(pub &'a StagedRoot);

impl Inputs for StagedInputs<'_> {
    fn root(&self) -> Option<&Directory> {
        self.0.directory(self.0.root())
    }

    fn directory(&self, digest: &Digest) -> Option<&Directory> {
        self.0.directory(digest)
    }
}

impl Ground {
    /// Over these, with threads that take apart.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(pool: Pool, cas: Cas, stager: Stager, layers: LayerHome) -> std::io::Result<Self> {
        let cleaners = [Cleaner::start()?, Cleaner::start()?, Cleaner::start()?];
        Ok(Ground { pool, cas, stager, layers, cleaners, turn: AtomicUsize::new(0) })
    }

    fn cleaner(&self) -> &Cleaner {
        &self.cleaners[self.turn.fetch_add(1, Ordering::Relaxed) % CLEANERS]
    }

    /// A view for a worker whose processes have `id` outside, with the directories of these paths.
    pub(super) fn mount<'a>(
        &self,
        staged: &Arc<StagedRoot>,
        id: u32,
        paths: impl IntoIterator<Item = &'a ExecPath>,
    ) -> Result<Mounted, Verdict> {
        let runtime = self.pool.runtime();
        let owner = runtime.features().privileged.then_some(Owner { uid: id, gid: id });
        let layer = self.layers.create(owner)?;
        let view = staged.view_after(runtime, id, &layer, |lower| {
            Ok::<_, Verdict>(prepare_parents(layer.upper(), Some(lower), paths, owner)?)
        });
        match view {
            Ok(view) => Ok(Mounted { staged: staged.clone(), layer, view }),
            Err(verdict) => {
                // The first error is the one that counts; what is left of the layer is swept at the next start.
                let _ = layer.destroy();
                Err(verdict)
            }
        }
    }

    /// Takes a view apart that no worker has any more, when there is time.
    pub(super) fn clean(&self, mounted: Mounted) {
        let stager = self.stager.clone();
        self.cleaner().clean(move || {
            let Mounted { staged, layer, view } = mounted;
            drop((view, staged));
            destroy(layer);
            let _ = stager.tidy();
        });
    }

    /// A directory for a worker whose processes have `id` outside.
    pub(super) fn layer(&self, id: u32) -> Result<(Layer, Option<Owner>), Verdict> {
        let owner = self.pool.runtime().features().privileged.then_some(Owner { uid: id, gid: id });
        Ok((self.layers.create(owner)?, owner))
    }

    /// Removes a directory that no worker has any more, when there is time.
    pub(super) fn clean_layer(&self, layer: Layer) {
        self.cleaner().clean(move || {
            destroy(layer);
        });
    }

    /// Returns when everything is taken apart that was given to be.
    pub(super) fn flush(&self) {
        self.cleaners.iter().for_each(Cleaner::flush);
    }

    pub(super) fn marks(&self) -> Marks {
        marks(self.pool.runtime())
    }
}

/// Removes a layer. What cannot be removed now is found by the sweep of the next start.
fn destroy(layer: Layer) {
    let path = layer.path();
    if let Err(error) = layer.destroy() {
        tracing::warn!(path = %path.display(), "a worker's layer stays until the next start: {error}");
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.cleaners.iter_mut().for_each(Cleaner::stop);
    }
}
