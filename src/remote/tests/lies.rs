//! What a remote says that is not true, or not usual; and what it was asked.

use crate::action::Digest;
use bytes::Bytes;
use fulgurite_proto::google::longrunning::Operation;
use fulgurite_proto::reapi;
use std::collections::{HashMap, HashSet, VecDeque};
use tonic::Status;

/// What an operation's stream does next.
#[derive(Clone)]
pub enum Step {
    Say(Operation),
    Break(Status),
    Hang,
}

/// What a call of an operation does: refuse, or a stream of steps.
pub type Script = Result<Vec<Step>, Status>;

/// What is not true, or not usual.
#[derive(Default)]
pub struct Lies {
    /// Calls by name: what they fail with, the first of them first.
    pub fail: HashMap<&'static str, VecDeque<Status>>,
    /// Calls that never answer.
    pub hang: HashSet<&'static str>,
    /// Calls that wait until they are let go.
    pub hold: HashSet<&'static str>,
    /// What is given instead of a blob.
    pub instead: HashMap<Digest, Vec<u8>>,
    /// Blobs that are said to be there, and are not.
    pub only_said: HashSet<Digest>,
    /// What a compressed read gives.
    pub frames: Option<Vec<u8>>,
    /// Streams of blobs that do not end, but stop.
    pub stop: bool,
    /// It compresses.
    pub zstd: bool,
    /// It writes what comes, and says another size.
    pub committed: Option<i64>,
    /// It answers a batch with each blob twice.
    pub doubled: bool,
    /// What Execute does, the first call first; the last script is kept.
    pub executes: VecDeque<Script>,
    /// As `executes`, of WaitExecution.
    pub waits: VecDeque<Script>,
}

#[derive(Default)]
pub struct State {
    pub lies: Lies,
    pub blobs: HashMap<Digest, Bytes>,
    pub results: HashMap<Digest, reapi::ActionResult>,
    /// Calls by name.
    pub calls: HashMap<&'static str, usize>,
    /// How often a blob was uploaded.
    pub uploads: HashMap<Digest, usize>,
    /// What GetCapabilities was authorized with.
    pub authorizations: Vec<Option<String>>,
    /// The operations that were canceled.
    pub canceled: Vec<String>,
}
