//! Persistent workers by the local API: which there are, and the end of all.

use crate::worker::{WorkerState, Workers};
use fulgurite_proto::v1;
use std::time::Duration;

/// How long a caller waits for idle workers to end: what they get to end by themselves, and then some.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// All that live.
pub(super) fn list(workers: Option<&Workers>) -> v1::ListWorkersResponse {
    let states = workers.map(Workers::states).unwrap_or_default();
    v1::ListWorkersResponse { workers: states.into_iter().map(state).collect() }
}

/// Stops all; blocks until the idle ones are gone.
pub(super) fn stop(workers: Option<&Workers>) -> v1::StopWorkersResponse {
    let (workers, left) = workers.map_or((0, 0), |workers| workers.clear(STOP_PATIENCE));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    v1::StopWorkersResponse { workers: count(workers), left: count(left) }
}

fn state(state: WorkerState) -> v1::WorkerState {
    let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    v1::WorkerState {
        number: state.id.0,
        key: state.key.to_string(),
        mnemonic: state.mnemonic,
        multiplex: state.multiplex,
        phase: state.phase.name().to_owned(),
        requests: u32::try_from(state.requests).unwrap_or(u32::MAX),
        served: state.served,
        memory_bytes: state.memory_bytes,
        cpu_us: state.cpu.map(|cpu| whole(cpu.as_micros())),
        idle_ms: state.idle.map(|idle| whole(idle.as_millis())),
    }
}
