//! What all services of a server share.

use super::blobs::Disk;
use super::engine::Engine;
use super::instance::Instances;
use super::limits::ServeLimits;
use super::metrics::ServeMetrics;
use crate::action::Digest;
use std::sync::Arc;
use tonic::Status;

/// It.
pub(super) struct Context {
    pub(super) instances: Instances,
    pub(super) disk: Disk,
    pub(super) limits: ServeLimits,
    pub(super) metrics: Arc<ServeMetrics>,
    /// Not there if no instance executes.
    pub(super) engine: Option<Engine>,
    /// Not there if there is no local API.
    pub(super) local: Option<super::local::LocalDoor>,
    /// True once streams without an end of their own are to end.
    pub(super) over: tokio::sync::watch::Sender<bool>,
}

impl Context {
    /// Whether a blob of this size may be stored.
    pub(super) fn check_blob_size(&self, digest: &Digest) -> Result<(), Status> {
        let max = self.limits.blob_bytes_max;
        if digest.size_bytes > max {
            return Err(Status::invalid_argument(format!(
                "a blob of {} bytes is too large: max_cas_blob_size_bytes is {max}",
                digest.size_bytes
            )));
        }
        Ok(())
    }
}
