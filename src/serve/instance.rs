//! The instances of a server, and who may use which.

use super::blobs::Blobs;
use super::options::{ActionCacheWriters, InstanceOptions, Reach};
use super::platform::PlatformOffer;
use super::results::Results;
use super::socket::Line;
use super::uploads::Uploads;
use crate::action::{Digest, DigestFunction};
use fulgurite_proto::reapi;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Extensions, Status};

/// An instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) blobs: Blobs,
    pub(super) results: Arc<dyn Results>,
    pub(super) execution: bool,
    pub(super) writers: ActionCacheWriters,
    pub(super) platform: PlatformOffer,
    pub(super) uploads: Arc<Uploads>,
}

/// How far the peer that made a call reaches: within all of these. Put into the call by the gate.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) reaches: Vec<Arc<Reach>>,
    /// The connection that it came by.
    pub(super) line: Line,
    /// The user that the daemon runs as has come by a Unix socket.
    pub(super) is_daemons_own: bool,
}

impl Caller {
    pub(super) fn covers(&self, instance: &str) -> bool {
        self.reaches.iter().all(|reach| reach.covers(instance))
    }

    fn covers_every(&self) -> bool {
        self.reaches.iter().all(|reach| **reach == Reach::Every)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Instances {
    by_name: BTreeMap<String, Arc<Instance>>,
}

impl Instances {
    /// `partial_uploads`: how many each may have.
    pub(super) fn new(options: Vec<InstanceOptions>, partial_uploads: usize) -> Self {
        let instance = |options: InstanceOptions| {
            let instance = Instance {
                name: options.name.clone(),
                blobs: Blobs::new(options.cas, options.elsewhere),
                results: options.results,
                execution: options.execution,
                writers: options.writers,
                platform: options.platform,
                uploads: Arc::new(Uploads::new(partial_uploads)),
            };
            (options.name, Arc::new(instance))
        };
        Instances { by_name: options.into_iter().map(instance).collect() }
    }

    /// The instance that a call names, if its peer may use it.
    pub(super) fn open(&self, call: &Extensions, name: &str) -> Result<Arc<Instance>, Status> {
        // One message for what is forbidden and what is not there: a tenant does not learn of others.
        let denied = || Status::permission_denied("this peer may not use that instance");
        let caller = call.get::<Caller>().ok_or_else(denied)?;
        if !caller.covers(name) {
            return Err(denied());
        }
        match self.by_name.get(name) {
            Some(instance) => Ok(instance.clone()),
            None if caller.covers_every() => Err(self.unknown(name)),
            None => Err(denied()),
        }
    }

    fn unknown(&self, name: &str) -> Status {
        let cut: String = name.chars().take(80).collect();
        let known: Vec<String> = self.by_name.keys().take(20).map(|known| format!("{known:?}")).collect();
        Status::invalid_argument(format!(
            "there is no instance {cut:?}: this server has {}",
            known.join(", ")
        ))
    }

    /// An instance, for the daemon itself.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Instance>> {
        self.by_name.get(name).cloned()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.by_name.values()
    }
}

/// The digest function that a request names; unset is SHA-256, whose hashes have the same length as the others'.
pub(super) fn function(sent: i32) -> Result<DigestFunction, Status> {
    use reapi::digest_function::Value;
    match Value::try_from(sent) {
        Ok(Value::Unknown | Value::Sha256) => Ok(DigestFunction::Sha256),
        Ok(Value::Blake3) => Ok(DigestFunction::Blake3),
        Ok(other) => Err(Status::invalid_argument(format!(
            "digest function {} is not supported: SHA256 and BLAKE3 are",
            other.as_str_name()
        ))),
        Err(_) => Err(Status::invalid_argument(format!("there is no digest function {sent}"))),
    }
}

/// The wire's number of a digest function.
pub(super) fn function_number(function: DigestFunction) -> i32 {
    use reapi::digest_function::Value;
    match function {
        DigestFunction::Sha256 => Value::Sha256 as i32,
        DigestFunction::Blake3 => Value::Blake3 as i32,
    }
}

/// A digest that a request must have.
pub(super) fn digest(
    function: DigestFunction,
    field: &'static str,
    sent: Option<&reapi::Digest>,
) -> Result<Digest, Status> {
    crate::action::decode::digest(function, field, sent).map_err(|error| super::status::of_message(&error))
}
