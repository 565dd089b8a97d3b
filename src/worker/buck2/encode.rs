//! Commands as messages.

use super::Command;
use fulgurite_proto::buck2::execute_command::EnvironmentEntry;
use fulgurite_proto::buck2::execute_event::Data;
use fulgurite_proto::buck2::{ExecuteCancel, ExecuteCommand, ExecuteCommandStream, ExecuteEvent};

pub(super) fn command(command: Command) -> ExecuteCommand {
    let env = command.environment.into_iter().map(|(key, value)| EnvironmentEntry { key, value }).collect();
    ExecuteCommand { argv: command.arguments, env, timeout_s: command.timeout_s }
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
