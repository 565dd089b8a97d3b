//! What an executor that races is told.

use crate::race::knobs::Knobs;
use crate::remote::Elsewhere;
use std::path::PathBuf;

/// Where actions run that do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On both: the first result counts.
    #[default]
    Racing,
    /// On this machine.
    Local,
    /// On the cluster.
    Remote,
    /// On the cluster, and here if that cannot be had.
    RemoteLocalFallback,
}

/// What the cluster is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoteUse {
    /// It executes.
    #[default]
    Execute,
    /// It is a cache.
    CacheOnly,
}

/// See [`super::Racing`].
#[derive(Clone, Debug)]
pub struct RacingOptions {
    /// Where actions run that do not say.
    pub place: Place,
    /// What the cluster is used for.
    pub remote: RemoteUse,
    /// Actions on their way at a time, here and there.
    pub jobs: usize,
    /// Outputs that only the cluster can have made stay there until somebody needs them.
    pub lazily: Option<Elsewhere>,
    /// A local win fills the cluster's cache.
    pub upload_local_results: bool,
    /// Bazel's knobs, and ours.
    pub knobs: Knobs,
    /// Where what was measured is kept; `None`: nowhere.
    pub history: Option<PathBuf>,
}
