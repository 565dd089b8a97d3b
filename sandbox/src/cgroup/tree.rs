//! Our own top directory in every hierarchy that we use; the slots stand below it.
//!
//! Invariants: the directory's name says who made it, so that a successor can remove it
//! ([`super::sweep_stale`]); where our own processes had to make room, they are moved back before the place
//! is given up. Dropping a tree tries once to remove it and never waits: [`CgroupTree::destroy`] does.
//!
//! Weight: the kernel shares a group's weight out over all processors on which it has something to run. With the usual
//! weight all actions together would count like one process, and each of them on 64 processors like a 64th of the
//! daemon's thread beside it. So the top weighs as many times as much as there are processors for us: then each
//! action weighs what its process would without any groups (sched-design-CFS, "Group scheduler extensions to CFS").
//!
//! Limits: where the place has to be evacuated ([`super::Room::Evacuate`]) a process can have one tree at a
//! time. On a v2 root without systemd the controllers that were enabled for children stay enabled.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::node::{self, Branch, Cgroup, Patience};
use super::{
    CgroupError, CgroupHost, Controller, Place, ProcessIdentity, Room, Slot, parse, place, process, sweep,
    tree_name, v1, v2,
};

/// The leaf for our own processes.
const DAEMON: &str = "daemon";
/// The longest label of a tree.
const LABEL_BYTES_MAX: usize = 32;

/// Our top directories.
#[derive(Debug)]
pub struct CgroupTree {
    name: String,
    host: Arc<CgroupHost>,
    v2: Option<V2Top>,
    v1: Vec<(Cgroup<Branch>, Vec<Controller>)>,
    is_removed: bool,
}

#[derive(Debug)]
struct V2Top {
    top: Cgroup<Branch>,
    controllers: Vec<Controller>,
    evacuation: Option<Evacuation>,
}

/// What must be undone when the place is given up.
#[derive(Debug)]
struct Evacuation {
    place: PathBuf,
    enabled: Vec<Controller>,
}

impl CgroupTree {
    /// Makes the top directories. `label` tells the trees of one process apart: up to 32 of `a-z 0-9 - _`.
    ///
    /// # Errors
    /// [`CgroupError::NoPlace`] if no hierarchy has room for us; otherwise what the kernel refused.
    pub fn create(host: &CgroupHost, label: &str) -> Result<Self, CgroupError> {
        check_label(label)?;
        if host.v2.is_none() && host.v1.is_empty() {
            let why = format!("no hierarchy has room for one (kill: {}; memory: {})", host.kill, host.memory);
            return Err(CgroupError::NoPlace { why, hint: None });
        }
        let name = tree_name(&ProcessIdentity::current(), label);
        let mut tree = Self { name, host: Arc::new(host.clone()), v2: None, v1: vec![], is_removed: false };
        // From here on an early return drops the tree, which removes what has been made.
        if let Some(place) = &host.v2 {
            let parent = Cgroup::place(&place.dir)?;
            let top = without_controllers(parent.child(&tree.name)?)?;
            let v2 = tree.v2.insert(V2Top { top, controllers: place.controllers.clone(), evacuation: None });
            v2.settle(&parent, place)?;
            weigh(&v2.top, "cpu.weight", v2::WEIGHT_MAX, super::CPU_WEIGHT_DEFAULT.into());
        }
        for place in &host.v1 {
            let top = without_controllers(Cgroup::place(&place.dir)?.child(&tree.name)?)?;
            weigh(&top, "cpu.shares", v1::SHARES_MAX, v1::SHARES_DEFAULT);
            tree.v1.push((top, place.controllers.clone()));
        }
        Ok(tree)
    }

    /// The name of the top directories.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the host gave when the tree was made.
    pub fn host(&self) -> &CgroupHost {
        &self.host
    }

    /// The top directories, v2 first.
    pub fn paths(&self) -> Vec<PathBuf> {
        let v2 = self.v2.iter().map(|v2| v2.top.path());
        v2.chain(self.v1.iter().map(|(top, _)| top.path())).map(Path::to_path_buf).collect()
    }

