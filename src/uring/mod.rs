//! The thread that talks to inits and workers: bytes in, whole messages out.
//!
//! ```text
//!   any thread ── Channel::send ──► ipc thread ── write ──► pipe of a worker
//!   Listener::event ◄── Message ◄── Framing ◄── read ◄──┘
//! ```
//! The only code that names tokio-uring or io-uring; the rest of the program sees a handle that is `Send`.

mod framing;

pub use framing::{Event, Framing, FramingError, Listener};
