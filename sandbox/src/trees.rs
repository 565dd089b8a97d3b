//! Host trees as detached mounts: restricted for views, with mapped owners for the sandboxes that may write to them.
use crate::host::Features;
use crate::layer;
use crate::plan::{Op, Plan, Tree};
use crate::runtime::SandboxError;
use crate::sys::mount::{self, attr};
use crate::sys::{Errno, Result};
use crate::zygote::Zygote;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Id maps that are kept for reuse; when there are more, all are forgotten.
const ID_MAPS_MAX: usize = 1024;

/// Opens trees and maps their owners.
#[derive(Debug)]
pub(crate) struct Trees {
    zygote: Arc<Zygote>,
    mapped: bool,
    /// User namespaces by owner and action.
    id_maps: Mutex<HashMap<(u32, u32), Arc<OwnedFd>>>,
}

impl Trees {
    pub(crate) fn new(zygote: Arc<Zygote>, features: &Features) -> Self {
        let mapped = features.privileged && features.idmapped_mounts.is_yes();
        Trees { zygote, mapped, id_maps: Mutex::default() }
    }

    /// The trees that a plan's view attaches.
    pub(crate) fn for_view(&self, plan: &Plan) -> core::result::Result<Vec<OwnedFd>, SandboxError> {
        plan.trees.iter().map(|tree| open(tree).map_err(|errno| failed(plan, tree, errno))).collect()
    }

    /// The trees that one sandbox attaches for itself, with their owners mapped to its actions' id.
    pub(crate) fn for_sandbox(
        &self,
        plan: &Plan,
        action_id: u32,
    ) -> core::result::Result<Vec<OwnedFd>, SandboxError> {
        let one = |wanted: &Tree| {
            let at_fault = |errno| failed(plan, wanted, errno);
            // Of the tree where it is attached: a detached one can be cloned only from Linux 6.15 on.
            let source = mount::opath(mount::here(), &wanted.source).map_err(at_fault)?;
            match self.map_owner(source.as_fd(), action_id)? {
                Some(mapped) => {
                    mount::make_private_recursive(mapped.as_fd()).map_err(at_fault)?;
                    mount::restrict(mapped.as_fd(), wanted.attributes).map_err(at_fault)?;
                    Ok(mapped)
                }
                None => open(wanted).map_err(at_fault),
            }
        };
        plan.own_trees.iter().map(one).collect()
    }

    /// A detached mount of `tree` in which the files of its owner belong to `action_id`; `None` where the ids need no
    /// mapping, or this filesystem has none.
    pub(crate) fn map_owner(
        &self,
        tree: BorrowedFd<'_>,
        action_id: u32,
    ) -> core::result::Result<Option<OwnedFd>, SandboxError> {
        if !self.mapped {
            return Ok(None);
        }
        let stat = rustix::fs::fstat(tree).map_err(SandboxError::system("read the owner of a host tree"))?;
        let namespace = self.namespace(stat.st_uid, action_id)?;
        match layer::map_owner(tree, namespace.as_fd()) {
            Ok(mapped) => Ok(Some(mapped)),
            // This filesystem has no idmapped mounts; the files keep their owner.
            Err(Errno::INVAL) => Ok(None),
            Err(errno) => {
                Err(SandboxError::System { what: "map the owner of a host tree".to_owned(), errno })
            }
        }
    }

    fn namespace(&self, owner: u32, action_id: u32) -> core::result::Result<Arc<OwnedFd>, SandboxError> {
        let mut maps = self.id_maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = maps.get(&(owner, action_id)) {
            return Ok(namespace.clone());
        }
        if maps.len() >= ID_MAPS_MAX {
            maps.clear();
        }
        let made = Arc::new(self.zygote.user_namespace(&layer::exchange_map(owner, action_id))?);
        maps.insert((owner, action_id), made.clone());
        Ok(made)
    }
}

fn open(wanted: &Tree) -> Result<OwnedFd> {
    let tree = mount::clone_tree(mount::here(), &wanted.source)?;
    mount::make_private_recursive(tree.as_fd())?;
    if wanted.attributes & attr::READ_ONLY != 0 {
        mount::restrict_recursive(tree.as_fd(), wanted.attributes)?;
    } else {
        mount::restrict(tree.as_fd(), wanted.attributes)?;
    }
    Ok(tree)
}

fn failed(plan: &Plan, tree: &Tree, errno: Errno) -> SandboxError {
    let step = plan.number_of(|op| matches!(op, Op::Attach { at, .. } if *at == tree.at));
    SandboxError::Step(plan.failure(step.unwrap_or(0), errno))
}