    /// Makes the groups of one sandbox. An index is free again when its slot has been destroyed.
    ///
    /// # Errors
    /// What the kernel refused; a slot that exists is `EEXIST`.
    pub fn slot(&self, index: usize) -> Result<Slot, CgroupError> {
        let v2 = self.v2.as_ref().map(|v2| (&v2.top, v2.controllers.as_slice()));
        Slot::create(index, &self.host, v2, &self.v1)
    }

    /// Removes the tree with all that is left in it; no process may be, save our own where they made room.
    ///
    /// # Errors
    /// [`CgroupError::Quarantined`] with the directories that remain.
    pub fn destroy(mut self) -> Result<(), CgroupError> {
        self.remove_dirs(Patience::Bounded)
    }

    fn remove_dirs(&mut self, patience: Patience) -> Result<(), CgroupError> {
        if std::mem::replace(&mut self.is_removed, true) {
            return Ok(());
        }
        let mut remains = Vec::new();
        let mut last: Option<io::Error> = None;
        if let Some(v2) = &self.v2 {
            sweep::remove_children(v2.top.path(), DAEMON, patience);
            v2.move_back();
        }
        for path in self.paths() {
            if let Err(source) = sweep::remove_below(&path, patience, &mut remains) {
                last = Some(source);
            }
        }
        last.map_or(Ok(()), |source| Err(CgroupError::Quarantined { paths: remains, source }))
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        let _ = self.remove_dirs(Patience::Once);
    }
}

impl V2Top {
    /// Makes the place give its controllers to us, and passes them on to the slots.
    fn settle(&mut self, parent: &Cgroup<Branch>, place: &Place) -> Result<(), CgroupError> {
        if place.room == Room::Evacuate {
            let enabled = place::listed(&place.dir, "cgroup.subtree_control");
            let added = place.controllers.iter().copied().filter(|controller| !enabled.contains(controller));
            self.evacuation = Some(Evacuation { place: place.dir.clone(), enabled: added.collect() });
            self.top.child(DAEMON)?;
            move_ours(&place.dir, &self.top.path().join(DAEMON))?;
        }
        node::enable(parent, &self.controllers)?;
        node::enable(&self.top, &self.controllers)
    }

    /// Undoes an evacuation: nobody may give controllers to children before we can live there again.
    fn move_back(&self) {
        let Some(evacuation) = &self.evacuation else { return };
        for controller in &self.controllers {
            let _ = self.top.write("cgroup.subtree_control", &format!("-{}", controller.name()));
        }
        for controller in &evacuation.enabled {
            let control = evacuation.place.join("cgroup.subtree_control");
            let _ = std::fs::write(control, format!("-{}", controller.name()));
        }
        let _ = move_ours(&self.top.path().join(DAEMON), &evacuation.place);
    }
}

/// Moves our own processes from one group to another; others, and those that are gone, are left alone.
fn move_ours(source: &Path, target: &Path) -> Result<(), CgroupError> {
    let procs = target.join("cgroup.procs");
    let pids = parse::pids(&node::read_file(&source.join("cgroup.procs"))?);
    for pid in pids.into_iter().filter(|&pid| process::is_ours(pid)) {
        match std::fs::write(&procs, pid.to_string()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            Err(error) => return Err(CgroupError::io(format!("move process {pid} to"), &procs, error)),
        }
    }
    Ok(())
}

fn without_controllers(fresh: Cgroup<node::Fresh>) -> Result<Cgroup<Branch>, CgroupError> {
    fresh.into_branch(&[]).map_err(|(error, fresh)| {
        let _ = fresh.remove(Patience::Once);
        error
    })
}

/// Gives a top directory the weight of `usual` for each processor, where it has such a file.
fn weigh(top: &Cgroup<Branch>, file: &str, max: u32, usual: u32) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let weight = u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(usual).min(max);
    if weight != usual && top.has(file) {
        // Nobody asked for it: without it all works, and waits longer for a processor.
        let _ = top.write(file, &weight.to_string());
    }
}

fn check_label(label: &str) -> Result<(), CgroupError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if !label.is_empty() && label.len() <= LABEL_BYTES_MAX && label.bytes().all(is_plain) {
        return Ok(());
    }
    let why = format!("label {label:?} is not 1 to {LABEL_BYTES_MAX} of a-z, 0-9, - and _");
    Err(CgroupError::NoPlace { why, hint: None })
}
