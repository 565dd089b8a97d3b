//! Commands as messages.

use super::Command;
use crate::worker::wire::WorkRequest;
use fulgurite_proto::buck2::execute_command::EnvironmentEntry;
use fulgurite_proto::buck2::execute_event::Data;
use fulgurite_proto::buck2::{ExecuteCancel, ExecuteCommand, ExecuteCommandStream, ExecuteEvent};

pub(super) fn command(command: Command) -> ExecuteCommand {
    let env = command.environment.into_iter().map(|(key, value)| EnvironmentEntry { key, value }).collect();
    ExecuteCommand { argv: command.arguments, env, timeout_s: command.timeout_s }
}

/// A request of the pool's as a command; what the protocol has no place for does not count.
#[must_use]
pub fn of_request(request: &WorkRequest) -> Command {
    let pair = |(name, value): &(String, String)| (name.clone().into_bytes(), value.clone().into_bytes());
    Command {
        arguments: request.arguments.iter().map(|argument| argument.clone().into_bytes()).collect(),
        environment: request.environment.iter().map(pair).collect(),
        // Not less than what was asked for: the worker's clock is whole seconds.
        timeout_s: request.timeout.map(|timeout| timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)),
    }
}

/// What it is on the wire, at most.
#[must_use]
pub fn encoded_len(request: &WorkRequest) -> usize {
    // A tag and a length beside each: of an argument, and of an entry with a key and a value.
    const EACH: usize = 11;
    let arguments: usize = request.arguments.iter().map(|argument| argument.len() + EACH).sum();
    let entries = request.environment.iter().map(|(name, value)| name.len() + value.len() + 3 * EACH);
    arguments + entries.sum::<usize>() + 3 * EACH
}

pub(super) fn first_event(of: Command) -> ExecuteEvent {
    ExecuteEvent { data: Some(Data::Command(command(of))) }
}

pub(super) fn cancel_event() -> ExecuteEvent {
    ExecuteEvent { data: Some(Data::Cancel(ExecuteCancel {})) }
}

pub(super) fn in_stream(of: Command, id: u64) -> ExecuteCommandStream {
    ExecuteCommandStream { request: Some(command(of)), id }
}
