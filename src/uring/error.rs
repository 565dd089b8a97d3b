//! What can fail when something is registered or sent.

use super::limits::REGISTERED_MAX;
use std::io;

/// Why the thread could not be had, or would not take something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpcError {
    /// io_uring was asked for by name.
    #[error("cannot talk to workers over io_uring: {why}")]
    Refused {
        /// What the kernel said, and what that means.
        why: String,
    },
    /// The thread or its epoll could not be made.
    #[error("cannot start the thread that talks to workers: {why}")]
    Start {
        /// Why.
        why: io::Error,
    },
    /// The kernel refused to prepare a descriptor.
    #[error("cannot make a descriptor ready for the thread that talks to workers: {why}")]
    Descriptor {
        /// Why.
        why: io::Error,
    },
    /// Too much is registered.
    #[error(
        "cannot register another descriptor with the thread that talks to workers: it has {REGISTERED_MAX}"
    )]
    TooMany,
    /// The thread is gone.
    #[error("cannot register a descriptor: the thread that talks to workers has ended")]
    Ended,
}

impl IpcError {
    /// What to do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            IpcError::Refused { .. } => Some("allow io_uring for this process, or choose epoll or auto"),
            _ => None,
        }
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer does not read, and enough waits for it.
    #[error("cannot send: the peer does not read what was sent before")]
    Full,
    /// The channel has ended or was closed.
    #[error("cannot send: the channel is closed")]
    Closed,
}
