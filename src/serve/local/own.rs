//! An action of this very process: as a caller of the local API has it, with nobody to call.
//!
//! ```text
//!   import ─► inputs hashed into the store, the action ─► somebody gets a result ─► ready: beside the tree ─► publish
//! ```
//! For a command that runs straight in the exec root and races a cluster: its process has to prepare and publish what
//! the cluster made, and nobody else may.

use super::LocalService;
use super::deliver::Delivery;
use super::ready::Ready;
use super::request::{Asked, split_hint};
use super::stream::Printed;
use crate::action::{ActionResult, ActionSpec, Command, Digest, Outputs, encode};
use crate::cas::Cas;
use crate::commit::{Durability, Prepared, PublishError, PublishOptions, Published};
use crate::failure::Failure;
use crate::output::HandoffWay;
use crate::remote::daemon::{DaemonRun, request};
use crate::serve::limits::FILES_REMEMBERED_MAX;
use crate::stage::Places;
use crate::stage::merkle::DigestMemory;
use rustix::fd::{AsFd, BorrowedFd};
use tonic::Status;

/// See the module's documentation.
#[derive(Debug)]
pub struct OwnAction {
    asked: Asked,
    action: super::Prepared,
    cas: Cas,
    places: Places,
    durability: Durability,
}

/// Outputs of a result that lie beside the tree and need only a claim.
#[derive(Debug)]
pub struct ReadyOutputs(Ready);

fn failed(status: &Status) -> Failure {
    let (message, hint) = split_hint(status.message());
    Failure::new(message).hint(hint)
}

impl OwnAction {
    /// Hashes the inputs into `cas` and stores the action.
    ///
    /// # Errors
    /// What of the request is no good, or which input cannot be read.
    pub fn import(
        cas: &Cas,
        places: &Places,
        run: DaemonRun,
        durability: Durability,
    ) -> Result<OwnAction, Failure> {
        let asked = Asked::decode(request(run), String::new());
        let asked = asked.map_err(|error| Failure::new(error.to_string()))?;
        let memory = DigestMemory::new(FILES_REMEMBERED_MAX);
        let action = LocalService::prepare(cas, &memory, &asked).map_err(|status| failed(&status))?;
        Ok(OwnAction { asked, action, cas: cas.clone(), places: places.clone(), durability })
    }

    /// The action's name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.action.digest
    }

    /// The action.
    #[must_use]
    pub fn action(&self) -> &ActionSpec {
        &self.action.action
    }

    /// Its command.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.action.command
    }

    /// Its outputs.
    #[must_use]
    pub fn outputs(&self) -> &Outputs {
        &self.asked.outputs
    }

    /// Its exec root.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.action.root.as_fd()
    }

    /// Whether a failed action's outputs are wanted.
    #[must_use]
    pub fn wants_outputs_on_failure(&self) -> bool {
        self.asked.outputs_on_failure
    }

    fn delivery(&self) -> Delivery<'_> {
        Delivery {
            cas: &self.cas,
            places: &self.places,
            asked: &self.asked,
            command: &self.action.command,
            durability: self.durability,
            handoff: HandoffWay::Auto,
        }
    }

    /// Lays out the outputs of a result, all of whose blobs are in the store, beside a tree in which a command runs.
    ///
    /// # Errors
    /// What could not be laid out; then nothing is left of it.
    pub fn ready(&self, result: &ActionResult) -> Result<ReadyOutputs, Failure> {
        let options = PublishOptions { beside_standalone: true, ..PublishOptions::default() };
        let result = encode::action_result(result, false);
        let ready = self.delivery().ready(&self.action.root, &result, result.exit_code == 0, options);
        ready.map(ReadyOutputs).map_err(|status| failed(&status))
    }

    /// What a result has printed: standard output and error.
    ///
    /// # Errors
    /// A blob that cannot be read.
    pub fn printed(&self, result: &ActionResult) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let result = encode::action_result(result, false);
        let Printed { stdout, stderr } =
            self.delivery().printed(&result).map_err(|status| failed(&status))?;
        Ok((stdout.to_vec(), stderr.to_vec()))
    }
}

impl ReadyOutputs {
    /// Publishes them by what is given, and removes what is left.
    ///
    /// # Errors
    /// As `publish`.
    pub fn publish(
        self,
        publish: impl FnOnce(Prepared) -> Result<Published, PublishError>,
    ) -> Result<Published, PublishError> {
        self.0.publish(publish)
    }

    /// They are not wanted.
    pub fn discard(self) {
        self.0.discard();
    }
}
