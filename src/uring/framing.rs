//! What users of the thread bring along: how bytes become messages, and who is told.

/// Cuts a stream of bytes into messages.
pub trait Framing: Send {
    /// Takes bytes as they come and appends the messages that they complete, without their frames.
    ///
    /// # Errors
    /// When the bytes cannot be of this framing, or claim more than the framing's bound. The channel is closed then.
    fn feed(&mut self, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), FramingError>;

    /// Whether a message has begun and is not whole.
    fn is_inside(&self) -> bool {
        false
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// When it ended inside a message.
    fn finish(&mut self) -> Result<(), FramingError>;
}

/// Why bytes are no messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct FramingError {
    /// In words.
    pub why: String,
    /// The first bytes that are at fault, at most 1024.
    pub seen: Vec<u8>,
}

/// What happened on a channel. After any but `Message` nothing more comes.
#[derive(Debug)]
pub enum Event {
    /// A whole message.
    Message(Vec<u8>),
    /// The other end closed its side between two messages.
    Closed,
    /// What came is no message.
    Broken(FramingError),
    /// Reading or writing failed.
    Failed {
        /// Whether it was the writing.
        writing: bool,
        /// Why.
        error: std::io::Error,
    },
}

/// Is told of events, on the thread that reads: it must not block.
pub trait Listener: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// Takes bytes that are no messages, on the thread that reads: it must not block.
pub trait Sink: Send + Sync {
    /// Some came.
    fn bytes(&self, bytes: &[u8]);

    /// No more will come: the other end was closed, or reading failed. Not called after the [`super::Drain`] was
    /// dropped.
    fn ended(&self, _how: std::io::Result<()>) {}
}
