//! What is told of workers: who there is when somebody asks, and why one goes.

use super::Inner;
use crate::observe::limits::WORKERS_TOLD_MAX;
use crate::observe::{self, Family, Reading, Source, WorkerGone, label};
use crate::worker::machine::StopReason;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Why, in a word.
pub(super) fn word(why: &StopReason) -> WorkerGone {
    match why {
        StopReason::Idle(_) => WorkerGone::Idle,
        StopReason::ToolsChanged(_) => WorkerGone::ToolsChanged,
        StopReason::MemoryPressure { .. } => WorkerGone::MemoryPressure,
        StopReason::MakeRoom => WorkerGone::MakeRoom,
        StopReason::BuildOver => WorkerGone::BuildOver,
        StopReason::Cleared => WorkerGone::Cleared,
        StopReason::Broken(_) => WorkerGone::Broken,
        StopReason::Hung => WorkerGone::Hung,
        StopReason::WornOut => WorkerGone::WornOut,
    }
}

/// Tells the numbers of living workers until it is dropped.
pub(super) fn source(inner: &Arc<Inner>) -> Source {
    let inner = Arc::downgrade(inner);
    observe::source(move |reading| tell(&inner, reading))
}

fn tell(inner: &Weak<Inner>, reading: &mut Reading) {
    let Some(inner) = inner.upgrade() else { return };
    // Cgroups are looked at without the lock.
    let (mut processes, waiting): (Vec<_>, _) = {
        let board = inner.lock();
        let seen = |process: &Arc<_>| Arc::clone(process);
        (board.processes.values().map(seen).collect(), board.machine.waiting())
    };
    reading.put(Family::WorkersWaiting, &[], waiting as u64);
    reading.put(Family::Io, &[inner.ipc.backend().name()], 1);
    processes.sort_by_key(|process: &Arc<super::process::Process>| process.id);
    for process in processes.into_iter().take(WORKERS_TOLD_MAX) {
        let launch = &process.launch;
        let (number, key) = (process.id.to_string(), launch.key.to_string());
        let mnemonic = label(&launch.mnemonic);
        let labels = [number.as_str(), &key, &mnemonic];
        reading.put(Family::Workers, &[&mnemonic], 1);
        reading.put(Family::WorkerRequests, &labels, process.served.load(Ordering::Relaxed));
        if let Some(bytes) = process.memory_bytes() {
            reading.put(Family::WorkerMemory, &labels, bytes >> 10);
        }
        if let Some(used) = process.used() {
            let cpu_ms = (used.user + used.system).as_millis();
            reading.put(Family::WorkerCpu, &labels, u64::try_from(cpu_ms).unwrap_or(u64::MAX));
        }
    }
}
