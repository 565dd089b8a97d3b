//! What a worker says, on its way from the ipc thread to the board and to the worker's own thread. Never blocks.

use super::Inner;
use super::process::Order;
use crate::uring::{Event as Heard, Listener};
use crate::worker::job::Launch;
use crate::worker::junk::unparseable;
use crate::worker::machine::WorkerId;
use crate::worker::wire::{Protocol, WorkResponse};
use crate::worker::{bazel_json, bazel_proto};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};

/// What a worker has done whose standard output ends.
const CLOSED: &str = "it closed its standard output";

/// Hears what a worker says; on the ipc thread.
pub(super) struct Ear {
    pub id: WorkerId,
    pub inner: Weak<Inner>,
    pub orders: SyncSender<Order>,
    pub launch: Arc<Launch>,
}

impl Listener for Ear {
    fn event(&self, event: Heard) {
        let order = match event {
            Heard::Message(message) => match self.message(&message) {
                Ok(()) => return,
                Err(why) => Order::Fail(why),
            },
            Heard::Closed => Order::HungUp(CLOSED.to_owned()),
            Heard::Broken(error) => Order::Fail(unparseable(&error.why, &error.seen)),
            Heard::Failed { writing: true, error } => Order::Fail(format!(
                "Worker process quit or closed its stdin stream when we tried to send a WorkRequest: {error}"
            )),
            Heard::Failed { writing: false, .. } => Order::HungUp(CLOSED.to_owned()),
        };
        // Full: it has been told to end long before.
        let _ = self.orders.try_send(order);
    }
}

impl Ear {
    fn message(&self, message: &[u8]) -> Result<(), String> {
        let Some(inner) = self.inner.upgrade() else { return Ok(()) };
        let decoded = match self.launch.protocol {
            Protocol::Json => bazel_json::decode(message),
            _ => bazel_proto::decode(message),
        };
        match decoded {
            Ok(response) => inner.response(self.id, response),
            Err(error) => match error.request_id {
                // Where it is known whose answer this should be, the others go on.
                Some(request_id) if self.launch.multiplex => {
                    let output = error.to_string();
                    let response =
                        WorkResponse { exit_code: 1, output, request_id, ..WorkResponse::default() };
                    inner.response(self.id, response)
                }
                _ => Err(error.to_string()),
            },
        }
    }
}
