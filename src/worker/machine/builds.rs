//! Builds, where each has workers of its own: a build is over when none of its actions has been here for a while.
//!
//! No client says when its build ends. A pause that is too short costs starts; one that is too long costs memory.

use super::types::StopReason;
use super::{Machine, WorkerId, limits};
use std::time::Duration;

/// A build, from its first action until a while after its last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    /// Actions that are here.
    open: u64,
    /// When the last one left.
    left: Duration,
}

impl Machine {
    pub(super) fn entered(&mut self, build: String, now: Duration) {
        let build = self.builds.entry(build).or_insert(Build { open: 0, left: now });
        build.open += 1;
    }

    pub(super) fn left(&mut self, name: &str, now: Duration) {
        if let Some(build) = self.builds.get_mut(name) {
            *build = Build { open: build.open.saturating_sub(1), left: now };
        }
        if self.builds.len() > limits::BUILDS_MAX {
            let closed = self.builds.iter().filter(|(_, build)| build.open == 0);
            let oldest = closed.min_by_key(|(name, build)| (build.left, name.as_str()));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.end_build(&oldest);
            }
        }
    }

    /// When the next build is over.
    pub(super) fn build_due(&self) -> Option<Duration> {
        let pause = self.limits.build_pause_max?;
        let closed = self.builds.values().filter(|build| build.open == 0);
        closed.map(|build| build.left.saturating_add(pause)).min()
    }

    pub(super) fn expire_builds(&mut self, now: Duration) {
        let Some(pause) = self.limits.build_pause_max else { return };
        let over = |build: &Build| build.open == 0 && build.left.saturating_add(pause) <= now;
        let over = self.builds.iter().filter(|(_, build)| over(build)).map(|(name, _)| name.clone());
        let over: Vec<String> = over.collect();
        over.iter().for_each(|name| self.end_build(name));
    }

    fn end_build(&mut self, name: &str) {
        self.builds.remove(name);
        let of_build = self.workers.iter().filter(|(_, worker)| worker.build.as_deref() == Some(name));
        let of_build: Vec<WorkerId> = of_build.map(|(id, _)| *id).collect();
        for id in of_build {
            self.doom(id, StopReason::BuildOver);
        }
    }
}
