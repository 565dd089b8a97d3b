//! The thread that talks to inits and workers: bytes in, whole messages out.
//!
//! ```text
//!   any thread ── Channel::send ──────────────────────► pipe of a worker     as long as there is room
//!                      └─ queue ──► ipc thread ── write ──┘                  else
//!   Listener::event ◄── Message ◄── Framing ◄── read ◄──┘          sockets with descriptors: `packets`
//! ```
//! The only code that names tokio-uring or io-uring; the rest of the program sees a handle that is `Send`. Where
//! io_uring is refused, the same tasks run over epoll.
//!
//! Invariants: whatever a peer does or leaves undone blocks neither the thread nor another peer; queues are bounded
//! (`limits`); buffers and descriptors that the kernel uses belong to the operation until it has ended (`buffer`).
//! Limits: a peer that floods its listener with messages is the listener's matter; SIGPIPE is taken to be ignored, as
//! Rust programs have it.

mod buffer;
mod epoll;
mod error;
mod framing;
mod ipc;
mod limits;
mod line;
mod packets;
mod parcel;
mod port;
mod probe;
mod ring;
mod stop;
mod task;
#[cfg(test)]
mod tests;

pub use error::{IpcError, SendError};
pub use framing::{Event, Framing, FramingError, Listener, Sink};
pub use ipc::{Backend, Channel, Choice, Drain, Ipc, Readable};
pub use packets::{PacketListener, Packets};
pub use parcel::Packet;
