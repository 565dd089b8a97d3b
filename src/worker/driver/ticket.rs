//! What a caller hears of its request.

use super::process::Process;
use crate::worker::job::Launch;
use crate::worker::machine::RequestEnd;
use crate::worker::wire::WorkResponse;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Something happened to it.
#[derive(Debug)]
pub(super) enum Note {
    /// It has a worker.
    Assigned { process: Arc<Process>, wire_id: i32, slot: u32 },
    /// The worker has answered.
    Response(WorkResponse),
    /// The worker is gone, and it will get another.
    Lost,
    /// It is over.
    End(RequestEnd),
}

/// Invariant: after `End` nothing more comes; at most four notes wait.
#[derive(Debug)]
pub(super) struct Ticket {
    pub launch: Arc<Launch>,
    notes: Mutex<VecDeque<Note>>,
    changed: Condvar,
}

impl Ticket {
    pub fn new(launch: Arc<Launch>) -> Self {
        Ticket { launch, notes: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, note: Note) {
        self.lock().push_back(note);
        self.changed.notify_one();
    }

    /// Waits for the next note.
    pub fn wait(&self) -> Note {
        let mut notes = self.lock();
        loop {
            if let Some(note) = notes.pop_front() {
                return note;
            }
            notes = self.changed.wait(notes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does it unless the request has been told something meanwhile, which then comes first. A cancel comes after.
    pub fn unless_told<T>(&self, send: impl FnOnce() -> T) -> Option<T> {
        let notes = self.lock();
        notes.is_empty().then(send)
    }
}
