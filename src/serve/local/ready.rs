//! Outputs of a result, laid out and prepared: what is left to do is renames, or to forget them.
use crate::commit::{self, Journal, PublishError, Published};
use crate::stage::Layer;
use fulgurite_proto::v1;

/// Outputs that lie beside the tree and need only a claim.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) layer: Layer,
    pub(super) journal: Journal,
    pub(super) prepared: commit::Prepared,
    pub(super) told: Vec<v1::Output>,
}

impl Ready {
    /// Publishes them, and removes what is left.
    pub(super) fn publish(
        self,
        publish: impl FnOnce(commit::Prepared) -> Result<Published, PublishError>,
    ) -> Result<Published, PublishError> {
        let Ready { layer, journal, prepared, .. } = self;
        let published = publish(prepared);
        journal.close();
        // What cannot be removed now is swept at the next start.
        let _ = layer.destroy();
        published
    }

    /// They are not wanted.
    pub(super) fn discard(self) {
        let _ = self.publish(|prepared| {
            prepared.discard();
            Ok(Published::default())
        });
    }
}
