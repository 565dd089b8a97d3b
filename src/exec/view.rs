//! The mount that an action finds at /work.
//!
//! *sandboxed*: an overlay of the inputs (a staged tree, or the whole exec root) and a private layer. *standalone*: the
//! exec root itself, writable, with its owner's files mapped to the action's id.
use crate::action::{InputSpec, Outputs};
use crate::output::Marks;
use crate::stage::limits::TreeLimits;
use crate::stage::{InputTree, Layer, Owner, Places, StageError, prepare_output_parents};
use fulgurite_sandbox::layer::{self, Layers};
use fulgurite_sandbox::runtime::{Runtime, SandboxError};
use fulgurite_sandbox::sys::{Errno, mount};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// How the local branch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Over a private layer; outputs are published afterwards.
    Sandboxed,
    /// Straight in the exec root: the command sees it whole and writes to it.
    Standalone,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Inputs or the layer could not be staged.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The sandbox could not help.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The kernel refused a mount.
    #[error("cannot {what}: {errno}")]
    Mount {
        /// What was tried.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
}

impl ViewError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ViewError::Stage(error) => error.hint().map(str::to_owned),
            ViewError::Sandbox(error) => error.hint(),
            ViewError::Mount { errno: Errno::INVAL, .. } => {
                Some("choose a layer directory on another filesystem with --layer-dir".to_owned())
            }
            ViewError::Mount { .. } => None,
        }
    }
}

/// What a view is made of.
#[derive(Clone, Copy, Debug)]
pub struct ViewSpec<'a> {
    /// The directory that inputs are relative to.
    pub exec_root: BorrowedFd<'a>,
    /// The declared inputs; `None`: the whole exec root.
    pub inputs: Option<&'a [InputSpec]>,
    /// The declared outputs, whose parent directories are made.
    pub outputs: &'a Outputs,
    /// Where layers may lie.
    pub places: &'a Places,
    /// How the action runs.
    pub strategy: Strategy,
}

/// A mount, and what lies beneath it.
#[derive(Debug)]
pub struct View {
    /// Detached, for /work.
    pub mount: OwnedFd,
    /// The private layer; `None` when standalone.
    pub layer: Option<Layer>,
    /// The tree below the layer.
    pub lower: Option<OwnedFd>,
    /// What staging did.
    pub staged: Staged,
}

/// What staging did, for the statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// Files that were linked.
    pub links: u64,
    /// Bytes that were copied.
    pub bytes_copied: u64,
    /// Input files that the action may not be able to read.
    pub unreadable: Vec<String>,
    /// Whether the files of the exec root's owner belong to the action inside.
    pub owner_mapped: bool,
}

/// The marks that overlays of this host use in layers.
#[must_use]
pub fn marks(runtime: &Runtime) -> Marks {
    if runtime.features().privileged { Marks::Trusted } else { Marks::User }
}

/// Makes the view of an action whose processes have `action_id` outside.
///
/// # Errors
/// [`ViewError`], naming the input, the place or the mount.
pub fn view(runtime: &Runtime, spec: &ViewSpec<'_>, action_id: u32) -> Result<View, ViewError> {
    match spec.strategy {
        Strategy::Standalone => standalone(runtime, spec, action_id),
        Strategy::Sandboxed => sandboxed(runtime, spec, action_id),
    }
}

fn standalone(runtime: &Runtime, spec: &ViewSpec<'_>, action_id: u32) -> Result<View, ViewError> {
    let mapped = runtime.map_owner(spec.exec_root, action_id)?;
    let owner_mapped = mapped.is_some();
    let mount = match mapped {
        Some(mapped) => mapped,
        None => mount::clone_tree(spec.exec_root, c"")
            .map_err(|errno| ViewError::Mount { what: "bind the exec root".to_owned(), errno })?,
    };
    let staged = Staged { owner_mapped, ..Staged::default() };
    Ok(View { mount, layer: None, lower: None, staged })
}

fn sandboxed(runtime: &Runtime, spec: &ViewSpec<'_>, action_id: u32) -> Result<View, ViewError> {
    let privileged = runtime.features().privileged;
    let owner = privileged.then_some(Owner { uid: action_id, gid: action_id });
    let layer = Layer::create(spec.places, spec.exec_root, owner)?;
    let built = overlay(runtime, spec, &layer, owner, action_id);
    match built {
        Ok((mount, lower, staged)) => Ok(View { mount, layer: Some(layer), lower: Some(lower), staged }),
        Err(error) => {
            // The first error is the one that counts; what is left of the layer is swept at the next start.
            let _ = layer.destroy();
            Err(error)
        }
    }
}

/// Staged inputs keep their owner, since they are links; their directories get the same one, and the mount shows all of
/// them as the action's own. Where ids cannot be mapped, the directories at least belong to the action.
fn input_owner(runtime: &Runtime, exec_root: BorrowedFd<'_>) -> Result<Option<Owner>, ViewError> {
    let features = runtime.features();
    if !features.privileged || !features.idmapped_mounts.is_yes() {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(exec_root)
        .map_err(|errno| ViewError::Mount { what: "read the owner of the exec root".to_owned(), errno })?;
    Ok(Some(Owner { uid: stat.st_uid, gid: stat.st_gid }))
}

fn overlay(
    runtime: &Runtime,
    spec: &ViewSpec<'_>,
    layer: &Layer,
    owner: Option<Owner>,
    action_id: u32,
) -> Result<(OwnedFd, OwnedFd, Staged), ViewError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno| ViewError::Mount { what, errno }
    };
    let mut staged = Staged::default();
    let lower = match spec.inputs {
        None => spec
            .exec_root
            .try_clone_to_owned()
            .map_err(|_| Errno::MFILE)
            .map_err(failed("open the exec root"))?,
        Some(inputs) => {
            let built_for = input_owner(runtime, spec.exec_root)?.or(owner);
            let limits = TreeLimits::default();
            let tree = InputTree::build(layer.dir(), c"tree", spec.exec_root, inputs, built_for, limits)?;
            staged.links = tree.made.links;
            staged.bytes_copied = tree.made.bytes_copied;
            staged.unreadable = tree.made.unreadable.iter().map(|path| path.display().to_string()).collect();
            tree.root
        }
    };
    prepare_output_parents(layer.upper(), Some(lower.as_fd()), spec.outputs, owner)?;
    let mapped = runtime.map_owner(lower.as_fd(), action_id)?;
    staged.owner_mapped = mapped.is_some();
    let work =
        layer::open_directory(layer.dir(), c"work").map_err(failed("open the layer's work directory"))?;
    let shown = mapped.as_ref().unwrap_or(&lower);
    let layers = Layers { lower: shown.as_fd(), upper: layer.upper(), work: work.as_fd() };
    let mount = match &mapped {
        Some(_) => layer::overlay_on_detached(&layers, layer.dir(), c"lower", runtime.features()),
        None => layer::overlay(&layers, runtime.features()),
    };
    let what = format!("mount an overlay with its layer in {}", layer.path().display());
    Ok((mount.map_err(failed(&what))?, lower, staged))
}
