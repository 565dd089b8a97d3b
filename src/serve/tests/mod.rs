//! The server over real sockets, with a real client, a real store, and an executor that does what a test tells it.

mod blobs;
mod byte_stream;
mod draining;
mod execution;
mod hostile;
mod leaving;
mod results;
mod scene;
mod seeds;
mod transport;
