//! What can go wrong between us and a peer.

use crate::action::{Digest, DigestError};

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address is none.
    #[error("{address:?} is no address: {why}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// No connection.
    #[error("cannot connect to {address}: {why}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        why: String,
    },
    /// The peer refused.
    #[error("{call} failed: {code}: {message}")]
    Status {
        /// What was called.
        call: &'static str,
        /// The code's name.
        code: String,
        /// What the peer said.
        message: String,
    },
    /// The answer is no answer.
    #[error("{call}: the answer is malformed: {why}")]
    Malformed {
        /// What was called.
        call: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The peer gave other bytes than those that were asked for.
    #[error("{0} was asked for and {1} came")]
    Corrupt(Digest, Digest),
}

impl RemoteError {
    pub(super) fn digest(call: &'static str, why: &DigestError) -> Self {
        RemoteError::Malformed { call, why: why.to_string() }
    }
}
